//! `OVERSIZE=omit`: an event of exactly the size of a record is sent complete.
//!
//! One byte more, and its largest column is omitted and named.

use scenarios::consumer::Arrival;
use scenarios::fixture::{Fixture, Plugin};

crate::scenarios![
    an_event_one_byte_too_large_omits_its_largest_column,
    a_row_without_a_key_omits_its_largest_column
];

/// Limit of a record in bytes, partition key included.
const RECORD: usize = 1 << 20;

/// Bytes of the large column in an event whose size shows that of the other fields.
const PROBE: usize = 1000;

async fn an_event_one_byte_too_large_omits_its_largest_column() {
    for (envelope, place, column, instead) in [
        (
            "debezium",
            "/source/omitted",
            "",
            r#"__debezium_unavailable_value,"omitted":["large"]"#,
        ),
        (
            "dms",
            "/metadata/omitted",
            "",
            r#"__debezium_unavailable_value,"unchanged":["large"],"omitted":["large"]"#,
        ),
        (
            "wal2json",
            "/omitted",
            r#",{"name":"large","type":"text","value":""}"#,
            r#","unchanged":["large"],"omitted":["large"]"#,
        ),
    ] {
        Plugin::each(move |plugin| async move {
            let fixture = Fixture::builder(plugin)
                .env("ENVELOPE", envelope)
                .env("OVERSIZE", "omit")
                .build()
                .await;
            fixture
                .sql("create table t (id int primary key, small text, large text)")
                .await;
            let insert = async |id: usize, bytes: usize| {
                fixture
                    .sql(&format!(
                        "insert into t values ({id}, 'small', repeat('x', {bytes}))"
                    ))
                    .await;
            };
            insert(1, PROBE).await;
            fixture.drain().await;
            let size = |it: &Arrival| it.data.len() + it.partition_key.len();
            let probe = fixture.consume().await.arrivals[0].clone();
            // Some fields have no fixed width, so some events are smaller and some are larger than the limit.
            let most = RECORD - (size(&probe) - PROBE);
            for id in 2..10 {
                insert(id, most - 5 + id).await;
            }
            let reports = fixture.drain().await;
            let delivery = fixture.consume().await;
            let mut omitted = 0;
            for (id, it) in (1..).zip(delivery.changes()).skip(1) {
                match it.json().pointer(place) {
                    None => assert!(size(it) <= RECORD, "{}", size(it)),
                    Some(named) => {
                        assert_eq!(named.to_string(), r#"["large"]"#);
                        // Size of the event with its column, instead of the value that replaces it.
                        let whole = size(it) - instead.len() + column.len() + most - 5 + id;
                        assert!(whole > RECORD, "{whole}");
                        omitted += 1;
                    }
                }
            }
            assert!((1..8).contains(&omitted));
            let counted: u64 = reports
                .iter()
                .filter_map(|report| report["omitted"].as_u64())
                .sum();
            assert_eq!(counted, omitted);
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
