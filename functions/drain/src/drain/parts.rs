//! What a drain works on, the slot, its tables, the stream and the checkpoint, each as small as it needs it, and how each may fail. The edges implement them; a
//! test may, too.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::time::Duration;

use crate::backfill::state::Name;
use crate::backfill::table::Site;
use crate::backfill::{Held, Snapshot, Table, Wanted};
use crate::catalog::Catalog;
use crate::lsn::Lsn;
use crate::pack::{BrokenRing, Record, ShardMap};
use crate::window::Window;

/// Where an error came from, as the library gave it.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Whether trying again may help without anybody doing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may: the next tick is the retry.
    Transient,
    /// It will not: somebody has to act.
    Definite,
}

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
    async fn describe(&mut self, only: Option<&Name>) -> Result<Site, SlotError>;

    /// The transactions that have written to a table and are not over, each told as a person would want it.
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

    /// The row that has one of two keys, the later rather than the earlier, as `COPY` writes it.
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

/// How reading a slot fails.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each means.
pub enum SlotError {
    #[error(
        "cannot reach PostgreSQL at {host}:{port}: check PGHOST and PGPORT, the function's subnets and the cluster's security group"
    )]
    Unreachable { host: String, port: u16, source: Source },
    #[error("PostgreSQL refused role {user}: check PGUSER, and {hint}")]
    Authentication {
        user: String,
        hint: &'static str,
        source: Source,
    },
    #[error(
        "no trusted TLS connection to {host}: check PGSSLMODE, PGSSLROOTCERT and that PGHOST is the name in the certificate"
    )]
    Tls { host: String, source: Source },
    #[error("cannot use the certificates of PGSSLROOTCERT={path}")]
    RootCertificates { path: String, source: Source },
    #[error(
        "cannot get the password from DB_SECRET={secret}: check the name and the function's permission to read it"
    )]
    Secret { secret: String, source: Source },
    #[error("there is no database {database}: check PGDATABASE")]
    DatabaseMissing { database: String, source: Source },
    #[error("{host} is a reader, or is just being promoted: PGHOST must be the cluster's writer endpoint")]
    NotWriter { host: String },
    #[error(
        "role {user} may not use replication slots: grant rds_replication to {user}, or on your own server: alter role {user} replication"
    )]
    RoleLacksReplication { user: String, source: Source },
    #[error(
        "the server does not write logical information to its log: set rds.logical_replication=1 in the cluster's parameter group (wal_level=logical) and reboot it"
    )]
    WalLevelNotLogical { source: Source },
    #[error("slot {slot} is read by another session")]
    Busy { slot: String },
    #[error(
        "slot {slot}: the server does not allow or have the plugin {plugin}: install it and add it to output_plugin_libraries, or use pgoutput"
    )]
    PluginNotAllowed {
        slot: String,
        plugin: String,
        source: Source,
    },
    #[error(
        "slot {slot} needs the publications {missing}, which database {database} does not have: create them ({{\"action\":\"setup\"}}) or correct PUBLICATIONS"
    )]
    PublicationMissing {
        slot: String,
        missing: String,
        database: String,
    },
    #[error(
        "slot {slot}: {doing} took longer than it may. A long transaction may make the server read much log again (oldest_transaction \
         in status names it), or it is overloaded; a larger Timeout of the function gives it longer"
    )]
    Timeout {
        slot: String,
        doing: &'static str,
        source: Source,
    },
    #[error(
        "slot {slot}: the row at {lsn} has {bytes} bytes, which no record can hold; the slot stays before its transaction. Leave the \
         large column out of the publication, or move the slot past it"
    )]
    RowTooLarge { slot: String, lsn: Lsn, bytes: i64 },
    #[error(
        "slot {slot} was not created: it waits for process {pid}, whose transaction is writing. End it, or try again"
    )]
    CreationWaits { slot: String, pid: i32, source: Source },
    #[error("PostgreSQL on {host} is starting or recovering: the next tick tries again")]
    Starting { host: String, source: Source },
    #[error("the two sessions reached different servers: a failover is under way")]
    TwoServers,
    #[error(
        "slot {slot} stands before its publication was made, so the server cannot read on: teardown and setup make the slot anew (what was \
         committed until then is not read); then load the tables"
    )]
    PublicationLater { slot: String, source: Source },
    #[error(
        "slot {slot} was not advanced to {to}: the server's log does not reach that far. It was set back since this invocation began; the next one will say how far"
    )]
    NotAdvanced { slot: String, to: Lsn },
    #[error("slot {slot}: STANDBY_ACK=required, and {why}, so nothing is delivered")]
    StandbyUnseen {
        slot: String,
        why: &'static str,
        transient: bool,
    },
    #[error("{doing} failed on {host}")]
    Failed {
        host: String,
        doing: &'static str,
        transient: bool,
        source: Source,
    },
}

/// How writing to the stream fails, for a whole request.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StreamError {
    #[error("there is no stream {stream}: check STREAM_NAME and the region")]
    Missing { stream: String, source: Source },
    #[error(
        "may not use stream {stream}: allow kinesis:PutRecords, ListShards and DescribeStreamSummary on it (and its KMS key) to the function's role"
    )]
    Denied { stream: String, source: Source },
    #[error("stream {stream} refused a request")]
    Refused { stream: String, source: Source },
    #[error(
        "the function's AWS credentials are not accepted for stream {stream} now: they expired, or its clock is wrong"
    )]
    Credentials { stream: String, source: Source },
    #[error(
        "a request to stream {stream} was lost inside the function; what it held is sent again by the next tick"
    )]
    Lost { stream: String, source: Source },
    #[error("stream {stream} is being deleted: set STREAM_NAME to another, or create it again")]
    Deleting { stream: String },
    #[error(
        "stream {stream} distributes records by itself (AUTO), so that changes of one key arrive in any order: set it to USER_PARTITION_KEY, or accept \
         that with AUTO_DISTRIBUTION=accept"
    )]
    Unordered { stream: String },
    #[error(
        "stream {stream} distributes records by itself (AUTO), and from an aggregate that lies in another shard than its keys consumers drop events: \
         set it to USER_PARTITION_KEY, or AGGREGATION=none"
    )]
    Scattering { stream: String },
    #[error("stream {stream} is being resharded")]
    Resharding { stream: String, source: BrokenRing },
    #[error("stream {stream} throttles whole requests")]
    Throttled { stream: String, source: Source },
    #[error(
        "stream {stream} does not answer: check the endpoint, the function's subnets and the state of Kinesis"
    )]
    Unavailable { stream: String, source: Source },
}

impl StreamError {
    /// Whether the same request may pass later.
    pub fn kind(&self) -> Kind {
        match self {
            StreamError::Throttled { .. }
            | StreamError::Unavailable { .. }
            | StreamError::Resharding { .. }
            | StreamError::Credentials { .. } => Kind::Transient,
            _ => Kind::Definite,
        }
    }
}

/// How keeping the checkpoint fails.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CheckpointError {
    #[error(
        "may not read or write the checkpoint parameter {parameter}: allow ssm:GetParameter and ssm:PutParameter on it to the function's role"
    )]
    Denied { parameter: String, source: Source },
    #[error("the checkpoint parameter {parameter} cannot be used")]
    Refused { parameter: String, source: Source },
    #[error(
        "the checkpoint parameter {parameter} cannot be reached: check the endpoint, the function's subnets and the state of SSM"
    )]
    Unavailable { parameter: String, source: Source },
    #[error(
        "the checkpoint parameter {parameter} cannot be read; repair it, or delete it to start from the slot's own position"
    )]
    Invalid {
        parameter: String,
        source: crate::checkpoint::CheckpointInvalid,
    },
}

impl CheckpointError {
    /// Whether the same call may pass later.
    pub fn kind(&self) -> Kind {
        match self {
            CheckpointError::Unavailable { .. } => Kind::Transient,
            _ => Kind::Definite,
        }
    }
}
