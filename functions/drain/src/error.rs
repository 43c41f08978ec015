//! Every way in which an invocation fails, with a stable name for alarms to match on and a kind that says whether to wait
//! or to act.

use crate::config::ConfigError;
use crate::continuity::Discontinuity;
use crate::decode::DecodeError;
use crate::encode::Event;
use crate::event::EventError;
use crate::lsn::Lsn;
use crate::ports::{CheckpointError, ErrorKind, SlotError, StreamError};
use crate::stored_document::InvalidDocument;

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The event that was sent.
    #[error("event: {0}")]
    Event(#[from] EventError),
    /// The history does not go on where the stream stopped.
    #[error(transparent)]
    Discontinuity(Box<Discontinuity>),
    /// PostgreSQL.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Kinesis.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// SSM.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A row that its plugin does not write. Everything before it is in the stream and confirmed.
    #[error(
        "slot {slot}: the row at {lsn} cannot be decoded; the slot stays before its transaction. Report it with the PostgreSQL and plugin versions"
    )]
    Undecodable {
        /// The slot.
        slot: String,
        /// The row's `lsn` column.
        lsn: Lsn,
        /// What did not fit.
        source: DecodeError,
    },
    /// A row in an order in which no plugin sends them.
    #[error(
        "slot {slot}: the row at {lsn} stands outside of its transaction; the slot stays before it. Report it with the PostgreSQL and plugin versions"
    )]
    OutOfPlace {
        /// The slot.
        slot: String,
        /// The row's `lsn` column.
        lsn: Lsn,
    },
    /// The rows of a transaction of which the stream has a part are not what they were: the options of the plugin or what is
    /// published changed. The drain begins the transaction again, so this is only logged.
    #[error(
        "slot {slot}: transaction {xid}, which ends at {commit_end}, does not go on as it began; all of it is sent again, with the same positions"
    )]
    NotResumed {
        /// The slot.
        slot: String,
        /// The transaction's id.
        xid: u32,
        /// End of its commit record.
        commit_end: Lsn,
    },
    /// A backfill that cannot be done for all tables is not begun.
    #[error(
        "slot {slot}: the backfill was not begun, since some of what it names cannot be read: {reasons}. Correct that, or leave them out"
    )]
    BackfillRefused {
        /// The slot.
        slot: String,
        /// Each table, and why.
        reasons: String,
    },
    /// There can be one backfill of a slot at a time.
    #[error(
        "slot {slot}: a backfill that was begun at {started_at} is not over; ticks carry it on, and status tells how far it is. \
         Wait for it, or end it with {{\"action\":\"backfill\",\"cancel\":true}}"
    )]
    BackfillPending {
        /// The slot.
        slot: String,
        /// ISO 8601 in UTC.
        started_at: String,
    },
    /// There is none to cancel, pause or resume.
    #[error(
        "slot {slot}: no backfill is pending; {{\"action\":\"backfill\",\"tables\":[\"public.orders\"]}} begins one"
    )]
    BackfillMissing {
        /// The slot.
        slot: String,
    },
    /// What is stored of a backfill is not one of this version.
    #[error(
        "the backfill parameter {parameter} cannot be read; the drain goes on without it. Repair it, or delete it and begin the backfill anew"
    )]
    BackfillInvalid {
        /// The parameter.
        parameter: String,
        /// Why.
        source: InvalidDocument,
    },
    /// Something waited beyond the invocation's time; better to say so than to be killed.
    #[error(
        "the invocation's time is over, and PostgreSQL or AWS has not answered; nothing is lost, and the next tick goes on. Look at the network if it stays so"
    )]
    OutOfTime,
    /// An event that no record can hold. Everything before it is in the stream and confirmed.
    #[error(
        "slot {slot}: the event at position {position}, of {table}, key hash {key_hash}, has {bytes} bytes and a record may have {limit}; the slot \
         stays before its transaction. Leave the table or its large column out of the publication, or move the slot past it"
    )]
    Oversize {
        /// The slot.
        slot: String,
        /// The event's position.
        position: String,
        /// What the event is about.
        table: String,
        /// The first 16 digits of the partition key's SHA-256.
        key_hash: String,
        /// Data and partition key together.
        bytes: usize,
        /// Most bytes of a record.
        limit: usize,
    },
}

impl From<Discontinuity> for Error {
    fn from(discontinuity: Discontinuity) -> Self {
        Error::Discontinuity(Box::new(discontinuity))
    }
}

impl Error {
    /// An event that no record can hold.
    pub fn oversize(slot: &str, event: &Event, bytes: usize, limit: usize) -> Self {
        let key_hash = event.key_hash();
        let relation = event.relation.as_ref();
        let table = relation.map_or_else(
            || "a logical message".to_owned(),
            |relation| format!("table {relation}"),
        );
        let slot = slot.to_owned();
        Error::Oversize {
            slot,
            position: event.position.to_string(),
            table,
            key_hash,
            bytes,
            limit,
        }
    }

    /// The stable `errorType` of the cause. Alarms match on it.
    pub fn name(&self) -> &'static str {
        match self {
            Error::Config(_) => "ConfigInvalid",
            Error::Event(_) => "EventInvalid",
            Error::Undecodable { .. } | Error::OutOfPlace { .. } => "Undecodable",
            Error::Oversize { .. } => "Oversize",
            Error::OutOfTime => "OutOfTime",
            Error::BackfillRefused { .. } => "BackfillRefused",
            Error::BackfillPending { .. } => "BackfillPending",
            Error::BackfillMissing { .. } => "BackfillMissing",
            Error::BackfillInvalid { .. } => "BackfillInvalid",
            Error::NotResumed { .. } => "NotResumed",
            Error::Discontinuity(discontinuity) => discontinuity.name(),
            Error::Slot(error) => error.name(),
            Error::Stream(error) => error.name(),
            Error::Checkpoint(error) => error.name(),
        }
    }

    /// Whether the next tick may succeed by itself.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::OutOfTime | Error::Stream(StreamError::Lost { .. }) => ErrorKind::Transient,
            Error::Stream(error) => error.kind(),
            Error::Checkpoint(error) => error.kind(),
            Error::Slot(error) => error.kind(),
            _ => ErrorKind::Definite,
        }
    }

    /// The error and its causes on one line. A cause that only repeats what was said is left out.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text.replace(['\n', '\r'], " ")
    }
}
