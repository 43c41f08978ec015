//! Relations that the rows of wal2json describe.

use std::collections::HashMap;
use std::sync::Arc;

use super::JsonColumn;
use super::virtual_columns::DroppedNulls;
use crate::base::table_name::TableName;
use crate::catalog::{Catalog, CatalogTable, PastTable};
use crate::change::{Column, ColumnCoverage, ColumnType, Relation};

/// The most shapes of one table that are stored.
///
/// An update may omit any set of large columns, and each set is a shape. Beyond this number a search of the
/// shapes costs more than a new relation.
pub(super) const MAX_SHAPES: usize = 64;

/// Relations by table and by the shape of the row.
///
/// Rows of one table differ in shape, because an update omits large values that it did not change.
#[derive(Debug, Default)]
pub(super) struct RelationCache {
    pub(super) shapes: HashMap<TableName, Vec<RowShape>>,
    /// See [`Catalog::generation`].
    generation: usize,
    /// Buffer for the name of a row's table: a lookup needs a whole `TableName`, and a new one would allocate
    /// twice.
    name: TableName,
}

impl RelationCache {
    /// The table as this row and the catalog describe it.
    ///
    /// The relation of an update also has the columns that the row may have omitted.
    pub(super) fn relation(
        &mut self,
        catalog: &Catalog,
        schema: &str,
        name: &str,
        row: RowDescription<'_, '_>,
    ) -> Arc<Relation> {
        if self.generation != catalog.generation() {
            self.generation = catalog.generation();
            self.shapes.clear();
        }
        self.name.schema.clear();
        self.name.schema.push_str(schema);
        self.name.name.clear();
        self.name.name.push_str(name);
        let shapes = self.shapes.get(&self.name);
        if let Some(shape) = shapes.and_then(|shapes| shapes.iter().find(|shape| shape.fits(&row))) {
            return Arc::clone(&shape.relation);
        }
        let relation = Arc::new(row.relation(catalog, self.name.clone()));
        let shapes = self.shapes.entry(self.name.clone()).or_default();
        if shapes.len() == MAX_SHAPES {
            shapes.clear();
        }
        shapes.push(RowShape::new(&row, Arc::clone(&relation)));
        relation
    }
}

/// Action and columns that determine the relation of a row.
#[derive(Debug)]
pub(super) struct RowShape {
    action: JsonAction,
    columns: Vec<ColumnShape>,
    identity: Vec<ColumnShape>,
    primary_key: Vec<ColumnShape>,
    dropped: DroppedNulls,
    relation: Arc<Relation>,
}

impl RowShape {
    fn new(row: &RowDescription<'_, '_>, relation: Arc<Relation>) -> Self {
        let shapes = |columns: &[JsonColumn<'_>]| columns.iter().map(ColumnShape::new).collect();
        RowShape {
            action: row.action,
            columns: shapes(row.columns),
            identity: shapes(row.identity),
            primary_key: shapes(row.primary_key),
            dropped: row.dropped,
            relation,
        }
    }

    fn fits(&self, row: &RowDescription<'_, '_>) -> bool {
        let fit = |shapes: &[ColumnShape], columns: &[JsonColumn<'_>]| {
            shapes.len() == columns.len()
                && shapes
                    .iter()
                    .zip(columns)
                    .all(|(shape, column)| shape.fits(column))
        };
        self.action == row.action
            && self.dropped == row.dropped
            && fit(&self.columns, row.columns)
            && fit(&self.identity, row.identity)
            && fit(&self.primary_key, row.primary_key)
    }
}

/// Name and type of a column, as the row has them.
///
/// If an update omits a large value, only the old row has the column and its type.
#[derive(Debug)]
struct ColumnShape {
    name: String,
    type_name: String,
    type_oid: Option<u32>,
}

impl ColumnShape {
    fn new(column: &JsonColumn<'_>) -> Self {
        ColumnShape {
            name: column.name.to_string(),
            type_name: column.type_name.to_string(),
            type_oid: column.type_oid,
        }
    }

    fn fits(&self, column: &JsonColumn<'_>) -> bool {
        self.name == column.name && self.type_name == column.type_name && self.type_oid == column.type_oid
    }
}

/// Action of a row that changes a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JsonAction {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// The part of a row that describes its table.
#[derive(Clone, Copy)]
pub(super) struct RowDescription<'r, 'a> {
    pub(super) action: JsonAction,
    /// The columns of the row. For a delete they are the columns of its old row.
    pub(super) columns: &'r [JsonColumn<'a>],
    /// The columns of an update's old row.
    pub(super) identity: &'r [JsonColumn<'a>],
    pub(super) primary_key: &'r [JsonColumn<'a>],
    /// Nulls that were removed from `columns` and `identity`.
    pub(super) dropped: DroppedNulls,
}

impl RowDescription<'_, '_> {
    /// The table as this row and the catalog describe it.
    fn relation(&self, catalog: &Catalog, name: TableName) -> Relation {
        let (table, past) = (catalog.table(&name), catalog.past_table_named(&name));
        let key = self.key(past, table);
        let new_column =
            |name: &str, column_type| Column::new(name.to_owned(), column_type, key.contains(&name));
        let typed = |column: &JsonColumn<'_>| new_column(&column.name, column_type(catalog, past, column));
        let mut columns: Vec<Column> = self.columns.iter().map(typed).collect();
        let coverage = match self.action {
            JsonAction::Insert if self.dropped.may_be_values => ColumnCoverage::Row,
            JsonAction::Insert => ColumnCoverage::Whole,
            JsonAction::Delete | JsonAction::Truncate => ColumnCoverage::Row,
            JsonAction::Update => {
                merge(&mut columns, self.identity.iter().map(typed));
                let sent = columns.len();
                let toastable = past.into_iter().flat_map(|past| past.now().toastable());
                // The row may be older than a column of the catalog.
                let toastable = toastable.filter(|column| past.is_some_and(|it| it.has_column(&column.name)));
                let toastable =
                    toastable.map(|column| new_column(&column.name, catalog.declared_type(column)));
                merge(&mut columns, toastable);
                let is_complete = |past: PastTable<'_>| {
                    let mut toastable = past.now().toastable();
                    toastable.all(|column| past.has_column(&column.name))
                };
                match past {
                    _ if self.dropped.may_be_values => ColumnCoverage::Row,
                    Some(_) if columns.len() > sent => ColumnCoverage::Completed,
                    Some(past) if is_complete(past) => ColumnCoverage::Whole,
                    // The catalog does not show which columns the table had. So the row may omit a column.
                    _ => ColumnCoverage::Row,
                }
            }
        };
        let primary_key = self.primary_key.iter();
        Relation {
            partition_key_may_change: false,
            is_insert_only: key.is_empty()
                && past.is_some_and(|past| past.lacked_replica_identity(self.primary_key.is_empty())),
            table: name,
            columns,
            primary_key: primary_key
                .map(|column| (column.name.to_string(), column_type(catalog, past, column).name))
                .collect(),
            coverage,
        }
    }

    /// The names of the key's columns; empty if it is unknown.
    ///
    /// If an old row lacks a column of the row, its columns are those of the replica identity: they are the
    /// key. Otherwise the key is that of the catalog, if the fact is valid for the row, or else the primary
    /// key that the row names. If the row has an old row, the old row must contain each column of this key.
    ///
    /// The key is unknown if the index of the replica identity was dropped. It is usually unknown, too, if
    /// another index may have been the identity when the row was written. It is known only if an old row has
    /// exactly the columns of the key. More columns may be those of the other index.
    fn key<'k>(&'k self, past: Option<PastTable<'k>>, table: Option<&CatalogTable>) -> Vec<&'k str> {
        fn names<'k>(columns: &'k [JsonColumn<'_>]) -> Vec<&'k str> {
            columns.iter().map(|column| &*column.name).collect()
        }
        let (columns, identity) = (names(self.columns), names(self.identity));
        let is_whole =
            !self.dropped.identity_lacks_one && columns.iter().all(|column| identity.contains(column));
        if !identity.is_empty() && !is_whole {
            // An old row that is not the whole row has only the columns of the key.
            return identity;
        }
        let sent = if identity.is_empty() { columns } else { identity };
        let has_index = table.is_some_and(|table| table.identity == 'i');
        let catalog_key = past.filter(|past| has_index || past.logs_key_changes());
        let catalog_key = catalog_key.into_iter().flat_map(|past| past.key());
        let catalog_key: Vec<&str> = catalog_key.map(String::as_str).collect();
        let shows_identity = self.action == JsonAction::Delete || !self.identity.is_empty();
        let may_have_other_identity = match past {
            Some(past) => past.may_have_had_another_identity_index() || past.has_dropped_identity_index(),
            None => has_index || table.is_some_and(|table| table.recent.may_have_former_identity()),
        };
        if may_have_other_identity && !shows_identity {
            return Vec::new();
        }
        // A deferrable primary key need not be unique inside of a transaction, so it is no key.
        let primary_key = match table.is_some_and(|table| table.deferrable) {
            true => Vec::new(),
            false => names(self.primary_key),
        };
        let candidates = [catalog_key, primary_key];
        let is_sent = |key: &&Vec<&str>| !key.is_empty() && key.iter().all(|column| sent.contains(column));
        if let Some(key) = candidates.iter().find(is_sent) {
            let is_index_dropped = past.is_some_and(|past| past.has_dropped_identity_index());
            let may_be_other_key = shows_identity && key.len() < sent.len() && may_have_other_identity;
            return if is_index_dropped || may_be_other_key {
                Vec::new()
            } else {
                key.clone()
            };
        }
        // The table has a key, but the old row lacks it. So the old row is not the whole row: its columns are
        // those of the replica identity.
        if self.action == JsonAction::Delete && candidates.iter().any(|key| !key.is_empty()) {
            return sent;
        }
        Vec::new()
    }
}

/// The type of a column. `past` is its table. wal2json sends OIDs from version 2.5 on.
fn column_type(catalog: &Catalog, past: Option<PastTable<'_>>, column: &JsonColumn<'_>) -> ColumnType {
    match column.type_oid {
        Some(oid) => catalog.type_of_oid_and_name(oid, &column.type_name),
        None => catalog.type_of_name(past, &column.name, &column.type_name),
    }
}

/// Adds the columns of `more` that `columns` lacks, in table order.
///
/// Both lists are in table order. A new column is inserted before the column that follows it in `more`. So
/// the columns of a key always have the same order, whichever of them a row omits.
fn merge(columns: &mut Vec<Column>, more: impl DoubleEndedIterator<Item = Column>) {
    let mut index = columns.len();
    for column in more.rev() {
        match columns.iter().position(|it| it.name == column.name) {
            Some(at) => index = at,
            None => columns.insert(index, column),
        }
    }
}
