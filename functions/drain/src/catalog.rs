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
    /// Whether the primary key is deferrable: inside a transaction two rows may share it, so that it orders nothing. It is
    /// not in `key` then.
    pub deferrable: bool,
    /// All columns with the names of their types, in table order, where the identity is the whole row; else empty.
    pub whole: Vec<(String, String)>,
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
        let one = |name: &str| {
            let domain = self.domains.get(name).cloned();
            domain.unwrap_or_else(|| Type::of_name(name))
        };
        // An array of any dimension has one pair of brackets; to take all there are keeps `of_name` from
        // descending.
        match name.trim_end_matches("[]") {
            element if element.len() == name.len() => one(name),
            // The one built-in type whose arrays are not separated by commas (`typdelim`).
            "box" => Type::Text,
            element => Type::Array(Box::new(one(element))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_a_domain_is_an_array_of_what_the_domain_is_made_of() {
        let mut catalog = Catalog::default();
        catalog.insert_domain("positive".into(), Type::Integer);
        assert_eq!(catalog.type_of("positive"), Type::Integer);
        assert_eq!(
            catalog.type_of("positive[]"),
            Type::Array(Box::new(Type::Integer))
        );
        assert_eq!(
            catalog.type_of("numeric(10,2)[]"),
            Type::Array(Box::new(Type::Numeric))
        );
    }

    #[test]
    fn an_array_of_boxes_stays_text_because_it_is_separated_by_semicolons() {
        assert_eq!(Catalog::default().type_of("box[]"), Type::Text);
    }

    #[test]
    fn a_name_of_nothing_but_brackets_does_not_exhaust_the_stack() {
        let name = "[]".repeat(1_000_000);
        assert_eq!(
            Catalog::default().type_of(&name),
            Type::Array(Box::new(Type::Text))
        );
    }
}
