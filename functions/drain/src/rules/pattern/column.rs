//! Patterns with columns, for the variables `COLUMN_RULES` and `PARTITION_KEYS`.

use std::fmt;

use super::{NamePattern, PatternParser, TablePattern, parse_entries};
use crate::base::table_name::TableName;

/// A pattern `schema.table.column`, whose parts are as in a [`TablePattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnPattern {
    table: TablePattern,
    column: NamePattern,
}

impl ColumnPattern {
    /// The column pattern before the first colon, and the text after it.
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

    /// Whether the pattern may match columns of this table.
    pub fn matches_table(&self, table: &TableName) -> bool {
        self.table.matches(table)
    }

    /// Whether the part for columns matches this name.
    ///
    /// The table must match, too: see [`ColumnPattern::matches_table`].
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
///
/// A backslash escapes a colon in a name.
impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

/// A pattern of tables, and names of columns: `public.orders:tenant,customer_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumns {
    /// Pattern of the tables.
    pub table: TablePattern,
    /// The names of the columns.
    pub columns: Vec<String>,
}

/// Error: a text is not a table pattern with names of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a table with columns: expected one like public.orders:customer_id")]
pub struct InvalidTableColumns(String);

impl InvalidTableColumns {
    /// The text, or its first characters.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl TableColumns {
    /// Parses a list of entries that semicolons separate.
    ///
    /// Commas separate the columns of an entry.
    ///
    /// # Errors
    /// A text in the list is not an entry. The error has the first such text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidTableColumns> {
        let entry = |text| {
            let mut parser = PatternParser::new(text, &[':', ',', ';']);
            Some((Self::parse(&mut parser)?, parser.rest()))
        };
        parse_entries(text, ';', entry).map_err(InvalidTableColumns)
    }

    fn parse(parser: &mut PatternParser<'_>) -> Option<Self> {
        let table = parser.table()?;
        parser.chars.next_if(|(_, c)| *c == ':')?;
        let mut columns = Vec::new();
        loop {
            columns.push(parser.name()?.exact()?.to_owned());
            match parser.peek() {
                None | Some(';') => return Some(TableColumns { table, columns }),
                Some(',') => drop(parser.next()),
                Some(_) => return None,
            }
        }
    }
}

/// The form of `PARTITION_KEYS`, without quotes.
impl fmt::Display for TableColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |name: &String| NamePattern(vec![name.clone()]).to_string();
        let columns: Vec<String> = self.columns.iter().map(escaped).collect();
        write!(f, "{}:{}", self.table, columns.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_tables_with_their_columns() {
        let list = r#" public.orders:tenant, customer_id ;; *.items:"a,b;c";"#;
        let entries = TableColumns::parse_list(list).unwrap();
        let texts: Vec<String> = entries.iter().map(TableColumns::to_string).collect();
        assert_eq!(texts, ["public.orders:tenant,customer_id", r"*.items:a\,b\;c"]);
        assert_eq!(entries[1].columns, ["a,b;c"]);
        assert_eq!(TableColumns::parse_list(" ; ").unwrap(), []);
        for (list, invalid) in [
            ("orders:id", "orders:id"),
            ("a.b:", "a.b:"),
            ("a.b:c;a.d", "a.d"),
            ("a.b:c,", "a.b:c,"),
            ("a.b:c*", "a.b:c*"),
            ("a.b:c.d", "a.b:c.d"),
            ("a.b,a.c:d", "a.b,a.c:d"),
        ] {
            let error = TableColumns::parse_list(list).unwrap_err();
            assert_eq!(error.text(), invalid, "{list}");
        }
    }
}
