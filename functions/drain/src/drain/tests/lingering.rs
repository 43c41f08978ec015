//! Lingering: windows that stay unconfirmed, and the causes that end them.

use super::*;
use crate::encode::Debezium;

/// A drain that lingers while commits arrive, and the slot after it.
struct LingerRun {
    log: Log,
    slot: FakeSlot,
    report: Report,
    result: Result<(), Error>,
}

impl LingerRun {
    /// Drains while `arrivals` are committed one by one. The drain lingers for `lingers`.
    async fn run(arrivals: &[&str], faults: Faults, lingers: Duration) -> Self {
        Self::run_with(envelope(), arrivals, faults, lingers).await
    }

    async fn run_with(envelope: Envelope, arrivals: &[&str], faults: Faults, lingers: Duration) -> Self {
        let log = Log::default();
        let first = vec![(Lsn(100 * MIB), "first".to_owned())];
        let mut slot = FakeSlot {
            arrivals: arrivals.iter().map(|table| (*table).to_owned()).collect(),
            faults,
            ..FakeSlot::new(&log, first, Lsn(99 * MIB))
        };
        let settings = Settings {
            linger: lingers,
            poll_share: 0.5,
            max_unacknowledged_bytes: 4 << 20,
            ..settings(Aggregation::None)
        };
        let start = start(99, 99);
        let drained = drain(
            DrainPorts {
                slot: &mut slot,
                stream: FakeStream::new(&log),
                checkpoint_store: FakeStateStore(log.clone()),
                sizing: &Mutex::default(),
                backfill: None,
            },
            task(&settings, &envelope, &start, 10),
        )
        .await;
        LingerRun {
            log,
            slot,
            report: drained.report,
            result: drained.result,
        }
    }

    /// Number of the arrived events with this partition key.
    fn count(&self, key: &str) -> usize {
        self.log
            .arrived()
            .into_iter()
            .filter(|arrived| arrived == key)
            .count()
    }

    /// Number of commits up to a position, without markers.
    fn commits_to(&self, to: Lsn) -> u64 {
        let commits = self.slot.commits.iter();
        let counted = commits.filter(|(end, table)| *end <= to && !table.starts_with(MARKER));
        counted.count() as u64
    }

    /// Whether the slot was ever advanced past the last marker.
    fn has_passed_its_marker(&self) -> bool {
        let mut marked = Lsn::ZERO;
        self.log.entries().into_iter().any(|entry| {
            if let LogEntry::MarkerWritten(lsn) = entry {
                marked = lsn;
            }
            matches!(entry, LogEntry::Advanced(to) if to > marked)
        })
    }
}

/// Only the server's time for a poll decides the pause. The stream needs half a second for the first window.
#[tokio::test]
async fn a_slow_stream_does_not_delay_the_next_poll() {
    let log = Log::default();
    let backlog = (100..200).map(|end| (Lsn(end * MIB), "backlog".to_owned()));
    let mut slot = FakeSlot {
        arrivals: ["a", "b", "c"].map(str::to_owned).into(),
        ..FakeSlot::new(&log, backlog.collect(), Lsn(99 * MIB))
    };
    let settings = Settings {
        linger: Duration::from_secs(3),
        poll_share: 0.05,
        max_unacknowledged_bytes: 1_000,
        ..settings(Aggregation::None)
    };
    let (envelope, start) = (envelope(), start(99, 99));
    let ports = DrainPorts {
        slot: &mut slot,
        stream: FakeStream {
            latency: Duration::from_millis(5),
            ..FakeStream::new(&log)
        },
        checkpoint_store: FakeStateStore(log.clone()),
        sizing: &Mutex::default(),
        backfill: None,
    };
    let drained = drain(ports, task(&settings, &envelope, &start, 20)).await;
    drained.result.unwrap();
    let arrived = log.arrived();
    assert_eq!(arrived[100..], ["public.a", "public.b", "public.c"]);
}

#[tokio::test]
async fn a_message_outside_of_transactions_is_sent_once() {
    let arrivals = ["a", "b", MESSAGE, "c", "d", "e", "f", "g", "h"];
    let lingered = LingerRun::run(&arrivals, Faults::default(), Duration::from_millis(800)).await;
    assert!(lingered.result.is_ok(), "{:?}", lingered.result);
    assert_eq!(
        lingered.count(r#"{"prefix":"p"}"#),
        1,
        "{:?}",
        lingered.log.entries()
    );
    assert_eq!(lingered.report.changes, 10);
    assert_eq!(lingered.report.skipped, 0);
}

#[tokio::test]
async fn a_failure_confirms_nothing_after_the_last_marker() {
    let arrivals = ["a", "b", "c", "d", "e", "f", "g", "poison"];
    let lingered = LingerRun::run(&arrivals, Faults::default(), Duration::from_millis(900)).await;
    let name = lingered.result.as_ref().map_err(Error::name);
    assert_eq!(name, Err("Undecodable"));
    assert!(!lingered.has_passed_its_marker(), "{:?}", lingered.log.entries());
    // The answer counts the changes up to the checkpoint. Later changes are sent again.
    let report = &lingered.report;
    assert_eq!(report.changes, lingered.commits_to(report.to), "{report:?}");
    assert!(report.unconfirmed > 0, "{report:?}");
    assert_eq!(report.changes + report.unconfirmed, 8, "{report:?}");
}

#[tokio::test]
async fn a_drain_ends_if_its_standby_disconnects() {
    let faults = Faults {
        standby_leaves: true,
        ..Faults::default()
    };
    let arrivals = ["a", "b", "c", "d", "e", "f", "g"];
    let lingered = LingerRun::run(&arrivals, faults, Duration::from_millis(500)).await;
    assert!(lingered.result.is_ok(), "{:?}", lingered.result);
    assert_eq!(lingered.report.stopped, StopReason::Empty);
    // A loop without a pause would request the positions thousands of times.
    assert!(
        lingered.slot.position_reads < 200,
        "looked {} times",
        lingered.slot.position_reads
    );
    assert!(!lingered.has_passed_its_marker(), "{:?}", lingered.log.entries());
    assert!(lingered.report.unconfirmed > 0);
}

#[tokio::test]
async fn progress_in_a_large_transaction_is_stored() {
    let arrivals = ["a", "b", "c", "d", "e", "f", "g", LARGE];
    let lingered = LingerRun::run(&arrivals, Faults::default(), Duration::from_millis(900)).await;
    let name = lingered.result.as_ref().map_err(Error::name);
    assert_eq!(name, Err("Undecodable"));
    for row in 0..LARGE_ROWS {
        assert_eq!(lingered.count(&format!("public.large{row}")), 1, "row {row}");
    }
    // The last section of 1 MiB may be incomplete.
    let resumes = lingered
        .log
        .entries()
        .into_iter()
        .filter_map(|entry| match entry {
            LogEntry::ResumeStored(rows) => Some(rows),
            _ => None,
        });
    assert!((LARGE_ROWS - 11..=LARGE_ROWS).contains(&resumes.max().unwrap_or(0)));
    assert!(!lingered.has_passed_its_marker(), "{:?}", lingered.log.entries());
}

/// A resume point counts the events of 16 tables at most.
#[tokio::test]
async fn rows_after_the_last_resume_point_are_sent_once() {
    let envelope = Envelope {
        form: EnvelopeForm::Debezium(Debezium {
            transaction_metadata: true,
            ..Debezium::new("n", "d")
        }),
        ..envelope()
    };
    let arrivals = ["a", "b", "c", "d", "e", "f", "g", LARGE];
    let lingers = Duration::from_millis(900);
    let lingered = LingerRun::run_with(envelope, &arrivals, Faults::default(), lingers).await;
    for row in 0..LARGE_ROWS {
        assert_eq!(lingered.count(&format!("public.large{row}")), 1, "row {row}");
    }
}
