//! The error of an invocation, with its name and its kind.
//!
//! The name is stable, for alarms. The kind says whether to wait or to act.

use crate::base::causes::with_causes;
use crate::base::lsn::Lsn;
use crate::base::stored_document::InvalidDocument;
use crate::config::ConfigError;
use crate::continuity::ContinuityError;
use crate::decode::DecodeError;
use crate::encode::{Event, OversizePolicy};
use crate::invocation::EventError;
use crate::ports::{ErrorKind, SlotError, StateStoreError, StreamError};

/// The error that ended an invocation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of the environment.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The event of the invocation.
    #[error("event: {0}")]
    Event(#[from] EventError),
    /// The server's history does not continue where the stream stopped.
    #[error(transparent)]
    Continuity(Box<ContinuityError>),
    /// PostgreSQL refused, failed or did not answer.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Kinesis refused, failed or did not answer.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A stored document cannot be read or written: checkpoint, backfill or sent tables.
    #[error(transparent)]
    StateStore(#[from] StateStoreError),
    /// A row that its plugin does not write. Every change before it is in the stream and confirmed.
    #[error(
        "slot {slot}: the row at {lsn} cannot be decoded; the slot stays before its transaction. Report it \
         with the PostgreSQL and plugin versions"
    )]
    Undecodable {
        /// The slot.
        slot: String,
        /// The row's `lsn` column.
        lsn: Lsn,
        /// The cause.
        source: DecodeError,
    },
    /// A row in an order in which no plugin sends rows.
    #[error(
        "slot {slot}: the row at {lsn} is outside of its transaction; the slot stays before it. Report it \
         with the PostgreSQL and plugin versions"
    )]
    OutOfPlace {
        /// The slot.
        slot: String,
        /// The row's `lsn` column.
        lsn: Lsn,
    },
    /// A transaction whose rows differ from those that were sent in part: options or publications changed.
    ///
    /// The drain reads the transaction again from its beginning, so this is only logged.
    #[error(
        "slot {slot}: the rows of transaction {xid}, which ends at {commit_end}, are not those that were \
         sent in part; all of it is sent again, with the same positions"
    )]
    NotResumed {
        /// The slot.
        slot: String,
        /// The transaction's id.
        xid: u32,
        /// End of its commit record.
        commit_end: Lsn,
    },
    /// A backfill of which some table cannot be read. Nothing was started.
    #[error(
        "slot {slot}: the backfill was not started, since some of its tables cannot be read: {reasons}. \
         Correct that, or leave them out"
    )]
    BackfillRefused {
        /// The slot.
        slot: String,
        /// Each table, and why.
        reasons: String,
    },
    /// A second backfill beside one that is pending.
    #[error(
        "slot {slot}: the backfill that was started at {started_at} is pending; ticks continue it, and \
         status shows its progress. Wait for it, or end it with {{\"action\":\"backfill\",\"cancel\":true}}"
    )]
    BackfillPending {
        /// The slot.
        slot: String,
        /// ISO 8601 in UTC.
        started_at: String,
    },
    /// No backfill to cancel, pause or resume.
    #[error(
        "slot {slot}: no backfill is pending; {{\"action\":\"backfill\",\"tables\":[\"public.orders\"]}} \
         starts one"
    )]
    BackfillMissing {
        /// The slot.
        slot: String,
    },
    /// A stored state of a backfill that this version cannot read.
    #[error(
        "the backfill parameter {parameter} cannot be read; the drain continues without it. Repair it, or \
         delete it and start the backfill again"
    )]
    BackfillInvalid {
        /// The parameter.
        parameter: String,
        /// The cause.
        source: InvalidDocument,
    },
    /// An action that outlasted the invocation's time.
    ///
    /// Without this error, Lambda would kill the process, and the answer would not have the reason.
    #[error(
        "the invocation's time is over, and PostgreSQL or AWS has not answered; nothing is lost, and the \
         next tick continues. If it happens again, check the network"
    )]
    OutOfTime,
    /// A panic, which the log places.
    #[error(
        "a fault of Spillway ended the invocation; nothing is lost, and the next tick starts at the last \
         confirmed position. Report it with the line of the log whose error_type is Panicked"
    )]
    Panicked,
    /// An event that no record can hold. Every change before it is in the stream and confirmed.
    #[error(
        "slot {slot}: the event at position {position}, of {table}, key hash {key_hash}, {problem}; \
         the slot stays before its transaction. {}",
        oversize_advice(*policy)
    )]
    Oversize {
        /// The slot.
        slot: String,
        /// The event's position.
        position: String,
        /// The table of the event, or that it is a logical message.
        table: String,
        /// The first 16 digits of the partition key's SHA-256.
        key_hash: String,
        /// What is wrong with its size: see [`Event::size_problem`].
        problem: String,
        /// The policy, on which the advice depends.
        policy: OversizePolicy,
    },
}

impl From<ContinuityError> for Error {
    fn from(error: ContinuityError) -> Self {
        Error::Continuity(Box::new(error))
    }
}

impl Error {
    /// An event that no record can hold.
    pub fn oversize(slot: &str, event: &Event, problem: String, policy: OversizePolicy) -> Self {
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
            problem,
            policy,
        }
    }

    /// The stable `errorType` of the cause. Alarms match on it.
    pub fn name(&self) -> &'static str {
        match self {
            Error::Config(error) => error.name(),
            Error::Event(error) => error.name(),
            Error::Undecodable { .. } | Error::OutOfPlace { .. } => "Undecodable",
            Error::Oversize { .. } => "Oversize",
            Error::OutOfTime => "OutOfTime",
            Error::Panicked => "Panicked",
            Error::BackfillRefused { .. } => "BackfillRefused",
            Error::BackfillPending { .. } => "BackfillPending",
            Error::BackfillMissing { .. } => "BackfillMissing",
            Error::BackfillInvalid { .. } => "BackfillInvalid",
            Error::NotResumed { .. } => "NotResumed",
            Error::Continuity(error) => error.name(),
            Error::Slot(error) => error.name(),
            Error::Stream(error) => error.name(),
            Error::StateStore(error) => error.name(),
        }
    }

    /// Kind of the error: transient if the next tick may succeed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::OutOfTime => ErrorKind::Transient,
            Error::Stream(error) => error.kind(),
            Error::StateStore(error) => error.kind(),
            Error::Slot(error) => error.kind(),
            Error::Continuity(error) if error.is_transient() => ErrorKind::Transient,
            // None of these passes by itself: something has to change, or Spillway has a fault.
            Error::Config(_)
            | Error::Event(_)
            | Error::Continuity(_)
            | Error::Undecodable { .. }
            | Error::OutOfPlace { .. }
            | Error::NotResumed { .. }
            | Error::BackfillRefused { .. }
            | Error::BackfillPending { .. }
            | Error::BackfillMissing { .. }
            | Error::BackfillInvalid { .. }
            | Error::Panicked
            | Error::Oversize { .. } => ErrorKind::Definite,
        }
    }

    /// Whether the slot does not continue where the stream ended. No later tick can mend that.
    pub fn is_discontinuity(&self) -> bool {
        matches!(self, Error::Continuity(error) if error.is_discontinuity())
    }

    /// The error and its causes on one line. A cause that repeats an earlier text is left out.
    pub fn chain(&self) -> String {
        with_causes(self)
    }
}

/// Advice to the operator on an event that no record can hold.
fn oversize_advice(policy: OversizePolicy) -> &'static str {
    match policy {
        OversizePolicy::Fail => {
            "Set OVERSIZE=omit: the event is then sent without its largest columns, and names them. Or list in \
             TABLES the tables to send, without this one. A change of the publication does not help with what \
             is logged already"
        }
        OversizePolicy::Omit => {
            "It is too large without its large columns, too, because of its key or of its many small columns. \
             List in TABLES the tables to send, without this one"
        }
    }
}
