//! `OVERSIZE=omit`: an event of exactly a record's size goes as it is; one byte more, and its largest column is left out by name.

use scenarios::lab::{Lab, Plugin};

crate::scenarios![
    what_one_byte_too_many_costs_is_the_largest_column,
    what_has_no_column_to_leave_out_stops_the_drain
];

/// Most bytes of a record, partition key included.
const RECORD: usize = 1 << 20;

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
            insert(1, 1000).await;
            lab.drain().await;
            let size = |it: &&scenarios::consumer::Arrival| it.data.len() + it.partition_key.len();
            let probe = lab.consume().await.changes().iter().map(size).next().unwrap();
            let most = RECORD - probe + 1000;
            for (id, bytes) in [(2, most - 1), (3, most), (4, most + 1)] {
                insert(id, bytes).await;
            }
            let reports = lab.drain().await;
            assert_eq!(reports[0]["omitted"], 1);
            let delivery = lab.consume().await;
            let sizes: Vec<usize> = delivery.changes().iter().map(size).collect();
            assert_eq!(sizes[1..3], [RECORD - 1, RECORD]);
            assert!(sizes[3] < 2000, "{}", sizes[3]);
            let omitted: Vec<Option<String>> = delivery
                .changes()
                .iter()
                .map(|it| it.json().pointer(place).map(ToString::to_string))
                .collect();
            assert_eq!(omitted, [None, None, None, Some(r#"["large"]"#.to_owned())]);
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
