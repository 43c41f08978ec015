//! The port to a logical replication slot.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

use super::SlotError;
use crate::base::lsn::Lsn;
use crate::base::window_sizing::Window;
use crate::catalog::{Catalog, TableRequest};

/// Bytes that a held row takes besides its data, about: its share of the buffer and its own structure.
pub const PEEK_ROW_BYTES: usize = 160;

/// A row of a peek.
pub trait PeekRow {
    /// The row's `lsn` column. It ascends within a transaction. A later transaction may have smaller ones.
    fn lsn(&self) -> Lsn;
    /// The row as the plugin wrote it.
    fn data(&self) -> &[u8];
}

/// The rows of a peek, one after the other. Rows that were not requested stay on the server.
#[allow(async_fn_in_trait)] // Only this crate calls it, on one task.
pub trait PeekRows {
    /// The type of a row.
    type Row: PeekRow;

    /// Whether there is no row at all.
    fn is_empty(&self) -> bool;

    /// Takes the commit rows that arrived before all other rows: those of the window's first transactions.
    ///
    /// The map is empty if a begin row has the end of its commit record.
    fn take_first_commits(&mut self) -> CommitRows;

    /// The next row; `None` after the last. A cancelled call loses no row.
    async fn next(&mut self) -> Result<Option<Self::Row>, SlotError>;

    /// The next row, if it has arrived.
    ///
    /// Returns `None` if it has not arrived, and after the last row.
    ///
    /// # Errors
    /// As [`PeekRows::next`].
    fn next_arrived(&mut self) -> Result<Option<Self::Row>, SlotError> {
        self.next().now_or_never().unwrap_or(Ok(None))
    }
}

/// The commit rows of some transactions, by transaction id: each row's `lsn` column and its data.
pub type CommitRows = HashMap<u32, (Lsn, Vec<u8>)>;

/// A logical replication slot.
///
/// # Errors
/// Each call asks the server. It fails where the server cannot be reached, refuses, or takes too
/// long: [`SlotError`] says which. A method that fails for more reasons says so.
#[allow(async_fn_in_trait)]
pub trait Slot {
    /// The rows of a peek.
    type Rows: PeekRows;

    /// The positions of the server's log and of the slot.
    async fn wal_positions(&mut self) -> Result<WalPositions, SlotError>;

    /// A catalog for the rows of a window, without tables and types.
    ///
    /// [`Slot::add_tables`] adds them.
    async fn catalog(&mut self) -> Result<Catalog, SlotError>;

    /// Adds tables and their columns' types to the catalog of a window.
    ///
    /// Their facts are in the system catalog, and the plugins do not send them.
    async fn add_tables(&mut self, catalog: &mut Catalog, request: &TableRequest) -> Result<(), SlotError>;

    /// Opens a window; consumes nothing. Returns when the server has decoded all of it, and gives up after
    /// `timeout`.
    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<Self::Rows, SlotError>;

    /// Commit rows of the large transactions of a window.
    ///
    /// A transaction is large if its rows take more than `bytes`, with [`PEEK_ROW_BYTES`] added for each row.
    /// The call costs a second peek while the rows of the first are in transit.
    async fn large_commits(&mut self, window: Window, bytes: usize) -> Result<CommitRows, SlotError>;

    /// Rows of a window that contain `needle`: each row's `lsn` column and its data. Rows over one kilobyte
    /// are left out. Costs a peek, and gives up after `timeout`.
    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError>;

    /// Writes a logical message in a transaction of its own.
    ///
    /// Waits for the commit. If the server waits for standbys, this call waits for them, too.
    async fn emit(&mut self, prefix: &str, content: &str) -> Result<EmittedMessage, SlotError>;

    /// Checks that the session that holds the lock still exists.
    ///
    /// A frozen sandbox may have lost it. Then it must not overwrite the later checkpoint of another drainer.
    ///
    /// # Errors
    /// The session is gone, or does not answer.
    async fn check_lock(&mut self) -> Result<(), SlotError>;

    /// Cancels a statement of the session that holds the lock.
    ///
    /// An example is a message that is not committed in time.
    async fn cancel_control(&mut self);

    /// Cancels the peek whose rows are no longer needed.
    ///
    /// The server then releases the slot.
    async fn cancel_peek(&mut self);

    /// Confirms everything before `to`: the end of a commit record, or of a window that was read completely.
    /// Gives up after `timeout`.
    ///
    /// # Errors
    /// [`SlotError::NotAdvanced`] when the server's log does not reach that far.
    async fn advance(&mut self, to: Lsn, timeout: Duration) -> Result<(), SlotError>;
}

/// Positions of the server's log and of the slot.
#[derive(Debug, Clone, Copy)]
pub struct WalPositions {
    /// The flush position: the log before it is on disk.
    pub flush: Lsn,
    /// The readable position: at most `flush`, and less if changes wait for a standby.
    pub readable: Lsn,
    /// The slot's `restart_lsn`: each peek decodes from there. `0/0` if the slot has none.
    pub restart: Lsn,
}

/// A logical message that was committed.
#[derive(Debug, Clone, Copy)]
pub struct EmittedMessage {
    /// End of its record.
    pub lsn: Lsn,
    /// The flush position after its commit.
    pub flushed: Lsn,
}

/// Log that the server retains for the slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of log from `restart_lsn` to the flush position.
    ///
    /// `None` without a `restart_lsn`.
    pub retained_bytes: Option<u64>,
    /// `wal_status` of `pg_replication_slots`.
    pub wal_status: Option<String>,
    /// `safe_wal_size` of `pg_replication_slots`: bytes that may be written before the slot is in danger.
    pub safe_wal_size: Option<i64>,
}

/// Log that is not confirmed, and log that the server retains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotFigures {
    /// Bytes of log from the confirmed to the flush position.
    ///
    /// `None` without a confirmed position.
    pub lag_bytes: Option<u64>,
    /// What the server retains.
    pub retention: Retention,
}

/// A transaction that keeps the slot's `restart_lsn` from moving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldestTransaction {
    /// The server process; null for a prepared transaction.
    ///
    /// A prepared transaction has no process: see `pg_prepared_xacts`.
    pub pid: Option<i32>,
    /// Its age in seconds.
    ///
    /// Null unless the role is a member of `pg_monitor`.
    pub age_seconds: Option<i64>,
}
