//! The list of intended differences.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::comparison::Difference;

/// Content of `tests/conformance/differences.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DifferenceList {
    /// Differences from Debezium Server.
    pub debezium: Vec<IntendedDifference>,
    /// Differences from wal2json.
    pub wal2json: Vec<IntendedDifference>,
}

/// An intended difference: the fields that it concerns, and its reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntendedDifference {
    /// The reason, as docs/events.md quotes it.
    pub reason: String,
    /// Tables (`schema.table`), or `*`. Each must have the difference.
    pub tables: Vec<String>,
    /// Paths of fields. `*` in the place of a part matches any part.
    pub fields: Vec<String>,
    /// Rows by their column `id`; without it, all rows.
    pub rows: Option<Vec<i64>>,
    /// Modes by name: `decimal`, `time`, `interval`, `hstore`. Without it, all modes.
    #[serde(default)]
    pub modes: BTreeMap<String, Vec<String>>,
    /// Whether only events with schemas, or only those without, differ.
    pub schemas: Option<bool>,
    /// Whether only flat rows, or only envelopes, have the difference.
    pub unwrap: Option<bool>,
    /// Spillway's values, alone or first in a list; without it, all values.
    pub values: Option<Vec<Value>>,
    /// Form that the other program writes; without it, any form.
    pub theirs: Option<ValueForm>,
    /// Form that Spillway writes; without it, any form.
    pub ours: Option<ValueForm>,
}

/// Form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueForm {
    /// The event lacks the field.
    Absent,
    /// JSON null.
    Null,
    /// Any other value.
    Value,
}

impl ValueForm {
    fn of(value: Option<&Value>) -> Self {
        match value {
            None => Self::Absent,
            Some(Value::Null) => Self::Null,
            Some(_) => Self::Value,
        }
    }
}

impl DifferenceList {
    /// The list of this repository.
    ///
    /// # Panics
    /// The file is not valid.
    pub fn load() -> Self {
        let text = include_str!("../../conformance/differences.json");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("differences.json: {error}"))
    }
}

impl IntendedDifference {
    fn explains(&self, difference: &Difference) -> bool {
        let is_form = |form: Option<ValueForm>, value: &Option<Value>| {
            form.is_none_or(|form| form == ValueForm::of(value.as_ref()))
        };
        self.tables
            .iter()
            .any(|table| table == "*" || *table == difference.table)
            && self.fields.iter().any(|field| is_path(field, &difference.field))
            && self
                .rows
                .as_ref()
                .is_none_or(|rows| difference.row.is_some_and(|row| rows.contains(&row)))
            && self
                .modes
                .iter()
                .all(|(name, values)| has_mode(difference, name, values))
            && self
                .schemas
                .is_none_or(|schemas| schemas == difference.form.schemas)
            && self.unwrap.is_none_or(|unwrap| unwrap == difference.form.unwrap)
            && self
                .values
                .as_ref()
                .is_none_or(|values| has_value(difference, values))
            && is_form(self.theirs, &difference.theirs)
            && is_form(self.ours, &difference.ours)
    }
}

fn has_value(difference: &Difference, values: &[Value]) -> bool {
    let ours = match &difference.ours {
        Some(Value::Array(items)) => items.first(),
        ours => ours.as_ref(),
    };
    ours.is_some_and(|ours| values.contains(ours))
}

fn is_path(pattern: &str, path: &str) -> bool {
    // The name of a column may have dots.
    let (mut patterns, mut parts) = (pattern.splitn(2, '.'), path.splitn(2, '.'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if pattern == "*" || pattern == part => {}
            _ => return false,
        }
    }
}

fn has_mode(difference: &Difference, name: &str, values: &[String]) -> bool {
    let mode = difference.modes.map(|modes| match name {
        "decimal" => modes.decimal,
        "time" => modes.time,
        "interval" => modes.interval,
        "hstore" => modes.hstore,
        _ => panic!("differences.json: there is no mode {name}"),
    });
    mode.is_some_and(|mode| values.iter().any(|value| value == mode))
}

/// Problems of the list: differences without an entry, and entries without a difference.
///
/// `is_compared` selects the entries by one of their fields, as it selected the compared fields.
pub fn problems(
    intended: &[IntendedDifference],
    found: &[Difference],
    is_compared: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); intended.len()];
    for difference in found {
        let mut is_explained = false;
        for (entry, used) in intended.iter().zip(&mut used) {
            if entry.explains(difference) {
                used.insert(&difference.table);
                is_explained = true;
            }
        }
        if !is_explained {
            problems.push(format!("not in the list: {difference}"));
        }
    }
    for (entry, used) in intended.iter().zip(&used) {
        if !entry.fields.iter().any(|field| is_compared(field)) {
            continue;
        }
        let is_unused = |table: &&String| match table.as_str() {
            "*" => used.is_empty(),
            table => !used.contains(table),
        };
        let unused: Vec<&str> = entry
            .tables
            .iter()
            .filter(is_unused)
            .map(String::as_str)
            .collect();
        if !unused.is_empty() {
            let tables = unused.join(", ");
            problems.push(format!("differs no longer in {tables}: {}", entry.reason));
        }
    }
    problems
}
