//! Events of the Debezium envelope.

use serde_json::{Value, json};

use super::*;

#[test]
fn an_insert_has_the_fields_of_debezium() {
    let events = encode(&debezium(), &[insert(relation(), "1", "x")]);
    let source = json!({"version": env!("CARGO_PKG_VERSION"), "connector": "postgresql", "name": "slot",
        "ts_ms": 1_700_000_000_123i64, "ts_us": 1_700_000_000_123_456i64,
        "ts_ns": 1_700_000_000_123_456_000i64, "snapshot": "false", "db": "db",
        "sequence": "[\"32\",\"16\"]", "schema": "public", "table": "t", "txId": 7, "lsn": 16,
        "xmin": null, "position": "0000000000000020.0000000000000010.00000000"});
    let event = json!({"before": null, "after": {"id": 1, "name": "x"}, "source": source, "transaction": null,
        "op": "c", "ts_ms": 1_700_000_001_000i64, "ts_us": 1_700_000_001_000_000i64,
        "ts_ns": 1_700_000_001_000_000_000i64});
    assert_eq!(
        (events[0].partition_key.as_str(), parsed(&events[0])),
        (r#"{"id":1}"#, event)
    );
}

#[test]
fn debezium_splits_a_changed_key_into_a_delete_and_a_create() {
    let events = encode(&debezium(), &[key_change()]);
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            let json = parsed(event);
            (
                event.partition_key.as_str(),
                json["op"].clone(),
                json["before"].clone(),
                json["after"].clone(),
            )
        })
        .collect();
    let expected = [
        (r#"{"id":1}"#, json!("d"), json!({"id": 1}), Value::Null),
        (
            r#"{"id":2}"#,
            json!("c"),
            Value::Null,
            json!({"id": 2, "name": "x"}),
        ),
    ];
    assert_eq!(found, expected);
    assert!(events[0].position < events[1].position && !events[0].barrier);
}

#[test]
fn an_empty_tombstone_follows_its_delete_with_the_same_key_and_position() {
    let form = Debezium {
        tombstones: true,
        ..debezium_form()
    };
    let events = encode(
        &envelope(EnvelopeForm::Debezium(form)),
        &[delete(relation()), key_change(), insert(relation(), "3", "y")],
    );
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.partition_key.as_str(),
                event.data.is_empty(),
                event.position.to_string(),
            )
        })
        .collect();
    let (one, two, three) = (r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#);
    assert_eq!(
        found,
        [
            (one, false, position(16, 0)),
            (one, true, position(16, 0)),
            (one, false, position(17, 0)),
            (one, true, position(17, 0)),
            (two, false, position(17, 1)),
            (three, false, position(18, 0)),
        ]
    );
}

#[test]
fn the_transaction_block_holds_the_order_in_the_transaction_and_in_the_table() {
    let form = Debezium {
        transaction_metadata: true,
        ..debezium_form()
    };
    let mut other = relation();
    if let Some(other) = Arc::get_mut(&mut other) {
        other.table.name = "other".into();
    }
    let changes = [
        insert(relation(), "1", "x"),
        insert(other, "1", "x"),
        key_change(),
        truncate(),
    ];
    let events = encode(&envelope(EnvelopeForm::Debezium(form)), &changes);
    let blocks: Vec<Value> = events
        .iter()
        .map(|event| parsed(event)["transaction"].clone())
        .collect();
    let block = |lsn: u64, total: u64, of_table: u64| {
        let id = format!("7:{lsn}");
        json!({"id": id, "total_order": total, "data_collection_order": of_table})
    };
    assert_eq!(
        blocks,
        [
            block(16, 1, 1),
            block(17, 2, 1),
            block(18, 3, 2),
            block(18, 4, 3),
            block(19, 5, 4)
        ]
    );
}
