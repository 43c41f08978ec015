//! Partition keys, and the barriers of key changes.

use serde_json::json;

use super::*;

#[test]
fn the_partition_key_is_the_rows_key_or_the_table_or_the_transaction() {
    for (form, key) in [
        (EnvelopeForm::Debezium(debezium_form()), r#"{"id":1}"#),
        (EnvelopeForm::Dms(Dms::default()), "public.t.1"),
        (EnvelopeForm::Wal2json(Wal2json), r#"{"id":1}"#),
    ] {
        for (partition_by, row_key, keyless_key, message_key) in [
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
            assert_eq!(keys, [row_key, keyless_key, message_key], "{partition_by:?}");
        }
    }
}

#[test]
fn the_inserts_of_an_insert_only_table_are_spread_and_other_rows_are_not() {
    let mut relation = keyless();
    Arc::get_mut(&mut relation).unwrap().is_insert_only = true;
    let update = Change::Update {
        relation: Arc::clone(&relation),
        old: None,
        new: row(&[Some("1"), Some("y")]),
    };
    let changes = || {
        [
            insert(Arc::clone(&relation), "1", "x"),
            insert(keyless(), "1", "x"),
        ]
    };
    for form in all_forms() {
        for (partition_by, keyless, is_spread) in [
            (PartitionBy::Key, KeylessRows::Spread, true),
            (PartitionBy::Key, KeylessRows::Table, false),
            (PartitionBy::Table, KeylessRows::Spread, false),
        ] {
            let envelope = Envelope {
                partition_by,
                keyless,
                ..envelope(form.clone())
            };
            let key = |change| encode(&envelope, &[change]).pop().unwrap().partition_key;
            let [spread, other] = changes().map(key);
            assert_eq!(spread.starts_with("public.t#"), is_spread, "{spread}");
            assert_eq!(other, "public.t");
        }
        let updated = encode(&envelope(form), std::slice::from_ref(&update))
            .pop()
            .unwrap();
        assert_eq!(updated.partition_key, "public.t");
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
fn each_envelope_hashes_a_key_over_the_limit() {
    let relation = table(&[("id", "text", true), ("name", "text", false)]);
    let long_key = "x".repeat(300);
    for form in all_forms() {
        let events = encode(&envelope(form), &[insert(Arc::clone(&relation), &long_key, "y")]);
        assert_eq!(events[0].partition_key.len(), 64);
    }
}

#[test]
fn a_changed_key_is_one_event_and_a_barrier_in_dms_and_wal2json() {
    for (envelope, key) in [(dms(), "public.t.2"), (wal2json(), r#"{"id":2}"#)] {
        let events = encode(&envelope, &[key_change()]);
        let event = events.last().unwrap();
        assert_eq!((event.partition_key.as_str(), event.barrier), (key, true));
        assert_eq!(event.position.to_string(), position(16, 0));
        let by_table = Envelope {
            partition_by: PartitionBy::Table,
            ..envelope
        };
        assert!(!encode(&by_table, &[key_change()]).last().unwrap().barrier);
    }
    let event = parsed(encode(&dms(), &[key_change()]).last().unwrap());
    assert_eq!(
        (&event["data"], &event["before-image"]),
        (&json!({"id": 2, "name": "x"}), &json!({"id": 1}))
    );
    let event = parsed(&encode(&wal2json(), &[key_change()])[0]);
    assert_eq!(
        event["identity"],
        json!([{"name": "id", "type": "integer", "value": 1}])
    );
}

#[test]
fn a_row_whose_key_has_no_value_is_a_barrier_with_the_partition_key_of_its_table() {
    for form in all_forms() {
        for unknown in [Datum::Null, Datum::Absent, Datum::Unchanged] {
            let change = Change::Delete {
                relation: relation(),
                old: vec![unknown, Datum::Text("x".into())],
            };
            let events = encode(&envelope(form.clone()), &[change]);
            // The row may be any row of the table, so its event is in order with all of them.
            let of_row = |event: &&Event| !event.data.is_empty() && !event.data.starts_with(b"{\"control");
            let event = events.iter().find(of_row).unwrap();
            assert_eq!((event.partition_key.as_str(), event.barrier), ("public.t", true));
        }
    }
}

/// The table, with `name` as the column of its partition key.
fn with_partition_key_column(mut relation: Arc<Relation>) -> Arc<Relation> {
    let table = Arc::get_mut(&mut relation).unwrap();
    table.partition_key_may_change = true;
    table.columns[1].in_partition_key = true;
    relation
}

#[test]
fn partition_key_columns_replace_the_key_if_their_values_are_known() {
    for form in all_forms() {
        let own_key = match form {
            EnvelopeForm::Dms(_) => "public.t.1",
            _ => r#"{"id":1}"#,
        };
        let event = |change| encode(&envelope(form.clone()), &[change]).pop().unwrap();
        let change = |name| Change::Insert {
            relation: with_partition_key_column(relation()),
            new: vec![Datum::Text("1".into()), name],
        };
        let known = event(change(Datum::Text("x".into())));
        assert_eq!(known.partition_key, r#"{"name":"x"}"#);
        assert_eq!(event(change(Datum::Null)).partition_key, r#"{"name":null}"#);
        for unknown in [Datum::Unchanged, Datum::Absent, Datum::Oversize { bytes: 9 }] {
            let event = event(change(unknown));
            assert_eq!(event.partition_key, own_key);
            assert_eq!(event.row_hash, known.row_hash, "it is the same row");
        }
        let deleted = event(delete(with_partition_key_column(relation())));
        assert_eq!(
            (&*deleted.partition_key, deleted.row_hash),
            (own_key, known.row_hash)
        );
        let other = event(insert(with_partition_key_column(relation()), "2", "x"));
        assert_ne!(other.row_hash, known.row_hash);
        assert_eq!(event(insert(relation(), "1", "x")).row_hash, None);
    }
}

#[test]
fn rows_without_a_key_keep_the_order_of_their_table_unless_it_is_insert_only() {
    let mut insert_only = keyless();
    Arc::get_mut(&mut insert_only).unwrap().is_insert_only = true;
    for form in all_forms() {
        let event = |relation| {
            let changes = [insert(with_partition_key_column(relation), "1", "x")];
            encode(&envelope(form.clone()), &changes).pop().unwrap()
        };
        let keyless = event(keyless());
        assert_eq!((&*keyless.partition_key, keyless.row_hash), ("public.t", None));
        let spread = event(Relation::clone(&insert_only).into());
        assert_eq!(
            (&*spread.partition_key, spread.row_hash),
            (r#"{"name":"x"}"#, None)
        );
    }
}
