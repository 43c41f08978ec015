use serde_json::{Value, json};

use super::*;
use crate::change::{ColumnCoverage, Type};
use crate::table_name::TableName;

const NOW: i64 = 1_700_000_001_000_000;
const COMMITTED: i64 = 1_700_000_000_123_456;

fn table(columns: &[(&str, &str, bool)]) -> Arc<Relation> {
    let column = |(name, type_name, key): &(&str, &str, bool)| {
        Column::new((*name).to_owned(), (*type_name).to_owned(), *key)
    };
    let primary = columns.iter().filter(|(_, _, key)| *key);
    Arc::new(Relation {
        table: TableName::new("public", "t"),
        columns: columns.iter().map(column).collect(),
        primary: primary
            .map(|(name, type_name, _)| ((*name).to_owned(), (*type_name).to_owned()))
            .collect(),
        extent: ColumnCoverage::Whole,
    })
}

fn relation() -> Arc<Relation> {
    table(&[("id", "integer", true), ("name", "text", false)])
}

fn keyless() -> Arc<Relation> {
    table(&[("id", "integer", false), ("name", "text", false)])
}

fn row<'a>(values: &[Option<&'a str>]) -> Tuple<'a> {
    let datum = |value: &Option<&'a str>| value.map_or(Datum::Null, |text| Datum::Text(text.into()));
    values.iter().map(datum).collect()
}

fn insert<'a>(relation: Arc<Relation>, id: &'a str, name: &'a str) -> Change<'a> {
    Change::Insert {
        relation,
        new: row(&[Some(id), Some(name)]),
    }
}

fn moving() -> Change<'static> {
    Change::Update {
        relation: relation(),
        old: Some(vec![Datum::Text("1".into()), Datum::Absent]),
        new: row(&[Some("2"), Some("x")]),
    }
}

fn delete(relation: Arc<Relation>) -> Change<'static> {
    Change::Delete {
        relation,
        old: vec![Datum::Text("1".into()), Datum::Absent],
    }
}

fn message() -> Change<'static> {
    Change::Message(Message {
        prefix: "p".into(),
        content: b"\xff1".as_slice().into(),
    })
}

fn debezium() -> Debezium {
    Debezium {
        name: "slot".into(),
        database: "db".into(),
        modes: DebeziumModes::default(),
        tombstones: false,
        transaction_metadata: false,
    }
}

fn envelope(form: EnvelopeForm) -> Envelope {
    Envelope {
        form,
        partition_by: PartitionBy::Key,
        oversize: Oversize::Fail,
    }
}

fn dms() -> Envelope {
    envelope(EnvelopeForm::Dms(Dms::default()))
}

fn wal2json() -> Envelope {
    envelope(EnvelopeForm::Wal2json(Wal2json))
}

fn progress() -> Progress {
    let transaction = Transaction {
        xid: 7,
        commit_time: Some(COMMITTED),
    };
    Progress::new(transaction, Lsn(32))
}

/// The events of changes of one transaction, logged at 16, 17 and so on.
fn encode(envelope: &Envelope, changes: &[Change<'_>]) -> Vec<Event> {
    let (mut progress, mut out) = (progress(), Vec::new());
    for (at, change) in changes.iter().enumerate() {
        envelope.encode(
            &mut progress,
            Lsn(16 + at as u64),
            change,
            NOW,
            usize::MAX,
            &mut out,
        );
    }
    out
}

/// The events of rows that a backfill read, of one watermark that was logged at 16.
fn read(envelope: &Envelope, rows: &[(&str, SnapshotPlace)]) -> Vec<Event> {
    let (mut progress, mut out) = (progress(), Vec::new());
    for (id, snapshot) in rows {
        let row = row(&[Some(id), Some("x")]);
        envelope.encode_backfill_row(
            &mut progress,
            Lsn(16),
            &BackfillRow {
                relation: &relation(),
                values: &row,
                place: *snapshot,
            },
            NOW,
            usize::MAX,
            &mut out,
        );
    }
    out
}

const THREE: &[(&str, SnapshotPlace)] = &[
    ("1", SnapshotPlace::First),
    ("2", SnapshotPlace::Within),
    ("3", SnapshotPlace::Last),
];

fn parsed(event: &Event) -> Value {
    serde_json::from_slice(&event.data).unwrap()
}

fn texts(events: &[Event]) -> Vec<&str> {
    let texts = events.iter().map(|event| std::str::from_utf8(&event.data));
    texts.collect::<Result<_, _>>().unwrap()
}

fn position(lsn: u64, index: u32) -> String {
    format!("0000000000000020.{lsn:016x}.{index:08x}")
}

#[test]
fn an_insert_is_a_create_with_debeziums_fields() {
    let events = encode(
        &envelope(EnvelopeForm::Debezium(debezium())),
        &[insert(relation(), "1", "x")],
    );
    let source = json!({"version": env!("CARGO_PKG_VERSION"), "connector": "postgresql", "name": "slot",
        "ts_ms": 1_700_000_000_123i64, "ts_us": 1_700_000_000_123_456i64, "ts_ns": 1_700_000_000_123_456_000i64,
        "snapshot": "false", "db": "db", "sequence": "[\"32\",\"16\"]", "schema": "public", "table": "t", "txId": 7,
        "lsn": 16, "xmin": null, "position": "0000000000000020.0000000000000010.00000000"});
    let event = json!({"before": null, "after": {"id": 1, "name": "x"}, "source": source, "transaction": null, "op": "c",
        "ts_ms": 1_700_000_001_000i64, "ts_us": 1_700_000_001_000_000i64, "ts_ns": 1_700_000_001_000_000_000i64});
    assert_eq!(
        (events[0].partition_key.as_str(), parsed(&events[0])),
        (r#"{"id":1}"#, event)
    );
}

#[test]
fn a_changed_key_is_for_debezium_a_delete_of_the_old_and_a_create_of_the_new() {
    let events = encode(&envelope(EnvelopeForm::Debezium(debezium())), &[moving()]);
    let seen: Vec<_> = events
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
    assert_eq!(seen, expected);
    assert!(events[0].position < events[1].position && !events[0].barrier);
}

#[test]
fn a_tombstone_follows_its_delete_with_the_same_key_and_position_and_without_data() {
    let form = Debezium {
        tombstones: true,
        ..debezium()
    };
    let with = encode(
        &envelope(EnvelopeForm::Debezium(form)),
        &[delete(relation()), moving(), insert(relation(), "3", "y")],
    );
    let seen: Vec<_> = with
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
        seen,
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
fn the_transaction_block_counts_all_events_and_those_of_each_table() {
    let form = Debezium {
        transaction_metadata: true,
        ..debezium()
    };
    let mut other = relation();
    if let Some(other) = Arc::get_mut(&mut other) {
        other.table.name = "other".into();
    }
    let changes = [
        insert(relation(), "1", "x"),
        insert(other, "1", "x"),
        moving(),
        Change::Truncate {
            relations: vec![relation()],
        },
    ];
    let events = encode(&envelope(EnvelopeForm::Debezium(form)), &changes);
    let blocks: Vec<Value> = events
        .iter()
        .map(|event| parsed(event)["transaction"].clone())
        .collect();
    let block = |lsn: u64, total: u64, of_table: u64| json!({"id": format!("7:{lsn}"), "total_order": total, "data_collection_order": of_table});
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

#[test]
fn what_is_skipped_counts_as_if_it_had_been_sent() {
    let metadata = Debezium {
        transaction_metadata: true,
        ..debezium()
    };
    let changes = [
        insert(relation(), "1", "x"),
        moving(),
        delete(relation()),
        message(),
        Change::Truncate {
            relations: vec![relation(), keyless()],
        },
    ];
    for form in [
        EnvelopeForm::Debezium(metadata),
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let envelope = envelope(form);
        // Announces the table, so that the last change comes alone both times.
        encode(&envelope, &changes);
        let last = insert(relation(), "9", "z");
        let ways = [true, false].map(|skips| {
            let (mut progress, mut out) = (progress(), Vec::new());
            for change in &changes {
                // All of one record, so that each position counts.
                if skips {
                    envelope.skip(&mut progress, Lsn(16), change);
                } else {
                    envelope.encode(&mut progress, Lsn(16), change, NOW, usize::MAX, &mut Vec::new());
                }
            }
            envelope.encode(&mut progress, Lsn(16), &last, NOW, usize::MAX, &mut out);
            out.pop().unwrap()
        });
        assert_eq!(ways[0], ways[1]);
        assert_eq!(ways[0].position.index, 7, "the same in each envelope");
    }
}

#[test]
fn an_untouched_large_value_is_marked_in_each_envelope_and_never_null() {
    let change = [Change::Update {
        relation: relation(),
        old: None,
        new: vec![Datum::Text("1".into()), Datum::Unchanged],
    }];
    let events = encode(&envelope(EnvelopeForm::Debezium(debezium())), &change);
    assert_eq!(parsed(&events[0])["after"], json!({"id": 1, "name": UNAVAILABLE}));
    let event = parsed(encode(&dms(), &change).last().unwrap());
    assert_eq!(
        (&event["data"], &event["metadata"]["unchanged"]),
        (&json!({"id": 1, "name": UNAVAILABLE}), &json!(["name"]))
    );
    let event = parsed(&encode(&wal2json(), &change)[0]);
    let id = json!([{"name": "id", "type": "integer", "value": 1}]);
    assert_eq!(
        (&event["columns"], &event["identity"], &event["unchanged"]),
        (&id, &id, &json!(["name"]))
    );
}

/// The fields as in messages of DMS that others published, but for `position`.
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
            "partition-key-type": "primary-key", "schema-name": "public", "table-name": "t", "transaction-id": 7,
            "transaction-record-id": 1, "commit-timestamp": "2023-11-14T22:13:20.123456Z",
            "stream-position": "00000000/00000020.1.00000000/00000010", "position": position(16, 0)})
    };
    let columns = json!({"id": {"type": "INT32", "nullable": false}, "name": {"type": "STRING", "length": 20, "nullable": true},
        "price": {"type": "NUMERIC", "precision": 10, "scale": 2, "nullable": true}, "ok": {"type": "STRING", "length": 5, "nullable": true},
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
fn a_moved_row_is_one_event_of_dms_and_of_wal2json_and_a_barrier() {
    for (envelope, key) in [(dms(), "public.t.2"), (wal2json(), r#"{"id":2}"#)] {
        let events = encode(&envelope, &[moving()]);
        let event = events.last().unwrap();
        assert_eq!((event.partition_key.as_str(), event.barrier), (key, true));
        assert_eq!(event.position.to_string(), position(16, 0));
        let by_table = Envelope {
            partition_by: PartitionBy::Table,
            ..envelope
        };
        assert!(!encode(&by_table, &[moving()]).last().unwrap().barrier);
    }
    let event = parsed(encode(&dms(), &[moving()]).last().unwrap());
    assert_eq!(
        (&event["data"], &event["before-image"]),
        (&json!({"id": 2, "name": "x"}), &json!({"id": 1}))
    );
    let event = parsed(&encode(&wal2json(), &[moving()])[0]);
    assert_eq!(
        event["identity"],
        json!([{"name": "id", "type": "integer", "value": 1}])
    );
}

#[test]
fn a_row_without_a_key_is_known_by_its_whole_old_row() {
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
fn a_table_is_announced_to_consumers_of_dms_before_its_first_row_and_behind_a_barrier_when_it_changed() {
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
    let seen = |events: Vec<Event>| -> Vec<_> {
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
    assert_eq!(seen(encode(&envelope, &changes)), expected);
    // When it is sent again, all of it is.
    assert_eq!(seen(encode(&envelope, &changes)), expected);
}

#[test]
fn truncates_and_messages_are_control_records_of_dms_and_actions_of_wal2json() {
    let changes = [
        Change::Truncate {
            relations: vec![relation()],
        },
        message(),
    ];
    let events = encode(&dms(), &changes);
    let (truncate, said) = (parsed(&events[0]), parsed(&events[1]));
    assert_eq!(truncate["metadata"]["operation"], "truncate-table");
    assert_eq!(
        (events[0].partition_key.as_str(), events[0].barrier),
        ("public.t", true)
    );
    assert_eq!(said["metadata"]["operation"], "logical-message");
    assert_eq!(
        said["control"],
        json!({"message": {"prefix": "p", "content": "/zE="}})
    );
    let events = encode(&wal2json(), &changes);
    let (truncate, said) = (parsed(&events[0]), parsed(&events[1]));
    let expected = json!({"action": "T", "xid": 7, "timestamp": "2023-11-14 22:13:20.123456+00", "lsn": "0/10",
        "schema": "public", "table": "t", "position": position(16, 0)});
    assert_eq!(truncate, expected);
    let expected = json!({"action": "M", "xid": 7, "timestamp": "2023-11-14 22:13:20.123456+00", "lsn": "0/11",
        "transactional": true, "prefix": "p", "content": "/zE=", "encoding": "base64", "position": position(17, 0)});
    assert_eq!(said, expected);
    let alone = Position {
        commit_end: Lsn(9),
        lsn: Lsn(9),
        index: 0,
    };
    let Change::Message(message) = message() else {
        unreachable!()
    };
    let event = parsed(&wal2json().encode_message(alone, &message, NOW));
    assert_eq!(
        (&event["xid"], &event["transactional"]),
        (&Value::Null, &json!(false))
    );
    let event = parsed(&dms().encode_message(alone, &message, NOW));
    assert_eq!(event["metadata"].get("transaction-id"), None);
}

#[test]
fn each_type_has_its_json_in_dms_and_in_wal2json() {
    let array = |of| Type::Array(Box::new(of));
    for (kind, text, dms_json, wal2json_json) in [
        (Type::Bool, "t", r#""true""#, "true"),
        (Type::Bool, "false", r#""false""#, "false"),
        (
            Type::Integer,
            "-9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775808",
        ),
        (Type::Float, "1e+300", "1e+300", "1e+300"),
        (Type::Float, "-Infinity", r#""-Infinity""#, r#""-Infinity""#),
        (Type::Numeric(Some(2)), "0.10", "0.10", "0.10"),
        (
            Type::Numeric(None),
            "123456789012345678901234567890.10",
            "123456789012345678901234567890.10",
            "123456789012345678901234567890.10",
        ),
        (Type::Numeric(None), "NaN", r#""NaN""#, r#""NaN""#),
        (Type::Bytea, "\\xdead", r#""dead""#, r#""dead""#),
        (Type::Bytea, "\\x", r#""""#, r#""""#),
        (Type::Date, "2024-02-29", r#""2024-02-29""#, r#""2024-02-29""#),
        (Type::Date, "infinity", r#""infinity""#, r#""infinity""#),
        (Type::Time(6), "12:34:56.7", r#""12:34:56.7""#, r#""12:34:56.7""#),
        (
            Type::TimeTz,
            "12:34:56+05:30",
            r#""12:34:56+05:30""#,
            r#""12:34:56+05:30""#,
        ),
        (
            Type::Timestamp(6),
            "2024-02-29 12:34:56.5",
            r#""2024-02-29T12:34:56.5Z""#,
            r#""2024-02-29 12:34:56.5""#,
        ),
        (
            Type::TimestampTz,
            "2024-02-29 12:34:56+00",
            r#""2024-02-29T12:34:56Z""#,
            r#""2024-02-29 12:34:56+00""#,
        ),
        (
            Type::TimestampTz,
            "0044-03-15 00:00:00+00 BC",
            r#""0044-03-15 00:00:00+00 BC""#,
            r#""0044-03-15 00:00:00+00 BC""#,
        ),
        (array(Type::Integer), "{1,NULL}", r#""{1,NULL}""#, r#""{1,NULL}""#),
        (
            Type::Text,
            "{\"a\": \"b\"}",
            r#""{\"a\": \"b\"}""#,
            r#""{\"a\": \"b\"}""#,
        ),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        dms::value(&mut ours, &kind, text);
        wal2json::value(&mut theirs, &kind, text);
        assert_eq!(String::from_utf8(ours).unwrap(), dms_json, "{kind:?} {text}");
        assert_eq!(
            String::from_utf8(theirs).unwrap(),
            wal2json_json,
            "{kind:?} {text}"
        );
    }
}

#[test]
fn the_partition_key_is_the_rows_key_or_the_table_or_the_transaction() {
    for (form, key) in [
        (EnvelopeForm::Debezium(debezium()), r#"{"id":1}"#),
        (EnvelopeForm::Dms(Dms::default()), "public.t.1"),
        (EnvelopeForm::Wal2json(Wal2json), r#"{"id":1}"#),
    ] {
        for (partition_by, keyed, without, said) in [
            (PartitionBy::Key, key, "public.t", r#"{"prefix":"p"}"#),
            (PartitionBy::Table, "public.t", "public.t", r#"{"prefix":"p"}"#),
            (
                PartitionBy::Transaction,
                "7.0000000000000020",
                "7.0000000000000020",
                "7.0000000000000020",
            ),
        ] {
            let envelope = Envelope {
                partition_by,
                ..envelope(form.clone())
            };
            let changes = [
                insert(relation(), "1", "x"),
                insert(keyless(), "1", "x"),
                message(),
            ];
            let keys = changes.map(|change| encode(&envelope, &[change]).pop().unwrap().partition_key);
            assert_eq!(keys, [keyed, without, said], "{partition_by:?}");
        }
    }
}

#[test]
fn a_partition_key_of_dms_never_quotes_the_name_of_its_table() {
    let mut relation = relation();
    if let Some(relation) = Arc::get_mut(&mut relation) {
        relation.table = TableName::new("My app", "Order\"s");
    }
    let events = encode(&dms(), &[insert(relation, "1", "x")]);
    let keys: Vec<&str> = events.iter().map(|event| event.partition_key.as_str()).collect();
    assert_eq!(keys, ["My app.Order\"s.1", "My app.Order\"s.1"]);
}

#[test]
fn a_key_of_many_characters_is_hashed_in_each_envelope() {
    let relation = table(&[("id", "text", true), ("name", "text", false)]);
    let long = "x".repeat(300);
    for form in [
        EnvelopeForm::Debezium(debezium()),
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let events = encode(&envelope(form), &[insert(Arc::clone(&relation), &long, "y")]);
        assert_eq!(events[0].partition_key.len(), 64);
    }
}

#[test]
fn what_no_record_can_hold_loses_its_largest_columns_outside_the_key_and_says_so() {
    let relation = table(&[
        ("id", "text", true),
        ("small", "text", false),
        ("large", "text", false),
        ("larger", "text", false),
    ]);
    let (key, small, large, larger) = ("k".repeat(400), "s".repeat(20), "l".repeat(200), "m".repeat(210));
    let change = Change::Insert {
        relation,
        new: row(&[Some(&key), Some(&small), Some(&large), Some(&larger)]),
    };
    for form in [
        EnvelopeForm::Debezium(debezium()),
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let envelope = Envelope {
            oversize: Oversize::Omit,
            ..envelope(form)
        };
        let at = |limit: usize| {
            let mut out = Vec::new();
            let omitted = envelope.encode(&mut progress(), Lsn(16), &change, NOW, limit, &mut out);
            let event = out.pop().unwrap();
            let size = event.data.len() + event.partition_key.len();
            (size, omitted, parsed(&event))
        };
        let names = |event: &Value| {
            let places = [
                &event["source"]["omitted"],
                &event["metadata"]["omitted"],
                &event["omitted"],
            ];
            places.into_iter().find(|names| !names.is_null()).cloned()
        };
        let (whole, ..) = at(usize::MAX);
        for limit in [whole, whole + 1] {
            let (size, omitted, event) = at(limit);
            assert_eq!((size, omitted, names(&event)), (whole, 0, None));
        }
        let (less, omitted, event) = at(whole - 1);
        assert_eq!((omitted, names(&event)), (1, Some(json!(["larger"]))));
        assert_eq!(at(less).2, event);
        let (size, omitted, event) = at(less - 1);
        assert!(size < less);
        assert_eq!((omitted, names(&event)), (1, Some(json!(["large", "larger"]))));
        // The key stays, and with it the event is as it is: too large.
        let (size, omitted, event) = at(10);
        assert!(size > 10 && event.to_string().contains(&key));
        assert_eq!(
            (omitted, names(&event)),
            (1, Some(json!(["small", "large", "larger"])))
        );
        match &envelope.form {
            EnvelopeForm::Debezium(_) => assert_eq!(event["after"]["small"], "__debezium_unavailable_value"),
            EnvelopeForm::Dms(_) => assert_eq!(event["metadata"]["unchanged"], event["metadata"]["omitted"]),
            EnvelopeForm::Wal2json(_) => assert_eq!(event["unchanged"], event["omitted"]),
        }
    }
}

#[test]
fn both_images_of_a_row_lose_the_column() {
    let relation = relation();
    let (old, new) = ("a".repeat(100), "b".repeat(100));
    let change = Change::Update {
        relation,
        old: Some(row(&[Some("1"), Some(&old)])),
        new: row(&[Some("1"), Some(&new)]),
    };
    let envelope = Envelope {
        oversize: Oversize::Omit,
        ..envelope(EnvelopeForm::Debezium(debezium()))
    };
    let mut out = Vec::new();
    envelope.encode(&mut progress(), Lsn(16), &change, NOW, 600, &mut out);
    let event = parsed(&out[0]);
    assert_eq!(event["before"], event["after"]);
    assert_eq!(event["after"]["name"], "__debezium_unavailable_value");
}

#[test]
fn what_a_backfill_reads_is_an_r_of_debezium_that_tells_its_place_among_the_rows() {
    let form = Debezium {
        transaction_metadata: true,
        ..debezium()
    };
    let events = read(&envelope(EnvelopeForm::Debezium(form)), THREE);
    let expected = |id: u32, snapshot: &str| {
        let version = env!("CARGO_PKG_VERSION");
        let source = format!(
            r#"{{"version":"{version}","connector":"postgresql","name":"slot","ts_ms":1700000000123,"ts_us":1700000000123456,"ts_ns":1700000000123456000,"snapshot":"{snapshot}","db":"db","sequence":"[\"32\",\"16\"]","schema":"public","table":"t","txId":7,"lsn":16,"xmin":null,"position":"{}"}}"#,
            position(16, id - 1)
        );
        format!(
            r#"{{"before":null,"after":{{"id":{id},"name":"x"}},"source":{source},"transaction":null,"op":"r","ts_ms":1700000001000,"ts_us":1700000001000000,"ts_ns":1700000001000000000}}"#
        )
    };
    assert_eq!(
        texts(&events),
        [
            expected(1, "first_in_data_collection"),
            expected(2, "incremental"),
            expected(3, "last_in_data_collection")
        ]
    );
}

#[test]
fn what_a_backfill_reads_is_a_load_of_dms_that_tells_of_no_transaction() {
    let events = read(&dms(), THREE);
    let metadata = |kind: &str, operation: &str, id: u32| {
        format!(
            r#""metadata":{{"timestamp":"2023-11-14T22:13:21.000000Z","record-type":"{kind}","operation":"{operation}","partition-key-type":"primary-key","schema-name":"public","table-name":"t","stream-position":"00000000/00000020.{id}.00000000/00000010","position":"{}""#,
            position(16, id - 1)
        )
    };
    let load = |id: u32, snapshot: &str| {
        let metadata = metadata("data", "load", id);
        format!("{{\"data\":{{\"id\":{id},\"name\":\"x\"}},{metadata}{snapshot}}}}}\n")
    };
    let columns = r#"{"id":{"type":"INT32","nullable":false},"name":{"type":"STRING","nullable":true}},"primary-key":["id"]"#;
    let control = metadata("control", "create-table", 1);
    assert_eq!(
        texts(&events),
        [
            format!("{{\"control\":{{\"table-def\":{{\"columns\":{columns}}}}},{control}}}}}\n"),
            load(1, r#","snapshot":"first_in_data_collection""#),
            load(2, ""),
            load(3, r#","snapshot":"last_in_data_collection""#)
        ]
    );
}

#[test]
fn what_a_backfill_reads_is_an_i_of_wal2json_that_tells_its_place_among_the_rows() {
    let events = read(&wal2json(), THREE);
    let expected = |id: u32, snapshot: &str| {
        format!(
            r#"{{"action":"I","xid":7,"timestamp":"2023-11-14 22:13:20.123456+00","lsn":"0/10","schema":"public","table":"t","columns":[{{"name":"id","type":"integer","value":{id}}},{{"name":"name","type":"text","value":"x"}}],"pk":[{{"name":"id","type":"integer"}}],"position":"{}","snapshot":"{snapshot}"}}"#,
            position(16, id - 1)
        )
    };
    assert_eq!(
        texts(&events),
        [
            expected(1, "first_in_data_collection"),
            expected(2, "incremental"),
            expected(3, "last_in_data_collection")
        ]
    );
}

#[test]
fn what_a_backfill_reads_goes_the_way_of_a_change_of_its_row_and_waits_for_nothing() {
    for form in [
        EnvelopeForm::Debezium(debezium()),
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        for partition_by in [PartitionBy::Key, PartitionBy::Table, PartitionBy::Transaction] {
            let envelope = Envelope {
                partition_by,
                ..envelope(form.clone())
            };
            let changed = encode(&envelope, &[insert(relation(), "1", "x")]).pop().unwrap();
            let read = read(&envelope.with_empty_definitions(), &[("1", SnapshotPlace::Last)])
                .pop()
                .unwrap();
            assert_eq!(
                (&read.partition_key, &read.relation, read.position, read.barrier),
                (&changed.partition_key, &changed.relation, changed.position, false)
            );
        }
    }
}

#[test]
fn what_a_backfill_reads_and_no_record_can_hold_loses_columns_too() {
    let (large, mut out) = ("x".repeat(1000), Vec::new());
    let row = row(&[Some("1"), Some(&large)]);
    let envelope = Envelope {
        oversize: Oversize::Omit,
        ..wal2json()
    };
    let omitted = envelope.encode_backfill_row(
        &mut progress(),
        Lsn(16),
        &BackfillRow {
            relation: &relation(),
            values: &row,
            place: SnapshotPlace::First,
        },
        NOW,
        600,
        &mut out,
    );
    let end = r#","snapshot":"first_in_data_collection","unchanged":["name"],"omitted":["name"]}"#;
    assert!(omitted == 1 && texts(&out)[0].ends_with(end), "{:?}", texts(&out));
}

#[test]
fn a_control_message_is_a_message_of_its_transaction_and_a_barrier() {
    let Change::Message(said) = message() else {
        unreachable!()
    };
    for envelope in [envelope(EnvelopeForm::Debezium(debezium())), dms(), wal2json()] {
        let mut progress = progress();
        let control = envelope.encode_control_message(&mut progress, Lsn(16), &said, NOW);
        let expected = encode(&envelope, &[message()]).pop().unwrap();
        assert!(control.barrier && !expected.barrier);
        let expected = Event {
            barrier: true,
            ..expected
        };
        assert_eq!(control, expected);
        let next = envelope.encode_control_message(&mut progress, Lsn(16), &said, NOW);
        assert_eq!(next.position.to_string(), position(16, 1));
    }
}
