//! What the stream already has, when a window begins.

use std::sync::Arc;

use crate::base::lsn::Lsn;
use crate::continuity::checkpoint::{AckAhead, ResumePoint};
use crate::continuity::marker::Marker;

/// Changes that the stream already has, and the readable position.
#[derive(Debug)]
pub(crate) struct SentHistory {
    /// The settled position: the stream has the log's transactions that end at or before it.
    pub(crate) settled: Lsn,
    /// Position up to which this drain has queued the transactions.
    ///
    /// This drain has queued or sent each transaction that ends at or before it. Or the transaction is
    /// settled.
    pub(crate) queued_upto: Lsn,
    /// The acknowledged position: the stream has all transactions up to it, perhaps of another history.
    pub(crate) acknowledged: Lsn,
    /// Resume point of the next transaction, if it was partly acknowledged.
    ///
    /// The stream has the part before this point.
    pub(crate) resume: Option<ResumePoint>,
    /// The marker that the slot must return; `None` once it did.
    pub(crate) expected: Option<Marker>,
    /// Acknowledged changes after the acknowledged position.
    ///
    /// `None` unless the log contains their marker.
    pub(crate) ahead: Option<Arc<AckAhead>>,
    /// The readable position: transactions that end after it are left to a later window.
    pub(crate) readable: Lsn,
}
