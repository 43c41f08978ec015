//! The loop over a slot, a stream and a checkpoint of our own, for what a real server cannot be made to do on demand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::backfill::schema::DatabaseSchema;
use crate::backfill::schema::tests::{request, table_info};
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

const MIB: u64 = 1 << 20;

/// What happened, in order, as far as it concerns the promise.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LogEntry {
    Arrived(String),
    /// For the shards.
    Asked,
    Stored(Lsn),
    Advanced(Lsn),
    /// A marker was laid, whose record ends here.
    Marked(Lsn),
    /// The next rows of a table were asked for, while so many bytes of log were not confirmed.
    Read(u64),
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<LogEntry>>>);

impl Log {
    fn add(&self, step: LogEntry) {
        self.0.lock().unwrap().push(step);
    }

    fn steps(&self) -> Vec<LogEntry> {
        self.0.lock().unwrap().clone()
    }

    fn arrived(&self) -> Vec<String> {
        let arrived = |step| match step {
            LogEntry::Arrived(key) => Some(key),
            _ => None,
        };
        self.steps().into_iter().filter_map(arrived).collect()
    }
}

/// A slot with one transaction at each of some LSNs. The commit record ends there; the change before it is an insert into the
/// table of that name.
struct FakeSlot {
    log: Log,
    commits: Vec<(Lsn, String)>,
    flush: Lsn,
    confirmed: Lsn,
    faults: Faults,
}

/// What is wrong with a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// From here on it gives what is there, as one that lost its snapshot.
    blind_to: Lsn,
    /// Its lock was given to another.
    lost: bool,
    /// Up to where a standby has the log.
    readable: Option<Lsn>,
}

/// What a marker's transaction is told by in place of a table.
const MARKER: &str = "marker ";

struct FakeRow(Lsn, String);

impl PeekRow for FakeRow {
    fn lsn(&self) -> Lsn {
        self.0
    }

    fn data(&self) -> &[u8] {
        self.1.as_bytes()
    }
}

struct FakeRows(VecDeque<FakeRow>);

impl PeekRows for FakeRows {
    type Row = FakeRow;

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn next(&mut self) -> Result<Option<FakeRow>, SlotError> {
        Ok(self.0.pop_front())
    }
}

impl Slot for FakeSlot {
    type Rows = FakeRows;

    async fn wal_positions(&mut self) -> Result<WalPositions, SlotError> {
        Ok(WalPositions {
            flush: self.flush,
            readable: self.faults.readable.unwrap_or(self.flush),
            restart: Lsn::ZERO,
        })
    }

    async fn catalog(&mut self) -> Result<Catalog, SlotError> {
        Ok(Catalog::default())
    }

    async fn peek(&mut self, window: Window, _: Duration) -> Result<FakeRows, SlotError> {
        let from = self.confirmed.max(self.faults.blind_to);
        // A commit record of eight bytes; by its start the server decides.
        let wanted = |(end, _): &&(Lsn, String)| (from.0..window.upto.0).contains(&(end.0 - 8));
        let rows = self.commits.iter().filter(wanted).flat_map(|(end, table)| {
            let change = match table.as_str() {
                "poison" => "UPSERT".to_owned(),
                marker if marker.starts_with(MARKER) => message(marker),
                table => format!("table public.{table}: INSERT: id[integer]:1"),
            };
            [
                FakeRow(Lsn(end.0 - 32), "BEGIN 7".to_owned()),
                FakeRow(Lsn(end.0 - 32), change),
                FakeRow(*end, "COMMIT 7".to_owned()),
            ]
        });
        Ok(FakeRows(rows.collect()))
    }

    async fn large_commits(&mut self, _: Window, _: usize) -> Result<CommitRows, SlotError> {
        Ok(CommitRows::new())
    }

    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError> {
        let rows = self.peek(window, timeout).await?.0.into_iter();
        let found = rows.filter(|row| row.1.contains(needle));
        Ok(found.map(|row| (row.0, row.1.into_bytes())).collect())
    }

    async fn emit(&mut self, prefix: &str, content: &str) -> Result<EmittedMessage, SlotError> {
        assert_eq!(prefix, crate::marker::PREFIX);
        let (lsn, flushed) = (self.flush.plus(64), self.flush.plus(128));
        self.log.add(LogEntry::Marked(lsn));
        self.commits.push((flushed, format!("{MARKER}{content}")));
        self.flush = flushed;
        Ok(EmittedMessage { lsn, flushed })
    }

    async fn check_lock(&mut self) -> Result<(), SlotError> {
        match self.faults.lost {
            false => Ok(()),
            true => Err(SlotError::Failed {
                host: "h".into(),
                doing: "asking for the lock",
                transient: true,
                source: "the session is gone".into(),
            }),
        }
    }

    async fn cancel_control(&mut self) {}

    async fn cancel_peek(&mut self) {}

    async fn advance(&mut self, to: Lsn, _: Duration) -> Result<(), SlotError> {
        self.log.add(LogEntry::Advanced(to));
        self.confirmed = to;
        Ok(())
    }
}

/// One table, of which it never gives a row in time.
impl TableSource for FakeSlot {
    async fn describe(&mut self, _: Option<&TableName>) -> Result<DatabaseSchema, SlotError> {
        Ok(DatabaseSchema {
            relations: vec![table_info("t", 1)],
            ..DatabaseSchema::default()
        })
    }

    async fn writers(&mut self, _: &BackfillTable) -> Result<Vec<String>, SlotError> {
        Ok(Vec::new())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, SlotError> {
        Ok("100:100:".parse().unwrap())
    }

    async fn read(
        &mut self,
        _: &BackfillTable,
        _: Option<&[String]>,
        _: ChunkBounds,
        _: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError> {
        self.log
            .add(LogEntry::Read(self.flush.bytes_since(self.confirmed)));
        Ok(ChunkRead::TooSlow)
    }

    async fn find_row(&mut self, _: &BackfillTable, _: &RowRequest) -> Result<RowLookup, SlotError> {
        Ok(RowLookup::Gone)
    }

    async fn emit_watermark(&mut self, _: &str) -> Result<(), SlotError> {
        Ok(())
    }
}

/// As test_decoding writes a marker.
fn message(marker: &str) -> String {
    let content = marker.trim_start_matches(MARKER);
    let (prefix, size) = (crate::marker::PREFIX, content.len());
    format!("message: transactional: 1 prefix: {prefix}, sz: {size} content:{content}")
}

/// A stream that refuses each record once before it takes it, and has other shards than it tells at first.
#[derive(Clone)]
struct FakeStream {
    log: Log,
    refuses: Arc<Mutex<Vec<String>>>,
    shards: ShardMap,
    /// How often it tells of the shards it had before.
    behind: Arc<Mutex<u32>>,
}

impl Stream for FakeStream {
    fn name(&self) -> String {
        "k".to_owned()
    }

    async fn shards(&self) -> Result<ShardMap, StreamError> {
        self.log.add(LogEntry::Asked);
        let mut behind = self.behind.lock().unwrap();
        if *behind > 0 {
            *behind -= 1;
            return Ok(ShardMap::even(1));
        }
        Ok(self.shards.clone())
    }

    async fn put(&self, records: Vec<Record>) -> PutAnswer {
        let mut refuses = self.refuses.lock().unwrap();
        let outcome = records.iter().map(|record| {
            let key = record.partition_key();
            if let Some(at) = refuses.iter().position(|refused| refused == key) {
                refuses.swap_remove(at);
                return RecordOutcome::Throttled;
            }
            let shard = self.shards.shard(self.shards.shard_number(HashKey::of(key)));
            // A consumer drops an aggregate that is not all of its shard.
            let is_here = |event: &crate::pack::QueuedEvent| {
                (shard.first..=shard.last).contains(&HashKey::of(&event.event.partition_key))
            };
            let whole = record.events().iter().all(is_here);
            for event in record.events() {
                let key = &event.event.partition_key;
                if !record.is_aggregate() || whole {
                    self.log.add(LogEntry::Arrived(key.clone()));
                }
            }
            RecordOutcome::Stored {
                shard: shard.id.clone(),
            }
        });
        let outcome = Ok(outcome.collect());
        PutAnswer { records, outcome }
    }
}

#[derive(Clone)]
struct FakeCheckpoints(Log);

impl StateStore for FakeCheckpoints {
    fn name(&self) -> String {
        "/p".to_owned()
    }

    async fn store(&self, text: String) -> Result<(), CheckpointError> {
        // The state of a backfill is kept in the same way, and is none.
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            self.0.add(LogEntry::Stored(checkpoint.commit_end));
        }
        Ok(())
    }
}

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
