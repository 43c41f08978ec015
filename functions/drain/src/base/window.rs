//! The window: the range of the log that one peek reads.

use crate::base::lsn::Lsn;

/// Bounds of the range that one peek reads.
///
/// The range begins at the slot's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The end of the window. Never after the flush position.
    ///
    /// The peek reads each log record that starts before it, unless the row bound ends the window earlier.
    pub upto: Lsn,
    /// The row bound of the window.
    ///
    /// After this number of rows, the server stops at the next end of a transaction.
    pub rows: i32,
    /// Acknowledged rows that the server need not send again.
    pub acknowledged_prefix: Option<AcknowledgedPrefix>,
}

/// The acknowledged first part of a large transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcknowledgedPrefix {
    /// The transaction's id.
    pub xid: u32,
    /// Its end: the transaction's changes with a smaller LSN were acknowledged.
    pub end: Lsn,
}
