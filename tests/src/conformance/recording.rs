//! Recorded events of Debezium Server.
//!
//! The file `tests/conformance/debezium.jsonl` has the rows of the events: what a second run of the same
//! statements has, too. Its first line names Debezium's version. For each combination of modes follow a line
//! with the modes and the events; those after the first combination are left out where they are the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::comparison::{fields, table};
use super::debezium_server::VERSION;
use super::{KeyedEvent, Modes};

/// Whether a second run of the statements has the same value in this field, or in a field of this pattern.
pub fn is_recorded(field: &str) -> bool {
    match field.split_once('.') {
        Some((first, _)) => matches!(first, "before" | "after" | "message" | "*"),
        None => matches!(field, "key" | "op" | "before" | "after" | "transaction"),
    }
}

/// Path of the recording.
fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/debezium.jsonl")
}

/// The text of a recording of these events, by combination of modes.
pub fn to_text(runs: &[Vec<KeyedEvent>]) -> String {
    let mut lines = vec![json!({"debezium": VERSION}).to_string()];
    let first: Vec<Value> = runs.first().into_iter().flatten().map(recorded).collect();
    for (number, (run, modes)) in runs.iter().zip(Modes::ALL).enumerate() {
        lines.push(json!(modes.values()).to_string());
        for (index, event) in run.iter().enumerate() {
            let event = recorded(event);
            if number == 0 || first.get(index) != Some(&event) {
                lines.push(json!([index, event]).to_string());
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The recorded fields of an event.
fn recorded(event: &KeyedEvent) -> Value {
    let all = fields(event);
    let table = table(&all);
    let mut kept: BTreeMap<&str, Value> = BTreeMap::from([("key", Value::from(event.key.clone()))]);
    if !table.is_empty() {
        kept.insert("table", Value::from(table));
    }
    for name in ["op", "before", "after", "message", "transaction"] {
        if let Some(value) = event.event.get(name) {
            kept.insert(name, value.clone());
        }
    }
    json!(kept)
}

/// The recorded events by combination of modes.
///
/// # Panics
/// The recording is missing or not valid.
pub fn load() -> Vec<Vec<KeyedEvent>> {
    let text = stored();
    let mut runs: Vec<Vec<KeyedEvent>> = Vec::new();
    for line in text.lines().skip(1) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("the recording: {error}"));
        match line[0].as_u64() {
            None => runs.push(runs.first().cloned().unwrap_or_default()),
            Some(index) => {
                let is_first = runs.len() == 1;
                let run = runs.last_mut().expect("a line with modes is first");
                let event = replayed(&line[1]);
                match is_first {
                    true => run.push(event),
                    false => run[usize::try_from(index).expect("an index")] = event,
                }
            }
        }
    }
    runs
}

/// The event of a recorded one, with its table where Debezium's event has it.
fn replayed(recorded: &Value) -> KeyedEvent {
    let mut event = recorded.clone();
    let object = event.as_object_mut().expect("a recorded event is an object");
    let key = object
        .remove("key")
        .and_then(|key| key.as_str().map(str::to_owned));
    let table = object
        .remove("table")
        .and_then(|table| table.as_str().map(str::to_owned));
    let (schema, table) = table
        .as_deref()
        .and_then(|table| table.split_once('.'))
        .unwrap_or_default();
    object.insert("source".to_owned(), json!({"schema": schema, "table": table}));
    KeyedEvent {
        key: key.unwrap_or_default(),
        event,
    }
}

/// The text of the stored recording; empty without one.
pub fn stored() -> String {
    std::fs::read_to_string(path()).unwrap_or_default()
}

/// Replaces the stored recording.
///
/// # Panics
/// It cannot be written.
pub fn store(text: &str) {
    std::fs::write(path(), text).unwrap_or_else(|error| panic!("{}: {error}", path().display()));
}
