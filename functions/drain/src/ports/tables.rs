//! The port to the tables of the slot's database, for backfills.

use std::collections::BTreeSet;
use std::time::Duration;

use super::SlotError;
use crate::backfill::database_schema::DatabaseSchema;
use crate::backfill::{BackfillTable, ChunkRows, RowLookup, RowRequest, Snapshot};
use crate::base::table_name::TableName;

/// The tables of the slot's database.
///
/// # Errors
/// Each call fails if the request to the server fails. A problem with one table is part of the answer.
#[allow(async_fn_in_trait)] // Only this crate calls it, on one task.
pub trait TableSource {
    /// Lists all relations, with their published columns and rows.
    ///
    /// The answer lacks their keys and columns.
    async fn list_relations(&mut self) -> Result<DatabaseSchema, SlotError>;

    /// Describes the relation of this name, with its published columns and rows.
    async fn describe_relation(&mut self, name: &TableName) -> Result<DatabaseSchema, SlotError>;

    /// The open transactions that have written to a table.
    ///
    /// Each text describes a transaction for the operator.
    async fn open_writers(&mut self, table: &BackfillTable) -> Result<Vec<String>, SlotError>;

    /// The present snapshot.
    async fn current_snapshot(&mut self) -> Result<Snapshot, SlotError>;

    /// Reads rows of a table with one snapshot.
    ///
    /// The rows follow the key `after`. Without `after`, they are the table's first rows.
    ///
    /// The call removes each transaction that the snapshot shows from `delivered`. If a transaction is left,
    /// the call reads no row and returns [`ChunkRead::Unseen`]. No insert, update or delete waits for the
    /// lock of this read.
    async fn read_chunk(
        &mut self,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError>;

    /// Looks up the row whose key a change has altered.
    ///
    /// Waits until the change is visible, about a second at most.
    async fn find_row(&mut self, table: &BackfillTable, request: &RowRequest)
    -> Result<RowLookup, SlotError>;

    /// Writes a watermark in a transaction of its own.
    ///
    /// The commit waits for no standby.
    ///
    /// # Errors
    /// The request failed. The watermark may be written or not.
    async fn emit_watermark(&mut self, content: &str) -> Result<(), SlotError>;
}

/// Bounds of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct ChunkBounds {
    /// Most rows.
    pub rows: u64,
    /// Most bytes in memory, except that the last row may exceed them.
    pub bytes: usize,
    /// Longest time of the query.
    ///
    /// The rows that the server sent by then are the chunk. No row is [`ChunkRead::TooSlow`].
    pub time: Duration,
}

/// The outcome of reading a chunk.
#[derive(Debug)]
pub enum ChunkRead {
    /// The next rows; empty at the end of the table.
    Rows {
        /// The rows.
        rows: Box<ChunkRows>,
        /// Whether the table may have rows after these.
        more: bool,
    },
    /// The snapshot does not show this transaction, although its changes were sent.
    Unseen(u32),
    /// The server sent no row in [`ChunkBounds::time`].
    TooSlow,
    /// Another session holds a lock on the table that forbids reading.
    Locked,
    /// Another session rewrote the table after the snapshot was taken.
    ///
    /// The snapshot then shows no row of the table.
    Rewritten,
    /// The table cannot be read, for this reason.
    Unreadable(String),
}
