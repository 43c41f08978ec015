//! Row lookup: the request and the answer.

/// A request for the present row after a key change.
///
/// The row has the unchanged large values, which the change lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest {
    /// The row's new key, one text for each column.
    pub key: Vec<String>,
    /// The transaction of the change.
    ///
    /// Until this transaction is visible, another row may have the key.
    pub xid: u32,
}

/// The answer to a [`RowRequest`].
#[derive(Debug)]
pub enum RowLookup {
    /// The row, as `COPY` writes it.
    Row(Vec<u8>),
    /// No row has this key any more.
    ///
    /// The change that deleted the row, or changed its key again, follows in the log.
    Gone,
    /// The row could not be read, for this reason.
    Unknown(String),
}
