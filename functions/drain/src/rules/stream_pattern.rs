//! Name of a stream with placeholders for schema and table.
//!
//! An example is `cdc-{schema}`.

use std::fmt;

use crate::base::table_name::TableName;

/// Most characters of a stream's name (Kinesis API, `StreamName`). All of them are ASCII.
pub const MAX_NAME_BYTES: usize = 128;

/// Placeholder for the schema of a table.
const SCHEMA: &str = "{schema}";

/// Placeholder for the name of a table.
const TABLE: &str = "{table}";

/// Name or ARN of a stream that has `{schema}`, `{table}` or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPattern(String);

impl StreamPattern {
    /// A stream pattern; `None` if the text has no placeholder.
    pub fn new(text: &str) -> Option<Self> {
        let has_placeholder = text.contains(SCHEMA) || text.contains(TABLE);
        has_placeholder.then(|| StreamPattern(text.to_owned()))
    }

    /// The shortest name of a stream: each placeholder is one character.
    pub fn shortest_name(&self) -> String {
        self.0.replace(SCHEMA, "s").replace(TABLE, "t")
    }

    /// The stream of a table.
    ///
    /// Kinesis accepts ASCII letters, ASCII digits and `_-.` in a name. An underscore replaces each other
    /// character. So two tables share a stream if their names differ only in such characters.
    pub fn stream_of(&self, table: &TableName) -> String {
        let schema = self.0.replace(SCHEMA, &accepted(&table.schema));
        schema.replace(TABLE, &accepted(&table.name))
    }
}

impl fmt::Display for StreamPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether Kinesis accepts this character in the name of a stream.
pub fn is_accepted(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn accepted(name: &str) -> String {
    name.chars()
        .map(|c| if is_accepted(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_table_has_its_schema_and_name_in_place_of_the_placeholders() {
        for (pattern, schema, table, stream) in [
            ("cdc-{schema}", "public", "orders", "cdc-public"),
            ("cdc.{table}", "public", "orders", "cdc.orders"),
            ("{schema}.{table}", "Shop", "Order Line", "Shop.Order_Line"),
            ("{table}", "public", "a{schema}ü", "a_schema__"),
            (
                "arn:aws:kinesis:eu-central-1:123456789012:stream/cdc-{schema}",
                "a:b",
                "t",
                "arn:aws:kinesis:eu-central-1:123456789012:stream/cdc-a_b",
            ),
        ] {
            let pattern = StreamPattern::new(pattern).unwrap();
            assert_eq!(pattern.stream_of(&TableName::new(schema, table)), stream);
        }
    }

    #[test]
    fn a_name_without_a_placeholder_is_no_pattern() {
        for name in ["cdc", "cdc-{column}", "schema"] {
            assert_eq!(StreamPattern::new(name), None);
        }
    }
}
