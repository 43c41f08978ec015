//! Table patterns, for the variable `TABLES` and for backfill requests.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::table_name::TableName;

/// A pattern `schema.table`, where each part is a name or `*`.
///
/// Case matters. A backslash escapes the next character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TablePattern {
    schema: String,
    table: String,
}

impl TablePattern {
    /// Whether the pattern matches a table.
    pub fn matches(&self, table: &TableName) -> bool {
        (self.schema == "*" || self.schema == table.schema) && (self.table == "*" || self.table == table.name)
    }

    /// The pattern that matches every table.
    pub fn all() -> Self {
        TablePattern {
            schema: "*".to_owned(),
            table: "*".to_owned(),
        }
    }

    /// Whether it has a `*`, and so may match many tables.
    pub fn has_wildcard(&self) -> bool {
        self.schema == "*" || self.table == "*"
    }

    /// The table name of a pattern without wildcard.
    pub fn exact_name(&self) -> Option<TableName> {
        (!self.has_wildcard()).then(|| TableName::new(&self.schema, &self.table))
    }

    /// The pattern in the form of wal2json's `add-tables`.
    ///
    /// Special characters are escaped, except for a `*` that is a wildcard.
    pub fn to_wal2json(&self) -> String {
        let escape = |name: &str| {
            if name == "*" {
                return name.to_owned();
            }
            let special = |c| matches!(c, ' ' | ',' | '.' | '*' | '\'' | '\\');
            name.chars()
                .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
                .collect()
        };
        format!("{}.{}", escape(&self.schema), escape(&self.table))
    }
}

/// Whether one of the patterns matches a table. Without patterns every table matches.
pub fn matches_any(patterns: &[TablePattern], table: &TableName) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(table))
}

/// The form of `TABLES`.
impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, end) in [(&self.schema, "."), (&self.table, "")] {
            for c in name.chars() {
                if matches!(c, '.' | ',' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(c)?;
            }
            f.write_str(end)?;
        }
        Ok(())
    }
}

/// A text that is not two names with a period between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a table pattern: expected one like public.orders, public.* or *.orders")]
pub struct InvalidTablePattern(String);

impl FromStr for TablePattern {
    type Err = InvalidTablePattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut names = [String::new(), String::new()];
        let mut periods = 0;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, names.get_mut(periods)) {
                (_, None) => break,
                ('.', Some(_)) => periods += 1,
                ('\\', Some(name)) => name.extend(chars.next()),
                (c, Some(name)) => name.push(c),
            }
        }
        let [schema, table] = names;
        if periods != 1 || schema.is_empty() || table.is_empty() {
            return Err(InvalidTablePattern(text.chars().take(40).collect()));
        }
        Ok(TablePattern { schema, table })
    }
}

impl TryFrom<String> for TablePattern {
    type Error = InvalidTablePattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TablePattern> for String {
    fn from(pattern: TablePattern) -> String {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pattern_is_read_back_from_its_text(schema in ".{1,9}", table in ".{1,9}") {
            let pattern = TablePattern { schema, table };
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            let json = serde_json::to_string(&pattern).unwrap();
            prop_assert_eq!(serde_json::from_str::<TablePattern>(&json).unwrap(), pattern);
        }
    }
}
