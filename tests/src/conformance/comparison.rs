//! Comparison of two lists of events, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::{EventForm, KeyedEvent, ValueModes};

/// A field that has another value in Spillway's event.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Debezium's modes; `None` for the envelope of wal2json.
    pub modes: Option<ValueModes>,
    /// Form of the events; the usual one for the envelope of wal2json.
    pub form: EventForm,
    /// Table of the event, `schema.table`; empty for a message.
    pub table: String,
    /// The column `id` of the row.
    pub row: Option<i64>,
    /// Path of the field: `key`, `op`, `source.lsn`, `after.one`; `schema.one` in the schema.
    pub field: String,
    /// The other program's value; `None` where its event lacks the field.
    pub theirs: Option<Value>,
    /// Spillway's value.
    pub ours: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| match value {
            Some(value) => shortened(&value.to_string()),
            None => "absent".to_owned(),
        };
        let row = self.row.map(|row| format!(" row {row}")).unwrap_or_default();
        let modes = match self.modes {
            Some(modes) => format!(" ({}{})", modes.values().join(", "), self.form.description()),
            None => String::new(),
        };
        let (theirs, ours) = (text(&self.theirs), text(&self.ours));
        write!(
            f,
            "{}{row} {}{modes}: theirs {theirs}, ours {ours}",
            self.table, self.field
        )
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The fields of an event by their paths: objects of the first level have paths of two parts.
///
/// The times of reading differ by nature, so only their presence counts.
pub fn fields(event: &KeyedEvent) -> BTreeMap<String, Value> {
    let mut fields = event.schema.clone();
    fields.insert("key".to_owned(), Value::from(event.key.clone()));
    let Value::Object(object) = &event.event else {
        panic!("{} is no event", event.event);
    };
    for (name, value) in object {
        match value {
            Value::Object(inner) => {
                for (inner, value) in inner {
                    fields.insert(format!("{name}.{inner}"), value.clone());
                }
                if inner.is_empty() {
                    fields.insert(name.clone(), Value::from("{}"));
                }
            }
            _ if matches!(name.as_str(), "ts_ms" | "ts_us" | "ts_ns" | "__ts_ms") => {
                fields.insert(name.clone(), Value::from("a time"));
            }
            _ => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
    fields
}

/// The differences between both lists, which have one event per change.
///
/// `is_compared` selects fields.
///
/// # Panics
/// An event of one list has no counterpart: another table or operation, or none.
pub fn compare(
    theirs: &[KeyedEvent],
    ours: &[KeyedEvent],
    modes: Option<ValueModes>,
    form: EventForm,
    is_compared: impl Fn(&str) -> bool,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        let (their_fields, our_fields) = (fields(theirs), fields(ours));
        let table = ours.table();
        let row = ["after.id", "before.id"]
            .iter()
            .find_map(|path| our_fields.get(*path)?.as_i64());
        assert!(
            theirs.table() == table && their_fields.get("op") == our_fields.get("op"),
            "event {index} differs: {} and {}",
            shortened(&theirs.event.to_string()),
            shortened(&ours.event.to_string())
        );
        let paths: BTreeSet<&String> = their_fields.keys().chain(our_fields.keys()).collect();
        for path in paths.into_iter().filter(|path| is_compared(path)) {
            let (theirs, ours) = (their_fields.get(path), our_fields.get(path));
            if !is_same(theirs, ours) {
                differences.push(Difference {
                    modes,
                    form,
                    table: table.clone(),
                    row,
                    field: path.clone(),
                    theirs: theirs.cloned(),
                    ours: ours.cloned(),
                });
            }
        }
    }
    assert_eq!(theirs.len(), ours.len(), "the numbers of events differ");
    differences
}

/// Whether both are the same in JSON.
///
/// `1` and `1.0` are one number there.
fn is_same(theirs: Option<&Value>, ours: Option<&Value>) -> bool {
    match (theirs, ours) {
        (Some(Value::Number(theirs)), Some(Value::Number(ours))) => {
            theirs == ours || (theirs.is_f64() || ours.is_f64()) && theirs.as_f64() == ours.as_f64()
        }
        (Some(Value::Array(theirs)), Some(Value::Array(ours))) => {
            theirs.len() == ours.len()
                && theirs
                    .iter()
                    .zip(ours)
                    .all(|(theirs, ours)| is_same(Some(theirs), Some(ours)))
        }
        _ => theirs == ours,
    }
}
