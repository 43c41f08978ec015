//! The lookup of a row that a change needs from the server: request and answer.

/// A request for a row that a change moved to another key.
///
/// The unchanged large values of the change are read from that row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest {
    /// The row's new key, one text for each column.
    pub key: Vec<String>,
    /// The transaction of the change. Until it is visible, another row may have this key.
    pub xid: u32,
}

/// The answer to a [`RowRequest`].
#[derive(Debug)]
pub enum RowLookup {
    /// The row, as `COPY` writes it.
    Row(Vec<u8>),
    /// No row has this key any more. The change that deleted or moved it follows in the log.
    Gone,
    /// The row could not be read, for this reason.
    Unknown(String),
}
