//! Flat rows, as Debezium's `ExtractNewRecordState` writes them.

use serde_json::{Value, json};

use super::*;

fn unwrapped() -> Envelope {
    envelope(EnvelopeForm::Debezium(Debezium {
        unwrap: true,
        ..debezium_form()
    }))
}

/// Added fields of an event, and its other fields.
///
/// The names of added fields begin with two underscores.
fn split(event: &Event) -> (Value, Value) {
    let Value::Object(fields) = parsed(event) else {
        panic!("not an object");
    };
    let (added, row): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(name, _)| name.starts_with("__"));
    (added.into_iter().collect(), row.into_iter().collect())
}

#[test]
fn a_row_is_followed_by_the_added_fields() {
    let events = encode(&unwrapped(), &[insert(relation(), "1", "x")]);
    let expected = concat!(
        r#"{"id":1,"name":"x","__deleted":"false","__op":"c","__table":"t","__lsn":16,"__schema":"public","#,
        r#""__db":"db","__name":"slot","__ts_ms":1700000001000,"__source_ts_ms":1700000000123,"#,
        r#""__position":"0000000000000020.0000000000000010.00000000"}"#
    );
    assert_eq!(texts(&events), [expected]);
    assert_eq!(events[0].partition_key, r#"{"id":1}"#);
}

#[test]
fn a_delete_has_its_old_row_and_nulls_for_columns_that_the_log_lacks() {
    let events = encode(&unwrapped(), &[delete(relation())]);
    let (added, row) = split(&events[0]);
    assert_eq!(row, json!({"id": 1, "name": null}));
    assert_eq!(
        (&added["__op"], &added["__deleted"]),
        (&json!("d"), &json!("true"))
    );
}

#[test]
fn a_changed_key_is_a_delete_and_a_create() {
    let events = encode(&unwrapped(), &[key_change()]);
    let found: Vec<(Value, Value)> = events
        .iter()
        .map(|event| (split(event).0["__op"].clone(), split(event).1))
        .collect();
    assert_eq!(
        found,
        [
            (json!("d"), json!({"id": 1, "name": null})),
            (json!("c"), json!({"id": 2, "name": "x"}))
        ]
    );
}

#[test]
fn an_update_without_a_key_is_a_delete_of_the_old_row_and_a_create() {
    let change = Change::Update {
        relation: keyless(),
        old: Some(row(&[Some("1"), Some("x")])),
        new: row(&[Some("1"), Some("y")]),
    };
    let envelope = unwrapped();
    let events = encode(&envelope, std::slice::from_ref(&change));
    let rows: Vec<Value> = events.iter().map(|event| split(event).1).collect();
    assert_eq!(
        rows,
        [json!({"id": 1, "name": "x"}), json!({"id": 1, "name": "y"})]
    );
    let operations: Vec<Value> = events
        .iter()
        .map(|event| split(event).0["__op"].clone())
        .collect();
    assert_eq!(operations, ["d", "c"]);
    assert_eq!(events[0].partition_key, events[1].partition_key);
    // A change after the skipped one has the same position as after an encoded one.
    let (mut skipped, mut out) = (progress(), EncodedEvents::default());
    envelope.skip(&mut skipped, Lsn(16), &change);
    envelope.encode(&mut skipped, Lsn(16), &change, NOW, usize::MAX, &mut out);
    assert_eq!(out.events[0].position.to_string(), position(16, 2));
}

#[test]
fn a_truncate_and_a_message_are_flat_events_without_a_row() {
    let events = encode(&unwrapped(), &[truncate(), message()]);
    let (truncate, message) = (parsed(&events[0]), parsed(&events[1]));
    assert_eq!(truncate["__op"], "t");
    assert_eq!(
        (&truncate["__schema"], &truncate["__table"]),
        (&json!("public"), &json!("t"))
    );
    assert_eq!(
        (&truncate["__deleted"], &message["__deleted"]),
        (&Value::Null, &Value::Null)
    );
    assert!(events[0].barrier);
    assert_eq!(message["__op"], "m");
    assert_eq!(
        (&message["__message_prefix"], &message["__message_content"]),
        (&json!("p"), &json!("/zE="))
    );
    assert_eq!(message["__position"], position(17, 0));
}

#[test]
fn a_column_with_the_name_of_an_added_field_gets_another_underscore() {
    let relation = table(&[
        ("id", "integer", true),
        ("__op", "text", false),
        ("___op", "text", false),
        ("__mine", "text", false),
        ("op", "text", false),
    ]);
    let change = Change::Insert {
        relation: Arc::clone(&relation),
        new: vec![
            Datum::Text("1".into()),
            Datum::Text("a".into()),
            Datum::Unchanged,
            Datum::Text("c".into()),
            Datum::Text("d".into()),
        ],
    };
    let events = encode(&unwrapped(), &[change]);
    let event = parsed(&events[0]);
    let values = ["__op", "___op", "____op", "__mine", "op"].map(|name| event[name].clone());
    assert_eq!(values, ["c", "a", UNAVAILABLE_VALUE, "c", "d"]);
    assert_eq!(event["__unchanged"], json!(["____op"]));
    // Parsers differ in how they read JSON with the same name twice.
    let names = texts(&events)[0].matches(r#""__op":"#).count();
    assert_eq!(names, 1);
}

#[test]
fn a_row_of_a_backfill_is_a_flat_row() {
    let events = encode_backfill(&unwrapped(), THREE_ROWS);
    let (added, row) = split(&events[0]);
    assert_eq!(row, json!({"id": 1, "name": "x"}));
    assert_eq!(
        (&added["__op"], &added["__deleted"]),
        (&json!("r"), &json!("false"))
    );
}

#[test]
fn the_order_in_the_transaction_has_the_names_of_add_fields() {
    let form = Debezium {
        unwrap: true,
        transaction_metadata: true,
        ..debezium_form()
    };
    let form = envelope(EnvelopeForm::Debezium(form));
    let (added, _) = split(&encode(&form, &[insert(relation(), "1", "x"), truncate()])[1]);
    assert_eq!(added["__transaction_id"], "7:17");
    assert_eq!(added["__transaction_total_order"], 2);
    assert_eq!(added["__transaction_data_collection_order"], 2);
    let read = encode_backfill(&form, THREE_ROWS);
    assert_eq!(split(&read[0]).0.get("__transaction_id"), None);
}

#[test]
fn the_old_row_of_an_update_does_not_count_against_the_size() {
    let change = Change::Update {
        relation: relation(),
        old: Some(vec![Datum::Text("1".into()), Datum::Oversize { bytes: 1 << 21 }]),
        new: row(&[Some("1"), Some("y")]),
    };
    assert_eq!(
        encode(&unwrapped(), std::slice::from_ref(&change))[0].missing_bytes,
        0
    );
    assert_eq!(encode(&debezium(), &[change])[0].missing_bytes, 1 << 21);
}

#[test]
fn omitted_names_a_column_that_is_omitted_for_its_size() {
    let form = Envelope {
        oversize: OversizePolicy::Omit,
        ..unwrapped()
    };
    let (mut progress, mut out) = (progress(), EncodedEvents::default());
    let text = "x".repeat(2000);
    let change = insert(relation(), "1", &text);
    assert_eq!(
        form.encode(&mut progress, Lsn(16), &change, NOW, 600, &mut out),
        1
    );
    let event = parsed(&out.events[0]);
    assert_eq!(
        (&event["name"], &event["__omitted"]),
        (&json!(UNAVAILABLE_VALUE), &json!(["name"]))
    );
    assert!(out.events[0].bytes() <= 600);
}
