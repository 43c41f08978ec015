//! A slot, a stream and a checkpoint in memory.
//!
//! A log records the calls of the drain.

use super::*;

pub(super) const MIB: u64 = 1 << 20;

/// A call of the drain to one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogEntry {
    Arrived(String),
    /// A peek of a window up to this position began.
    Peeked(Lsn),
    /// ListShards was requested.
    ShardsListed,
    Stored(Lsn),
    /// A checkpoint was stored. It resumes a transaction after this number of rows.
    ResumeStored(u64),
    Advanced(Lsn),
    /// A marker was written. Its record ends here.
    MarkerWritten(Lsn),
    /// A chunk was read with this number of unconfirmed bytes of log.
    ChunkRead(u64),
}

#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<LogEntry>>>);

impl Log {
    pub(super) fn add(&self, entry: LogEntry) {
        self.0.lock().unwrap().push(entry);
    }

    pub(super) fn entries(&self) -> Vec<LogEntry> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn arrived(&self) -> Vec<String> {
        let arrived = |entry| match entry {
            LogEntry::Arrived(key) => Some(key),
            _ => None,
        };
        self.entries().into_iter().filter_map(arrived).collect()
    }
}

/// A slot with one transaction for each entry of `commits`: the end of its commit record, and the table of
/// its insert.
pub(super) struct FakeSlot {
    pub(super) log: Log,
    pub(super) commits: Vec<(Lsn, String)>,
    pub(super) flush: Lsn,
    pub(super) confirmed: Lsn,
    /// Transactions that are committed later: one at each request for the positions.
    pub(super) arrivals: VecDeque<String>,
    /// Number of requests for the positions.
    pub(super) position_reads: u64,
    /// Number of peeks.
    pub(super) peeks: u64,
    pub(super) faults: Faults,
    /// A writer that renames the table's column `n` to this name.
    ///
    /// It ends after the first check of writers.
    pub(super) renaming: Option<&'static str>,
    /// The columns with which the last chunk was read.
    pub(super) read_columns: Vec<String>,
    /// The present name of the column `n`.
    pub(super) renamed: Option<&'static str>,
}

impl FakeSlot {
    /// A slot at `confirmed`, without faults. The log ends with the last of `commits`.
    pub(super) fn new(log: &Log, commits: Vec<(Lsn, String)>, confirmed: Lsn) -> Self {
        FakeSlot {
            log: log.clone(),
            flush: commits.last().map_or(confirmed, |(end, _)| *end),
            commits,
            confirmed,
            arrivals: VecDeque::new(),
            position_reads: 0,
            peeks: 0,
            faults: Faults::default(),
            renaming: None,
            read_columns: Vec::new(),
            renamed: None,
        }
    }
}

/// Faults of a slot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// It sends only transactions from this LSN on.
    ///
    /// A slot that lost its snapshot also omits earlier transactions.
    pub(super) blind_to: Lsn,
    /// Another drainer has its lock.
    pub(super) lock_lost: bool,
    /// The position that a standby has acknowledged; `None` without a standby.
    pub(super) readable: Option<Lsn>,
    /// Whether commits wait for a standby that does not answer.
    pub(super) commits_wait: bool,
    /// Whether the only standby disconnects after the last of `arrivals`.
    pub(super) standby_leaves: bool,
    /// Number of peeks that succeed; `None` if all do.
    pub(super) good_peeks: Option<u64>,
    /// Whether each advance of the slot exceeds its time.
    pub(super) advances_time_out: bool,
    /// Whether the table `public.moved` has a key from the second window on.
    pub(super) key_is_added: bool,
}

/// Prefix of a marker's transaction, in place of a table's name.
pub(super) const MARKER: &str = "marker ";
/// In place of a table's name: a message outside of transactions.
pub(super) const MESSAGE: &str = "message";
/// In place of a table's name: a transaction of [`LARGE_ROWS`] rows and an undecodable row.
pub(super) const LARGE: &str = "large";
/// Number of rows of 100 KiB. Together they exceed the bytes that the reader holds.
///
/// Each row is of another table.
pub(super) const LARGE_ROWS: u64 = 100;

pub(super) struct FakeRow(Lsn, String);

impl PeekRow for FakeRow {
    fn lsn(&self) -> Lsn {
        self.0
    }

    fn data(&self) -> &[u8] {
        self.1.as_bytes()
    }
}

pub(super) struct FakeRows(VecDeque<FakeRow>);

impl PeekRows for FakeRows {
    type Row = FakeRow;

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take_first_commits(&mut self) -> CommitRows {
        CommitRows::new()
    }

    async fn next(&mut self) -> Result<Option<FakeRow>, SlotError> {
        Ok(self.0.pop_front())
    }
}

impl Slot for FakeSlot {
    type Rows = FakeRows;

    async fn wal_positions(&mut self) -> Result<WalPositions, SlotError> {
        self.position_reads += 1;
        let readable = match self.arrivals.pop_front() {
            Some(table) => {
                self.flush = self.flush.plus(256);
                self.commits.push((self.flush, table));
                None
            }
            None if self.faults.standby_leaves => Some(Lsn::ZERO),
            None => self.faults.readable,
        };
        Ok(WalPositions {
            flush: self.flush,
            readable: readable.unwrap_or(self.flush),
            restart: Lsn::ZERO,
        })
    }

    async fn catalog(&mut self) -> Result<Catalog, SlotError> {
        let mut catalog = Catalog::default();
        if self.faults.key_is_added && self.peeks > 1 {
            let key = vec!["id".to_owned()];
            let keyed = CatalogTable {
                primary_key: key.clone(),
                key,
                ..CatalogTable::default()
            };
            catalog.insert(TableName::new("public", "moved"), keyed);
        }
        Ok(catalog)
    }

    async fn add_tables(&mut self, _: &mut Catalog, _: &TableRequest) -> Result<(), SlotError> {
        unreachable!("the catalog lacks no table")
    }

    async fn peek(&mut self, window: Window, _: Duration) -> Result<FakeRows, SlotError> {
        self.log.add(LogEntry::Peeked(window.upto));
        self.peeks += 1;
        if self.faults.good_peeks.is_some_and(|good| self.peeks > good) {
            return Err(lost_session("peeking a window"));
        }
        let from = self.confirmed.max(self.faults.blind_to);
        // A commit record has eight bytes here. The server compares its start with the window.
        let in_window = |(end, _): &&(Lsn, String)| (from.0..window.upto.0).contains(&(end.0 - 8));
        let rows = self.commits.iter().filter(in_window).flat_map(|(end, table)| {
            if table == MESSAGE {
                let row = "message: transactional: 0 prefix: p, sz: 1 content:x";
                return vec![FakeRow(*end, row.to_owned())];
            }
            if table == LARGE {
                return large_transaction(*end);
            }
            let change = match table.as_str() {
                "poison" => "UPSERT".to_owned(),
                marker if marker.starts_with(MARKER) => message(marker),
                table => format!("table public.{table}: INSERT: id[integer]:1"),
            };
            vec![
                FakeRow(Lsn(end.0 - 32), "BEGIN 7".to_owned()),
                FakeRow(Lsn(end.0 - 32), change),
                FakeRow(*end, "COMMIT 7".to_owned()),
            ]
        });
        Ok(FakeRows(rows.collect()))
    }

    async fn large_commits(&mut self, _: Window, _: usize) -> Result<CommitRows, SlotError> {
        let large = self.commits.iter().filter(|(_, table)| table == LARGE);
        Ok(large.map(|(end, _)| (8, (*end, b"COMMIT 8".to_vec()))).collect())
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
        assert_eq!(prefix, crate::change::message_prefix::MARKER);
        let (lsn, flushed) = (self.flush.plus(64), self.flush.plus(128));
        self.log.add(LogEntry::MarkerWritten(lsn));
        self.commits.push((flushed, format!("{MARKER}{content}")));
        self.flush = flushed;
        if self.faults.commits_wait {
            return std::future::pending().await;
        }
        Ok(EmittedMessage { lsn, flushed })
    }

    async fn check_lock(&mut self) -> Result<(), SlotError> {
        match self.faults.lock_lost {
            false => Ok(()),
            true => Err(lost_session("checking the lock")),
        }
    }

    async fn cancel_lock_session(&mut self) {}

    async fn cancel_peek(&mut self) {}

    async fn advance(&mut self, to: Lsn, _: Duration) -> Result<(), SlotError> {
        if self.faults.advances_time_out {
            return Err(SlotError::Timeout {
                slot: "s".into(),
                doing: "advancing the slot",
                source: "it took too long".into(),
            });
        }
        self.log.add(LogEntry::Advanced(to));
        self.confirmed = to;
        Ok(())
    }
}

/// One table, whose rows never arrive in time.
impl TableSource for FakeSlot {
    async fn list_relations(&mut self) -> Result<DatabaseSchema, SlotError> {
        self.describe_relation(&TableName::new("public", "t")).await
    }

    async fn describe_relation(&mut self, _: &TableName) -> Result<DatabaseSchema, SlotError> {
        let mut info = table_info("t", 1);
        if let Some(name) = self.renamed {
            info.columns[1].name = name.to_owned();
        }
        Ok(DatabaseSchema {
            relations: vec![info],
            ..DatabaseSchema::default()
        })
    }

    async fn open_writers(&mut self, _: &BackfillTable) -> Result<Vec<String>, SlotError> {
        let writer = self.renaming.take();
        self.renamed = writer.or(self.renamed);
        Ok(writer.map(str::to_owned).into_iter().collect())
    }

    async fn current_snapshot(&mut self) -> Result<Snapshot, SlotError> {
        Ok("100:100:".parse().unwrap())
    }

    async fn read_chunk(
        &mut self,
        table: &BackfillTable,
        _: Option<&[String]>,
        _: ChunkBounds,
        _: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError> {
        self.log
            .add(LogEntry::ChunkRead(self.flush.bytes_since(self.confirmed)));
        let columns = table.relation.columns.iter();
        self.read_columns = columns.map(|column| column.name.clone()).collect();
        Ok(ChunkRead::TooSlow)
    }

    async fn find_row(&mut self, _: &BackfillTable, _: &RowRequest) -> Result<RowLookup, SlotError> {
        Ok(RowLookup::Gone)
    }

    async fn emit_watermark(&mut self, _: &str) -> Result<(), SlotError> {
        Ok(())
    }
}

fn large_transaction(end: Lsn) -> Vec<FakeRow> {
    let value = "x".repeat(100 << 10);
    let change = |n| format!("table public.large{n}: INSERT: v[text]:'{value}'");
    let rows = (0..LARGE_ROWS).map(change);
    let rows = rows.chain(["UPSERT".to_owned(), "COMMIT 8".to_owned()]);
    let rows = std::iter::once("BEGIN 8".to_owned()).chain(rows);
    rows.map(|row| FakeRow(if row == "COMMIT 8" { end } else { Lsn(end.0 - 32) }, row))
        .collect()
}

fn lost_session(doing: &'static str) -> SlotError {
    SlotError::Failed {
        host: "h".into(),
        doing,
        kind: ErrorKind::Transient,
        source: "the session is gone".into(),
    }
}

/// A marker as test_decoding writes it.
pub(super) fn message(marker: &str) -> String {
    let content = marker.trim_start_matches(MARKER);
    let (prefix, size) = (crate::change::message_prefix::MARKER, content.len());
    format!("message: transactional: 1 prefix: {prefix}, sz: {size} content:{content}")
}

/// A stream that throttles some records.
///
/// At first, ListShards returns other shards than the stream has.
#[derive(Clone)]
pub(super) struct FakeStream {
    pub(super) log: Log,
    pub(super) throttles: Arc<Mutex<Vec<String>>>,
    /// The key whose records fail.
    pub(super) stuck: Option<&'static str>,
    pub(super) shards: ShardMap,
    /// Number of ListShards requests that still return the former shards.
    pub(super) stale_lists: Arc<Mutex<u32>>,
    /// Time of a PutRecords request.
    pub(super) latency: Duration,
}

impl FakeStream {
    /// A stream of one shard that accepts each record at once.
    pub(super) fn new(log: &Log) -> Self {
        FakeStream {
            log: log.clone(),
            throttles: Arc::default(),
            stuck: None,
            shards: ShardMap::even(1),
            stale_lists: Arc::default(),
            latency: Duration::ZERO,
        }
    }
}

impl Stream for FakeStream {
    fn name(&self) -> String {
        "k".to_owned()
    }

    async fn shards(&self) -> Result<ShardMap, StreamError> {
        self.log.add(LogEntry::ShardsListed);
        let mut stale = self.stale_lists.lock().unwrap();
        if *stale > 0 {
            *stale -= 1;
            return Ok(ShardMap::even(1));
        }
        Ok(self.shards.clone())
    }

    /// Opens a stream whose name is its record limit in bytes.
    async fn open(&self, name: &str, record_bytes: usize) -> Result<(Self, StreamInfo), StreamError> {
        if name == "slow" {
            std::future::pending::<()>().await;
        }
        let info = StreamInfo {
            record_bytes: name.parse().map_err(|_| StreamError::Missing {
                stream: name.to_owned(),
                source: "no number".into(),
            })?,
            key_decides_shard: true,
            shards: ShardMap::even(1),
        };
        info.check_record_bytes(name, &self.name(), record_bytes)?;
        Ok((self.clone(), info))
    }

    async fn put(&self, records: Vec<Record>) -> PutAnswer {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let mut throttles = self.throttles.lock().unwrap();
        let outcome = records.iter().map(|record| {
            let key = record.partition_key();
            if let Some(at) = throttles.iter().position(|refused| refused == key) {
                throttles.swap_remove(at);
                return RecordOutcome::Throttled;
            }
            if self.stuck == Some(key) {
                return RecordOutcome::Failed;
            }
            let shard = self.shards.shard(self.shards.shard_number(HashKey::of(key)));
            // A consumer drops an aggregate whose keys are not all in its shard.
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
pub(super) struct FakeStateStore(pub(super) Log);

impl StateStore for FakeStateStore {
    fn name(&self) -> String {
        "/p".to_owned()
    }

    async fn store(&self, text: String) -> Result<(), StateStoreError> {
        // The state of a backfill is stored in the same way. It is no checkpoint.
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            self.0.add(LogEntry::Stored(checkpoint.commit_end));
            if let Some(resume) = checkpoint.resume {
                self.0.add(LogEntry::ResumeStored(resume.rows));
            }
        }
        Ok(())
    }
}
