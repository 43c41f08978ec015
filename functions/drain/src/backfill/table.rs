//! A table of a backfill: its columns, its key and the order of its key.

use std::fmt;
use std::sync::Arc;

use crate::base::table_name::TableName;
use crate::change::Relation;

/// A table that can be backfilled.
#[derive(Debug, Clone)]
pub struct BackfillTable {
    /// The relation of its rows' events.
    pub relation: Arc<Relation>,
    /// Its object id.
    pub oid: u32,
    /// The names of the columns that identify a row.
    ///
    /// The rows are read in the order of these columns.
    pub key: Vec<String>,
    /// The indexes of these columns in the columns of `relation`.
    pub key_indexes: Vec<usize>,
    /// The order of each of these columns.
    pub key_order: Vec<KeyOrder>,
    /// For each column of `relation`, whether it is read.
    pub(super) selected: Vec<bool>,
    /// The size probe of each column of `relation`.
    pub(super) size_probes: Vec<SizeProbe>,
    /// Whether it is a partitioned table, whose rows are in its partitions.
    pub(super) is_root: bool,
    /// SQL conditions that a row must meet.
    ///
    /// They are the row filter of the publications, and the condition of the request.
    pub(super) conditions: Vec<String>,
    /// Whether the last condition is that of the request.
    pub has_request_condition: bool,
    /// The number of rows that the server's statistics estimate.
    pub estimate: Option<u64>,
}

/// The order of a key column: the operators of its index, in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOrder {
    /// `operator(pg_catalog.<)`
    pub less: String,
    /// `operator(pg_catalog.=)`
    pub equal: String,
    /// `operator(pg_catalog.>=)`
    pub at_least: String,
    /// `operator(pg_catalog.>)`
    pub greater: String,
    /// The collation of the index, in SQL.
    ///
    /// `None` if it is the collation of the column.
    pub collation: Option<String>,
    /// Whether the index, read in ascending order, begins with nulls.
    ///
    /// The columns of a key have no nulls. But the server uses the index only for the index's own order.
    pub nulls_first: bool,
    /// The type that the column must be cast to, in SQL.
    ///
    /// `None` if the operators accept the column's own type. Those of enums do not accept a domain.
    pub column_cast: Option<String>,
    /// The type that a value must be cast to, in SQL.
    ///
    /// `None` if the operators infer it.
    pub cast: Option<String>,
    /// The object ids that determine the order: type, operator class and collation.
    pub identity: String,
}

/// Method of measuring the size of a column's values in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeProbe {
    /// None: the values are never large.
    No,
    /// That of text and binary values, which does not read the value.
    Text,
    /// That of other types. It reads a value only if the value is compressed.
    Other,
}

#[cfg(test)]
impl KeyOrder {
    /// The order of PostgreSQL's own types.
    pub(crate) fn plain(collation: Option<String>) -> Self {
        let operator = |name: &str| format!("operator(pg_catalog.{name})");
        KeyOrder {
            less: operator("<"),
            equal: operator("="),
            at_least: operator(">="),
            greater: operator(">"),
            collation,
            nulls_first: false,
            column_cast: None,
            cast: None,
            identity: "25 3126 100".to_owned(),
        }
    }
}

impl BackfillTable {
    /// Whether `relation` is this table.
    pub fn matches(&self, relation: &Relation) -> bool {
        self.relation.table == relation.table
    }

    /// Its name.
    pub fn name(&self) -> &TableName {
        &self.relation.table
    }

    /// The identity of the table and its order. A cursor is valid for one identity.
    ///
    /// It has the table's object id, because another table may have the name later. It also has the name of
    /// each key column, and the identity of the column's order.
    pub fn cursor_identity(&self) -> Vec<String> {
        let columns = self.key.iter().zip(&self.key_order);
        let columns = columns.map(|(name, order)| format!("{name} {}", order.identity));
        std::iter::once(self.oid.to_string()).chain(columns).collect()
    }

    /// Whether the column at this index is read.
    pub fn selects(&self, index: usize) -> bool {
        self.selected.get(index).copied().unwrap_or(false)
    }
}

impl fmt::Display for BackfillTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.relation.fmt(f)
    }
}
