//! A slow stream: the next window begins while events of the one before are sent.

use super::*;

/// The slot's log: one commit each MiB from 100 MiB on, so a window has 128 of them.
fn commits(count: u64, table: impl Fn(u64) -> &'static str) -> Vec<(Lsn, String)> {
    let commit = |n| (Lsn((100 + n) * MIB), table(n).to_owned());
    (0..count).map(commit).collect()
}

/// A store that takes 30 ms, so that events are acknowledged meanwhile.
#[derive(Clone)]
struct SlowStore(FakeStateStore);

impl StateStore for SlowStore {
    fn name(&self) -> String {
        self.0.name()
    }

    async fn store(&self, text: String) -> Result<(), StateStoreError> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.store(text).await
    }
}

/// Drains `commits`. The stream needs 5 ms for each record of a table.
async fn drain_slowly(commits: Vec<(Lsn, String)>, faults: Faults) -> TestOutcome {
    let log = Log::default();
    let mut slot = FakeSlot {
        faults,
        ..FakeSlot::new(&log, commits, Lsn(99 * MIB))
    };
    let ports = DrainPorts {
        slot: &mut slot,
        stream: FakeStream {
            latency: Duration::from_millis(5),
            ..FakeStream::new(&log)
        },
        checkpoint_store: SlowStore(FakeStateStore(log.clone())),
        sizing: &Mutex::default(),
        backfill: None,
    };
    let (settings, envelope, start) = (settings(Aggregation::None), envelope(), start(99, 99));
    let task = task(&settings, &envelope, &start, 60);
    let drained = Box::pin(drain(ports, task)).await;
    TestOutcome {
        log,
        report: drained.report,
        outcome: drained.result,
    }
}

/// Number of events that had arrived when each peek began.
fn arrived_at_peeks(log: &Log) -> Vec<usize> {
    let (mut arrived, mut at_peeks) = (0, Vec::new());
    for entry in log.entries() {
        match entry {
            LogEntry::Arrived(_) => arrived += 1,
            LogEntry::Peeked(_) => at_peeks.push(arrived),
            _ => {}
        }
    }
    at_peeks
}

/// Checks the order of arrivals, stores and advances. Returns the slot's last position.
///
/// A checkpoint must not pass a commit whose event has not arrived. The slot must not pass the checkpoint.
fn check_advances(log: &Log, commits: &[(Lsn, String)]) -> Lsn {
    let (mut arrived, mut stored, mut last) = (0, Lsn::ZERO, Lsn::ZERO);
    for entry in log.entries() {
        match entry {
            LogEntry::Arrived(_) => arrived += 1,
            LogEntry::Stored(to) => {
                let passed = commits.iter().filter(|(end, _)| *end <= to).count();
                assert!(
                    passed <= arrived,
                    "{passed} commits before {to}, {arrived} arrived"
                );
                stored = to;
            }
            LogEntry::Advanced(to) => {
                assert!(to <= stored, "advanced to {to} with {stored} stored");
                last = to;
            }
            _ => {}
        }
    }
    last
}

#[tokio::test]
async fn the_next_window_begins_before_all_events_of_a_slow_stream_are_acknowledged() {
    let commits = commits(300, |_| "a");
    let TestOutcome { log, report, outcome } = drain_slowly(commits.clone(), Faults::default()).await;
    outcome.unwrap();
    let at_peeks = arrived_at_peeks(&log);
    assert!(
        (1..127).contains(&at_peeks[1]),
        "128 commits are in the first window: {at_peeks:?}"
    );
    // No event is sent twice, although the second peek returns many transactions of the first one again.
    assert_eq!(log.arrived().len(), 300);
    assert_eq!((report.changes, report.skipped, report.unconfirmed), (300, 0, 0));
    assert!(check_advances(&log, &commits) >= Lsn(399 * MIB));
}

#[tokio::test]
async fn events_of_the_window_before_are_confirmed_although_the_next_window_fails() {
    let backlog = commits(300, |n| if n == 200 { "poison" } else { "a" });
    let TestOutcome { log, outcome, .. } = drain_slowly(backlog.clone(), Faults::default()).await;
    assert_eq!(outcome.unwrap_err().name(), "Undecodable");
    assert_eq!(log.arrived().len(), 200);
    assert_eq!(check_advances(&log, &backlog), Lsn(299 * MIB));

    let faults = Faults {
        good_peeks: Some(1),
        ..Faults::default()
    };
    let backlog = commits(300, |_| "a");
    let TestOutcome { log, report, outcome } = drain_slowly(backlog.clone(), faults).await;
    assert_eq!(outcome.unwrap_err().name(), "PostgresFailed");
    let sent = log.arrived().len() as u64;
    assert!((100..=128).contains(&sent), "{sent}");
    assert_eq!((report.changes, report.unconfirmed), (sent, 0));
    assert!(check_advances(&log, &backlog) >= Lsn((99 + sent) * MIB));
}

#[tokio::test]
async fn a_changed_key_waits_for_the_events_of_the_window_before() {
    // The lane of `moved` is empty most of the time, that of `a` never.
    let commits = commits(300, |n| if n % 64 == 1 { "moved" } else { "a" });
    let faults = Faults {
        key_is_added: true,
        ..Faults::default()
    };
    let TestOutcome { log, outcome, .. } = drain_slowly(commits, faults).await;
    outcome.unwrap();
    assert!(arrived_at_peeks(&log)[1] < 127);
    let arrived = log.arrived();
    let moved = (0..).zip(&arrived).filter(|(_, key)| *key == "public.moved");
    let third = moved.map(|(at, _)| at).nth(2).unwrap();
    let before = arrived[..third].iter().filter(|key| *key == "public.a").count();
    assert!(before >= 126, "{before} of the 127 events before it had arrived");
}
