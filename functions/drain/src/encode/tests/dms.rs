//! Events of the DMS envelope.

use serde_json::json;

use super::*;

/// The fields are those of published DMS messages, except for `position`.
#[test]
fn a_row_and_a_definition_have_the_fields_of_dms() {
    let relation = table(&[
        ("id", "integer", true),
        ("name", "character varying(20)", false),
        ("price", "numeric(10,2)", false),
        ("ok", "boolean", false),
        ("at", "timestamp with time zone", false),
    ]);
    let change = Change::Insert {
        relation,
        new: row(&[
            Some("46"),
            None,
            Some("1.50"),
            Some("t"),
            Some("2024-07-29 00:58:17.97+00"),
        ]),
    };
    let events = encode(&dms(), &[change]);
    let keys: Vec<&str> = events.iter().map(|event| event.partition_key.as_str()).collect();
    assert_eq!(keys, ["public.t.46", "public.t.46"]);
    let metadata = |kind: &str, operation: &str| {
        json!({"timestamp": "2023-11-14T22:13:21.000000Z", "record-type": kind, "operation": operation,
            "partition-key-type": "primary-key", "schema-name": "public", "table-name": "t",
            "transaction-id": 7, "transaction-record-id": 1,
            "commit-timestamp": "2023-11-14T22:13:20.123456Z",
            "stream-position": "00000000/00000020.1.00000000/00000010", "position": position(16, 0)})
    };
    let columns = json!({"id": {"type": "INT32", "nullable": false},
        "name": {"type": "STRING", "length": 20, "nullable": true},
        "price": {"type": "NUMERIC", "precision": 10, "scale": 2, "nullable": true},
        "ok": {"type": "STRING", "length": 5, "nullable": true},
        "at": {"type": "TIMESTAMP", "nullable": true}});
    let control = json!({"table-def": {"columns": columns, "primary-key": ["id"]}});
    assert_eq!(
        parsed(&events[0]),
        json!({"control": control, "metadata": metadata("control", "create-table")})
    );
    let data = json!({"id": 46, "price": 1.50, "ok": "true", "at": "2024-07-29T00:58:17.97Z"});
    assert_eq!(
        parsed(&events[1]),
        json!({"data": data, "metadata": metadata("data", "insert")})
    );
    assert!(!events[0].barrier && !events[1].barrier);
}

#[test]
fn the_before_image_of_a_row_without_a_key_is_the_whole_old_row() {
    let change = Change::Update {
        relation: keyless(),
        old: Some(row(&[Some("1"), None])),
        new: row(&[Some("1"), Some("x")]),
    };
    let events = encode(&dms(), &[change]);
    let event = parsed(events.last().unwrap());
    assert_eq!(event["before-image"], json!({"id": 1}));
    assert_eq!(event["metadata"]["partition-key-type"], "schema-table");
    assert_eq!(events.last().unwrap().partition_key, "public.t");
}

#[test]
fn dms_announces_a_table_before_its_first_row_and_a_changed_table_as_a_barrier() {
    let envelope = dms();
    let wider = table(&[
        ("id", "integer", true),
        ("name", "text", false),
        ("more", "date", false),
    ]);
    let changes = [
        delete(relation()),
        insert(relation(), "1", "x"),
        Change::Insert {
            relation: wider,
            new: row(&[Some("2"), None, None]),
        },
    ];
    let records = |events: Vec<Event>| -> Vec<_> {
        let operation = |event: &Event| {
            parsed(event)["metadata"]["operation"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        events
            .iter()
            .map(|event| (operation(event), event.partition_key.clone(), event.barrier))
            .collect()
    };
    let expected = [
        ("create-table", "public.t.1", false),
        ("delete", "public.t.1", false),
        ("insert", "public.t.1", false),
        ("change-columns", "public.t", true),
        ("insert", "public.t.2", false),
    ];
    let expected = expected.map(|(operation, key, barrier)| (operation.to_owned(), key.to_owned(), barrier));
    assert_eq!(records(encode(&envelope, &changes)), expected);
    // Changes that are sent again have the same announcements.
    assert_eq!(records(encode(&envelope, &changes)), expected);
}

#[test]
fn a_truncate_and_a_message_are_control_records_of_dms() {
    let events = encode(&dms(), &[truncate(), message()]);
    let (truncate, message) = (parsed(&events[0]), parsed(&events[1]));
    assert_eq!(truncate["metadata"]["operation"], "truncate-table");
    assert_eq!(
        (events[0].partition_key.as_str(), events[0].barrier),
        ("public.t", true)
    );
    assert_eq!(message["metadata"]["operation"], "logical-message");
    assert_eq!(
        message["control"],
        json!({"message": {"prefix": "p", "content": "/zE="}})
    );
}

#[test]
fn a_message_outside_any_transaction_has_no_transaction_id_in_dms() {
    let event = parsed(&dms().encode_message(OUTSIDE, &logical_message(), NOW));
    assert_eq!(event["metadata"].get("transaction-id"), None);
}
