//! The port to a logical replication slot.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

use super::SlotError;
use crate::base::lsn::Lsn;
use crate::base::window::Window;
use crate::catalog::{Catalog, TableRequest};

/// Approximate memory of a held row besides its data, in bytes.
///
/// These are the bytes of the row's struct, and the other bytes of its message in the buffer.
pub const PEEK_ROW_BYTES: usize = 160;

/// A row of a peek.
pub trait PeekRow {
    /// The row's `lsn` column.
    ///
    /// Within a transaction, the LSNs ascend. A later transaction may have smaller LSNs.
    fn lsn(&self) -> Lsn;
    /// The row as the plugin wrote it.
    fn data(&self) -> &[u8];
}

/// The rows of a peek, read one by one. Rows that are not read yet stay on the server.
#[allow(async_fn_in_trait)] // Only this crate calls it, on one task.
pub trait PeekRows {
    /// The type of a row.
    type Row: PeekRow;

    /// Whether there is no row at all.
    fn is_empty(&self) -> bool;

    /// Removes and returns the commit rows that preceded all other rows.
    ///
    /// They belong to the first transactions of the window. The map is empty if the plugin's begin rows have
    /// the end of the commit record.
    fn take_first_commits(&mut self) -> CommitRows;

    /// The next row; `None` after the last row. A cancelled call loses no row.
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
/// Each call sends a request to the server. It fails if the server cannot be reached, refuses the request, or
/// exceeds the time. [`SlotError`] distinguishes these causes. A method with further causes lists them.
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
    /// Only the system catalog has these facts: the plugins do not send them.
    async fn add_tables(&mut self, catalog: &mut Catalog, request: &TableRequest) -> Result<(), SlotError>;

    /// Peeks a window; consumes nothing.
    ///
    /// Returns after the server has decoded the whole window. Fails if that takes longer than `timeout`.
    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<Self::Rows, SlotError>;

    /// Commit rows of the large transactions of a window.
    ///
    /// A transaction is large if its rows take more than `bytes`, with [`PEEK_ROW_BYTES`] added for each row.
    /// The call costs a second peek, while the rows of the first peek are in transit.
    async fn large_commits(&mut self, window: Window, bytes: usize) -> Result<CommitRows, SlotError>;

    /// Rows of a window that contain `needle`: each row's `lsn` column and its data.
    ///
    /// Rows of more than one kilobyte are left out. The call costs a peek. It fails if that takes longer than
    /// `timeout`.
    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError>;

    /// Writes a logical message in a transaction of its own.
    ///
    /// Returns after the commit. If the server's commits wait for standbys, the call waits for them, too.
    async fn emit(&mut self, prefix: &str, content: &str) -> Result<EmittedMessage, SlotError>;

    /// Checks that the session that holds the lock still exists.
    ///
    /// A sandbox may lose this session while it is frozen. Another drainer may then have stored a later
    /// checkpoint, which this drainer must not overwrite.
    ///
    /// # Errors
    /// The session has ended, or does not answer.
    async fn check_lock(&mut self) -> Result<(), SlotError>;

    /// Cancels the running statement of the session that holds the lock.
    ///
    /// An example is [`Slot::emit`], if the commit takes too long.
    async fn cancel_lock_session(&mut self);

    /// Cancels the peek whose rows are no longer needed.
    ///
    /// The server then releases the slot.
    async fn cancel_peek(&mut self);

    /// Advances the slot to `to`.
    ///
    /// `to` is the end of a commit record, or of a window that was read completely. The call fails if it
    /// takes longer than `timeout`.
    ///
    /// # Errors
    /// [`SlotError::NotAdvanced`] if the server's log ends before `to`.
    async fn advance(&mut self, to: Lsn, timeout: Duration) -> Result<(), SlotError>;
}

/// Positions of the server's log and of the slot.
#[derive(Debug, Clone, Copy)]
pub struct WalPositions {
    /// The flush position: the log before it is on disk.
    pub flush: Lsn,
    /// The readable position: `flush`, or a lower LSN while changes wait for a standby.
    pub readable: Lsn,
    /// The slot's `restart_lsn`, from which each peek decodes. `0/0` if the slot has none.
    pub restart: Lsn,
}

/// A logical message that was committed.
#[derive(Debug, Clone, Copy)]
pub struct EmittedMessage {
    /// End of the message's log record.
    pub lsn: Lsn,
    /// The flush position after the commit of the message.
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
    /// `safe_wal_size` of `pg_replication_slots`, in bytes.
    ///
    /// After this many further bytes of log, the server may invalidate the slot.
    pub safe_wal_size: Option<i64>,
}

/// Amounts of log that are not confirmed, or retained by the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotFigures {
    /// Bytes of log from the confirmed to the flush position.
    ///
    /// `None` without a confirmed position.
    pub lag_bytes: Option<u64>,
    /// The log that the server retains for the slot.
    pub retention: Retention,
}

/// The open transaction that prevents the slot's `restart_lsn` from advancing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldestTransaction {
    /// The id of its server process; null for a prepared transaction.
    ///
    /// A prepared transaction has no process. The view `pg_prepared_xacts` lists it.
    pub pid: Option<i32>,
    /// Its age in seconds.
    ///
    /// Null for a transaction of another role, unless the login role is a member of `pg_monitor`. The age of
    /// a prepared transaction is never null.
    pub age_seconds: Option<i64>,
}
