//! Events of rows that a backfill read.

use super::*;

#[test]
fn a_backfill_row_is_a_read_event_of_debezium_with_its_snapshot_place() {
    let form = Debezium {
        transaction_metadata: true,
        ..debezium_form()
    };
    let events = encode_backfill(&envelope(EnvelopeForm::Debezium(form)), THREE_ROWS);
    let expected = |id: u32, snapshot: &str| {
        let version = env!("CARGO_PKG_VERSION");
        let source = format!(
            concat!(
                r#"{{"version":"{}","connector":"postgresql","name":"slot","ts_ms":1700000000123,"#,
                r#""ts_us":1700000000123456,"ts_ns":1700000000123456000,"snapshot":"{}","db":"db","#,
                r#""sequence":"[\"32\",\"16\"]","schema":"public","table":"t","txId":7,"lsn":16,"#,
                r#""xmin":null,"position":"{}"}}"#
            ),
            version,
            snapshot,
            position(16, id - 1)
        );
        format!(
            concat!(
                r#"{{"before":null,"after":{{"id":{},"name":"x"}},"source":{},"transaction":null,"#,
                r#""op":"r","ts_ms":1700000001000,"ts_us":1700000001000000,"ts_ns":1700000001000000000}}"#
            ),
            id, source
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
fn a_backfill_row_is_a_load_of_dms_without_a_transaction() {
    let events = encode_backfill(&dms(), THREE_ROWS);
    let metadata = |kind: &str, operation: &str, id: u32| {
        format!(
            concat!(
                r#""metadata":{{"timestamp":"2023-11-14T22:13:21.000000Z","record-type":"{}","#,
                r#""operation":"{}","partition-key-type":"primary-key","schema-name":"public","#,
                r#""table-name":"t","stream-position":"00000000/00000020.{}.00000000/00000010","#,
                r#""position":"{}""#
            ),
            kind,
            operation,
            id,
            position(16, id - 1)
        )
    };
    let load = |id: u32, snapshot: &str| {
        let metadata = metadata("data", "load", id);
        format!("{{\"data\":{{\"id\":{id},\"name\":\"x\"}},{metadata}{snapshot}}}}}\n")
    };
    let columns = concat!(
        r#"{"id":{"type":"INT32","nullable":false},"name":{"type":"STRING","nullable":true}},"#,
        r#""primary-key":["id"]"#
    );
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
fn a_backfill_row_is_an_insert_of_wal2json_with_its_snapshot_place() {
    let events = encode_backfill(&wal2json(), THREE_ROWS);
    let expected = |id: u32, snapshot: &str| {
        format!(
            concat!(
                r#"{{"action":"I","xid":7,"timestamp":"2023-11-14 22:13:20.123456+00","lsn":"0/10","#,
                r#""schema":"public","table":"t","columns":[{{"name":"id","type":"integer","value":{}}},"#,
                r#"{{"name":"name","type":"text","value":"x"}}],"pk":[{{"name":"id","type":"integer"}}],"#,
                r#""position":"{}","snapshot":"{}"}}"#
            ),
            id,
            position(16, id - 1),
            snapshot
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
fn a_backfill_row_has_the_key_and_position_of_a_change_and_is_no_barrier() {
    for form in all_forms() {
        for partition_by in [PartitionBy::Key, PartitionBy::Table, PartitionBy::Transaction] {
            let envelope = Envelope {
                partition_by,
                ..envelope(form.clone())
            };
            let change = encode(&envelope, &[insert(relation(), "1", "x")]).pop().unwrap();
            let row = encode_backfill(&envelope.with_empty_definitions(), &[("1", SnapshotPlace::Last)])
                .pop()
                .unwrap();
            assert_eq!(
                (&row.partition_key, &row.relation, row.position, row.barrier),
                (&change.partition_key, &change.relation, change.position, false)
            );
        }
    }
}

#[test]
fn a_backfill_row_that_exceeds_a_record_loses_columns() {
    let (large, mut out) = ("x".repeat(1000), EncodedEvents::default());
    let row = row(&[Some("1"), Some(&large)]);
    let envelope = Envelope {
        oversize: OversizePolicy::Omit,
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
    assert!(
        omitted == 1 && texts(&out.events)[0].ends_with(end),
        "{:?}",
        texts(&out.events)
    );
}
