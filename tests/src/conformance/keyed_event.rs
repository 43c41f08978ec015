//! An event in the form in which it is compared.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// An event with its partition key.
///
/// A flat row is compared as an envelope: its columns are `after`, those of a delete `before`. So one list of
/// intended differences is valid for both forms.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedEvent {
    /// Partition key of the record.
    pub key: String,
    /// The event without its schema.
    pub event: Value,
    /// The parts of its schema by their paths: `schema.one` is the column `one`. Empty without schemas.
    pub schema: BTreeMap<String, Value>,
}

impl KeyedEvent {
    /// The event of a record.
    pub fn new(key: String, mut event: Value) -> Self {
        let mut schema = BTreeMap::new();
        if event.get("payload").is_some() {
            schema = schema_parts(&event["schema"]);
            event = event["payload"].take();
        }
        if event.get("__op").is_some() {
            event = enveloped(event);
        }
        Self { key, event, schema }
    }

    /// Its table, `schema.table`; empty for a message.
    pub fn table(&self) -> String {
        let text = |name: &str| self.event["source"][name].as_str().unwrap_or_default();
        match (text("schema"), text("table")) {
            ("", "") => String::new(),
            (schema, table) => format!("{schema}.{table}"),
        }
    }
}

/// A flat row as an envelope. The added fields keep their names.
///
/// # Panics
/// The event is no object.
fn enveloped(event: Value) -> Value {
    let Value::Object(fields) = event else {
        panic!("{event} is no event");
    };
    let (mut event, row): (Map<_, _>, Map<_, _>) =
        fields.into_iter().partition(|(name, _)| name.starts_with("__"));
    let op = event["__op"].clone();
    let image = if op == "d" { "before" } else { "after" };
    let source = json!({"schema": event["__schema"], "table": event["__table"]});
    event.insert("op".to_owned(), op);
    event.insert("source".to_owned(), source);
    event.insert(image.to_owned(), Value::Object(row));
    Value::Object(event)
}

/// Blocks of an envelope.
const BLOCKS: [&str; 5] = ["before", "after", "source", "transaction", "message"];

/// The parts of a schema. Both images have the same columns, so they count once.
///
/// # Panics
/// The images have other columns, or a part has no name.
fn schema_parts(schema: &Value) -> BTreeMap<String, Value> {
    let is_envelope = fields(schema).iter().any(|field| field["field"] == "source");
    let mut parts = BTreeMap::from([("event schema".to_owned(), without_fields(schema))]);
    for field in fields(schema) {
        let name = field_name(field);
        if is_envelope && BLOCKS.contains(&name) {
            let group = match name {
                "before" | "after" => "schema".to_owned(),
                _ => format!("{name} schema"),
            };
            let inner = fields(field).iter();
            let inner = inner.map(|inner| (format!("{group}.{}", field_name(inner)), without_name(inner)));
            let block: BTreeMap<String, Value> =
                inner.chain([(group.clone(), without_fields(field))]).collect();
            let known = parts.contains_key(&group);
            assert!(
                !known || block.iter().all(|(path, schema)| parts.get(path) == Some(schema)),
                "the images have other columns: {schema}"
            );
            parts.extend(block);
        } else {
            let group = if is_envelope || name.starts_with("__") {
                "event schema"
            } else {
                "schema"
            };
            parts.insert(format!("{group}.{name}"), without_name(field));
        }
    }
    parts
}

fn fields(schema: &Value) -> &[Value] {
    schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn field_name(field: &Value) -> &str {
    field["field"].as_str().expect("a field of a schema has a name")
}

fn without_name(schema: &Value) -> Value {
    let mut rest = schema.clone();
    rest.as_object_mut()
        .expect("a schema is an object")
        .remove("field");
    rest
}

/// A schema without its fields, which are compared one by one.
fn without_fields(schema: &Value) -> Value {
    let mut rest = without_name(schema);
    rest.as_object_mut()
        .expect("a schema is an object")
        .remove("fields");
    rest
}
