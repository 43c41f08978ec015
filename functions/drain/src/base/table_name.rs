//! Names of tables, and quoting of SQL identifiers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::keywords::is_keyword;

/// Name of a table with its schema.
///
/// Both parts are spelled as in the catalog. Names are ordered by schema, then by name. In a stored document,
/// a name is a pair: `["public","orders"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct TableName {
    /// The schema, without quotes.
    pub schema: String,
    /// The table, without quotes.
    pub name: String,
}

impl TableName {
    /// The name with these parts, both without quotes.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// Schema and name with a period between them, never quoted.
    ///
    /// Partition keys contain this form. A different form would move the rows of a table to another lane.
    pub fn unquoted(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Appends [`TableName::unquoted`].
    pub fn write_unquoted(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.schema.as_bytes());
        out.push(b'.');
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Both parts in quotes, for SQL that Spillway runs.
    pub fn to_sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// The name with quotes around each part that needs them.
///
/// The form of each part is that of PostgreSQL's `quote_ident`: see [`quoted_if_needed`].
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            quoted_if_needed(&self.schema),
            quoted_if_needed(&self.name)
        )
    }
}

impl From<(String, String)> for TableName {
    fn from((schema, name): (String, String)) -> Self {
        TableName { schema, name }
    }
}

impl From<TableName> for (String, String) {
    fn from(table: TableName) -> Self {
        (table.schema, table.name)
    }
}

/// An SQL identifier in quotes; a quote inside it is doubled.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// An SQL identifier, in quotes unless it is plain.
///
/// A plain identifier consists of lower-case ASCII letters, digits and underscores, does not start with a
/// digit, and is no keyword. The keywords are those of every version, so an older server may need fewer
/// quotes.
pub fn quoted_if_needed(identifier: &str) -> String {
    let is_plain_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_with_digit = identifier.starts_with(|c: char| c.is_ascii_digit());
    let is_plain = !identifier.is_empty() && !starts_with_digit && identifier.chars().all(is_plain_char);
    match is_plain && !is_keyword(identifier) {
        true => identifier.to_owned(),
        false => quoted(identifier),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_name_has_quotes_only_if_sql_needs_them() {
        for (schema, name, shown) in [
            ("public", "orders", "public.orders"),
            ("My app", "status", "\"My app\".status"),
            ("app", "Order\"s", "app.\"Order\"\"s\""),
            ("app", "2024", "app.\"2024\""),
            ("app", "a.b", "app.\"a.b\""),
            ("user", "order", "\"user\".\"order\""),
            ("name", "level", "name.level"),
        ] {
            assert_eq!(TableName::new(schema, name).to_string(), shown);
        }
    }

    #[test]
    fn the_sql_form_quotes_both_parts() {
        assert_eq!(TableName::new("a\"b", "c").to_sql(), "\"a\"\"b\".\"c\"");
    }

    #[test]
    fn a_name_is_stored_as_a_pair() {
        let table = TableName::new("public", "orders");
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(text, r#"["public","orders"]"#);
        assert_eq!(serde_json::from_str::<TableName>(&text).unwrap(), table);
    }
}
