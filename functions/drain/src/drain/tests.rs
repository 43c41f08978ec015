//! The loop over a slot, a stream and a checkpoint of our own, for what a real server cannot be made to do on
//! demand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::backfill::table::DatabaseSchema;
use crate::backfill::table::tests::{plain, request};
use crate::backfill::{BackfillState, BackfillTable, RowLookup, RowRequest, Snapshot};
use crate::catalog::Catalog;
use crate::checkpoint::Checkpoint;
use crate::encode::{EnvelopeForm, Oversize, PartitionBy, Wal2json};
use crate::marker::Marker;
use crate::pack::{Aggregation, HashKey, Record, ShardMap};
use crate::plugin::Plugin;
use crate::ports::{
    CheckpointError, ChunkBounds, ChunkRead, CommitRows, EmittedMessage, PeekRow, PeekRows, PutAnswer,
    RecordOutcome, Slot, SlotError, StateStore, Stream, StreamError, TableSource, WalPositions,
};
use crate::table_name::TableName;

mod fakes;

use fakes::*;

async fn run(
    commits: &[(u64, &str)],
    start: StartPosition,
    refuses: &[&str],
) -> (Log, Report, Result<(), Error>) {
    let stream = (Aggregation::None, ShardMap::even(1), 0);
    run_with(commits, start, refuses, None, stream).await
}

/// Of a slot with which something is wrong.
async fn run_faulty(
    commits: &[(u64, &str)],
    start: StartPosition,
    faults: Faults,
) -> (Log, Report, Result<(), Error>) {
    let stream = (Aggregation::None, ShardMap::even(1), 0);
    run_on(commits, start, &[], None, stream, faults, None).await
}

/// With a backfill of `public.t` beside it.
async fn run_beside(commits: &[(u64, &str)], start: StartPosition) -> (Log, Report, Result<(), Error>) {
    let stream = (Aggregation::None, ShardMap::even(1), 0);
    let state = BackfillState::new("s", "7", request(&["public.t"]), start.acknowledged, "");
    run_on(commits, start, &[], None, stream, Faults::default(), Some(state)).await
}

/// The stream has these shards, is known as one of a single shard, and says so for a while when it is asked.
async fn run_with(
    commits: &[(u64, &str)],
    start: StartPosition,
    refuses: &[&str],
    opening: Option<Event>,
    stream: (Aggregation, ShardMap, u32),
) -> (Log, Report, Result<(), Error>) {
    run_on(commits, start, refuses, opening, stream, Faults::default(), None).await
}

async fn run_on(
    commits: &[(u64, &str)],
    start: StartPosition,
    refuses: &[&str],
    opening: Option<Event>,
    (aggregation, shards, behind): (Aggregation, ShardMap, u32),
    faults: Faults,
    backfill: Option<BackfillState>,
) -> (Log, Report, Result<(), Error>) {
    let log = Log::default();
    let commits: Vec<_> = commits
        .iter()
        .map(|(mib, table)| (Lsn(mib * MIB), (*table).to_owned()))
        .collect();
    let flush = commits.last().unwrap().0;
    let refuses = Arc::new(Mutex::new(refuses.iter().map(|key| (*key).to_owned()).collect()));
    let mut slot = FakeSlot {
        log: log.clone(),
        commits,
        flush,
        confirmed: start.confirmed,
        faults,
    };
    let ports = DrainPorts {
        slot: &mut slot,
        stream: FakeStream {
            log: log.clone(),
            refuses,
            shards,
            behind: Arc::new(Mutex::new(behind)),
        },
        checkpoints: FakeCheckpoints(log.clone()),
        sizing: &Mutex::default(),
        backfill: backfill.map(|state| BackfillRunner::new(FakeCheckpoints(log.clone()), state)),
    };
    let settings = Settings {
        slot: "s".into(),
        plugin: Plugin::TestDecoding,
        tables: Vec::new(),
        record_bytes: 1 << 20,
        aggregation,
        shards: ShardMap::even(1),
        keyed: true,
        bytes_in_flight: 1 << 20,
        linger: Duration::ZERO,
        markers: true,
    };
    let envelope = Envelope {
        form: EnvelopeForm::Wal2json(Wal2json),
        partition_by: PartitionBy::Table,
        oversize: Oversize::Fail,
    };
    let document = r#"{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s","plugin":"test_decoding",
        "commit_end":"0/0","updated_at":""}"#;
    let document = Checkpoint::parse(document).unwrap();
    let budget = Budget::new(Instant::now(), Instant::now() + Duration::from_secs(60));
    let task = DrainTask {
        settings: &settings,
        envelope: &envelope,
        start: &start,
        checkpoint: document,
        first_event: opening,
        budget,
    };
    let drained = drain(ports, task).await;
    (log, drained.report, drained.result)
}

fn start(confirmed: u64, acknowledged: u64) -> StartPosition {
    StartPosition {
        plugin: Plugin::TestDecoding,
        confirmed: Lsn(confirmed * MIB),
        acknowledged: Lsn(acknowledged * MIB),
        settled: Lsn(acknowledged * MIB),
        resume: None,
        expected: None,
        promoted: false,
        stored: true,
    }
}

/// The same on another timeline than before.
fn promoted(confirmed: u64, acknowledged: u64, expected: Option<Marker>) -> StartPosition {
    StartPosition {
        settled: Lsn(confirmed * MIB),
        promoted: true,
        expected,
        ..start(confirmed, acknowledged)
    }
}

/// A marker at an LSN, and its transaction in the log.
fn marker(number: u64, mib: u64) -> (Marker, String) {
    let nonce = format!("{number:016x}");
    let content = format!("{MARKER}{}", Marker::content("s", number, &nonce));
    let (lsn, flushed) = (Lsn(mib * MIB - 8), Lsn(mib * MIB));
    let marker = Marker {
        number,
        nonce,
        lsn,
        flushed,
    };
    (marker, content)
}

/// Windows are 128 MiB at first, so these lie in several.
const BACKLOG: &[(u64, &str)] = &[(100, "a"), (200, "b"), (300, "c"), (400, "d"), (500, "e")];

#[tokio::test]
async fn the_slot_moves_after_the_checkpoint_and_that_after_the_stream() {
    let (log, report, outcome) = run(BACKLOG, start(1, 1), &["public.b", "public.b", "public.d"]).await;
    outcome.unwrap();
    assert_eq!((report.changes, report.records, report.retried), (5, 5, 3));
    let (mut arrived, mut stored) = (Vec::new(), Lsn(MIB));
    for step in log.steps() {
        match step {
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
            LogEntry::Asked | LogEntry::Marked(_) | LogEntry::Read(_) => {}
            LogEntry::Advanced(to) => assert!(to <= stored, "advanced to {to} with {stored} stored"),
        }
    }
    assert!(stored >= Lsn(500 * MIB));
}

#[tokio::test]
async fn what_the_stream_surely_has_is_not_sent_again() {
    let (log, report, outcome) = run(BACKLOG, start(1, 300), &[]).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.d", "public.e"]);
    assert_eq!((report.changes, report.replayed), (2, 0));
}

#[tokio::test]
async fn after_a_promotion_everything_the_slot_still_gives_is_sent_again() {
    let (log, report, outcome) = run(BACKLOG, promoted(1, 300, None), &[]).await;
    outcome.unwrap();
    assert_eq!(
        log.arrived(),
        ["public.a", "public.b", "public.c", "public.d", "public.e"]
    );
    assert_eq!((report.changes, report.replayed), (5, 3));
}

#[tokio::test]
async fn an_undecodable_row_stops_the_drain_before_it_and_what_came_before_is_confirmed() {
    let backlog = [(100, "a"), (101, "b"), (102, "poison"), (103, "c")];
    let (log, _, outcome) = run(&backlog, start(1, 1), &[]).await;
    assert_eq!(outcome.unwrap_err().name(), "Undecodable");
    assert_eq!(log.arrived(), ["public.a", "public.b"]);
    assert_eq!(log.steps().last(), Some(&LogEntry::Advanced(Lsn(101 * MIB))));
}

#[tokio::test]
async fn a_gap_is_accepted_in_the_checkpoint_only_after_the_stream_was_told() {
    let start = StartPosition {
        stored: false,
        ..start(1, 1)
    };
    let position = crate::position::Position {
        commit_end: Lsn(MIB),
        lsn: Lsn(MIB),
        index: 0,
    };
    let told = Event {
        position,
        partition_key: "told".into(),
        barrier: false,
        relation: None,
        data: b"{}".to_vec(),
    };
    // So often that more than a second passes, after which a checkpoint is stored along the way.
    let (log, _, outcome) = run_with(
        BACKLOG,
        start,
        &["told"; 5],
        Some(told),
        (Aggregation::None, ShardMap::even(1), 0),
    )
    .await;
    outcome.unwrap();
    assert_eq!(
        log.steps()[..2],
        [LogEntry::Arrived("told".into()), LogEntry::Stored(Lsn(MIB))]
    );
}

#[tokio::test]
async fn what_landed_where_a_consumer_drops_it_is_sent_again() {
    // In one window, so that they are one aggregate as long as the stream is thought to have one shard.
    let tables = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let backlog: Vec<_> = (100..).zip(tables).collect();
    let kpl = Aggregation::Kpl { bytes: 1 << 16 };
    let (log, report, outcome) =
        run_with(&backlog, start(99, 99), &[], None, (kpl, ShardMap::even(3), 2)).await;
    outcome.unwrap();
    let mut arrived = log.arrived();
    arrived.sort();
    assert_eq!(arrived, tables.map(|table| format!("public.{table}")));
    assert_eq!((report.records, report.retried), (3, 1));
}

#[tokio::test]
async fn a_single_event_is_right_in_whichever_shard_it_landed() {
    let (log, report, outcome) = run_with(
        BACKLOG,
        start(1, 1),
        &[],
        None,
        (Aggregation::None, ShardMap::even(3), 2),
    )
    .await;
    outcome.unwrap();
    assert_eq!(log.arrived().len(), BACKLOG.len());
    assert_eq!((report.records, report.retried), (5, 0));
}

#[tokio::test]
async fn when_all_has_arrived_nobody_waits_for_the_list_of_shards() {
    let one = [(100, "a")];
    for aggregation in [Aggregation::None, Aggregation::Kpl { bytes: 1 << 16 }] {
        let stream = (aggregation, ShardMap::even(64), u32::MAX);
        let (log, report, outcome) = run_with(&one, start(99, 99), &[], None, stream).await;
        outcome.unwrap();
        assert_eq!((log.arrived().len(), report.stopped), (1, StopReason::Empty));
        let asked = log
            .steps()
            .iter()
            .filter(|step| **step == LogEntry::Asked)
            .count();
        assert!(asked <= 2, "asked {asked} times");
    }
}

#[tokio::test]
async fn the_slot_never_moves_to_where_no_marker_lies_behind_it() {
    let (log, _, outcome) = run(BACKLOG, start(1, 1), &[]).await;
    outcome.unwrap();
    let mut marked = Lsn::ZERO;
    for step in log.steps() {
        match step {
            LogEntry::Marked(lsn) => marked = lsn,
            LogEntry::Advanced(to) => assert!(
                to <= marked,
                "advanced to {to}, and the last marker is at {marked}"
            ),
            _ => {}
        }
    }
    assert!(marked > Lsn(500 * MIB));
}

/// The last commit before is at 250 MiB and the marker at 260, so what comes behind it is new.
async fn with_marker(start: StartPosition, blind_to: u64) -> (Log, Report, Result<(), Error>) {
    let (_, content) = marker(7, 260);
    let backlog = [
        (100, "a"),
        (250, "b"),
        (260, content.as_str()),
        (270, "c"),
        (500, "d"),
    ];
    let faults = Faults {
        blind_to: Lsn(blind_to * MIB),
        ..Faults::default()
    };
    run_faulty(&backlog, start, faults).await
}

#[tokio::test]
async fn a_marker_that_comes_is_not_delivered_and_all_goes_on() {
    let expected = Some(marker(7, 260).0);
    let start = StartPosition {
        expected,
        ..start(1, 250)
    };
    let (log, _, outcome) = with_marker(start, 0).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.c", "public.d"]);
}

#[tokio::test]
async fn a_marker_that_does_not_come_stops_the_drain_and_nothing_moves() {
    let expected = Some(marker(7, 260).0);
    let same = StartPosition {
        expected: expected.clone(),
        ..start(250, 250)
    };
    // With something behind the marker, and with nothing at all: an empty peek is no proof.
    for (start, blind_to) in [
        (same.clone(), 265),
        (same, 501),
        (promoted(1, 250, expected.clone()), 265),
        (promoted(1, 250, expected), 501),
    ] {
        let (log, _, outcome) = with_marker(start, blind_to).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.name(), "MarkerMissing");
        assert_eq!(error.kind(), crate::ports::ErrorKind::Definite);
        // A marker of its own is all that it may leave.
        assert!(log.steps().iter().all(|step| matches!(step, LogEntry::Marked(_))));
    }
}

#[tokio::test]
async fn after_a_promotion_what_lies_below_the_marker_is_not_sent_again() {
    let (marker, content) = marker(7, 260);
    let backlog = [
        (100, "a"),
        (250, "b"),
        (260, content.as_str()),
        (270, "c"),
        (500, "d"),
    ];
    // The invocation before had come further than its marker, and died.
    let (log, report, outcome) = run(&backlog, promoted(1, 270, Some(marker)), &[]).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.c", "public.d"]);
    // The second lies where the slot was moved to at once.
    assert_eq!((report.skipped, report.replayed), (1, 1));
}

#[tokio::test]
async fn a_marker_of_another_history_is_not_the_marker() {
    let (expected, _) = marker(7, 260);
    let other = format!("{MARKER}{}", Marker::content("s", 7, "another"));
    let backlog = [(100, "a"), (260, other.as_str()), (270, "c")];
    for start in [
        promoted(1, 100, Some(expected.clone())),
        StartPosition {
            expected: Some(expected),
            ..start(1, 100)
        },
    ] {
        let (log, _, outcome) = run(&backlog, start, &[]).await;
        assert_eq!(outcome.unwrap_err().name(), "MarkerMissing");
        // Nothing is confirmed from where it should have come on.
        let moved = |step: &LogEntry| matches!(step, LogEntry::Stored(to) | LogEntry::Advanced(to) if *to > Lsn(260 * MIB - 8));
        assert!(!log.steps().iter().any(moved), "{:?}", log.steps());
        assert!(log.arrived().is_empty());
    }
}

#[tokio::test]
async fn who_lost_the_lock_stores_nothing() {
    let faults = Faults {
        lost: true,
        ..Faults::default()
    };
    let (log, _, outcome) = run_faulty(BACKLOG, start(1, 1), faults).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), crate::ports::ErrorKind::Transient);
    assert!(
        !log.steps()
            .iter()
            .any(|step| matches!(step, LogEntry::Stored(_) | LogEntry::Advanced(_)))
    );
}

#[tokio::test]
async fn what_ends_behind_what_a_standby_has_is_not_delivered_and_not_passed() {
    let held = Lsn(100 * MIB);
    // Inside of the last commit record, at its end, and a little before it.
    for (readable, arrives) in [(held.0 - 4, false), (held.0, true), (held.0 - 8, false)] {
        let faults = Faults {
            readable: Some(Lsn(readable)),
            ..Faults::default()
        };
        let (log, report, outcome) = run_faulty(&[(99, "a"), (100, "b")], start(1, 1), faults).await;
        outcome.unwrap();
        assert_eq!(
            log.arrived().contains(&"public.b".to_owned()),
            arrives,
            "{readable}"
        );
        let passed = log
            .steps()
            .iter()
            .any(|step| matches!(step, LogEntry::Advanced(to) if *to > Lsn(held.0 - 8)));
        assert_eq!(passed, arrives, "{readable}");
        assert!(report.held_bytes > 0);
    }
}

#[tokio::test]
async fn a_chunk_is_not_begun_while_much_of_the_log_is_unread() {
    let (log, _, outcome) = run_beside(BACKLOG, start(1, 1)).await;
    outcome.unwrap();
    let reads = log.steps().into_iter().filter_map(|step| match step {
        LogEntry::Read(lag) => Some(lag),
        _ => None,
    });
    let reads: Vec<u64> = reads.collect();
    assert!(!reads.is_empty(), "the table was never read");
    let most = reads.into_iter().max();
    assert!(most < Some(MOST_LAG_BYTES), "{most:?} bytes were unread");
}
