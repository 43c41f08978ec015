//! A row that a change needs from the server: the request, and its answer.

/// A request for a row that has unchanged large values, by the key that a change gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest {
    /// The key, one text for each of its columns.
    pub key: Vec<String>,
    /// The transaction of the change. Before it is visible, another row has this key.
    pub xid: u32,
}

/// The answer to a [`RowRequest`].
#[derive(Debug)]
pub enum RowLookup {
    /// The row, as `COPY` writes it.
    Row(Vec<u8>),
    /// No row has this key any more. The change that deleted or moved it follows in the log.
    Gone,
    /// The row could not be read, and why.
    Unknown(String),
}
