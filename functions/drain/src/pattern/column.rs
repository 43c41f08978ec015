//! Patterns of columns, for the variable `COLUMN_RULES`.

use std::fmt;

use super::{NamePattern, PatternParser, TablePattern};
use crate::table_name::TableName;

/// A pattern `schema.table.column`, whose parts are as in a [`TablePattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnPattern {
    table: TablePattern,
    column: NamePattern,
}

impl ColumnPattern {
    /// The pattern before the first colon of a text, and the text after that colon.
    ///
    /// Returns `None` if there is no pattern before a colon. A colon in a name needs quotes or a backslash.
    pub fn parse_before_colon(text: &str) -> Option<(Self, &str)> {
        let mut parser = PatternParser::new(text, &[':', ',']);
        let table = parser.table()?;
        parser.period()?;
        let column = parser.name()?;
        let rest = parser.rest().strip_prefix(':')?;
        Some((ColumnPattern { table, column }, rest))
    }

    /// Whether it matches columns of this table.
    pub fn matches_table(&self, table: &TableName) -> bool {
        self.table.matches(table)
    }

    /// Whether it matches this column of a table that it matches.
    pub fn matches_column(&self, column: &str) -> bool {
        self.column.matches(column)
    }

    /// Schema, table and column as patterns of SQL's `like`.
    pub fn to_like(&self) -> [String; 3] {
        let (schema, table) = self.table.to_like();
        [schema, table, self.column.to_like()]
    }
}

/// The form of `COLUMN_RULES`, without quotes.
impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}
