//! Backfill: reads the rows that existed before the slot, in chunks beside the live changes.
//!
//! It takes no lock that an insert, update or delete waits for. It never sends a stale row after a newer
//! change of that row.
//!
//! # The path of a chunk
//! 1. Drain until little of the log is unread.
//! 2. In a read-only transaction with one snapshot S, read the next rows of a table in the order of a
//!    unique index. Keep them in memory.
//! 3. Write a logical message, the watermark, in a transaction of its own.
//! 4. Continue to drain. A change of a kept row that S does not show drops that row.
//! 5. At the watermark's commit, emit the rows that are still kept as reads, with the watermark's position.
//! 6. When all of them are acknowledged, store cursor and position, then advance the slot.
//!
//! # Why the order is right
//! Let r be a kept row with key k. Each transaction X that changed k belongs to one of three cases.
//! 1. S shows X. Then r has the values that X wrote, or newer ones. X committed before S was taken, so X
//!    precedes the watermark in the log, and the read follows X.
//! 2. S does not show X, and X is read while r is kept. Then r is older than X, and is not sent.
//! 3. S does not show X, and X was read before r was kept. The order of the log does not reveal this case:
//!    a commit that waits for a standby can be decoded before any SELECT sees it. So S is used only if it
//!    shows every transaction whose changes were sent before. Transactions of this invocation are
//!    remembered. For changes of earlier invocations, the chunk waits for open transactions: those that had
//!    already written to the table when this invocation reached it. A writer keeps its lock on the table
//!    until its changes are visible.
//!
//! A commit after the watermark follows the read, in the stream and in position. It drops no row.
//! Two changes of one key become visible in the order of the log, since the second waits for the first one's
//! row lock. So the last event of each key has the values that PostgreSQL holds.
//!
//! # Large values
//! An update does not log a large value that it left unchanged (TOAST). A consumer that never received the
//! row does not know that value. An update of a kept row takes the value from that row, which S shows as it
//! was before the update ([`ChunkRows::apply_change`]).
//!
//! An update may also move a row to another key, perhaps from the unread to the read part of the table.
//! Then no kept row has the value, and Spillway reads the row's present state from the server
//! ([`ChunkRows::row_request`]). If the value has changed meanwhile, the change of it follows in the log. If
//! the server cannot answer in time, the table is read again from its first row.
//!
//! # Rewritten tables
//! An `alter table` that rewrites the table and commits after S was taken leaves no row that S shows. So the
//! reader takes the table's lock first, and then compares the table's file with the file that S shows.
//!
//! # Crashes
//! Kept rows are in memory only. After a deadline, a kill or a failover the next invocation reads the chunk
//! again from the cursor, with a new snapshot and a new watermark. Rows that were acknowledged before are
//! sent again, with newer values and a later position.

mod chunk_rows;
pub mod database_schema;
mod identities;
pub mod query;
mod refusal;
mod row_lookup;
mod snapshot;
pub mod state;
pub mod table;

pub use chunk_rows::{ChunkRows, RowError};
pub use row_lookup::{RowLookup, RowRequest};
pub use snapshot::Snapshot;
pub use state::BackfillState;
pub use table::BackfillTable;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::base::lsn::Lsn;
use crate::change::Change;
use chunk_rows::{changes_key, fields, fill, lacks_columns};

/// The prefix of the logical messages that are watermarks. They are not sent.
pub const WATERMARK: &str = "spillway.watermark";

/// The prefix of the message that ends a repair.
pub const REPAIRED: &str = "spillway.repaired";

/// Reason why a chunk is invalid: a change of one of its rows was sent without large values of the row.
const TOO_LARGE: &str = "a change exceeds a record with the values of its row";

/// Reason to read a table again: a key change exceeds a record.
const MOVED_TOO_LARGE: &str = "a row with a new key exceeds a record with the values that were filled in";

/// Reason to read a table again: values of a key change are not known.
const MOVED_WITHOUT_COLUMNS: &str =
    "a row has a new key, and its update lacks columns that were altered since";

/// Rows or a message that wait for their watermark.
#[derive(Debug)]
pub struct Chunk {
    /// The content of its watermark, which is unique.
    pub watermark: String,
    /// The payload, which is sent at the watermark.
    pub payload: ChunkPayload,
    /// Start of its reading.
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
        /// Whether the table has further rows after these.
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

    /// Its rows that are still to be sent.
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
    /// The chunk that waits for its watermark.
    pub chunk: Option<Chunk>,
    /// The table that is being read; `None` before its first chunk.
    pub table: Option<Arc<BackfillTable>>,
    /// The snapshot at the opening of the window.
    ///
    /// `None` if no further chunk is read.
    pub visible: Option<Snapshot>,
    /// Transactions whose changes were sent, and that may not be visible yet.
    pub delivered: BTreeSet<u32>,
    /// The looked-up row for the next change, as `COPY` wrote it.
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

    /// The rows of its chunk that are still to be sent.
    ///
    /// A change after the last of them follows the rows in the stream. It neither drops a row nor makes the
    /// chunk invalid.
    fn pending_rows(&mut self) -> Option<&mut ChunkRows> {
        let chunk = self.chunk.as_mut().filter(|chunk| chunk.next_row.is_some());
        chunk.and_then(Chunk::rows_mut)
    }

    /// Adds the server's answer to a [`RowRequest`].
    pub fn add_lookup(&mut self, lookup: RowLookup) {
        match lookup {
            RowLookup::Row(line) => self.looked_up_row = Some(line),
            // The change that deleted or moved it follows in the log.
            RowLookup::Gone => {}
            RowLookup::Unknown(_) => self.clear(),
        }
    }

    /// Applies a change of transaction `xid` to the rows.
    ///
    /// The change is encoded afterwards. See [`ChunkRows::apply_change`].
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
            && let Ok(read) = fields(table, &line)
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

    /// Requires another read of the row that a change concerns.
    ///
    /// No record can hold the values that were filled in.
    pub fn discard_filled(&mut self, change: &Change<'_>) {
        let is_moved = |table: &Arc<BackfillTable>| changes_key(table, change);
        if self.table.as_ref().is_some_and(is_moved) {
            self.restart_table(MOVED_TOO_LARGE);
        } else if let Some(rows) = self.pending_rows() {
            rows.invalidate(TOO_LARGE);
        }
    }

    /// The reason why the whole table must be read again.
    ///
    /// The last change is the cause. Returns the reason once.
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
    fn a_sent_transaction_is_remembered_if_it_is_not_visible_and_a_chunk_may_follow() {
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
    fn a_change_after_the_last_row_of_a_chunk_leaves_its_rows_alone() {
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
