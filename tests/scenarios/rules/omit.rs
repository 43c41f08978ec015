//! `OVERSIZE=omit`: an event of exactly the size of a record is sent complete.
//!
//! One byte more, and its largest column is omitted and named.

use scenarios::consumer::Arrival;
use scenarios::fixture::{Fixture, Plugin};

use crate::support::reports::reported_sum;

crate::scenarios![
    an_event_one_byte_too_large_omits_its_largest_column,
    a_row_without_a_key_omits_its_largest_column
];

/// Limit of a record in bytes, partition key included.
const RECORD: usize = 1 << 20;

/// Bytes of the large column in the event that is measured.
///
/// The size of this event shows the size of the other fields.
const PROBE: usize = 1000;

/// Event with an omitted column, in one envelope.
struct OmitForm {
    envelope: &'static str,
    /// Path of the omitted columns' names.
    pointer: &'static str,
    /// Fields around the column's value; only the complete event has them.
    column: &'static str,
    /// Text that replaces the column's value, and names the column.
    replacement: &'static str,
}

const FORMS: [OmitForm; 3] = [
    OmitForm {
        envelope: "debezium",
        pointer: "/source/omitted",
        column: "",
        replacement: r#"__debezium_unavailable_value,"omitted":["large"]"#,
    },
    OmitForm {
        envelope: "dms",
        pointer: "/metadata/omitted",
        column: "",
        replacement: r#"__debezium_unavailable_value,"unchanged":["large"],"omitted":["large"]"#,
    },
    OmitForm {
        envelope: "wal2json",
        pointer: "/omitted",
        column: r#",{"name":"large","type":"text","value":""}"#,
        replacement: r#","unchanged":["large"],"omitted":["large"]"#,
    },
];

/// Inserts a row whose large column has this many bytes.
async fn insert(fixture: &Fixture, id: usize, bytes: usize) {
    fixture
        .sql(&format!(
            "insert into t values ({id}, 'small', repeat('x', {bytes}))"
        ))
        .await;
}

/// Bytes of a record, partition key included.
fn record_bytes(arrival: &Arrival) -> usize {
    arrival.data.len() + arrival.partition_key.len()
}

/// Counts the events that omit a column.
///
/// Each of them would exceed a record with its column. `column_bytes` are those of the large column of an
/// event, by id.
fn count_omitted(changes: &[&Arrival], form: &OmitForm, column_bytes: impl Fn(usize) -> usize) -> usize {
    let mut omitted = 0;
    for (id, change) in (1..).zip(changes).skip(1) {
        match change.json().pointer(form.pointer) {
            None => assert!(record_bytes(change) <= RECORD, "{}", record_bytes(change)),
            Some(names) => {
                assert_eq!(names.to_string(), r#"["large"]"#);
                // Size of the event with its column, instead of the value that replaces it.
                let whole =
                    record_bytes(change) - form.replacement.len() + form.column.len() + column_bytes(id);
                assert!(whole > RECORD, "{whole}");
                omitted += 1;
            }
        }
    }
    omitted
}

async fn an_event_one_byte_too_large_omits_its_largest_column() {
    for form in &FORMS {
        Plugin::each(move |plugin| async move {
            let fixture = Fixture::builder(plugin)
                .env("ENVELOPE", form.envelope)
                .env("OVERSIZE", "omit")
                .build()
                .await;
            fixture
                .sql("create table t (id int primary key, small text, large text)")
                .await;
            insert(&fixture, 1, PROBE).await;
            fixture.drain().await;
            let probe = fixture.consume().await.arrivals[0].clone();
            // Some fields have no fixed width, so some events are smaller and some are larger than the limit.
            let most = RECORD - (record_bytes(&probe) - PROBE);
            let column_bytes = |id| most - 5 + id;
            for id in 2..10 {
                insert(&fixture, id, column_bytes(id)).await;
            }
            let reports = fixture.drain().await;
            let delivery = fixture.consume().await;
            let omitted = count_omitted(&delivery.changes(), form, column_bytes);
            assert!((1..8).contains(&omitted));
            assert_eq!(reported_sum(&reports, "omitted"), omitted);
        })
        .await;
    }
}

async fn a_row_without_a_key_omits_its_largest_column() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("OVERSIZE", "omit")
        .build()
        .await;
    fixture.sql("create table t (large text, small text)").await;
    fixture
        .sql("insert into t values (repeat('x', 2 << 20), 'small')")
        .await;
    let reports = fixture.drain().await;
    assert_eq!(reports[0]["omitted"], 1);
}
