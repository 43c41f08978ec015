//! Catalog information that the output plugins do not send.
//!
//! It holds the keys of tables, the columns that an update may omit, the modifiers of types, and the base
//! types of domains. Spillway reads a table from the system catalog when the first row of a window names it.
//!
//! The catalog shows the present, and the log describes the past. So information from a plugin takes
//! precedence, and the catalog only adds what the plugin does not send.

use std::collections::HashMap;

use crate::change::format_type::bare_name;
use crate::lsn::Lsn;
use crate::table_name::TableName;

/// The tables and domains of one database.
///
/// A catalog that is made by [`Catalog::default`] has every table. A partial one has only the tables that
/// were read, and [`Catalog::lacks`] the others.
#[derive(Debug, Default)]
pub struct Catalog {
    /// `None` for a name that was read and that no table has.
    tables: HashMap<TableName, Option<CatalogTable>>,
    /// Names of relations that are no tables. See [`Catalog::insert_untracked`].
    untracked: HashMap<TableName, Lsn>,
    /// Whether some tables were not read yet.
    is_partial: bool,
    /// Base types by the domain's name without quotes: wal2json sends names without quotes.
    domains: HashMap<String, String>,
}

/// Tables that are to be read from the system catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRequest {
    /// The tables of these names.
    Named(Vec<TableName>),
    /// Every table of the database, but no other relation that [`Catalog::insert_untracked`] may add.
    All,
}

/// Catalog information about one table.
#[derive(Debug, Default, Clone)]
pub struct CatalogTable {
    /// Columns of the key; may be empty.
    ///
    /// They are the columns of the replica identity's index. If the replica identity is `full` or `nothing`,
    /// they are those of the primary key.
    pub key: Vec<String>,
    /// Columns of the primary key, in any order. May be empty.
    pub primary_key: Vec<String>,
    /// Whether the primary key is deferrable.
    ///
    /// Two rows may then have the same key inside a transaction, so the key defines no order. `key` does not
    /// hold its columns.
    pub deferrable: bool,
    /// Whether the replica identity is `full`.
    pub identity_full: bool,
    /// All columns, in table order.
    pub columns: Vec<CatalogColumn>,
}

/// Catalog information about one column.
#[derive(Debug, Clone)]
pub struct CatalogColumn {
    /// The column's name.
    pub name: String,
    /// The declared type as `format_type` prints it; may be a domain.
    pub type_name: String,
    /// Whether large values may be stored outside the row (TOAST).
    ///
    /// The log does not hold such a value if an update does not change it.
    pub toastable: bool,
}

impl CatalogTable {
    /// The columns that an update may omit.
    pub fn toastable(&self) -> impl DoubleEndedIterator<Item = &CatalogColumn> {
        self.columns.iter().filter(|column| column.toastable)
    }
}

/// The most levels of nested domains that are resolved.
///
/// The base type of a domain may be an array of another domain. The bound ends the loop for every catalog.
const MAX_DOMAIN_LEVELS: usize = 8;

impl Catalog {
    /// A catalog whose tables are read as the rows name them.
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

    /// Whether some tables were not read yet.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Adds or replaces a table.
    pub fn insert(&mut self, name: TableName, table: CatalogTable) {
        self.tables.insert(name, Some(table));
    }

    /// Adds a name that no table has.
    pub fn insert_missing(&mut self, name: TableName) {
        self.tables.insert(name, None);
    }

    /// Adds the name of a relation that is not a table of a user, such as a materialized view.
    ///
    /// The relation has the name since the commit that ends at `since`. Before, a table may have had it.
    pub fn insert_untracked(&mut self, name: TableName, since: Lsn) {
        self.tables.insert(name.clone(), None);
        self.untracked.insert(name, since);
    }

    /// Whether a row of this name is a row of a table, if its transaction's commit ends at `commit_end`.
    ///
    /// A name that the catalog does not have is that of a table that was dropped since.
    pub fn is_table(&self, name: &TableName, commit_end: Lsn) -> bool {
        self.untracked.get(name).is_none_or(|since| commit_end < *since)
    }

    /// Adds a domain and its base type, both named as `format_type` prints them.
    pub fn insert_domain(&mut self, name: &str, base_type: String) {
        self.domains.insert(without_quotes(name), base_type);
    }

    /// The table of this name; `None` if the catalog does not hold it.
    ///
    /// The table was then dropped or renamed, or it was created after the catalog was read.
    pub fn table(&self, name: &TableName) -> Option<&CatalogTable> {
        self.tables.get(name)?.as_ref()
    }

    /// The type of a column, with domains replaced by their base types.
    ///
    /// `sent` is the plugin's name of the type, which may lack the modifier or the quotes. The declared type
    /// adds them if the column still has the same type.
    pub fn column_type(&self, table: Option<&CatalogTable>, column: &str, sent: &str) -> String {
        let sent = self.base_type(sent);
        let catalog_column = table.and_then(|table| table.columns.iter().find(|it| it.name == column));
        let Some(declared) = catalog_column.map(|column| self.base_type(&column.type_name)) else {
            return sent;
        };
        if bare_name(&declared) == bare_name(&sent) {
            declared
        } else {
            sent
        }
    }

    /// Names and types of the primary key's columns, in table order.
    pub fn primary_key_columns(&self, table: &CatalogTable) -> Vec<(String, String)> {
        let columns = table.columns.iter();
        columns
            .filter(|column| table.primary_key.contains(&column.name))
            .map(|column| (column.name.clone(), self.base_type(&column.type_name)))
            .collect()
    }

    /// The base type of a domain; another type is its own base type.
    ///
    /// `name` is the type's name as `format_type` prints it. An array of a domain becomes an array of its
    /// base type.
    pub fn base_type(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for _ in 0..MAX_DOMAIN_LEVELS {
            let element = name.trim_end_matches("[]");
            let Some(base_type) = self.domains.get(&without_quotes(element)) else {
                break;
            };
            // The name of an array has one pair of brackets, whatever its number of dimensions.
            let brackets = if element.len() < name.len() { "[]" } else { "" };
            name = format!("{base_type}{brackets}");
        }
        name
    }
}

fn without_quotes(name: &str) -> String {
    name.chars().filter(|c| *c != '"').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.insert_domain("price", "numeric(12,2)".into());
        catalog.insert_domain("\"Price list\"", "price[]".into());
        let column = |name: &str, type_name: &str| CatalogColumn {
            name: name.into(),
            type_name: type_name.into(),
            toastable: false,
        };
        let columns = vec![
            column("a", "numeric(10,4)"),
            column("b", "price"),
            column("c", "\"Mood\""),
        ];
        catalog.insert(
            TableName::new("public", "t"),
            CatalogTable {
                columns,
                ..CatalogTable::default()
            },
        );
        catalog
    }

    #[test]
    fn a_domain_and_an_array_of_a_domain_have_base_types() {
        for (name, expected) in [
            ("price", "numeric(12,2)"),
            ("price[]", "numeric(12,2)[]"),
            ("\"Price list\"", "numeric(12,2)[]"),
            ("Price list", "numeric(12,2)[]"),
            ("integer[]", "integer[]"),
        ] {
            assert_eq!(catalog().base_type(name), expected);
        }
    }

    #[test]
    fn a_partial_catalog_lacks_the_tables_that_were_not_read() {
        let (read, gone, unread) = (
            TableName::new("public", "read"),
            TableName::new("public", "gone"),
            TableName::new("public", "unread"),
        );
        let mut catalog = Catalog::partial();
        catalog.insert(read.clone(), CatalogTable::default());
        catalog.insert_missing(gone.clone());
        let lacks = |catalog: &Catalog| [&read, &gone, &unread].map(|name| catalog.lacks(name));
        assert_eq!(lacks(&catalog), [false, false, true]);
        assert!(catalog.table(&read).is_some() && catalog.table(&gone).is_none());
        assert_eq!(lacks(&Catalog::default()), [false; 3]);
    }

    #[test]
    fn a_name_is_that_of_a_table_until_a_view_takes_it() {
        let view = TableName::new("public", "v");
        let mut catalog = Catalog::partial();
        catalog.insert_untracked(view.clone(), Lsn(100));
        let is_table = |lsn| catalog.is_table(&view, Lsn(lsn));
        assert_eq!([99, 100, 101].map(is_table), [true, false, false]);
        assert!(catalog.is_table(&TableName::new("public", "dropped"), Lsn(101)));
        assert!(catalog.table(&view).is_none() && !catalog.lacks(&view));
    }

    #[test]
    fn a_domain_of_itself_ends_the_search() {
        let mut catalog = Catalog::default();
        catalog.insert_domain("d", "d[]".into());
        assert_eq!(catalog.base_type("d"), "d[][]");
    }

    #[test]
    fn the_catalog_adds_modifier_and_quotes_while_the_column_has_the_same_type() {
        let catalog = catalog();
        let table = catalog.table(&TableName::new("public", "t"));
        for (column, sent, expected) in [
            ("a", "numeric", "numeric(10,4)"),
            ("a", "integer", "integer"),
            ("b", "numeric", "numeric(12,2)"),
            ("b", "price", "numeric(12,2)"),
            ("c", "Mood", "\"Mood\""),
            ("gone", "text", "text"),
        ] {
            assert_eq!(catalog.column_type(table, column, sent), expected);
        }
        assert_eq!(catalog.column_type(None, "a", "numeric"), "numeric");
    }
}
