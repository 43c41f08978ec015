//! Patterns of tables and columns: `TABLES`, `COLUMN_RULES`, `PARTITION_KEYS` and backfill requests.

mod column;

pub use column::{ColumnPattern, InvalidTableColumns, TableColumns};

use std::fmt;
use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

use serde::{Deserialize, Serialize};

use crate::base::shown_text::shown;
use crate::base::table_name::TableName;

/// A pattern `schema.table`.
///
/// Each part is a name in which `*` matches any characters. Case matters. A backslash escapes the next
/// character. A part in quotes is a name as in SQL: only a quote is special in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TablePattern {
    schema: NamePattern,
    table: NamePattern,
}

/// One part of a pattern: the texts before, between and after its wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamePattern(Vec<String>);

impl TablePattern {
    /// Whether the pattern matches a table.
    pub fn matches(&self, table: &TableName) -> bool {
        self.schema.matches(&table.schema) && self.table.matches(&table.name)
    }

    /// The pattern that matches every table.
    pub fn all() -> Self {
        TablePattern {
            schema: NamePattern::any(),
            table: NamePattern::any(),
        }
    }

    /// Whether the pattern has a `*`, so it may match several tables.
    pub fn has_wildcard(&self) -> bool {
        self.exact_name().is_none()
    }

    /// Name of the only table that the pattern can match.
    ///
    /// `None` if the pattern has a wildcard.
    pub fn exact_name(&self) -> Option<TableName> {
        Some(TableName::new(self.schema.exact()?, self.table.exact()?))
    }

    /// Schema and table as patterns of SQL's `like`.
    pub fn to_like(&self) -> (String, String) {
        (self.schema.to_like(), self.table.to_like())
    }

    /// The pattern in the form of wal2json's `add-tables`.
    ///
    /// In wal2json, a wildcard can only replace a whole name. So a name with a wildcard in it becomes `*`,
    /// and wal2json sends more tables than the pattern matches. The reader drops the rows of the other
    /// tables.
    pub fn to_wal2json(&self) -> String {
        format!("{}.{}", self.schema.to_wal2json(), self.table.to_wal2json())
    }

    /// Parses a list of patterns that commas separate. Ignores empty entries.
    ///
    /// # Errors
    /// A text in the list is not a pattern. The error has the first such text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidTablePattern> {
        let entry = |text| {
            let mut parser = PatternParser::new(text, &[',']);
            Some((parser.pattern()?, parser.rest()))
        };
        parse_entries(text, ',', entry).map_err(InvalidTablePattern)
    }
}

/// Parses the entries of a list. Ignores empty entries.
///
/// `parse` parses the first entry of a text. It returns the entry, and the text after it.
///
/// # Errors
/// The beginning of the first text that is not an entry.
pub(super) fn parse_entries<'t, T>(
    text: &'t str,
    separator: char,
    parse: impl Fn(&'t str) -> Option<(T, &'t str)>,
) -> Result<Vec<T>, String> {
    let mut entries = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c == separator || c.is_whitespace());
        if rest.is_empty() {
            return Ok(entries);
        }
        let invalid = || shown(rest.split(separator).next().unwrap_or_default());
        let (entry, after) = parse(rest).ok_or_else(invalid)?;
        entries.push(entry);
        rest = after;
    }
}

/// Whether one of the patterns matches a table; true without patterns.
pub fn matches_any(patterns: &[TablePattern], table: &TableName) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(table))
}

impl NamePattern {
    fn any() -> Self {
        NamePattern(vec![String::new(); 2])
    }

    fn exact(&self) -> Option<&str> {
        match &self.0[..] {
            [name] => Some(name),
            _ => None,
        }
    }

    fn matches(&self, name: &str) -> bool {
        let Some((first, others)) = self.0.split_first() else {
            return false;
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else {
            return false;
        };
        let Some((last, between)) = others.split_last() else {
            return rest.is_empty();
        };
        for text in between {
            match rest.split_once(text.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }

    fn to_like(&self) -> String {
        let escape = |text: &String| escaped(text, |c| matches!(c, '%' | '_' | '\\'));
        self.0.iter().map(escape).collect::<Vec<_>>().join("%")
    }

    fn to_wal2json(&self) -> String {
        let is_special =
            |c: char| c.is_ascii_whitespace() || matches!(c, '\x0b' | ',' | '.' | '*' | '\'' | '\\');
        self.exact()
            .map_or_else(|| "*".to_owned(), |name| escaped(name, is_special))
    }
}

/// Puts a backslash before each special character of a text.
fn escaped(text: &str, is_special: impl Fn(char) -> bool) -> String {
    let escape = |c: char| is_special(c).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escape).collect()
}

/// The form of `TABLES`, without quotes.
impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_special = |c| matches!(c, '.' | ',' | ':' | ';' | '\\' | '*' | '"');
        let texts: Vec<String> = self.0.iter().map(|text| escaped(text, is_special)).collect();
        let name = texts.join("*");
        // The parser drops space at the start and the end of a name, unless a backslash escapes it.
        let inner = name.trim();
        let (before, rest) = name.split_at(name.len() - name.trim_start().len());
        let (inner, after) = rest.split_at(inner.len());
        let escaped_space = |space| escaped(space, char::is_whitespace);
        write!(f, "{}{inner}{}", escaped_space(before), escaped_space(after))
    }
}

/// Error: a text is not two names with a period between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a table pattern: expected one like public.orders, public.* or *.orders")]
pub struct InvalidTablePattern(String);

impl InvalidTablePattern {
    fn new(text: &str) -> Self {
        InvalidTablePattern(shown(text))
    }

    /// The text, or its first characters.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl FromStr for TablePattern {
    type Err = InvalidTablePattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = PatternParser::new(text, &[]);
        let pattern = parser.pattern();
        pattern.ok_or_else(|| InvalidTablePattern::new(text))
    }
}

/// Parser of one pattern, up to an end character.
///
/// The pattern ends at one of the characters `ends` or at the end of the text.
struct PatternParser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    ends: &'static [char],
}

impl<'a> PatternParser<'a> {
    fn new(text: &'a str, ends: &'static [char]) -> Self {
        PatternParser {
            text,
            chars: text.char_indices().peekable(),
            ends,
        }
    }

    /// The text that was not parsed.
    fn rest(&mut self) -> &'a str {
        let at = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        self.text.get(at..).unwrap_or_default()
    }

    /// The pattern; `None` for a text that is not one.
    fn pattern(&mut self) -> Option<TablePattern> {
        let pattern = self.table()?;
        self.is_at_end().then_some(pattern)
    }

    /// The two names of a table; other text may follow.
    fn table(&mut self) -> Option<TablePattern> {
        let schema = self.name()?;
        self.period()?;
        let table = self.name()?;
        Some(TablePattern { schema, table })
    }

    fn period(&mut self) -> Option<()> {
        self.chars.next_if(|(_, c)| *c == '.').map(drop)
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        self.chars.next().map(|(_, c)| c)
    }

    fn is_at_end(&mut self) -> bool {
        self.peek().is_none_or(|next| self.ends.contains(&next))
    }

    fn skip_space(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    /// One part; `None` if the part is empty or not valid.
    fn name(&mut self) -> Option<NamePattern> {
        self.skip_space();
        let name = match self.peek()? {
            '"' => self.quoted_name()?,
            _ => self.plain_name()?,
        };
        let is_empty = name.exact().is_some_and(str::is_empty);
        (!is_empty).then_some(name)
    }

    /// A part in quotes, and the space after it.
    fn quoted_name(&mut self) -> Option<NamePattern> {
        let mut name = String::new();
        self.next();
        loop {
            match self.next()? {
                '"' if self.peek() == Some('"') => {
                    self.next();
                    name.push('"');
                }
                '"' => break,
                c => name.push(c),
            }
        }
        self.skip_space();
        Some(NamePattern(vec![name]))
    }

    /// A part without quotes; `None` if a backslash ends the text. Drops the space at the part's end.
    fn plain_name(&mut self) -> Option<NamePattern> {
        let mut texts = vec![String::new()];
        let mut space = String::new();
        while !self.is_at_end() && self.peek() != Some('.') {
            let Some(c) = self.next() else { break };
            if c.is_whitespace() {
                space.push(c);
                continue;
            }
            let is_wildcard = c == '*';
            let c = if c == '\\' { self.next()? } else { c };
            if let Some(text) = texts.last_mut() {
                text.push_str(&std::mem::take(&mut space));
                text.extend((!is_wildcard).then_some(c));
            }
            let is_repeated = texts.len() > 1 && texts.last().is_some_and(String::is_empty);
            if is_wildcard && !is_repeated {
                texts.push(String::new());
            }
        }
        Some(NamePattern(texts))
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

    fn pattern(text: &str) -> TablePattern {
        text.parse().unwrap()
    }

    #[test]
    fn an_asterisk_matches_any_characters() {
        for (text, matching, others) in [
            ("public.ord*", "ord orders order_items", "Orders o rd_ord"),
            ("public.*_log", "_log a_log a_log_log", "log a_logs"),
            ("public.a*b*c", "abc aXbYc abcbc", "ab abcd xabc acb"),
            ("p*c.t", "t", "u"),
            ("public.**", "t", ""),
            ("public.a*a", "aa aba", "a"),
            (r"public.ord\*", "ord*", "orders ord"),
        ] {
            let matches = |name: &str| pattern(text).matches(&TableName::new("public", name));
            assert!(matching.split(' ').all(matches), "{text}");
            let others = others.split(' ').filter(|name| !name.is_empty());
            assert!(!others.into_iter().any(matches), "{text}");
        }
    }

    #[test]
    fn a_name_in_quotes_is_the_name_as_in_sql() {
        for (text, schema, name) in [
            (r#"public."Orders""#, "public", "Orders"),
            (r#"public."orders""#, "public", "orders"),
            (r#""My app"."a ""b"" \c*.d,e""#, "My app", r#"a "b" \c*.d,e"#),
            (r#" public . "t" "#, "public", "t"),
            (r#"public.it"s"#, "public", r#"it"s"#),
            (r#"public.\"t\""#, "public", r#""t""#),
            ("public.Orders", "public", "Orders"),
            (r"public.\ t\ ", "public", " t "),
        ] {
            assert_eq!(
                pattern(text).exact_name(),
                Some(TableName::new(schema, name)),
                "{text}"
            );
        }
        for text in [
            r#"public."t"#,
            r#"public."t"x"#,
            r#"public."""#,
            r#""public.t""#,
            r#""a"b.c"#,
            r"public.orders\",
        ] {
            text.parse::<TablePattern>().unwrap_err();
        }
    }

    #[test]
    fn a_list_is_split_at_commas_that_are_not_part_of_a_name() {
        let list = TablePattern::parse_list(r#" public.a ,, "x,y"."b,c", we\,ird.d*,"#).unwrap();
        let texts: Vec<String> = list.iter().map(TablePattern::to_string).collect();
        assert_eq!(texts, ["public.a", r"x\,y.b\,c", r"we\,ird.d*"]);
        for (list, invalid) in [
            ("a.b, orders", "orders"),
            ("a.\"b, c.d", "a.\"b"),
            ("a.b.c", "a.b.c"),
        ] {
            let error = TablePattern::parse_list(list).unwrap_err();
            assert_eq!(error.text(), invalid, "{list}");
        }
        assert_eq!(TablePattern::parse_list(" , ").unwrap(), []);
    }

    #[test]
    fn sql_and_wal2json_get_their_own_forms() {
        let form = |text: &str| (pattern(text).to_like(), pattern(text).to_wal2json());
        let like = |schema: &str, table: &str| (schema.to_owned(), table.to_owned());
        assert_eq!(
            form("public.ord*"),
            (like("public", "ord%"), "public.*".to_owned())
        );
        let special = (like(r"a\_b", r"50\% \\ x"), r"a_b.50%\ \\\ x".to_owned());
        assert_eq!(form(r#"a_b."50% \ x""#), special);
        assert_eq!(form("\"a\nb\".*"), (like("a\nb", "%"), "a\\\nb.*".to_owned()));
    }

    proptest! {
        #[test]
        fn every_pattern_is_read_back_from_its_text(
            schema in prop::collection::vec("(?s).{0,4}", 1..4),
            table in prop::collection::vec("(?s).{0,4}", 1..4),
        ) {
            // The parser merges consecutive wildcards, so the text between two wildcards is not empty.
            let name = |mut texts: Vec<String>| {
                let last = texts.len() - 1;
                if last == 0 && texts[0].is_empty() {
                    texts[0].push('x');
                }
                let (mut index, mut kept) = (0, Vec::new());
                for text in texts {
                    if index == 0 || index == last || !text.is_empty() {
                        kept.push(text);
                    }
                    index += 1;
                }
                NamePattern(kept)
            };
            let pattern = TablePattern { schema: name(schema), table: name(table) };
            let text = pattern.to_string();
            prop_assert_eq!(text.parse(), Ok(pattern.clone()));
            prop_assert_eq!(TablePattern::parse_list(&text), Ok(vec![pattern.clone()]));
            let json = serde_json::to_string(&pattern).unwrap();
            prop_assert_eq!(serde_json::from_str::<TablePattern>(&json).unwrap(), pattern);
        }
    }
}
