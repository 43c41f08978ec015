//! Backfill: reads the existing rows of tables in chunks, while live changes continue.
//!
//! No insert, update or delete waits for its locks. It never sends a stale row after a newer change of that
//! row.
//!
//! # The path of a chunk
//! 1. Drain until little of the log is unread.
//! 2. In a read-only transaction with one snapshot S, read the next rows of a table in the order of a
//!    unique index. Keep them in memory.
//! 3. Write a logical message, the watermark, in a transaction of its own.
//! 4. Continue to drain. Each change that S does not show drops the kept row with its key.
//! 5. At the watermark's commit, emit the remaining rows. Their events are reads, and have the watermark's
//!    position.
//! 6. After all of them are acknowledged, store the cursor and the position. Then advance the slot.
//!
//! # Why the order is right
//! Let r be a kept row with key k. Each transaction X that changed k belongs to one of three cases.
//! 1. S shows X. Then r has the values that X wrote, or newer ones. X committed before S was taken. So X
//!    precedes the watermark in the log, and the event of r follows the event of X.
//! 2. S does not show X, and X is decoded while r is kept. Then r is older than X. So r is dropped.
//! 3. S does not show X, and X was decoded before r was read. The log does not reveal this case: a commit
//!    that waits for a standby can be decoded before any `select` sees it. So this case is excluded: S must
//!    show every transaction whose changes were sent before.
//!
//! The function ensures this in two ways. First, it remembers the transactions that this invocation sent. It
//! uses S only if S shows all of them. Second, an earlier invocation may have sent other transactions. So
//! before its first chunk of a table, the function waits until all transactions that have written to the
//! table have ended. They show in `pg_locks`: a writer keeps its lock until its changes are visible.
//!
//! A commit after the watermark follows the event of r, in the stream and in position. It drops no row. Two
//! changes of one key become visible in the order of the log, because the second one waits for the row lock
//! of the first one. So the last event of each key has the values that PostgreSQL has.
//!
//! # Large values
//! The log does not have a large value that an update leaves unchanged (TOAST). A consumer that never
//! received the row does not have this value. If the updated row is kept, the update takes the value from it:
//! S shows the row as it was before the update ([`ChunkRows::apply_change`]).
//!
//! An update may also change the key of a row, and so move it from the unread to the read part of the table.
//! Then no kept row has the value, and Spillway reads the present row from the server
//! ([`ChunkRows::row_request`]). If another change has altered the value meanwhile, this change follows in
//! the log. If the server cannot answer in time, the table is read again from its first row.
//!
//! # Rewritten tables
//! Some `alter table` statements rewrite the table. If one commits after S was taken, S shows no row of the
//! table. So the reader first locks the table against a rewrite. Then it compares the table's present file
//! with the file that S shows.
//!
//! # Crashes
//! Kept rows are in memory only. After a deadline, a kill or a failover, the next invocation reads the chunk
//! again from the cursor, with a new snapshot and a new watermark. Rows that were acknowledged before are
//! sent again, with newer values and a later position.

mod chunk_rows;
mod copy_row;
pub mod database_schema;
mod identities;
pub mod query;
mod refusal;
mod row_lookup;
mod snapshot;
pub mod state;
pub mod table;

pub use chunk_rows::ChunkRows;
pub use copy_row::RowError;
pub use row_lookup::{RowLookup, RowRequest};
pub use snapshot::Snapshot;
pub use state::BackfillState;
pub use table::BackfillTable;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::base::lsn::Lsn;
use crate::change::Change;
use chunk_rows::{changes_key, fill, lacks_columns};
use copy_row::parse_row;

/// Reason why a chunk is invalid: a change was too large for a record.
///
/// The change of one of the chunk's rows was sent without large values of that row.
const TOO_LARGE: &str = "a change exceeds a record with the values of its row";

/// Reason to read a table again: a key change exceeds a record.
const MOVED_TOO_LARGE: &str = "a row with a new key exceeds a record with the values that were filled in";

/// Reason to read a table again: values of a key change are unknown.
const MOVED_WITHOUT_COLUMNS: &str =
    "a row has a new key, and its update lacks columns that were altered since";

/// Rows or a message, to be sent at a watermark.
#[derive(Debug)]
pub struct Chunk {
    /// The content of its watermark, which is unique.
    pub watermark: String,
    /// The rows or the message.
    pub payload: ChunkPayload,
    /// Time at which its read began.
    pub started: Instant,
    /// The LSN of the watermark's row; `None` until that row was read.
    pub watermark_lsn: Option<Lsn>,
    /// The index of the next row to send; `None` after the last.
    pub next_row: Option<usize>,
    /// The number of rows that were sent.
    pub rows_sent: u64,
    /// The reason why one of its rows cannot be sent.
    pub failure: Option<String>,
}

/// The payload of a chunk, which is sent at its watermark.
#[derive(Debug)]
pub enum ChunkPayload {
    /// Rows of a table.
    Rows {
        /// The rows.
        rows: Box<ChunkRows>,
        /// Whether these are the table's first rows.
        first: bool,
        /// Whether the table may have rows after these.
        more: bool,
    },
    /// The content of the control event that ends a repair.
    Repaired(String),
}

impl Chunk {
    /// A chunk that was just read.
    pub fn new(watermark: String, payload: ChunkPayload, started: Instant) -> Self {
        Chunk {
            watermark,
            payload,
            started,
            watermark_lsn: None,
            next_row: Some(0),
            rows_sent: 0,
            failure: None,
        }
    }

    /// Its rows; `None` if it is a message.
    pub fn rows(&self) -> Option<&ChunkRows> {
        match &self.payload {
            ChunkPayload::Rows { rows, .. } => Some(rows),
            ChunkPayload::Repaired(_) => None,
        }
    }

    /// Its rows, if some are not sent yet.
    ///
    /// `None` after the last row, and if it is a message.
    pub fn pending_rows(&self) -> Option<&ChunkRows> {
        self.rows().filter(|_| self.next_row.is_some())
    }

    /// Its rows; `None` if it is a message.
    pub fn rows_mut(&mut self) -> Option<&mut ChunkRows> {
        match &mut self.payload {
            ChunkPayload::Rows { rows, .. } => Some(rows),
            ChunkPayload::Repaired(_) => None,
        }
    }
}

/// The reader's state for a backfill.
#[derive(Debug, Default)]
pub struct ChunkContext {
    /// The chunk whose watermark was written.
    pub chunk: Option<Chunk>,
    /// The table that is being read; `None` before its first chunk.
    pub table: Option<Arc<BackfillTable>>,
    /// The server's snapshot when the window was opened.
    ///
    /// `None` if no further chunk is read.
    pub visible: Option<Snapshot>,
    /// Transactions whose changes were sent, but which may not be visible yet.
    pub delivered: BTreeSet<u32>,
    /// The looked-up row for the next change, in the format of `COPY`.
    looked_up_row: Option<Vec<u8>>,
    /// The reason why the whole table must be read again.
    restart_reason: Option<&'static str>,
}

impl ChunkContext {
    /// Whether the watermark of its chunk was read.
    pub fn is_at_watermark(&self) -> bool {
        self.chunk
            .as_ref()
            .is_some_and(|chunk| chunk.watermark_lsn.is_some())
    }

    /// The rows of its chunk, if some are not sent yet.
    ///
    /// A change after the last row follows the rows in the stream. It neither drops a row nor makes the chunk
    /// invalid.
    fn pending_rows(&mut self) -> Option<&mut ChunkRows> {
        let chunk = self.chunk.as_mut().filter(|chunk| chunk.next_row.is_some());
        chunk.and_then(Chunk::rows_mut)
    }

    /// Adds the server's answer to a [`RowRequest`].
    pub fn add_lookup(&mut self, lookup: RowLookup) {
        match lookup {
            RowLookup::Row(line) => self.looked_up_row = Some(line),
            // The change that deleted the row, or changed its key again, follows in the log.
            RowLookup::Gone => {}
            RowLookup::Unknown(_) => self.clear(),
        }
    }

    /// Applies a change of transaction `xid` to the rows.
    ///
    /// This precedes the encoding of the change. See [`ChunkRows::apply_change`].
    ///
    /// Returns the indexes of the new row's columns that were filled in.
    pub fn apply_change(&mut self, xid: u32, change: &mut Change<'_>) -> Vec<usize> {
        if self.visible.as_ref().is_some_and(|visible| !visible.shows(xid)) {
            self.delivered.insert(xid);
        }
        let mut filled = self
            .pending_rows()
            .map(|rows| rows.apply_change(xid, change))
            .unwrap_or_default();
        if let (Some(line), Some(table)) = (self.looked_up_row.take(), &self.table)
            && let Change::Update { relation, new, .. } = change
            && let Ok(read) = parse_row(table, &line)
        {
            filled.extend(fill(table, &read, relation, new));
        }
        if let (Some(table), Change::Update { relation, .. }) = (&self.table, &*change)
            && lacks_columns(table, relation)
            && changes_key(table, change)
        {
            self.restart_table(MOVED_WITHOUT_COLUMNS);
        }
        filled
    }

    /// Requires another read of a changed row.
    ///
    /// With the values that were filled in, the change exceeds a record. After a key change, the whole table
    /// is read again, otherwise the chunk.
    pub fn require_read_again(&mut self, change: &Change<'_>) {
        let is_moved = |table: &Arc<BackfillTable>| changes_key(table, change);
        if self.table.as_ref().is_some_and(is_moved) {
            self.restart_table(MOVED_TOO_LARGE);
        } else if let Some(rows) = self.pending_rows() {
            rows.invalidate(TOO_LARGE);
        }
    }

    /// Removes and returns the reason to read the whole table again.
    ///
    /// The last change is the cause.
    pub fn take_restart_reason(&mut self) -> Option<&'static str> {
        self.restart_reason.take()
    }

    /// Drops the chunk, and requires another read of the whole table.
    fn restart_table(&mut self, reason: &'static str) {
        self.clear();
        self.restart_reason = Some(reason);
    }

    /// Drops the chunk and the table.
    pub fn clear(&mut self) {
        (self.chunk, self.table) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::database_schema::DatabaseSchema;
    use crate::backfill::database_schema::tests::{request, table_info};
    use crate::change::Datum;

    #[test]
    fn a_sent_transaction_that_is_not_visible_is_remembered_if_a_chunk_may_follow() {
        let remembered = |visible: Option<&str>| {
            let mut context = ChunkContext {
                visible: visible.map(|text| text.parse().unwrap()),
                ..ChunkContext::default()
            };
            for xid in [99, 103, 104, 110] {
                let mut change = Change::Truncate {
                    relations: Vec::new(),
                };
                context.apply_change(xid, &mut change);
            }
            context.delivered.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(remembered(Some("100:110:103")), [103, 110]);
        assert!(remembered(None).is_empty());
    }

    #[test]
    fn a_change_after_the_last_row_of_a_chunk_does_not_change_its_rows() {
        let schema = DatabaseSchema::default();
        let table = schema.backfill_table(&table_info("t", 1), &request(&["public.t"]));
        let table = table.unwrap();
        let text = |text: &'static str| Datum::Text(text.into());
        // The relation of these updates has no key, so they do not name their row.
        let update = || Change::Update {
            relation: Arc::clone(&table.relation),
            old: None,
            new: vec![text("a"), Datum::Unchanged],
        };
        let delete = || Change::Delete {
            relation: Arc::clone(&table.relation),
            old: vec![text("a"), Datum::Absent],
        };
        let mut rows = ChunkRows::new(table.clone(), "100:100:".parse().unwrap());
        rows.push(b"0\ta\tn").unwrap();
        let payload = ChunkPayload::Rows {
            rows: Box::new(rows),
            first: true,
            more: false,
        };
        let mut context = ChunkContext {
            chunk: Some(Chunk::new("w".into(), payload, Instant::now())),
            visible: Some("100:100:".parse().unwrap()),
            ..ChunkContext::default()
        };
        let apply = |context: &mut ChunkContext| {
            context.apply_change(100, &mut delete());
            context.apply_change(101, &mut update());
            let rows = context.chunk.as_ref().and_then(Chunk::rows).unwrap();
            (rows.overtaken(), rows.invalid_reason().is_some())
        };
        context.chunk.as_mut().unwrap().next_row = None;
        assert_eq!(apply(&mut context), (0, false));
        assert_eq!(context.delivered, BTreeSet::from([100, 101]));
        context.chunk.as_mut().unwrap().next_row = Some(0);
        assert_eq!(apply(&mut context), (1, true));
    }
}
