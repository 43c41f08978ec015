//! Tests of the loop with slot, stream and checkpoint in memory.
//!
//! They include faults that a real server cannot produce on demand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::report::Report;
use super::*;
use crate::backfill::database_schema::DatabaseSchema;
use crate::backfill::database_schema::tests::{request, table_info};
use crate::backfill::{BackfillState, BackfillTable, RowLookup, RowRequest, Snapshot};
use crate::base::budget::Budget;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::base::window::Window;
use crate::catalog::{Catalog, CatalogTable, TableRequest};
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::Checkpoint;
use crate::continuity::marker::{Marker, MarkerDraft};
use crate::encode::{Envelope, EnvelopeForm, KeylessRows, OversizePolicy, PartitionBy, Wal2json};
use crate::pack::{Aggregation, HashKey, Record, ShardMap};
use crate::plugin::Plugin;
use crate::ports::{
    ChunkBounds, ChunkRead, CommitRows, EmittedMessage, PeekRow, PeekRows, PutAnswer, RecordOutcome, Slot,
    SlotError, StateStore, StateStoreError, Stream, StreamError, StreamInfo, TableSource, WalPositions,
};
use crate::rules::projection::ProjectionRules;
use crate::rules::skipped_operations::SkippedOperations;

mod ack_ahead;
mod chunks;
mod fakes;
mod lingering;
mod markers;
mod overlap;
mod streams;

use fakes::*;

/// A drain of a backlog, with fakes in place of its ports.
///
/// The fields are the causes that a test varies.
struct TestDrain {
    start: StartPosition,
    aggregation: Aggregation,
    /// The shards of the stream. The sender's map has one shard.
    shards: ShardMap,
    /// Number of ListShards requests that return the sender's map.
    stale_lists: u32,
    /// Partition keys whose next record is throttled, once for each entry.
    throttled: Vec<&'static str>,
    first_event: Option<Event>,
    faults: Faults,
    backfill: Option<BackfillState>,
}

/// Result of a [`TestDrain`].
struct TestOutcome {
    log: Log,
    report: Report,
    outcome: Result<(), Error>,
}

impl TestDrain {
    /// A drain without faults, into one shard.
    fn new(start: StartPosition) -> Self {
        TestDrain {
            start,
            aggregation: Aggregation::None,
            shards: ShardMap::even(1),
            stale_lists: 0,
            throttled: Vec::new(),
            first_event: None,
            faults: Faults::default(),
            backfill: None,
        }
    }

    /// A drain with a pending backfill of `public.t`.
    fn with_backfill(start: StartPosition) -> Self {
        let state = BackfillState::new("s", "7", request(&["public.t"]), start.acknowledged, "");
        TestDrain {
            backfill: Some(state),
            ..Self::new(start)
        }
    }

    /// Drains `commits`: the end of each in MiB, and its table.
    async fn run(self, commits: &[(u64, &str)]) -> TestOutcome {
        let log = Log::default();
        let commits: Vec<_> = commits
            .iter()
            .map(|(mib, table)| (Lsn(mib * MIB), (*table).to_owned()))
            .collect();
        let throttled = self.throttled.iter().map(|key| (*key).to_owned()).collect();
        let mut slot = FakeSlot {
            faults: self.faults,
            ..FakeSlot::new(&log, commits, self.start.confirmed)
        };
        let ports = DrainPorts {
            slot: &mut slot,
            stream: FakeStream {
                throttles: Arc::new(Mutex::new(throttled)),
                shards: self.shards,
                stale_lists: Arc::new(Mutex::new(self.stale_lists)),
                ..FakeStream::new(&log)
            },
            checkpoint_store: FakeStateStore(log.clone()),
            sizing: &Mutex::default(),
            backfill: self
                .backfill
                .map(|state| BackfillRunner::new(FakeStateStore(log.clone()), state)),
        };
        let settings = settings(self.aggregation);
        let envelope = envelope();
        let task = DrainTask {
            first_event: self.first_event,
            ..task(&settings, &envelope, &self.start, 60)
        };
        let drained = Box::pin(drain(ports, task)).await;
        TestOutcome {
            log,
            report: drained.report,
            outcome: drained.result,
        }
    }
}

/// Drains without faults, into one shard.
async fn run(commits: &[(u64, &str)], start: StartPosition) -> TestOutcome {
    TestDrain::new(start).run(commits).await
}

/// Drains a slot that has faults.
async fn run_faulty(commits: &[(u64, &str)], start: StartPosition, faults: Faults) -> TestOutcome {
    let drain = TestDrain {
        faults,
        ..TestDrain::new(start)
    };
    drain.run(commits).await
}

/// A task without earlier changes. The drain has `seconds` seconds.
fn task<'a>(
    settings: &'a Settings,
    envelope: &'a Envelope,
    start: &'a StartPosition,
    seconds: u64,
) -> DrainTask<'a> {
    DrainTask {
        settings,
        envelope,
        start,
        checkpoint: Checkpoint::parse(CHECKPOINT).unwrap(),
        ahead: None,
        settings_hash: String::new(),
        first_event: None,
        budget: Budget::new(Instant::now(), Instant::now() + Duration::from_secs(seconds)),
    }
}

const CHECKPOINT: &str = r#"{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s",
    "plugin":"test_decoding","commit_end":"0/0","updated_at":""}"#;

fn envelope() -> Envelope {
    Envelope {
        form: EnvelopeForm::Wal2json(Wal2json),
        partition_by: PartitionBy::Table,
        keyless: KeylessRows::Spread,
        oversize: OversizePolicy::Fail,
    }
}

pub(super) fn settings(aggregation: Aggregation) -> Settings {
    Settings {
        slot: "s".into(),
        source_name: "orders".into(),
        plugin: Plugin::TestDecoding,
        tables: Vec::new(),
        stream_pattern: None,
        record_bytes: 1 << 20,
        passes_oversize: false,
        aggregation,
        shards: ShardMap::even(1),
        key_decides_shard: true,
        max_unacknowledged_bytes: 1 << 20,
        linger: Duration::ZERO,
        poll_share: 0.05,
        projection: ProjectionRules::default(),
        skipped: SkippedOperations::default(),
        waits_for_standbys: true,
        markers: true,
    }
}

fn start(confirmed: u64, acknowledged: u64) -> StartPosition {
    StartPosition {
        plugin: Plugin::TestDecoding,
        confirmed: Lsn(confirmed * MIB),
        acknowledged: Lsn(acknowledged * MIB),
        settled: Lsn(acknowledged * MIB),
        resume: None,
        expected: None,
        is_promoted: false,
        has_checkpoint: true,
    }
}

/// The same start on another timeline.
fn promoted(confirmed: u64, acknowledged: u64, expected: Option<Marker>) -> StartPosition {
    StartPosition {
        settled: Lsn(confirmed * MIB),
        is_promoted: true,
        expected,
        ..start(confirmed, acknowledged)
    }
}

/// A marker at an LSN, and its transaction in the log.
fn marker(number: u64, mib: u64) -> (Marker, String) {
    let draft = MarkerDraft::new(number, format!("{number:016x}"));
    let content = format!("{MARKER}{}", draft.content("s"));
    (draft.written(Lsn(mib * MIB - 8), Lsn(mib * MIB)), content)
}

/// Commits in several windows. The first windows have 128 MiB.
const BACKLOG: &[(u64, &str)] = &[(100, "a"), (200, "b"), (300, "c"), (400, "d"), (500, "e")];

#[tokio::test]
async fn the_slot_advances_after_the_checkpoint_and_the_checkpoint_follows_the_acknowledgement() {
    let drain = TestDrain {
        throttled: vec!["public.b", "public.b", "public.d"],
        ..TestDrain::new(start(1, 1))
    };
    let TestOutcome { log, report, outcome } = drain.run(BACKLOG).await;
    outcome.unwrap();
    assert_eq!((report.changes, report.records, report.retried), (5, 5, 3));
    let (mut arrived, mut stored) = (Vec::new(), Lsn(MIB));
    for entry in log.entries() {
        match entry {
            LogEntry::Arrived(key) => arrived.push(key),
            LogEntry::Stored(to) => {
                let covered = BACKLOG.iter().filter(|(end, _)| Lsn(end * MIB) <= to);
                for (_, table) in covered {
                    assert!(
                        arrived.contains(&format!("public.{table}")),
                        "stored {to} before {table} arrived"
                    );
                }
                stored = to;
            }
            LogEntry::Peeked(_)
            | LogEntry::ShardsListed
            | LogEntry::ResumeStored(_)
            | LogEntry::MarkerWritten(_)
            | LogEntry::ChunkRead(_) => {}
            LogEntry::Advanced(to) => assert!(to <= stored, "advanced to {to} with {stored} stored"),
        }
    }
    assert!(stored >= Lsn(500 * MIB));
}

#[tokio::test]
async fn a_transaction_before_the_checkpoint_is_not_sent_again() {
    let TestOutcome { log, report, outcome } = run(BACKLOG, start(1, 300)).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.d", "public.e"]);
    assert_eq!((report.changes, report.replayed), (2, 0));
}

#[tokio::test]
async fn after_a_promotion_without_a_marker_every_transaction_of_the_slot_is_sent_again() {
    let TestOutcome { log, report, outcome } = run(BACKLOG, promoted(1, 300, None)).await;
    outcome.unwrap();
    assert_eq!(
        log.arrived(),
        ["public.a", "public.b", "public.c", "public.d", "public.e"]
    );
    assert_eq!((report.changes, report.replayed), (5, 3));
}

#[tokio::test]
async fn an_undecodable_row_stops_the_drain_and_earlier_transactions_are_confirmed() {
    let backlog = [(100, "a"), (101, "b"), (102, "poison"), (103, "c")];
    let TestOutcome { log, outcome, .. } = run(&backlog, start(1, 1)).await;
    assert_eq!(outcome.unwrap_err().name(), "Undecodable");
    assert_eq!(log.arrived(), ["public.a", "public.b"]);
    assert_eq!(log.entries().last(), Some(&LogEntry::Advanced(Lsn(101 * MIB))));
}

#[tokio::test]
async fn an_accepted_gap_is_stored_only_after_its_control_event_is_acknowledged() {
    let start = StartPosition {
        has_checkpoint: false,
        ..start(1, 1)
    };
    let position = crate::base::position::Position {
        commit_end: Lsn(MIB),
        lsn: Lsn(MIB),
        index: 0,
    };
    let control = Event {
        position,
        partition_key: "control".into(),
        barrier: false,
        relation: None,
        data: b"{}".to_vec(),
        missing_bytes: 0,
        row_hash: None,
    };
    // The event is refused for more than a second. After that time, a paced store would be due.
    let drain = TestDrain {
        throttled: vec!["control"; 5],
        first_event: Some(control),
        ..TestDrain::new(start)
    };
    let TestOutcome { log, outcome, .. } = drain.run(BACKLOG).await;
    outcome.unwrap();
    assert_eq!(
        log.entries()[..2],
        [LogEntry::Arrived("control".into()), LogEntry::Stored(Lsn(MIB))]
    );
}

#[tokio::test]
async fn an_aggregate_in_the_wrong_shard_is_sent_again() {
    // The events are in one window, so they are one aggregate while the sender's map has one shard.
    let tables = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let backlog: Vec<_> = (100..).zip(tables).collect();
    let drain = TestDrain {
        aggregation: Aggregation::Kpl { bytes: 1 << 16 },
        shards: ShardMap::even(3),
        stale_lists: 2,
        ..TestDrain::new(start(99, 99))
    };
    let TestOutcome { log, report, outcome } = drain.run(&backlog).await;
    outcome.unwrap();
    let mut arrived = log.arrived();
    arrived.sort();
    assert_eq!(arrived, tables.map(|table| format!("public.{table}")));
    assert_eq!((report.records, report.retried), (3, 1));
}

/// An aggregate in an unexpected shard that has all its keys.
///
/// This happens after a merge or a split.
#[tokio::test]
async fn an_aggregate_in_another_shard_that_has_all_its_keys_is_not_sent_again() {
    let drain = TestDrain {
        aggregation: Aggregation::Kpl { bytes: 1 << 16 },
        shards: ShardMap::even(3),
        stale_lists: 2,
        ..TestDrain::new(start(99, 99))
    };
    let drained = drain.run(&[(100, "a"), (101, "a"), (102, "a")]).await;
    let TestOutcome { log, report, outcome } = drained;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.a"; 3]);
    assert_eq!((report.records, report.retried), (1, 0));
}

#[tokio::test]
async fn a_single_event_in_another_shard_is_not_sent_again() {
    let drain = TestDrain {
        shards: ShardMap::even(3),
        stale_lists: 2,
        ..TestDrain::new(start(1, 1))
    };
    let TestOutcome { log, report, outcome } = drain.run(BACKLOG).await;
    outcome.unwrap();
    assert_eq!(log.arrived().len(), BACKLOG.len());
    assert_eq!((report.records, report.retried), (5, 0));
}

#[tokio::test]
async fn a_drain_does_not_wait_for_list_shards_when_everything_is_acknowledged() {
    let one = [(100, "a")];
    for aggregation in [Aggregation::None, Aggregation::Kpl { bytes: 1 << 16 }] {
        let drain = TestDrain {
            aggregation,
            shards: ShardMap::even(64),
            stale_lists: u32::MAX,
            ..TestDrain::new(start(99, 99))
        };
        let TestOutcome { log, report, outcome } = drain.run(&one).await;
        outcome.unwrap();
        assert_eq!((log.arrived().len(), report.stopped), (1, StopReason::Empty));
        let listed = log
            .entries()
            .iter()
            .filter(|entry| **entry == LogEntry::ShardsListed)
            .count();
        assert!(listed <= 2, "the shards were listed {listed} times");
    }
}

#[tokio::test]
async fn a_drainer_that_lost_the_lock_stores_nothing() {
    let faults = Faults {
        lock_lost: true,
        ..Faults::default()
    };
    let TestOutcome { log, outcome, .. } = run_faulty(BACKLOG, start(1, 1), faults).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), crate::base::error_kind::ErrorKind::Transient);
    assert!(
        !log.entries()
            .iter()
            .any(|entry| matches!(entry, LogEntry::Stored(_) | LogEntry::Advanced(_)))
    );
}

#[tokio::test]
async fn a_drain_ends_if_the_slot_is_not_advanced_in_time() {
    let faults = Faults {
        advances_time_out: true,
        ..Faults::default()
    };
    let TestOutcome { log, report, outcome } = run_faulty(&[(100, "a")], start(1, 1), faults).await;
    outcome.unwrap();
    assert_eq!(report.stopped, StopReason::Deadline);
    let entries = log.entries();
    assert!(entries.iter().any(|entry| matches!(entry, LogEntry::Stored(_))));
    assert!(!entries.iter().any(|entry| matches!(entry, LogEntry::Advanced(_))));
    // Another window would read the same log again.
    let is_peek = |entry: &&LogEntry| matches!(entry, LogEntry::Peeked(_));
    assert_eq!(entries.iter().filter(is_peek).count(), 1);
}

#[tokio::test]
async fn a_transaction_that_no_standby_has_is_neither_sent_nor_confirmed() {
    let commit_end = Lsn(100 * MIB);
    // Inside the last commit record, at its end, and before it.
    for (readable, arrives) in [
        (commit_end.0 - 4, false),
        (commit_end.0, true),
        (commit_end.0 - 8, false),
    ] {
        let faults = Faults {
            readable: Some(Lsn(readable)),
            ..Faults::default()
        };
        let TestOutcome { log, report, outcome } =
            run_faulty(&[(99, "a"), (100, "b")], start(1, 1), faults).await;
        outcome.unwrap();
        assert_eq!(
            log.arrived().contains(&"public.b".to_owned()),
            arrives,
            "{readable}"
        );
        let passed = log
            .entries()
            .iter()
            .any(|entry| matches!(entry, LogEntry::Advanced(to) if *to > Lsn(commit_end.0 - 8)));
        assert_eq!(passed, arrives, "{readable}");
        assert!(report.held_bytes > 0);
    }
}

#[tokio::test]
async fn a_chunk_is_not_begun_while_much_of_the_log_is_unread() {
    let TestOutcome { log, outcome, .. } = TestDrain::with_backfill(start(1, 1)).run(BACKLOG).await;
    outcome.unwrap();
    let reads = log.entries().into_iter().filter_map(|entry| match entry {
        LogEntry::ChunkRead(lag) => Some(lag),
        _ => None,
    });
    let reads: Vec<u64> = reads.collect();
    assert!(!reads.is_empty(), "the table was never read");
    let most = reads.into_iter().max();
    assert!(most < Some(MAX_LAG_BYTES), "{most:?} bytes were unread");
}

#[tokio::test]
async fn a_drain_with_a_backfill_ends_if_the_backlog_waits_for_a_standby() {
    let drain = TestDrain {
        faults: Faults {
            commits_wait: true,
            ..Faults::default()
        },
        ..TestDrain::with_backfill(start(1, 1))
    };
    let TestOutcome { log, report, outcome } = drain.run(BACKLOG).await;
    outcome.unwrap();
    assert_eq!(report.stopped, StopReason::Empty);
    let has_read = |entry: &LogEntry| matches!(entry, LogEntry::ChunkRead(_));
    assert!(!log.entries().iter().any(has_read));
}
