//! Rules for columns that are omitted or hashed: the variable `COLUMN_RULES`.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::base::table_name::TableName;
use crate::rules::pattern::{ColumnPattern, parse_entries};

/// Fewest characters of a salt. A shorter salt can be found by trial.
pub const MIN_SALT_CHARACTERS: usize = 16;

/// Action of a rule on a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnAction {
    /// Each value is sent as its hash.
    Hash,
    /// No event contains the column.
    Omit,
}

/// A rule: a pattern of columns, and the action on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRule {
    /// Pattern of the columns.
    pub pattern: ColumnPattern,
    /// Action on the columns.
    pub action: ColumnAction,
}

/// Text that precedes each value in its hash. Its `Debug` output hides it.
///
/// Without a salt, a consumer could hash all possible values, and compare the hashes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Salt(String);

/// A salt with fewer than [`MIN_SALT_CHARACTERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the salt has fewer than {MIN_SALT_CHARACTERS} characters")]
pub struct SaltTooShort;

/// The rules, and the salt of their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnRules {
    rules: Vec<ColumnRule>,
    salt: Salt,
}

/// Error: a text in a list is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rule: expected one like public.users.email:hash or *.*.ssn:omit")]
pub struct InvalidColumnRule(String);

impl InvalidColumnRule {
    /// The text, or its first characters.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Salt {
    /// A salt.
    ///
    /// # Errors
    /// It is too short.
    pub fn new(text: String) -> Result<Self, SaltTooShort> {
        match text.chars().count() < MIN_SALT_CHARACTERS {
            true => Err(SaltTooShort),
            false => Ok(Salt(text)),
        }
    }

    /// The SHA-256 of the salt and a value, as 64 hexadecimal digits.
    ///
    /// The value is PostgreSQL's text. SHA-256 permits length extension: from the hash of a text, anyone can
    /// compute the hashes of some longer texts without the salt. These texts contain zero bytes, which no
    /// value contains.
    pub fn hash(&self, value: &str) -> String {
        let hash = Sha256::new().chain_update(&self.0).chain_update(value);
        hex::encode(hash.finalize())
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl ColumnRule {
    /// Parses a list of rules: `public.users.email:hash,*.*.ssn:omit`.
    ///
    /// # Errors
    /// A text in the list is not a rule. The error has the first such text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidColumnRule> {
        let entry = |text| {
            let (pattern, after) = ColumnPattern::parse_before_colon(text)?;
            let (action, after) = after.split_once(',').unwrap_or((after, ""));
            let action = match action.trim() {
                "hash" => ColumnAction::Hash,
                "omit" => ColumnAction::Omit,
                _ => return None,
            };
            Some((ColumnRule { pattern, action }, after))
        };
        parse_entries(text, ',', entry).map_err(InvalidColumnRule)
    }

    /// Action of these rules on a column; `None` if none matches.
    ///
    /// If several rules match, `Omit` takes precedence over `Hash`.
    pub fn action_of(rules: &[Self], table: &TableName, column: &str) -> Option<ColumnAction> {
        let matching = rules
            .iter()
            .filter(|rule| rule.pattern.matches_table(table) && rule.pattern.matches_column(column));
        matching.map(|rule| rule.action).max()
    }

    /// Whether one of these rules omits a column.
    pub fn omits(rules: &[Self], table: &TableName, column: &str) -> bool {
        Self::action_of(rules, table, column) == Some(ColumnAction::Omit)
    }
}

/// The form of `COLUMN_RULES`. A backslash escapes a colon in a name.
impl fmt::Display for ColumnRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            ColumnAction::Hash => "hash",
            ColumnAction::Omit => "omit",
        };
        write!(f, "{}:{action}", self.pattern)
    }
}

impl ColumnRules {
    /// Rules with the salt of their hashes.
    pub fn new(rules: Vec<ColumnRule>, salt: Salt) -> Self {
        ColumnRules { rules, salt }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Whether a rule may match a column of this table.
    pub fn matches_table(&self, table: &TableName) -> bool {
        self.rules.iter().any(|rule| rule.pattern.matches_table(table))
    }

    /// The action on a column; `None` if no rule matches it.
    pub fn action_of(&self, table: &TableName, column: &str) -> Option<ColumnAction> {
        ColumnRule::action_of(&self.rules, table, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &str) -> Vec<String> {
        let rules = ColumnRule::parse_list(list).unwrap();
        rules.iter().map(ColumnRule::to_string).collect()
    }

    #[test]
    fn a_list_has_patterns_of_columns_with_their_actions() {
        let list = r#" public.users.email:hash ,, *.*.ssn : omit, "My app"."a,b:c"."x.y":hash,"#;
        assert_eq!(
            texts(list),
            [
                "public.users.email:hash",
                "*.*.ssn:omit",
                r"My app.a\,b\:c.x\.y:hash"
            ]
        );
        assert_eq!(texts(" , "), Vec::<String>::new());
        for (list, invalid) in [
            ("users.email:hash", "users.email:hash"),
            ("a.b.c.d:hash", "a.b.c.d:hash"),
            ("a.b.c", "a.b.c"),
            ("a.b.c:mask", "a.b.c:mask"),
            ("a.b.c:", "a.b.c:"),
            ("a.b.:omit", "a.b.:omit"),
            ("a.b.c:hash,a.b.d,e:omit", "a.b.d"),
            ("a.b.\"c:hash", "a.b.\"c:hash"),
        ] {
            let error = ColumnRule::parse_list(list).unwrap_err();
            assert_eq!(error.text(), invalid, "{list}");
        }
    }

    #[test]
    fn omit_takes_precedence_over_hash() {
        let rules = ColumnRule::parse_list("public.*.email:omit,*.users.*:hash").unwrap();
        let action = |schema: &str, table: &str, column: &str| {
            ColumnRule::action_of(&rules, &TableName::new(schema, table), column)
        };
        assert_eq!(action("public", "users", "email"), Some(ColumnAction::Omit));
        assert_eq!(action("public", "users", "name"), Some(ColumnAction::Hash));
        assert_eq!(action("other", "users", "email"), Some(ColumnAction::Hash));
        assert_eq!(action("other", "orders", "email"), None);
        assert_eq!(action("public", "users_old", "Email"), None);
    }

    #[test]
    fn a_hash_is_the_sha_256_of_salt_and_value() {
        let salt = Salt::new("0123456789abcdef".to_owned()).unwrap();
        // printf '0123456789abcdefann@example.com' | sha256sum
        assert_eq!(
            salt.hash("ann@example.com"),
            "9a43e503847ef23dd2215a9dc38cc1ca870f3b608651800a1e0197ee2168aaa4"
        );
        assert_eq!(format!("{salt:?}"), "…");
        let rules = ColumnRules::new(ColumnRule::parse_list("a.b.c:hash").unwrap(), salt);
        assert!(!format!("{rules:?}").contains("0123"));
        assert_eq!(Salt::new("0123456789abcde".to_owned()), Err(SaltTooShort));
    }
}
