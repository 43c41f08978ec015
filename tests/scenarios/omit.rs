//! `OVERSIZE=omit`: an event of exactly a record's size goes as it is; one byte more, and its largest column is left out by name.

use scenarios::consumer::Arrival;
use scenarios::lab::{Lab, Plugin};

crate::scenarios![
    what_one_byte_too_many_costs_is_the_largest_column,
    what_has_no_column_to_leave_out_stops_the_drain
];

/// Most bytes of a record, partition key included.
const RECORD: usize = 1 << 20;

/// Bytes of the large column in an event that tells how large the rest is.
const PROBE: usize = 1000;

async fn what_one_byte_too_many_costs_is_the_largest_column() {
    for (envelope, place) in [
        ("debezium", "/source/omitted"),
        ("dms", "/metadata/omitted"),
        ("wal2json", "/omitted"),
    ] {
        Plugin::each(move |plugin| async move {
            let lab = Lab::plan(plugin)
                .env("ENVELOPE", envelope)
                .env("OVERSIZE", "omit")
                .build()
                .await;
            lab.sql("create table t (id int primary key, small text, large text)")
                .await;
            let insert = async |id: usize, bytes: usize| {
                lab.sql(&format!(
                    "insert into t values ({id}, 'small', repeat('x', {bytes}))"
                ))
                .await;
            };
            insert(1, PROBE).await;
            lab.drain().await;
            // The one part of an event that has no fixed width: wal2json cuts zeros off a time.
            let time = |it: &Arrival| it.json()["timestamp"].as_str().map_or(0, str::len);
            let size = |it: &Arrival| it.data.len() + it.partition_key.len();
            let probe = lab.consume().await.arrivals[0].clone();
            let rest = size(&probe) - PROBE - time(&probe);
            let most = RECORD - rest - time(&probe);
            for id in 2..10 {
                insert(id, most - 5 + id).await;
            }
            let reports = lab.drain().await;
            let delivery = lab.consume().await;
            let mut omitted = 0;
            for (id, it) in (1..).zip(delivery.changes()).skip(1) {
                let whole = rest + most - 5 + id + time(it);
                let event = it.json();
                let named = event.pointer(place).map(ToString::to_string);
                if whole <= RECORD {
                    assert_eq!((size(it), named), (whole, None));
                } else {
                    assert_eq!(named.as_deref(), Some(r#"["large"]"#), "{whole}");
                    assert!(size(it) < 2000, "{}", size(it));
                    omitted += 1;
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

async fn what_has_no_column_to_leave_out_stops_the_drain() {
    let lab = Lab::plan(Plugin::Pgoutput).env("OVERSIZE", "omit").build().await;
    lab.sql("create table t (large text, small text)").await;
    lab.sql("insert into t values (repeat('x', 2 << 20), 'small')")
        .await;
    let reports = lab.drain().await;
    assert_eq!(reports[0]["omitted"], 1);
    lab.sql("select pg_logical_emit_message(true, 'large', repeat('x', 2 << 20))")
        .await;
    let (kind, message) = lab.fail().await;
    assert_eq!(kind, "Oversize", "{message}");
}
