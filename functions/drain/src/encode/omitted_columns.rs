//! The set of columns that an event does not have.

/// Columns omitted from an event, as indexes into the relation's columns.
#[derive(Debug, Default)]
pub(super) struct OmittedColumns(pub(super) Vec<usize>);

impl OmittedColumns {
    /// No column is omitted.
    pub(super) const NONE: OmittedColumns = OmittedColumns(Vec::new());

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the column at an index of the relation's columns is omitted.
    pub(super) fn contains(&self, column: usize) -> bool {
        self.0.contains(&column)
    }
}
