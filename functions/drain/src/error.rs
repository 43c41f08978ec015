//! The error of an invocation, with its name and its kind.
//!
//! The name is stable: alarms match on it. The kind states whether a later tick may succeed, or an operator
//! must act.

use crate::base::causes::with_causes;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::base::stored_document::InvalidDocument;
use crate::config::ConfigError;
use crate::continuity::ContinuityError;
use crate::decode::DecodeError;
use crate::encode::{Event, OversizePolicy};
use crate::invocation::EventError;
use crate::ports::{SecretError, SlotError, StateStoreError, StreamError};

/// The error that ended an invocation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A missing or invalid environment variable.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// An event that requests no valid action.
    #[error("event: {0}")]
    Event(#[from] EventError),
    /// The server's history does not continue where the stream stopped.
    #[error(transparent)]
    Continuity(Box<ContinuityError>),
    /// PostgreSQL refused, failed or did not answer.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The password or the salt cannot be read from its secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Kinesis refused, failed or did not answer.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A stored document cannot be read or written: checkpoint, backfill or sent tables.
    #[error(transparent)]
    StateStore(#[from] StateStoreError),
    /// A row that the decoder cannot read.
    ///
    /// If time is left, the drain sends and confirms every change before the row's transaction.
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
    /// A row outside of its transaction. No plugin sends rows in this order.
    #[error(
        "slot {slot}: the row at {lsn} is outside of its transaction; the slot stays before it. Report it \
         with the PostgreSQL and plugin versions"
    )]
    RowOutsideTransaction {
        /// The slot.
        slot: String,
        /// The row's `lsn` column.
        lsn: Lsn,
    },
    /// A partly acknowledged transaction whose rows have changed.
    ///
    /// The plugin's options or the publications are different now, or another transaction has the same id.
    /// The drain reads the transaction again from its beginning, so this error is only logged.
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
    /// A refused backfill. Nothing was started.
    ///
    /// Some of its tables cannot be read, the plugin sends no watermark, or the request is too long.
    #[error(
        "slot {slot}: the backfill was not started: {reasons}. Correct this, or leave the tables out of the \
         request"
    )]
    BackfillRefused {
        /// The slot.
        slot: String,
        /// The reasons, with the table of each.
        reasons: String,
    },
    /// A request to start a backfill while another one is pending.
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
    /// A command to a backfill, while none is pending.
    #[error(
        "slot {slot}: no backfill is pending; {{\"action\":\"backfill\",\"tables\":[\"public.orders\"]}} \
         starts one"
    )]
    BackfillMissing {
        /// The slot.
        slot: String,
    },
    /// A stored backfill state that this version cannot read.
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
    /// An action that did not end within the invocation's time.
    ///
    /// Without this error, Lambda would kill the process, and the answer would not contain the reason.
    #[error(
        "the invocation's time is over, and PostgreSQL or AWS has not answered; nothing is lost, and the \
         next tick continues. If it happens again, check the network"
    )]
    OutOfTime,
    /// A panic. A line of the log has its source file and line number.
    #[error(
        "a fault of Spillway ended the invocation; nothing is lost, and the next tick starts at the last \
         confirmed position. Report it with the line of the log whose error_type is Panicked"
    )]
    Panicked,
    /// An event that is too large for a record.
    ///
    /// If time is left, the drain sends and confirms every change before the event's transaction.
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
        /// The table of the event, or `a logical message`.
        table: String,
        /// The first 16 digits of the partition key's SHA-256.
        key_hash: String,
        /// The problem of its size: see [`Event::size_problem`].
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
    /// The error of an event that is too large for a record.
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
            Error::Undecodable { .. } | Error::RowOutsideTransaction { .. } => "Undecodable",
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
            Error::Secret(error) => error.name(),
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
            Error::Secret(error) => error.kind(),
            Error::Config(error) => error.kind(),
            Error::Event(error) => error.kind(),
            Error::Continuity(error) => error.kind(),
            // A retry does not help: the request or a setting is wrong, or Spillway has a fault. Ticks may
            // still succeed: for example, a drain continues after `BackfillInvalid`.
            Error::Undecodable { .. }
            | Error::RowOutsideTransaction { .. }
            | Error::NotResumed { .. }
            | Error::BackfillRefused { .. }
            | Error::BackfillPending { .. }
            | Error::BackfillMissing { .. }
            | Error::BackfillInvalid { .. }
            | Error::Panicked
            | Error::Oversize { .. } => ErrorKind::Definite,
        }
    }

    /// Whether the error is a discontinuity. No later tick can resolve it.
    pub fn is_discontinuity(&self) -> bool {
        matches!(self, Error::Continuity(error) if error.is_discontinuity())
    }

    /// The error and its causes on one line.
    ///
    /// A cause that repeats an earlier text is left out.
    pub fn chain(&self) -> String {
        with_causes(self)
    }
}

/// Advice to the operator on an event that is too large.
fn oversize_advice(policy: OversizePolicy) -> &'static str {
    match policy {
        OversizePolicy::Fail => {
            "Set OVERSIZE=omit: the event is then sent without its largest columns, and names them. Or list \
             in TABLES the tables to send, without this one. Removing the table from the publication does \
             not help: the change is already in the log"
        }
        OversizePolicy::Omit => {
            "The event is too large even without its large columns, because of its key or its many small \
             columns. List in TABLES the tables to send, without this one"
        }
    }
}
