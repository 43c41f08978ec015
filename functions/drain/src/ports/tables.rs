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
/// Each call fails where the server cannot be asked. A problem of one table is part of the answer instead.
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
    /// Each is described for the operator.
    async fn open_writers(&mut self, table: &BackfillTable) -> Result<Vec<String>, SlotError>;

    /// The present snapshot.
    async fn current_snapshot(&mut self) -> Result<Snapshot, SlotError>;

    /// Reads rows of a table with one snapshot.
    ///
    /// The rows follow the key `after`. Without `after`, they are the first rows. The snapshot must show all
    /// transactions of `delivered`; those that it shows are removed from the set. Takes no lock that a writer
    /// waits for.
    async fn read_chunk(
        &mut self,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError>;

    /// Looks up the row that a change moved. Waits at most a second until the change is visible.
    async fn find_row(&mut self, table: &BackfillTable, request: &RowRequest)
    -> Result<RowLookup, SlotError>;

    /// Writes a watermark in a transaction of its own.
    ///
    /// Its commit waits for no standby.
    ///
    /// # Errors
    /// The watermark may not have been written.
    async fn emit_watermark(&mut self, content: &str) -> Result<(), SlotError>;
}

/// Bounds of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct ChunkBounds {
    /// Most rows.
    pub rows: u64,
    /// Bytes in memory; the row that exceeds them is the last.
    pub bytes: usize,
    /// Time for the server. The rows that it sent by then are the chunk; none is [`ChunkRead::TooSlow`].
    pub time: Duration,
}

/// The outcome of reading a chunk.
#[derive(Debug)]
pub enum ChunkRead {
    /// The next rows; none at the table's end.
    Rows {
        /// The rows.
        rows: Box<ChunkRows>,
        /// Whether the table has rows after these.
        more: bool,
    },
    /// The snapshot does not show this transaction, whose changes were sent.
    Unseen(u32),
    /// The server sent no row in time.
    TooSlow,
    /// Another session holds a lock on the table that forbids reading.
    Locked,
    /// Another session rewrote the table after the snapshot was taken.
    ///
    /// The snapshot then shows no row of the table.
    Rewritten,
    /// The table cannot be read, and why.
    Unreadable(String),
}
