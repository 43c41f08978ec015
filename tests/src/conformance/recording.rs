//! Recorded events of Debezium Server.
//!
//! The files in `tests/conformance` have the parts of the events that a second run of the same statements
//! repeats. The first line of a file names Debezium's version. For each combination of modes follow a line
//! with the modes and the events; those after the first combination are left out where they are the same. An
//! event has the schemas of its columns if they differ from those of its table's event before.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::debezium_server::VERSION;
use super::{EventForm, KeyedEvent, ValueModes};

/// Fields of an event that are the same in a second run.
///
/// A run executes the statements.
const RECORDED: [&str; 10] = [
    "op",
    "before",
    "after",
    "message",
    "transaction",
    "__deleted",
    "__op",
    "__schema",
    "__table",
    "__name",
];

/// Whether a second run of the statements repeats a field's value.
///
/// `field` may also be the pattern of a field.
pub fn is_recorded(field: &str) -> bool {
    match field.split_once('.') {
        Some((first, _)) => matches!(first, "before" | "after" | "message" | "schema" | "*"),
        None => RECORDED.contains(&field) || matches!(field, "key" | "rows" | "truncates" | "messages"),
    }
}

/// Path of the recording of events in this form.
fn path(form: EventForm) -> PathBuf {
    let name = match form.unwrap {
        true => "conformance/debezium-unwrapped.jsonl",
        false => "conformance/debezium.jsonl",
    };
    crate::project_path("tests").join(name)
}

/// The text of a recording of these events, by combination of modes.
pub fn to_text(runs: &[Vec<KeyedEvent>]) -> String {
    let mut lines = vec![json!({"debezium": VERSION}).to_string()];
    let runs: Vec<Vec<Value>> = runs.iter().map(|run| recorded(run)).collect();
    for (number, (run, modes)) in runs.iter().zip(ValueModes::ALL).enumerate() {
        lines.push(json!(modes.values()).to_string());
        for (index, event) in run.iter().enumerate() {
            if number == 0 || runs[0].get(index) != Some(event) {
                lines.push(json!([index, event]).to_string());
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The recorded fields of the events of one combination.
fn recorded(events: &[KeyedEvent]) -> Vec<Value> {
    let mut schemas: HashMap<String, BTreeMap<&str, &Value>> = HashMap::new();
    let mut recorded = Vec::new();
    for event in events {
        let table = event.table();
        let mut kept: BTreeMap<&str, Value> = BTreeMap::from([("key", Value::from(event.key.clone()))]);
        let columns = event.schema.iter();
        let columns = columns.filter_map(|(path, schema)| Some((path.strip_prefix("schema.")?, schema)));
        let columns: BTreeMap<&str, &Value> = columns.collect();
        if schemas.get(&table) != Some(&columns) {
            kept.insert("schema", json!(columns));
            schemas.insert(table.clone(), columns);
        }
        if !table.is_empty() {
            kept.insert("table", Value::from(table));
        }
        for name in RECORDED {
            if let Some(value) = event.event.get(name) {
                kept.insert(name, value.clone());
            }
        }
        recorded.push(json!(kept));
    }
    recorded
}

/// The recorded events by combination of modes. They have schemas.
///
/// # Panics
/// The recording is missing or not valid.
pub fn load(form: EventForm) -> Vec<Vec<KeyedEvent>> {
    let text = stored(form);
    let mut runs: Vec<Vec<Value>> = Vec::new();
    for line in text.lines().skip(1) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("the recording: {error}"));
        match line[0].as_u64() {
            None => runs.push(runs.first().cloned().unwrap_or_default()),
            Some(index) => {
                let is_first = runs.len() == 1;
                let run = runs.last_mut().expect("a line with modes is first");
                match is_first {
                    true => run.push(line[1].clone()),
                    false => run[usize::try_from(index).expect("an index")] = line[1].clone(),
                }
            }
        }
    }
    runs.iter().map(|run| replayed(run)).collect()
}

/// Events of one combination, with tables where Debezium's events have them.
fn replayed(recorded: &[Value]) -> Vec<KeyedEvent> {
    let mut schemas: HashMap<String, BTreeMap<String, Value>> = HashMap::new();
    let mut events = Vec::new();
    for event in recorded {
        let mut event = event.clone();
        let object = event.as_object_mut().expect("a recorded event is an object");
        let mut text = |name: &str| object.remove(name)?.as_str().map(str::to_owned);
        let (key, name) = (text("key").unwrap_or_default(), text("table").unwrap_or_default());
        if let Some(Value::Object(columns)) = object.remove("schema") {
            let columns = columns.into_iter();
            let columns = columns.map(|(column, schema)| (format!("schema.{column}"), schema));
            schemas.insert(name.clone(), columns.collect());
        }
        let (schema, table) = name.split_once('.').unwrap_or_default();
        object.insert("source".to_owned(), json!({"schema": schema, "table": table}));
        let schema = schemas.get(&name).cloned().unwrap_or_default();
        events.push(KeyedEvent { key, event, schema });
    }
    events
}

/// The text of the stored recording; empty without one.
pub fn stored(form: EventForm) -> String {
    std::fs::read_to_string(path(form)).unwrap_or_default()
}

/// Replaces the stored recording.
///
/// # Panics
/// It cannot be written.
pub fn store(form: EventForm, text: &str) {
    let path = path(form);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
