//! Errors of the ports. Each message names the problem and the remedy.

use crate::base::causes::BoxError;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::base::stored_document::InvalidDocument;
use crate::base::table_name::TableName;
use crate::base::table_name::quoted_if_needed;
use crate::pack::InvalidShardMap;
use crate::ports::lock_holder::LockHolder;

/// Error of PostgreSQL, the slot or its tables.
///
/// [`SlotError::Authentication`] may also mean that an IAM token could not be signed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages explain the variants.
pub enum SlotError {
    #[error(
        "cannot reach PostgreSQL at {host}:{port}: check PGHOST and PGPORT, the function's subnets and the \
         cluster's security group"
    )]
    Unreachable {
        host: String,
        port: u16,
        source: BoxError,
    },
    #[error("PostgreSQL refused role {user}: check PGUSER, and {hint}")]
    Authentication {
        user: String,
        hint: &'static str,
        source: BoxError,
    },
    #[error(
        "no trusted TLS connection to {host}: check PGSSLMODE, PGSSLROOTCERT and that PGHOST is the name in \
         the certificate"
    )]
    Tls { host: String, source: BoxError },
    #[error("cannot use the certificates of PGSSLROOTCERT={path}")]
    RootCertificates { path: String, source: BoxError },
    #[error("there is no database {database}: check PGDATABASE")]
    DatabaseMissing { database: String, source: BoxError },
    #[error("{host} is a reader, or is just being promoted: PGHOST must be the cluster's writer endpoint")]
    NotWriter { host: String },
    #[error(
        "role {user} may not use replication slots: grant rds_replication to {role}, or on your own server: \
         alter role {role} replication",
        role = quoted_if_needed(.user)
    )]
    RoleLacksReplication { user: String, source: BoxError },
    #[error(
        "the server does not write logical information to its log: set rds.logical_replication=1 in the \
         cluster's parameter group (wal_level=logical) and reboot it"
    )]
    WalLevelNotLogical { source: BoxError },
    #[error("another session reads slot {slot}{}: wait until it ends", holder_text(holder.as_ref()))]
    Busy {
        slot: String,
        holder: Option<LockHolder>,
    },
    #[error(
        "slot {slot}: the server does not allow or have the plugin {plugin}: install it and add it to \
         output_plugin_libraries, or use pgoutput"
    )]
    PluginNotAllowed {
        slot: String,
        plugin: String,
        source: BoxError,
    },
    #[error(
        "slot {slot} needs the publications {missing}, which database {database} does not have: create them \
         ({{\"action\":\"setup\"}}) or correct PUBLICATIONS"
    )]
    PublicationMissing {
        slot: String,
        missing: String,
        database: String,
    },
    #[error(
        "slot {slot}: {doing} exceeded its time limit. A long transaction may make the server read much log \
         again (oldest_transaction in status names it), or the server is overloaded. A larger Timeout of the \
         function raises the limit"
    )]
    Timeout {
        slot: String,
        doing: &'static str,
        source: BoxError,
    },
    #[error(
        "slot {slot}: {doing} needs more space than the server has: raise temp_file_limit, or add storage or \
         memory"
    )]
    OutOfSpace {
        slot: String,
        doing: &'static str,
        source: BoxError,
    },
    #[error(
        "slot {slot}: the server cannot decode a row, because the output plugin would write more than 1 GB \
         for it; the slot stays before its window. With wal2json, list in TABLES the tables to send, without \
         that of the row. Otherwise advance the slot past the row with pg_replication_slot_advance, accept \
         the gap, and repair the stream"
    )]
    RowOverServerLimit { slot: String, source: BoxError },
    #[error(
        "slot {slot} was not created: it waits for {}. Then run setup again",
        writer_text(*pid)
    )]
    CreationWaits {
        slot: String,
        /// `None` for a prepared transaction.
        pid: Option<i32>,
        source: BoxError,
    },
    #[error("PostgreSQL on {host} is starting or recovering: the next tick tries again")]
    Starting { host: String, source: BoxError },
    #[error(
        "the two sessions reached different servers: a failover is under way, and the next tick tries again"
    )]
    TwoServers,
    #[error(
        "slot {slot}: when the next change after {confirmed} was committed, a publication of PUBLICATIONS \
         did not exist: it is newer, or it was dropped or renamed for a while. The server leaves out its \
         changes, so the slot stays at {confirmed}. If its tables were never in the stream, remove the \
         publication from PUBLICATIONS, wait until the slot is empty, add it again, and read these tables \
         with {{\"action\":\"backfill\"}}. Otherwise advance the slot with select \
         pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn()), accept the gap, and read the \
         tables again with {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    PublicationSkipped {
        slot: String,
        confirmed: Lsn,
        source: BoxError,
    },
    #[error(
        "slot {slot} was not advanced to {to}: the server's log does not reach that far. The server was set \
         back since this invocation began; the next invocation names the positions"
    )]
    NotAdvanced { slot: String, to: Lsn },
    #[error("slot {slot}: STANDBY_ACK=required, and {why}, so nothing is sent")]
    StandbyUnseen {
        slot: String,
        why: &'static str,
        kind: ErrorKind,
    },
    #[error("{doing} failed on {host}")]
    Failed {
        host: String,
        doing: &'static str,
        kind: ErrorKind,
        source: BoxError,
    },
}

/// The holder of a slot in brackets, with a space before them.
///
/// Empty if the holder is unknown.
fn holder_text(holder: Option<&LockHolder>) -> String {
    match holder {
        None => String::new(),
        Some(LockHolder {
            pid,
            age_seconds: None,
        }) => format!(" (server process {pid})"),
        Some(LockHolder {
            pid,
            age_seconds: Some(age),
        }) => format!(" (server process {pid}, for {age} s)"),
    }
}

fn writer_text(pid: Option<i32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}, whose transaction is writing: wait for its end, or end it"),
        None => "a prepared transaction of pg_prepared_xacts: commit it or roll it back".to_owned(),
    }
}

impl SlotError {
    /// Kind of the error: transient if the next tick may succeed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SlotError::Unreachable { .. }
            | SlotError::NotWriter { .. }
            | SlotError::Busy { .. }
            | SlotError::Timeout { .. }
            | SlotError::OutOfSpace { .. }
            | SlotError::CreationWaits { .. }
            | SlotError::TwoServers
            | SlotError::Starting { .. }
            | SlotError::NotAdvanced { .. } => ErrorKind::Transient,
            SlotError::Authentication { .. }
            | SlotError::Tls { .. }
            | SlotError::RootCertificates { .. }
            | SlotError::DatabaseMissing { .. }
            | SlotError::RoleLacksReplication { .. }
            | SlotError::WalLevelNotLogical { .. }
            | SlotError::PluginNotAllowed { .. }
            | SlotError::PublicationMissing { .. }
            | SlotError::PublicationSkipped { .. }
            | SlotError::RowOverServerLimit { .. } => ErrorKind::Definite,
            SlotError::StandbyUnseen { kind, .. } | SlotError::Failed { kind, .. } => *kind,
        }
    }

    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            SlotError::Unreachable { .. } | SlotError::Starting { .. } => "PostgresUnreachable",
            SlotError::Authentication { .. } => "PostgresAuthentication",
            SlotError::Tls { .. } | SlotError::RootCertificates { .. } => "PostgresTls",
            SlotError::DatabaseMissing { .. } => "DatabaseMissing",
            SlotError::NotWriter { .. } | SlotError::TwoServers => "NotWriter",
            SlotError::RoleLacksReplication { .. } => "RoleLacksReplication",
            SlotError::WalLevelNotLogical { .. } => "WalLevelNotLogical",
            SlotError::Busy { .. } => "Busy",
            SlotError::PluginNotAllowed { .. } => "PluginNotAllowed",
            SlotError::PublicationMissing { .. } | SlotError::PublicationSkipped { .. } => {
                "PublicationMissing"
            }
            SlotError::Timeout { .. } => "PeekTimeout",
            SlotError::RowOverServerLimit { .. } => "Oversize",
            SlotError::NotAdvanced { .. } => "Divergence",
            SlotError::StandbyUnseen { .. } => "StandbyUnseen",
            SlotError::CreationWaits { .. } | SlotError::OutOfSpace { .. } | SlotError::Failed { .. } => {
                "PostgresFailed"
            }
        }
    }
}

/// Error of a secret: AWS did not return a usable value.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages explain the variants.
pub enum SecretError {
    #[error(
        "cannot get the password from DB_SECRET={secret}: check the name and the function's permission to \
         read it"
    )]
    Password { secret: String, source: BoxError },
    #[error(
        "cannot get the salt from COLUMN_SALT_SECRET={secret}: check the name and the function's permission \
         to read it"
    )]
    Salt { secret: String, source: BoxError },
    #[error(
        "cannot get {variable}={secret} now: Secrets Manager did not answer, or throttled. The next tick \
         tries again. If it happens again, check the function's subnets and VPC endpoints"
    )]
    Unavailable {
        variable: &'static str,
        secret: String,
        source: BoxError,
    },
}

impl SecretError {
    /// Kind of the error: transient if AWS may return the secret later.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SecretError::Unavailable { .. } => ErrorKind::Transient,
            SecretError::Password { .. } | SecretError::Salt { .. } => ErrorKind::Definite,
        }
    }

    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            SecretError::Password { .. } => "PostgresAuthentication",
            SecretError::Salt { .. } => "SaltUnreadable",
            SecretError::Unavailable { .. } => "SecretUnavailable",
        }
    }
}

/// Error of the stream, for a whole request.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages explain the variants.
pub enum StreamError {
    #[error(
        "there is no stream {stream}: create it, or check STREAM_NAME, MESSAGE_STREAM_NAME and the region"
    )]
    Missing { stream: String, source: BoxError },
    #[error(
        "the changes of table {table} wait for their stream: once it can be used, the next tick continues"
    )]
    OfTable { table: String, source: Box<StreamError> },
    #[error(
        "the name of stream {stream} has {length} characters, and Kinesis accepts {most}: use a shorter \
         STREAM_NAME, or leave the table out with TABLES"
    )]
    NameTooLong {
        stream: String,
        length: usize,
        most: usize,
    },
    #[error(
        "the drain writes to {most} streams already, and needs stream {stream}, too: use {{schema}} alone in \
         STREAM_NAME, or drain some tables through another slot"
    )]
    TooMany { stream: String, most: usize },
    #[error(
        "stream {stream} accepts records of {record_bytes} bytes, and stream {first} of {first_bytes}: set \
         the maximum record size of {stream} to that of {first}"
    )]
    SmallerRecords {
        stream: String,
        record_bytes: usize,
        first: String,
        first_bytes: usize,
    },
    #[error(
        "may not use stream {stream}: allow kinesis:PutRecords, ListShards and DescribeStreamSummary on it \
         (and its KMS key) to the function's role"
    )]
    Denied { stream: String, source: BoxError },
    #[error("stream {stream} refused a request")]
    Refused { stream: String, source: BoxError },
    #[error(
        "stream {stream} does not accept the function's AWS credentials now: they expired, or the function's \
         clock is wrong"
    )]
    Credentials { stream: String, source: BoxError },
    #[error(
        "a request to stream {stream} was lost inside the function; the next tick sends its records again"
    )]
    Lost { stream: String, source: BoxError },
    #[error("stream {stream} is being deleted: create it again, or set STREAM_NAME to another")]
    Deleting { stream: String },
    #[error(
        "stream {stream} distributes records by itself (AUTO), so that changes of one key arrive in any \
         order: set it to USER_PARTITION_KEY, or accept that with AUTO_DISTRIBUTION=accept"
    )]
    Unordered { stream: String },
    #[error(
        "stream {stream} distributes records by itself (AUTO), and consumers drop an aggregate in another \
         shard than its keys: set the stream to USER_PARTITION_KEY, or AGGREGATION=none"
    )]
    Scattering { stream: String },
    #[error("stream {stream} is being resharded")]
    Resharding { stream: String, source: InvalidShardMap },
    #[error("stream {stream} stores records in other shards than ListShards says: the next tick tries again")]
    Misplaced { stream: String },
    #[error(
        "stream {stream} refuses records with an internal failure: the next tick sends them again. If it \
         happens again, check the state of Kinesis"
    )]
    Failing { stream: String },
    #[error("stream {stream} throttles whole requests")]
    Throttled { stream: String, source: BoxError },
    #[error(
        "stream {stream} does not answer: check the endpoint, the function's subnets and the state of Kinesis"
    )]
    Unavailable { stream: String, source: BoxError },
}

impl StreamError {
    /// Kind of the error: transient if the same request may succeed later.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StreamError::OfTable { source, .. } => source.kind(),
            StreamError::Throttled { .. }
            | StreamError::Misplaced { .. }
            | StreamError::Failing { .. }
            | StreamError::Unavailable { .. }
            | StreamError::Resharding { .. }
            | StreamError::Lost { .. }
            | StreamError::Credentials { .. } => ErrorKind::Transient,
            StreamError::Missing { .. }
            | StreamError::Deleting { .. }
            | StreamError::Unordered { .. }
            | StreamError::Scattering { .. }
            | StreamError::NameTooLong { .. }
            | StreamError::SmallerRecords { .. }
            | StreamError::TooMany { .. }
            | StreamError::Denied { .. }
            | StreamError::Refused { .. } => ErrorKind::Definite,
        }
    }

    /// The error of the stream of a table.
    pub fn with_table(self, table: &TableName) -> Self {
        StreamError::OfTable {
            table: table.to_string(),
            source: Box::new(self),
        }
    }

    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            StreamError::OfTable { source, .. } => source.name(),
            StreamError::Missing { .. } | StreamError::Deleting { .. } => "StreamMissing",
            StreamError::Unordered { .. }
            | StreamError::Scattering { .. }
            | StreamError::NameTooLong { .. }
            | StreamError::SmallerRecords { .. } => "StreamUnusable",
            StreamError::TooMany { .. } => "TooManyStreams",
            StreamError::Denied { .. } | StreamError::Credentials { .. } => "StreamDenied",
            StreamError::Refused { .. } => "StreamRefused",
            StreamError::Throttled { .. }
            | StreamError::Misplaced { .. }
            | StreamError::Failing { .. }
            | StreamError::Unavailable { .. }
            | StreamError::Resharding { .. }
            | StreamError::Lost { .. } => "StreamUnavailable",
        }
    }
}

/// Error of the parameter of a stored document.
///
/// The document is the checkpoint, the state of the backfill, or the list of sent tables.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages explain the variants.
pub enum StateStoreError {
    #[error(
        "may not use the parameter {parameter}: allow ssm:GetParameter, ssm:PutParameter and \
         ssm:DeleteParameter on it to the function's role"
    )]
    Denied { parameter: String, source: BoxError },
    #[error("the parameter {parameter} cannot be used")]
    Refused { parameter: String, source: BoxError },
    #[error(
        "the parameter {parameter} cannot be reached: check the endpoint, the function's subnets \
         and the state of SSM"
    )]
    Unavailable { parameter: String, source: BoxError },
    #[error(
        "the checkpoint parameter {parameter} cannot be read: deploy the release that wrote it, or accept \
         the gap at the slot's confirmed_flush_lsn and run a repair"
    )]
    Invalid {
        parameter: String,
        source: InvalidDocument,
    },
}

impl StateStoreError {
    /// Kind of the error: transient if the same call may succeed later.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StateStoreError::Unavailable { .. } => ErrorKind::Transient,
            StateStoreError::Denied { .. }
            | StateStoreError::Refused { .. }
            | StateStoreError::Invalid { .. } => ErrorKind::Definite,
        }
    }

    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            StateStoreError::Denied { .. } => "CheckpointDenied",
            StateStoreError::Refused { .. } => "CheckpointRefused",
            StateStoreError::Unavailable { .. } => "CheckpointUnavailable",
            StateStoreError::Invalid { .. } => "CheckpointInvalid",
        }
    }
}
