//! The output of wal2json itself, through a slot that SQL reads.

use std::collections::BTreeMap;

use serde_json::Value;

use super::KeyedEvent;
use crate::fixture::Fixture;
use crate::postgres::sql_text::{VALUE_SETTINGS, WAL2JSON_OPTIONS, create_slot_sql};

/// Creates the slot, before the changes.
pub(super) async fn create_slot(fixture: &Fixture) {
    fixture.sql(&create_slot_sql(&slot(fixture), "wal2json")).await;
}

fn slot(fixture: &Fixture) -> String {
    format!("{}_w", fixture.slot)
}

/// Objects of wal2json in its format version 2.
///
/// The options are those of the envelope. The session has the settings of the function's sessions.
pub async fn events(fixture: &Fixture) -> Vec<String> {
    fixture.sql(VALUE_SETTINGS).await;
    let rows = fixture
        .value(&format!(
            "select json_agg(data)
             from pg_logical_slot_peek_changes('{}', null, null,
                 {WAL2JSON_OPTIONS}, 'include-transaction', 'false')",
            slot(fixture)
        ))
        .await
        .expect("wal2json reports changes");
    serde_json::from_str(&rows).unwrap_or_else(|error| panic!("{error}"))
}

/// A change in the form of the comparison: a column is a field with its type and its value.
///
/// Returns `None` if the text is no JSON.
pub fn keyed_event(text: &str) -> Option<KeyedEvent> {
    let mut event: Value = serde_json::from_str(text).ok()?;
    let object = event.as_object_mut()?;
    let mut renamed = serde_json::Map::new();
    renamed.insert("op".to_owned(), object.remove("action")?);
    let table = |name: &str| object.get(name).cloned().unwrap_or_default();
    renamed.insert(
        "source".to_owned(),
        serde_json::json!({"schema": table("schema"), "table": table("table")}),
    );
    for (list, name) in [("columns", "after"), ("identity", "before"), ("pk", "pk")] {
        let Some(Value::Array(columns)) = object.remove(list) else {
            continue;
        };
        let mut fields = serde_json::Map::new();
        for column in columns {
            let column_name = column["name"].as_str()?;
            fields.insert(format!("{column_name} type"), column["type"].clone());
            if let Some(value) = column.get("value") {
                fields.insert(column_name.to_owned(), value.clone());
            }
        }
        renamed.insert(name.to_owned(), Value::Object(fields));
    }
    renamed.extend(object.iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(KeyedEvent {
        key: String::new(),
        event: Value::Object(renamed),
        schema: BTreeMap::new(),
    })
}
