//! The runner of a backfill: it reads a chunk between two windows.
//!
//! It stores the cursor after every row of the chunk is acknowledged.

mod completion;
mod tables;
mod wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::checkpointer;
use super::report::BackfillReport;
use super::settings::Settings;
use crate::backfill::state::BackfillPhase;
use crate::backfill::{
    BackfillState, BackfillTable, Chunk, ChunkContext, ChunkPayload, RowLookup, RowRequest,
};
use crate::base::budget::Budget;
use crate::base::clock::now_text;
use crate::base::lsn::Lsn;
use crate::base::nonce::random_nonce;
use crate::base::table_name::TableName;
use crate::error::Error;
use crate::invocation::MAX_CHUNK_ROWS;
use crate::ports::{ChunkBounds, ChunkRead, Slot, StateStore, TableSource};

pub(super) use wait::BackfillWait;

/// Bytes of unread log at which no further chunk is read.
///
/// While a chunk is read, only concurrent writes add to the unread log.
pub(super) const MAX_LAG_BYTES: u64 = 64 << 20;

/// Target time of a chunk, from its read to its acknowledgement.
///
/// Each chunk needs a peek, so a chunk should take much longer than a peek. After a failure the whole chunk
/// is read again, so a chunk should be short.
const CHUNK_TIME: Duration = Duration::from_secs(3);

/// Least time that must be left to begin a chunk.
const MIN_CHUNK_TIME: Duration = Duration::from_millis(300);

/// Longest read of a chunk.
///
/// A read may take longer if an earlier read of the table ran out of time.
const MAX_CHUNK_TIME: Duration = Duration::from_secs(10);

/// Number of checks for earlier writers in one step.
const WRITER_CHECKS: usize = 10;

/// Time between two of these checks.
const WRITER_CHECK_PAUSE: Duration = Duration::from_millis(5);

/// Runs a backfill between the windows of a drain.
#[derive(Debug)]
pub struct BackfillRunner<C> {
    store: C,
    state: BackfillState,
    /// Tables that are neither finished nor failed, in order.
    ///
    /// `None` until this invocation has listed them.
    tables: Option<Vec<TableName>>,
    /// Table whose earlier writers have ended: see [`BackfillRunner::have_writers_ended`].
    table_without_writers: Option<TableName>,
    /// Earlier writers of the next table that have not ended.
    writers: Option<Vec<String>>,
    /// The reader's state for the backfill.
    pub(super) context: ChunkContext,
    waits_for: Option<String>,
    /// Whether this invocation has read a chunk.
    has_read: bool,
    chunks: u64,
    read: u64,
    overtaken: u64,
}

/// Outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackfillStep {
    /// No backfill is running, or it has just finished.
    Idle,
    /// A watermark was written: for a chunk that was read, or for the control event of a repair.
    WatermarkEmitted,
    /// Another session or a standby blocks the next chunk. Another window would not unblock it.
    Blocked,
    /// A chunk waits for its watermark, which is not readable yet.
    Pending,
    /// The time that is left is too short for the next chunk.
    OutOfTime,
}

/// Settings and times for a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkEnvironment<'a> {
    pub(super) settings: &'a Settings,
    pub(super) budget: Budget,
    /// The acknowledged position.
    pub(super) acknowledged: Lsn,
    /// Time for reading when the invocation began.
    pub(super) reading_time: Duration,
    /// Time that the server needed to decode the last window.
    pub(super) peek_took: Duration,
}

impl<C> BackfillRunner<C> {
    /// A runner of a stored backfill. `store` is the parameter of its state.
    pub fn new(store: C, state: BackfillState) -> Self {
        BackfillRunner {
            store,
            state,
            tables: None,
            table_without_writers: None,
            writers: None,
            context: ChunkContext::default(),
            waits_for: None,
            has_read: false,
            chunks: 0,
            read: 0,
            overtaken: 0,
        }
    }

    /// Whether a chunk waits for its watermark.
    pub(super) fn has_chunk(&self) -> bool {
        self.context.chunk.is_some()
    }

    /// Whether the backfill is neither paused nor finished.
    pub(super) fn is_running(&self) -> bool {
        self.state.phase() == BackfillPhase::Running
    }

    /// The backfill's part of the answer.
    pub fn report(&self) -> BackfillReport {
        let phase = match self.state.phase() {
            BackfillPhase::Running if self.waits_for.is_some() => BackfillPhase::Waiting,
            phase => phase,
        };
        let mut report = BackfillReport {
            state: phase,
            chunks: self.chunks,
            read: self.read,
            overtaken: self.overtaken,
            waits_for: self.waits_for.clone(),
            ..BackfillReport::of(&self.state)
        };
        report.tables.left = self.tables.as_ref().map(|tables| tables.len() as u64);
        report
    }
}

impl<C: StateStore> BackfillRunner<C> {
    /// Prepares for key changes of a table that was partly read.
    ///
    /// An earlier invocation read the part before the cursor. A key change may move a row from the unread
    /// part to this part. Its event then needs all values of the row.
    ///
    /// # Errors
    /// A query failed, or the state cannot be stored.
    pub(super) async fn watch_resumed_table<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<(), Error> {
        let resumed = self.state.table.as_ref().filter(|table| table.key.is_some());
        let Some(name) = resumed.map(|table| table.name.clone()) else {
            return Ok(());
        };
        match self.describe_table(slot, &name).await? {
            Ok(table) => {
                self.context.table = Some(Arc::new(table));
                Ok(())
            }
            // Without the table's description, no row lookup can fill the values of a key change.
            Err(why) => self.restart_table(slot, &why, budget).await,
        }
    }

    /// Reads the current snapshot for the next window.
    ///
    /// # Errors
    /// A query failed.
    pub(super) async fn refresh_visible<S: TableSource>(&mut self, slot: &mut S) -> Result<(), Error> {
        self.context.visible = match self.is_running() {
            true => Some(slot.current_snapshot().await?),
            false => None,
        };
        Ok(())
    }

    /// Reads the next chunk and writes its watermark.
    ///
    /// If that is not possible now, the returned step has the reason.
    ///
    /// # Errors
    /// A query failed, or the state cannot be stored.
    pub(super) async fn next_chunk<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        environment: &ChunkEnvironment<'_>,
    ) -> Result<BackfillStep, Error> {
        if !self.is_running() {
            return Ok(BackfillStep::Idle);
        }
        if self.context.chunk.is_some() {
            self.waits_for =
                Some("its watermark, which is not readable yet: it may wait for a standby".to_owned());
            return Ok(BackfillStep::Pending);
        }
        let budget = environment.budget;
        let time_left = budget.reading_time_left(Instant::now());
        if !self.has_time(environment, time_left) {
            return Ok(BackfillStep::OutOfTime);
        }
        self.state.begin(environment.acknowledged);
        if !self.list_tables(slot, budget).await? {
            return Ok(BackfillStep::Idle);
        }
        loop {
            let Some(table) = self.next_table(slot, budget).await? else {
                return self.finish(slot, environment).await;
            };
            if self.table_without_writers.as_ref() != Some(table.name()) {
                match self.have_writers_ended(slot, &table).await? {
                    // A writer may have altered the table since it was described.
                    true => continue,
                    false => return Ok(BackfillStep::Blocked),
                }
            }
            if let Some(step) = self.read_chunk(slot, table, time_left, environment).await? {
                return Ok(step);
            }
        }
    }

    /// Whether enough time is left for a chunk and its window.
    ///
    /// The server decodes each window from `restart_lsn`. So the next window is estimated to take as long as
    /// the last one.
    fn has_time(&mut self, environment: &ChunkEnvironment<'_>, time_left: Duration) -> bool {
        let needed = MIN_CHUNK_TIME.max(environment.peek_took * 3);
        if time_left >= needed {
            return true;
        }
        // A window precedes the first chunk of an invocation.
        if environment.reading_time < needed + environment.peek_took {
            self.waits_for = Some(format!(
                "a longer Timeout, or the end of a long transaction: decoding the log again takes {} ms",
                environment.peek_took.as_millis()
            ));
        } else if !self.has_read && self.waits_for.is_none() {
            self.waits_for = Some(format!(
                "more time in an invocation: the drain of the log left {} ms, and a chunk needs {} ms",
                time_left.as_millis(),
                needed.as_millis()
            ));
        }
        false
    }

    /// Whether the table's earlier writers have ended.
    ///
    /// Earlier writers are the transactions that had written to the table and were open when this invocation
    /// first checked it. An earlier invocation may have sent the changes of such a transaction, while the
    /// snapshot of a chunk does not show them yet.
    async fn have_writers_ended<S: TableSource>(
        &mut self,
        slot: &mut S,
        table: &BackfillTable,
    ) -> Result<bool, Error> {
        let name = table.name();
        for check in 0..WRITER_CHECKS {
            if self.table_without_writers.as_ref() == Some(name) {
                return Ok(true);
            }
            if check > 0 {
                tokio::time::sleep(WRITER_CHECK_PAUSE).await;
            }
            let writing = slot.open_writers(table).await?;
            let writers = self.writers.get_or_insert_with(|| writing.clone());
            writers.retain(|writer| writing.contains(writer));
            match writers.first() {
                None => {
                    self.writers = None;
                    self.table_without_writers = Some(name.clone());
                }
                Some(writer) => {
                    self.waits_for = Some(format!("{writer}, which wrote to {name} and has not ended"));
                }
            }
        }
        Ok(false)
    }

    /// Reads the next rows of a table, and writes their watermark. `None` if the table failed.
    async fn read_chunk<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        table: BackfillTable,
        time_left: Duration,
        environment: &ChunkEnvironment<'_>,
    ) -> Result<Option<BackfillStep>, Error> {
        let began = Instant::now();
        let (name, budget) = (table.name(), environment.budget);
        let bounds = self.chunk_bounds(&table, time_left, environment);
        let progress = self.state.table_progress(&table);
        let (after, first, is_slow) = (progress.key.clone(), progress.rows == 0, progress.slow);
        let read = slot
            .read_chunk(&table, after.as_deref(), bounds, &mut self.context.delivered)
            .await?;
        let waits_for = match read {
            // An empty chunk also needs a watermark: a change before the watermark may need a row lookup.
            ChunkRead::Rows { rows, more } => {
                self.has_read = true;
                // After an invalid chunk, its reason stays until a chunk is valid.
                if progress.invalid == 0 {
                    self.waits_for = None;
                }
                self.context.table = Some(Arc::new(table));
                let payload = ChunkPayload::Rows { rows, first, more };
                self.emit_watermark(slot, payload, began, environment).await?;
                return Ok(Some(BackfillStep::WatermarkEmitted));
            }
            // The next invocation may use three quarters of its time for this read.
            ChunkRead::TooSlow if !is_slow || time_left < environment.reading_time / 2 => {
                self.state.table_progress(&table).slow = true;
                self.store_state(slot, budget).await?;
                return Ok(Some(BackfillStep::OutOfTime));
            }
            ChunkRead::TooSlow => {
                let why = match table.has_request_condition {
                    true => "no index supports `where`, or the server is overloaded",
                    false => "the server is overloaded, or cannot read the rows in the order of an index",
                };
                let why = format!("the read of its next rows exceeded the time of an invocation: {why}");
                self.fail_table(slot, name, why, budget).await?;
                return Ok(None);
            }
            ChunkRead::Unreadable(why) => match self.reason_to_fail(slot, &table, why).await? {
                Some(why) => {
                    self.fail_table(slot, name, why, budget).await?;
                    return Ok(None);
                }
                None => format!("the session that is altering {name}"),
            },
            ChunkRead::Unseen(xid) => {
                format!("transaction {xid}, which was sent and is not visible yet: it waits for a standby")
            }
            ChunkRead::Locked => format!("the session whose lock on {name} blocks the read"),
            ChunkRead::Rewritten => format!("the session that is rewriting {name}"),
        };
        self.waits_for = Some(waits_for);
        Ok(Some(BackfillStep::Blocked))
    }

    fn chunk_bounds(
        &mut self,
        table: &BackfillTable,
        time_left: Duration,
        environment: &ChunkEnvironment<'_>,
    ) -> ChunkBounds {
        let most = self.state.request.chunk_rows.unwrap_or(MAX_CHUNK_ROWS);
        let progress = self.state.table_progress(table);
        ChunkBounds {
            rows: progress.next_rows(u64::from(most), CHUNK_TIME.min(time_left / 3)),
            bytes: environment.settings.max_unacknowledged_bytes,
            time: match progress.slow {
                true => time_left * 3 / 4,
                false => (time_left / 2).min(MAX_CHUNK_TIME),
            },
        }
    }

    /// The reason why an unreadable table fails.
    ///
    /// Returns `None` if the table was altered after it was described.
    async fn reason_to_fail<S: TableSource>(
        &self,
        slot: &mut S,
        table: &BackfillTable,
        why: String,
    ) -> Result<Option<String>, Error> {
        Ok(match self.describe_table(slot, table.name()).await? {
            Ok(now) if now.relation != table.relation || now.cursor_identity() != table.cursor_identity() => {
                None
            }
            Ok(_) => Some(why),
            Err(why) => Some(why),
        })
    }

    /// Writes a watermark, and keeps the payload.
    ///
    /// The payload is sent when the drain reads the watermark.
    async fn emit_watermark<S: TableSource>(
        &mut self,
        slot: &mut S,
        payload: ChunkPayload,
        began: Instant,
        environment: &ChunkEnvironment<'_>,
    ) -> Result<(), Error> {
        let watermark = json!({"slot": environment.settings.slot, "nonce": random_nonce()}).to_string();
        slot.emit_watermark(&watermark).await?;
        self.context.chunk = Some(Chunk::new(watermark, payload, began));
        Ok(())
    }

    async fn fail_table<S: Slot>(
        &mut self,
        slot: &mut S,
        name: &TableName,
        why: String,
        budget: Budget,
    ) -> Result<(), Error> {
        let of = &self.state.slot;
        tracing::warn!(slot = of, table = %name, why, "the table's backfill failed; other tables continue");
        self.state.fail_table(name.clone(), why);
        self.remove_table(name);
        self.store_state(slot, budget).await
    }

    /// Looks up the row whose large values a change lacks.
    ///
    /// Adds the result to the chunk's context.
    ///
    /// # Errors
    /// A query failed, or the state cannot be stored.
    pub(super) async fn look_up<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        request: &RowRequest,
        budget: Budget,
    ) -> Result<(), Error> {
        let Some(table) = self.context.table.clone() else {
            return Ok(());
        };
        let lookup = slot.find_row(&table, request).await?;
        if let RowLookup::Unknown(why) = &lookup {
            self.restart_table(slot, why, budget).await?;
        }
        self.context.add_lookup(lookup);
        Ok(())
    }

    /// Restarts the current table's backfill from its first row.
    ///
    /// `why` is the reason, such as a change that is sent without large values of its row. The state is
    /// stored before that change is sent.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub(super) async fn restart_table<S: Slot>(
        &mut self,
        slot: &mut S,
        why: &str,
        budget: Budget,
    ) -> Result<(), Error> {
        let table = self.state.table.as_ref().map(|table| table.name.to_string());
        tracing::warn!(
            slot = self.state.slot,
            table,
            why,
            "the table's backfill restarts from its first row"
        );
        self.state.restart_table();
        self.store_state(slot, budget).await
    }

    /// Stores the state. Like a checkpoint, it is stored only while this drainer has the lock.
    ///
    /// The store may use half of the time that is left for confirming: the checkpoint is stored after it.
    async fn store_state<S: Slot>(&mut self, slot: &mut S, budget: Budget) -> Result<(), Error> {
        self.state.updated_at = now_text();
        let text = self.state.to_text();
        let check_lock = async || slot.check_lock().await;
        let now = Instant::now();
        let deadline = now + budget.confirming_deadline().saturating_duration_since(now) / 2;
        checkpointer::store_until(&self.store, text, deadline, check_lock).await
    }
}
