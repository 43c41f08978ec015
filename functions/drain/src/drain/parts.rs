//! What a drain works on, the slot, its tables, the stream and the checkpoint, each as small as it needs it, and how each may fail. The edges
//! implement them; a test may, too.

mod failure;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::time::Duration;

use crate::backfill::state::Name;
use crate::backfill::table::Site;
use crate::backfill::{Held, Snapshot, Table, Wanted};
use crate::catalog::Catalog;
use crate::lsn::Lsn;
use crate::pack::{Record, ShardMap};
use crate::window::Window;

pub use failure::{CheckpointError, Kind, SlotError, Source, StreamError};

/// A row of a peek.
pub trait Row {
    /// The row's `lsn` column. Not monotone over rows: see `position.rs`.
    fn lsn(&self) -> Lsn;
    /// What the plugin wrote.
    fn data(&self) -> &[u8];
}

/// The rows of a peek, one after the other; what is not asked for stays on the server.
#[allow(async_fn_in_trait)] // Only this crate calls it, on one task.
pub trait Rows {
    /// What a row is.
    type Row: Row;

    /// Whether there is no row at all.
    fn is_empty(&self) -> bool;

    /// The next row; `None` after the last. May be cancelled without losing a row.
    async fn next(&mut self) -> Result<Option<Self::Row>, SlotError>;
}

/// The commit rows of some transactions, by transaction id: each row's `lsn` column and its data.
pub type Commits = HashMap<u32, (Lsn, Vec<u8>)>;

/// A logical replication slot.
///
/// # Errors
/// All of it asks the server, and fails where that cannot be reached, refuses or takes too long: [`SlotError`] says which. A failure of one
/// call says nothing of the slot; where a call fails for more reasons than these, it says so.
#[allow(async_fn_in_trait)]
pub trait Slot {
    /// What a peek gives.
    type Rows: Rows;

    /// Up to where the server's log is on disk, and from where a peek decodes.
    async fn reach(&mut self) -> Result<Reach, SlotError>;

    /// What the plugins do not tell about tables.
    async fn catalog(&mut self) -> Result<Catalog, SlotError>;

    /// Opens a window; nothing is consumed. Returns when the server has decoded all of it, and gives up after `timeout`.
    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<Self::Rows, SlotError>;

    /// The commit rows of those transactions of a window whose rows take more than `bytes`, each row counted with
    /// [`ROW_BYTES`] on top. Costs another peek, while the rows of the first are on their way.
    async fn large_commits(&mut self, window: Window, bytes: usize) -> Result<Commits, SlotError>;

    /// Rows of a window that hold `needle`, each row's `lsn` column and its data; rows of more than a kilobyte are not looked at. Costs a
    /// peek. Gives up after `timeout`.
    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError>;

    /// Writes a logical message into the server's log, in a transaction of its own, and waits until it is committed, on the standbys, too,
    /// where the server waits for them.
    async fn emit(&mut self, prefix: &str, content: &str) -> Result<Emitted, SlotError>;

    /// That this drainer is still the only one: its session with the lock is there. A sandbox that froze and wakes up has lost it, and
    /// must not set back what another one has stored meanwhile.
    ///
    /// # Errors
    /// The session is gone, or does not answer.
    async fn holds(&mut self) -> Result<(), SlotError>;

    /// Stops a message whose transaction is not committed in time.
    async fn give_up(&mut self);

    /// Stops the peek whose rows are no longer wanted, so that the server lets the slot go.
    async fn abandon(&mut self);

    /// Confirms everything before `to`, which must be the end of a commit record or of a window that was read completely.
    /// Refuses when the server's log does not reach that far, and gives up after `timeout`.
    async fn advance(&mut self, to: Lsn, timeout: Duration) -> Result<(), SlotError>;
}

/// The tables of the slot's database, on the slot's server: what a backfill needs of them.
#[allow(async_fn_in_trait)]
pub trait Tables {
    /// What the server says of its relations, or of one, and of what is published.
    ///
    /// # Errors
    /// The server cannot be asked.
    async fn describe(&mut self, only: Option<&Name>) -> Result<Site, SlotError>;

    /// The transactions that have written to a table and are not over, each told as a person would want it.
    ///
    /// # Errors
    /// The server cannot be asked.
    async fn writers(&mut self, table: &Table) -> Result<Vec<String>, SlotError>;

    /// What is visible now.
    ///
    /// # Errors
    /// The server cannot be asked.
    async fn snapshot(&mut self) -> Result<Snapshot, SlotError>;

    /// Reads the rows of a table that follow the key `after` in its order, or the first, with one snapshot, if that shows all transactions of
    /// `delivered`; it removes those that it shows. Takes no lock that a writer waits for.
    ///
    /// # Errors
    /// The server cannot be asked. What hinders this table only is [`Taken`].
    async fn read(
        &mut self,
        table: &Table,
        after: Option<&[String]>,
        bounds: Bounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<Taken, SlotError>;

    /// The row that a change gave a key, as `COPY` writes it. Waits for a second at most until the change is visible.
    ///
    /// # Errors
    /// The server cannot be asked.
    async fn row_of(&mut self, table: &Table, wanted: &Wanted) -> Result<Looked, SlotError>;

    /// Writes a watermark into the server's log, in a transaction of its own that waits for no standby.
    ///
    /// # Errors
    /// It is not known to be written.
    async fn lay(&mut self, content: &str) -> Result<(), SlotError>;
}

/// How much of a table is read at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Rows, at most.
    pub rows: u64,
    /// Bytes that they take in memory; the row that exceeds them is the last.
    pub bytes: usize,
    /// Time for the server to give them. With some rows it ends the chunk, without any it is [`Taken::TooSlow`].
    pub time: Duration,
}

/// What reading a table came to.
#[derive(Debug)]
pub enum Taken {
    /// The next rows, or none at the table's end.
    Rows {
        /// As they are held.
        held: Box<Held>,
        /// Whether rows may follow them.
        more: bool,
    },
    /// The snapshot does not show this transaction, whose changes went out.
    Unseen(u32),
    /// The server did not give them in time.
    TooSlow,
    /// Somebody holds a lock on the table that keeps everybody from reading it.
    Locked,
    /// Somebody rewrote the table after the snapshot was taken, which shows nothing of it then.
    Rewritten,
    /// This table cannot be read: why.
    Unreadable(String),
}

/// What looking for one row came to.
#[derive(Debug)]
pub enum Looked {
    /// It, as `COPY` writes it.
    Row(Vec<u8>),
    /// It is not there any more: what took it away follows in the log.
    Gone,
    /// It could not be read: why.
    Unknown(String),
}

/// Where a logical message lies.
#[derive(Debug, Clone, Copy)]
pub struct Emitted {
    /// End of its record.
    pub lsn: Lsn,
    /// Up to where the log was on disk after its commit.
    pub flushed: Lsn,
}

/// How far the server's log reaches.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Up to where it is on disk.
    pub flush: Lsn,
    /// Up to where it may be read, at most `flush`: less where what no standby has acknowledged is not to be delivered.
    pub readable: Lsn,
    /// From where a peek of the slot decodes it.
    pub restart: Lsn,
}

/// What a row that is held occupies besides its data, about: its buffer's and its structure's share.
pub const ROW_BYTES: usize = 160;

/// A Kinesis data stream.
pub trait Stream: Clone + Send + Sync + 'static {
    /// What the stream is called, for errors.
    fn name(&self) -> String;

    /// The shards that take records now.
    fn shards(&self) -> impl Future<Output = Result<ShardMap, StreamError>> + Send;

    /// Puts records of different lanes, once. What failed is for the caller to send again.
    fn put(&self, records: Vec<Record>) -> impl Future<Output = Answer> + Send;
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    /// The records of the request.
    pub records: Vec<Record>,
    /// For each record what became of it. An error stands for all of them, and may come although they arrived.
    pub outcome: Result<Vec<Fate>, StreamError>,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It lies in this shard.
    Stored {
        /// The shard's name.
        shard: String,
    },
    /// Its shard takes no more at the moment.
    Throttled,
    /// Something failed on the other side.
    Failed,
}

/// Where the checkpoint is kept.
pub trait Checkpoints: Clone + Send + Sync + 'static {
    /// What the place is called, for errors.
    fn name(&self) -> String;

    /// Stores a checkpoint's text in place of the last.
    fn store(&self, text: String) -> impl Future<Output = Result<(), CheckpointError>> + Send;
}
