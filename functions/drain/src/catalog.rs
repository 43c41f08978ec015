//! What the plugins do not tell, read from the system catalog before a window is opened: the keys of tables, the columns an
//! update may leave out, the modifiers of types, and what a domain is made of.
//!
//! The catalog shows the present and the log tells of the past. So the catalog only fills in; where a plugin does tell,
//! the plugin is believed.

use std::collections::HashMap;

use crate::change::format_type::bare_name;
use crate::table_name::TableName;

/// The tables of one database.
#[derive(Debug, Default)]
pub struct Catalog {
    tables: HashMap<TableName, CatalogTable>,
    /// By their names without quotes: wal2json leaves them out.
    domains: HashMap<String, String>,
}

/// What the catalog knows of one table.
#[derive(Debug, Default, Clone)]
pub struct CatalogTable {
    /// Columns of the replica identity's index; of the primary key when the identity is the whole row or nothing. May be empty.
    pub key: Vec<String>,
    /// Columns of the primary key, in any order. May be empty.
    pub primary_key: Vec<String>,
    /// Whether the primary key is deferrable: inside a transaction two rows may share it, so that it orders nothing. It is
    /// not in `key` then.
    pub deferrable: bool,
    /// Whether the replica identity is the whole row.
    pub identity_full: bool,
    /// All columns, in table order.
    pub columns: Vec<CatalogColumn>,
}

/// What the catalog knows of a column.
#[derive(Debug, Clone)]
pub struct CatalogColumn {
    /// Its name.
    pub name: String,
    /// Its type as it was declared, perhaps a domain, as `format_type` prints it.
    pub type_name: String,
    /// Whether its large values may stand outside the row. An update that leaves such a value alone does not log it.
    pub toastable: bool,
}

impl CatalogTable {
    /// The columns that an update may leave out.
    pub fn toastable(&self) -> impl DoubleEndedIterator<Item = &CatalogColumn> {
        self.columns.iter().filter(|column| column.toastable)
    }
}

/// Domains may be made of arrays of domains, and so on; nobody goes further than this.
const MOST_LEVELS: usize = 8;

impl Catalog {
    /// Adds a table.
    pub fn insert(&mut self, name: TableName, table: CatalogTable) {
        self.tables.insert(name, table);
    }

    /// Adds a domain and what it is made of, by the names that `format_type` prints.
    pub fn insert_domain(&mut self, name: &str, made_of: String) {
        self.domains.insert(unquoted(name), made_of);
    }

    /// A table; `None` when it was dropped or renamed since, or came after the catalog was read.
    pub fn table(&self, name: &TableName) -> Option<&CatalogTable> {
        self.tables.get(name)
    }

    /// The name of a column's type, domains resolved. `told` is what the plugin says of it, perhaps without modifier or quotes;
    /// these are taken from the column as it is now, if that is still of this type.
    pub fn column_type(&self, table: Option<&CatalogTable>, column: &str, told: &str) -> String {
        let resolved = self.base_type(told);
        let declared = table.and_then(|table| table.columns.iter().find(|known| known.name == column));
        let Some(declared) = declared.map(|known| self.base_type(&known.type_name)) else {
            return resolved;
        };
        if bare_name(&declared) == bare_name(&resolved) {
            declared
        } else {
            resolved
        }
    }

    /// Names and types of the columns of a table's primary key, in table order.
    pub fn primary_key_columns(&self, table: &CatalogTable) -> Vec<(String, String)> {
        let columns = table.columns.iter();
        columns
            .filter(|known| table.primary_key.contains(&known.name))
            .map(|known| (known.name.clone(), self.base_type(&known.type_name)))
            .collect()
    }

    /// A type by the name that `format_type` prints, as what it is made of if it is a domain, or an array of a domain.
    pub fn base_type(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for _ in 0..MOST_LEVELS {
            let element = name.trim_end_matches("[]");
            let Some(made_of) = self.domains.get(&unquoted(element)) else {
                break;
            };
            // An array of any dimension has one pair of brackets.
            let brackets = if element.len() < name.len() { "[]" } else { "" };
            name = format!("{made_of}{brackets}");
        }
        name
    }
}

fn unquoted(name: &str) -> String {
    name.chars().filter(|c| *c != '"').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.insert_domain("price", "numeric(12,2)".into());
        catalog.insert_domain("\"Price list\"", "price[]".into());
        let known = |name: &str, type_name: &str| CatalogColumn {
            name: name.into(),
            type_name: type_name.into(),
            toastable: false,
        };
        let columns = vec![
            known("a", "numeric(10,4)"),
            known("b", "price"),
            known("c", "\"Mood\""),
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
    fn a_domain_and_an_array_of_it_are_what_the_domain_is_made_of() {
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
    fn a_domain_of_itself_does_not_go_on_for_ever() {
        let mut catalog = Catalog::default();
        catalog.insert_domain("d", "d[]".into());
        assert_eq!(catalog.base_type("d"), "d[][]");
    }

    #[test]
    fn what_the_plugin_leaves_out_of_a_type_is_filled_in_while_it_is_still_that_type() {
        let catalog = catalog();
        let table = catalog.table(&TableName::new("public", "t"));
        for (column, told, expected) in [
            ("a", "numeric", "numeric(10,4)"),
            ("a", "integer", "integer"),
            ("b", "numeric", "numeric(12,2)"),
            ("b", "price", "numeric(12,2)"),
            ("c", "Mood", "\"Mood\""),
            ("gone", "text", "text"),
        ] {
            assert_eq!(catalog.column_type(table, column, told), expected);
        }
        assert_eq!(catalog.column_type(None, "a", "numeric"), "numeric");
    }
}
