//! What the plugins do not tell, read from the system catalog before a window is opened: the key of a table whose
//! identity is the whole row, the columns an update may leave out, and what a domain is made of.
//!
//! The catalog shows the present and the log tells of the past. So the catalog only fills in; where a plugin does tell,
//! the plugin is believed.

use std::collections::HashMap;

use crate::change::Type;

/// The tables of one database.
#[derive(Debug, Default)]
pub struct Catalog {
    tables: HashMap<String, HashMap<String, Table>>,
    domains: HashMap<String, Type>,
}

/// What the catalog knows of one table.
#[derive(Debug, Default, Clone)]
pub struct Table {
    /// Columns of the replica identity's index; of the primary key when the identity is the whole row or nothing. May be empty.
    pub key: Vec<String>,
    /// Columns whose large values may stand outside the row, in table order. An update that leaves such a value alone
    /// does not log it.
    pub toastable: Vec<(String, Type)>,
}

impl Catalog {
    /// Adds a table.
    pub fn insert(&mut self, schema: &str, name: &str, table: Table) {
        self.tables
            .entry(schema.to_owned())
            .or_default()
            .insert(name.to_owned(), table);
    }

    /// Adds a domain, by the name that `format_type` prints.
    pub fn insert_domain(&mut self, name: String, base: Type) {
        self.domains.insert(name, base);
    }

    /// A table; `None` when it was dropped or renamed since, or came after the catalog was read.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Table> {
        self.tables.get(schema)?.get(name)
    }

    /// A type by the name that `format_type` prints, domains resolved.
    pub fn type_of(&self, name: &str) -> Type {
        self.domains
            .get(name)
            .cloned()
            .unwrap_or_else(|| Type::of_name(name))
    }
}
