//! Catalog information that the output plugins do not send.
//!
//! It contains the keys of tables, the columns that an update may omit, and the types that are not built in.
//! Spillway reads a table from the system catalog when a row of the window first names it.
//!
//! The catalog shows the present, and the log describes the past. So information from a plugin takes
//! precedence, and the catalog only adds information that the plugin does not send.

mod past;
mod types;

use std::collections::{HashMap, HashSet};

pub use past::{FormerIdentity, PastTable, RecentWriters, precedes};

use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::change::ColumnType;
use types::TypeCatalog;
pub(crate) use types::without_quotes;
pub use types::{CatalogType, TypeForm};

/// The tables and types of one database.
///
/// The catalog of [`Catalog::default`] counts as complete. A partial catalog has only the tables that were
/// read. [`Catalog::lacks`] returns whether a table is yet to be read.
#[derive(Debug, Default)]
pub struct Catalog {
    /// `None` if the name was read, and no table has it.
    tables: HashMap<TableName, Option<CatalogTable>>,
    /// Names of relations that are not users' tables. See [`Catalog::insert_other_relation`].
    untracked: HashMap<TableName, Lsn>,
    /// Whether some tables were not read yet.
    is_partial: bool,
    types: TypeCatalog,
    /// Names of the tables by their OIDs.
    names: HashMap<u32, TableName>,
    /// OIDs that were read. A table need not have each of them.
    read_oids: HashSet<u32>,
    read: past::CatalogGeneration,
    /// Whether the server has virtual generated columns (PostgreSQL 18).
    ///
    /// The log does not contain values of these columns.
    pub has_virtual_columns: bool,
}

/// Tables to read from the system catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRequest {
    /// Single tables, by their present names or by their OIDs.
    Named {
        /// Names. A table need not have each of them.
        names: Vec<TableName>,
        /// OIDs. They also identify tables that were renamed.
        oids: Vec<u32>,
    },
    /// Every user's table of the database, except temporary tables.
    ///
    /// The relations of [`Catalog::insert_other_relation`] are not included.
    All,
}

/// Catalog information about one table.
#[derive(Debug, Default, Clone)]
pub struct CatalogTable {
    /// Its OID; 0 if it is not known.
    pub oid: u32,
    /// Columns of the key; may be empty.
    ///
    /// If the replica identity is an index, they are the columns of that index. Otherwise they are the
    /// columns of the primary key.
    pub key: Vec<String>,
    /// Columns of the primary key, in any order. May be empty.
    pub primary_key: Vec<String>,
    /// Whether the primary key is deferrable.
    ///
    /// Inside a transaction, two rows may then have the same primary key, so it defines no order of changes.
    /// `key` does not contain its columns.
    pub deferrable: bool,
    /// Whether the replica identity is `full`.
    pub identity_full: bool,
    /// The replica identity: `pg_class.relreplident`.
    pub identity: char,
    /// All columns, in table order.
    pub columns: Vec<CatalogColumn>,
    /// Whether at least one column is `not null`.
    ///
    /// All columns of a primary key are `not null`.
    pub has_not_null: bool,
    /// The generated columns whose values are not stored.
    pub virtual_columns: Vec<String>,
    /// Whether it is a partitioned table.
    pub is_partitioned: bool,
    /// Columns that determine a row's partition, for a partitioned table.
    ///
    /// They are the columns of all levels. `None` for any other table, and if an expression determines the
    /// partition.
    pub partition_columns: Option<Vec<String>>,
    /// OIDs of its leaf partitions, which store its rows.
    pub partitions: Vec<u32>,
    /// Transactions that wrote these facts.
    ///
    /// They may be newer than rows of the log.
    pub recent: RecentWriters,
}

/// Catalog information about one column.
#[derive(Debug, Clone)]
pub struct CatalogColumn {
    /// The column's name.
    pub name: String,
    /// OID of the declared type, which may be a domain.
    pub type_oid: u32,
    /// Modifier of the declared type; -1 without one.
    pub modifier: i32,
    /// Name of the declared type as `format_type` prints it with its modifier.
    pub type_name: String,
    /// Whether large values may be stored outside the row (TOAST).
    ///
    /// The log of an update does not contain such a value if the update does not change it.
    pub toastable: bool,
}

impl CatalogTable {
    /// Whether no change can refer to an existing row.
    ///
    /// No column identifies a row, and the replica identity is not `full`. Unlike
    /// [`PastTable::lacked_replica_identity`], this is also true if the index of the replica identity was
    /// dropped.
    pub fn is_insert_only(&self) -> bool {
        !self.identity_full && self.key.is_empty()
    }

    /// The columns that an update may omit.
    pub fn toastable(&self) -> impl DoubleEndedIterator<Item = &CatalogColumn> {
        self.columns.iter().filter(|column| column.toastable)
    }
}

impl Catalog {
    /// A catalog whose tables are read when rows first name them.
    pub fn partial() -> Self {
        Catalog {
            is_partial: true,
            ..Catalog::default()
        }
    }

    /// Whether the table of this name was not read yet.
    pub fn lacks(&self, name: &TableName) -> bool {
        self.is_partial && !self.tables.contains_key(name)
    }

    /// Whether the table with this OID was not read yet.
    pub fn lacks_oid(&self, oid: u32) -> bool {
        self.is_partial && !self.names.contains_key(&oid) && !self.read_oids.contains(&oid)
    }

    /// Whether some tables were not read yet.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Adds or replaces a table.
    pub fn insert(&mut self, name: TableName, table: CatalogTable) {
        for column in &table.columns {
            self.types
                .insert_name(column.type_oid, column.modifier, &column.type_name);
        }
        self.note_recent(&table.recent);
        self.names.insert(table.oid, name.clone());
        self.tables.insert(name, Some(table));
    }

    /// Adds a name that no table has.
    pub fn insert_missing(&mut self, name: TableName) {
        self.tables.insert(name, None);
    }

    /// Marks an OID as read.
    ///
    /// If a table has this OID, [`Catalog::insert`] adds the table.
    pub fn insert_read_oid(&mut self, oid: u32) {
        self.read_oids.insert(oid);
    }

    /// Adds the name of a relation that is not a user's table.
    ///
    /// Such a relation is a materialized view, for example. The relation has the name since the commit that
    /// ends at `since`. Before, a table may have had it.
    pub fn insert_other_relation(&mut self, name: TableName, since: Lsn) {
        self.tables.insert(name.clone(), None);
        self.untracked.insert(name, since);
    }

    /// Whether a row with this relation name belongs to a user's table.
    ///
    /// The commit of the row's transaction ends at `commit_end`. An unknown name is that of a table that was
    /// dropped since.
    pub fn is_table(&self, name: &TableName, commit_end: Lsn) -> bool {
        self.untracked.get(name).is_none_or(|since| commit_end < *since)
    }

    /// Adds a type that is not built in.
    pub fn insert_type(&mut self, catalog_type: CatalogType) {
        self.types.insert(catalog_type);
    }

    /// Whether no change can refer to an existing row of this table.
    ///
    /// For a partitioned table, the same must be true of each partition. A partition that was not read is not
    /// insert-only.
    pub fn is_insert_only(&self, table: &CatalogTable) -> bool {
        let partitions = table.partitions.iter();
        let mut partitions = partitions.map(|oid| self.table(self.names.get(oid)?));
        let is_insert_only = |it: Option<&CatalogTable>| it.is_some_and(CatalogTable::is_insert_only);
        table.is_insert_only() && partitions.all(is_insert_only)
    }

    /// Whether the catalog has types that are not built in.
    ///
    /// False until they were read, and always false for a database without such types.
    pub fn has_types(&self) -> bool {
        !self.types.is_empty()
    }

    /// The table of this name.
    ///
    /// `None` if the catalog does not contain it. The table was then not read yet, or dropped, or renamed, or
    /// created after the catalog was read.
    pub fn table(&self, name: &TableName) -> Option<&CatalogTable> {
        self.tables.get(name)?.as_ref()
    }

    /// The type with this OID and modifier; `None` if it was dropped.
    pub fn type_of_oid(&self, oid: u32, modifier: i32) -> Option<ColumnType> {
        self.types.of_oid(oid, modifier)
    }

    /// The type with this schema and name in `pg_type`.
    ///
    /// An empty schema means `pg_catalog`. pgoutput sends both names. They are needed only if the type's OID
    /// no longer exists.
    pub fn type_of_catalog_name(&self, schema: &str, name: &str) -> ColumnType {
        self.types.of_catalog_name(schema, name)
    }

    /// The type of a column whose plugin sends the type's name only.
    ///
    /// The name `sent` may lack the modifier, which the catalog has in the column's declared type. The
    /// declared type is used only if it has this name, and if the column was not altered since. The modifier
    /// of an altered column could cut digits of the value. `past` is the table.
    pub fn type_of_name(&self, past: Option<PastTable<'_>>, column: &str, sent: &str) -> ColumnType {
        let declared = past.and_then(|past| past.column(column)).filter(|declared| {
            declared.type_name == sent || self.types.name_alone(declared.type_oid).as_deref() == Some(sent)
        });
        declared
            .and_then(|declared| self.types.of_oid(declared.type_oid, declared.modifier))
            .unwrap_or_else(|| self.types.of_name(sent))
    }

    /// The type of a column whose plugin sends OID and name.
    ///
    /// The name `sent` has the modifier. If the type is a domain, the name is that of its base type.
    pub fn type_of_oid_and_name(&self, oid: u32, sent: &str) -> ColumnType {
        self.types.of_oid_and_name(oid, sent)
    }

    /// The declared type of a column.
    pub fn declared_type(&self, column: &CatalogColumn) -> ColumnType {
        self.types
            .of_oid(column.type_oid, column.modifier)
            .unwrap_or_else(|| ColumnType::unknown(&*column.type_name))
    }

    /// Names and types of the primary key's columns, in table order.
    pub fn primary_key_columns(&self, table: &CatalogTable) -> Vec<(String, String)> {
        let columns = table.columns.iter();
        columns
            .filter(|column| table.primary_key.contains(&column.name))
            .map(|column| (column.name.clone(), self.declared_type(column).name))
            .collect()
    }
}

#[cfg(test)]
mod tests;
