//! The variables of the columns and the operations that are not sent.

use super::variables::{Variables, invalid};
use super::{ConfigError, SaltSource};
use crate::rules::column_rules::{ColumnAction, ColumnRule, MIN_SALT_CHARACTERS, Salt};
use crate::rules::skipped_operations::SkippedOperations;

/// The rules for columns and the source of the salt.
///
/// The source is `None` if no rule hashes.
pub(super) fn read(variables: &Variables<'_>) -> Result<(Vec<ColumnRule>, Option<SaltSource>), ConfigError> {
    let text = variables.get("COLUMN_RULES").unwrap_or_default();
    let rules = ColumnRule::parse_list(&text).map_err(|error| {
        let expected = "rules like public.users.email:hash or *.*.ssn:omit, separated by commas";
        invalid("COLUMN_RULES", error.text().to_owned(), expected)
    })?;
    let salt = salt(variables)?;
    let hashes = rules.iter().any(|rule| rule.action == ColumnAction::Hash);
    match (hashes, salt) {
        (true, None) => Err(ConfigError::Missing(
            "COLUMN_SALT_SECRET",
            "the name or ARN of a Secrets Manager secret with the salt of the hashes in COLUMN_RULES",
        )),
        (true, salt) => Ok((rules, salt)),
        (false, _) => Ok((rules, None)),
    }
}

/// The source of the salt. An error does not quote the salt.
fn salt(variables: &Variables<'_>) -> Result<Option<SaltSource>, ConfigError> {
    const VALUE: &str = "COLUMN_SALT";
    const HIDDEN: &str = "…";
    match (variables.get(VALUE), variables.get("COLUMN_SALT_SECRET")) {
        (None, None) => Ok(None),
        (None, Some(secret)) => Ok(Some(SaltSource::Secret(secret))),
        (Some(_), Some(_)) => Err(invalid(
            VALUE,
            HIDDEN.to_owned(),
            "left out if COLUMN_SALT_SECRET is set",
        )),
        (Some(value), None) => match Salt::new(value) {
            Ok(salt) => Ok(Some(SaltSource::Value(salt))),
            Err(_) => {
                let expected = format!("a secret text of at least {MIN_SALT_CHARACTERS} characters");
                Err(invalid(VALUE, HIDDEN.to_owned(), &expected))
            }
        },
    }
}

pub(super) fn skipped_operations(variables: &Variables<'_>) -> Result<SkippedOperations, ConfigError> {
    const VARIABLE: &str = "SKIPPED_OPERATIONS";
    let letters = variables.list(VARIABLE, "none");
    SkippedOperations::of_letters(&letters).ok_or_else(|| {
        let expected = "none, or some of c, u, d and t, separated by commas";
        invalid(VARIABLE, variables.get(VARIABLE).unwrap_or_default(), expected)
    })
}
