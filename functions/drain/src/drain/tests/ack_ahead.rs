//! Changes that are acknowledged ahead, while one lane is slow.

use super::*;

/// The last checkpoint that a killed drain stored.
#[derive(Clone)]
struct KeptCheckpoint(Arc<Mutex<String>>);

impl KeptCheckpoint {
    /// A checkpoint before all commits.
    fn new() -> Self {
        let checkpoint = Checkpoint {
            commit_end: Lsn(99 * MIB),
            ..Checkpoint::parse(CHECKPOINT).unwrap()
        };
        KeptCheckpoint(Arc::new(Mutex::new(checkpoint.to_text())))
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::parse(&self.0.lock().unwrap()).unwrap()
    }

    fn remove_marker(&self) {
        let checkpoint = Checkpoint {
            marker: None,
            ..self.checkpoint()
        };
        *self.0.lock().unwrap() = checkpoint.to_text();
    }

    async fn wait_for_ahead(&self) {
        while self.checkpoint().ack_ahead.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl StateStore for KeptCheckpoint {
    fn name(&self) -> String {
        "/p".to_owned()
    }

    async fn store(&self, text: String) -> Result<(), StateStoreError> {
        *self.0.lock().unwrap() = text;
        Ok(())
    }
}

/// A slot with one transaction each MiB from 100 MiB on.
///
/// Each transaction has an insert into one of these tables in turn.
fn slot(tables: &[&str]) -> FakeSlot {
    let commits: Vec<_> = (100..)
        .zip(tables)
        .map(|(mib, table)| (Lsn(mib * MIB), (*table).to_owned()))
        .collect();
    FakeSlot::new(&Log::default(), commits, Lsn(99 * MIB))
}

/// Conditions of a drain.
#[derive(Clone, Copy)]
struct Tick {
    /// The key whose records fail.
    stuck: Option<&'static str>,
    is_promoted: bool,
    seconds: u64,
}

const TICK: Tick = Tick {
    stuck: None,
    is_promoted: false,
    seconds: 60,
};

/// Runs a drain. Returns the keys that arrived, sorted, and the report.
async fn tick(slot: &mut FakeSlot, parameter: &KeptCheckpoint, tick: Tick) -> (Vec<String>, Report) {
    let log = Log::default();
    slot.log = log.clone();
    let stored = parameter.checkpoint();
    let start = StartPosition {
        settled: if tick.is_promoted {
            slot.confirmed
        } else {
            stored.commit_end
        },
        acknowledged: stored.commit_end,
        confirmed: slot.confirmed,
        expected: stored
            .marker
            .clone()
            .filter(|marker| marker.lsn >= slot.confirmed),
        is_promoted: tick.is_promoted,
        ..start(0, 0)
    };
    let (settings, envelope) = (settings(Aggregation::None), envelope());
    let ports = DrainPorts {
        slot,
        stream: FakeStream {
            stuck: tick.stuck,
            ..FakeStream::new(&log)
        },
        checkpoint_store: parameter.clone(),
        sizing: &Mutex::default(),
        backfill: None,
    };
    let task = DrainTask {
        ahead: stored.ack_ahead("settings").map(Result::unwrap),
        settings_hash: "settings".to_owned(),
        checkpoint: Checkpoint {
            ack_ahead: None,
            ..stored
        },
        ..task(&settings, &envelope, &start, tick.seconds)
    };
    let drained = drain(ports, task).await;
    let mut arrived = log.arrived();
    arrived.sort();
    (arrived, drained.report)
}

/// A drain that is killed after a paced store.
///
/// The stored checkpoint has changes that are acknowledged ahead.
async fn killed_tick(slot: &mut FakeSlot, parameter: &KeptCheckpoint, stuck: &'static str) {
    let stuck = Tick {
        stuck: Some(stuck),
        ..TICK
    };
    let stored = parameter.0.lock().unwrap().clone();
    let wait = async {
        while *parameter.0.lock().unwrap() == stored {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        parameter.wait_for_ahead().await;
    };
    tokio::select! {
        _ = tick(slot, parameter, stuck) => panic!("the drain ended"),
        () = wait => {}
    }
}

const TABLES: [&str; 9] = ["a", "b", "hot", "c", "hot", "d", "e", "hot", "f"];

#[tokio::test]
async fn after_a_kill_only_missing_changes_are_sent_again() {
    let (mut slot, parameter) = (slot(&TABLES), KeptCheckpoint::new());
    killed_tick(&mut slot, &parameter, "public.hot").await;
    assert_eq!(parameter.checkpoint().commit_end, Lsn(101 * MIB));
    let (arrived, report) = tick(&mut slot, &parameter, TICK).await;
    // The last change is the bound.
    assert_eq!(arrived, ["public.f", "public.hot", "public.hot", "public.hot"]);
    assert_eq!(
        (
            report.changes,
            report.transactions,
            report.acknowledged_ahead,
            report.events
        ),
        (7, 7, 3, 4)
    );
    assert_eq!(parameter.checkpoint().ack_ahead, None);
}

#[tokio::test]
async fn changes_ahead_that_a_drain_does_not_reach_stay_in_the_checkpoint() {
    let mut tables = vec!["a", "hot"];
    let others: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    tables.extend(others.iter().map(String::as_str));
    tables.extend(["slow", "z"]);
    let (mut slot, parameter) = (slot(&tables), KeptCheckpoint::new());
    killed_tick(&mut slot, &parameter, "public.hot").await;
    // The next drain sends the hot row, and stops before the bound.
    slot.faults.readable = Some(Lsn(110 * MIB));
    let (arrived, report) = tick(&mut slot, &parameter, TICK).await;
    assert_eq!((arrived.len(), report.acknowledged_ahead), (1, 9));
    assert!(parameter.checkpoint().ack_ahead.is_some());
    slot.faults.readable = None;
    let (arrived, report) = tick(&mut slot, &parameter, TICK).await;
    assert_eq!(
        (arrived, report.acknowledged_ahead),
        (vec!["public.z".to_owned()], 12)
    );
}

#[tokio::test]
async fn the_last_store_has_the_changes_ahead_even_if_the_position_never_moved() {
    let (mut slot, parameter) = (slot(&TABLES[2..]), KeptCheckpoint::new());
    let stuck = Tick {
        stuck: Some("public.hot"),
        seconds: 3,
        ..TICK
    };
    let (_, report) = tick(&mut slot, &parameter, stuck).await;
    assert_eq!((report.changes, report.unconfirmed), (0, 7));
    assert_eq!(parameter.checkpoint().commit_end, Lsn(99 * MIB));
    let (arrived, _) = tick(&mut slot, &parameter, TICK).await;
    assert_eq!(arrived, ["public.f", "public.hot", "public.hot", "public.hot"]);
}

#[tokio::test]
async fn no_changes_ahead_are_stored_if_no_change_is_acknowledged() {
    let (mut slot, parameter) = (slot(&["hot", "hot", "hot"]), KeptCheckpoint::new());
    let stuck = Tick {
        stuck: Some("public.hot"),
        seconds: 3,
        ..TICK
    };
    tick(&mut slot, &parameter, stuck).await;
    assert_eq!(parameter.checkpoint().ack_ahead, None);
}

#[tokio::test]
async fn without_the_marker_of_the_changes_ahead_nothing_is_drained() {
    let (mut slot, parameter) = (slot(&TABLES), KeptCheckpoint::new());
    killed_tick(&mut slot, &parameter, "public.hot").await;
    // As if the checkpoint had an earlier marker, and the log still contained that marker.
    parameter.remove_marker();
    slot.commits.retain(|(_, table)| !table.starts_with(MARKER));
    let (arrived, report) = tick(&mut slot, &parameter, TICK).await;
    assert_eq!((arrived.len(), report.peeks), (0, 0));
}

#[tokio::test]
async fn a_server_without_the_marker_of_a_paced_store_is_not_drained() {
    let (mut slot, parameter) = (slot(&TABLES), KeptCheckpoint::new());
    killed_tick(&mut slot, &parameter, "public.hot").await;
    let checkpoint = parameter.checkpoint();
    assert!(checkpoint.marker.as_ref().unwrap().lsn > checkpoint.commit_end);
    // As on a server that was restored from an older copy, and has written log since.
    slot.commits.retain(|(_, table)| !table.starts_with(MARKER));
    let (arrived, report) = tick(&mut slot, &parameter, TICK).await;
    assert_eq!((arrived.len(), report.peeks), (0, 0));
    assert_eq!(parameter.checkpoint(), checkpoint);
}

#[tokio::test]
async fn after_a_promotion_every_change_after_the_position_is_sent_again() {
    let (mut slot, parameter) = (slot(&TABLES), KeptCheckpoint::new());
    killed_tick(&mut slot, &parameter, "public.hot").await;
    let promoted = Tick {
        is_promoted: true,
        ..TICK
    };
    // The log contains the marker, which is after the position. So the log up to the marker was drained.
    let (arrived, report) = tick(&mut slot, &parameter, promoted).await;
    assert_eq!((arrived.len(), report.acknowledged_ahead), (7, 0));
}
