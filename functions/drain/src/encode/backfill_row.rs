//! Rows that a backfill read from a table, not from the log.

use std::sync::Arc;

use crate::change::{Relation, Tuple};

/// Place of a row among the backfill rows of its table.
///
/// Debezium distinguishes the same places in an incremental snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPlace {
    /// The first of several rows.
    First,
    /// A row between the first and the last.
    Within,
    /// The last row, or the only one.
    Last,
}

impl SnapshotPlace {
    /// Value of the field `snapshot`, with Debezium's names.
    pub(super) fn name(self) -> &'static str {
        match self {
            SnapshotPlace::First => "first_in_data_collection",
            SnapshotPlace::Within => "incremental",
            SnapshotPlace::Last => "last_in_data_collection",
        }
    }
}

/// A row that a backfill read.
#[derive(Debug, Clone, Copy)]
pub struct BackfillRow<'r> {
    /// The table.
    pub relation: &'r Arc<Relation>,
    /// The values.
    pub values: &'r Tuple<'r>,
    /// The row's place among the rows of its table.
    pub place: SnapshotPlace,
}
