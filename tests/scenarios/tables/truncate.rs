//! A truncate is a barrier: all earlier events are acknowledged before it, and all later events wait for it.
//!
//! Its position orders it among all keys of the table.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::json;

use crate::support::versions::with_each_plugin;

crate::scenarios![
    a_truncate_sends_one_event_of_its_table,
    a_truncate_separates_earlier_and_later_events,
    rows_of_one_transaction_stay_before_or_after_a_truncate,
    a_truncate_of_several_tables_sends_one_event_each,
    a_truncate_of_a_partitioned_table_is_one_of_each_partition,
    an_excluded_table_sends_no_truncate,
    a_truncate_empties_a_table_without_a_key,
    rows_without_a_key_stay_before_or_after_a_truncate,
];

crate::version_scenarios![a_truncate_is_an_event];

fn ops(delivery: &Delivery) -> String {
    delivery
        .changes()
        .iter()
        .map(|change| change.event().op)
        .collect()
}

async fn a_truncate_sends_one_event_of_its_table() {
    Plugin::each(|plugin| truncated(Fixture::builder(plugin))).await;
}

async fn truncated(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1), (2)")
        .await;
    fixture.sql("truncate t").await;
    fixture.sql("insert into t values (2), (3)").await;
    fixture.drain().await;
    let delivery = fixture.compare(&["t"]).await;
    assert_eq!(ops(&delivery), "cctcc");
    let truncate = delivery.changes()[2];
    assert_eq!(truncate.partition_key, "public.t");
    let event = truncate.json();
    let mut fields: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
    fields.retain(|name| !name.starts_with("ts_"));
    assert_eq!(fields, ["before", "after", "source", "transaction", "op"]);
    assert_eq!(
        (&event["source"]["schema"], &event["source"]["table"]),
        (&json!("public"), &json!("t"))
    );
}

async fn a_truncate_separates_earlier_and_later_events() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).shards(4).build().await;
        fixture.sql("create table t (id int primary key, n int)").await;
        // Keys show the side: 0 to 99 before the first truncate, then 100 to 199, then 200 to 299.
        for round in 0..3 {
            if round > 0 {
                fixture.sql("truncate t").await;
            }
            let (from, to) = (round * 100, round * 100 + 99);
            fixture
                .sql(&format!(
                    "insert into t select i, {round} from generate_series({from}, {to}) i"
                ))
                .await;
            fixture.sql("update t set n = n + 1").await;
        }
        // Some records of every request fail and are sent again, possibly the truncates, too.
        fixture.kinesis_proxy.flaky(11, 20);
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 3 * 200 + 2);

        let side = |key: &str| match key
            .strip_prefix(r#"{"id":"#)
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(id) => 2 * (id.parse::<u32>().unwrap() / 100),
            None => u32::MAX,
        };
        let mut truncates = 0;
        let mut last = 0;
        for request in fixture.kinesis_proxy.put_log().requests {
            let mut sides: Vec<u32> = request.records.iter().map(|(key, _)| side(key)).collect();
            sides.dedup();
            assert_eq!(
                sides.len(),
                1,
                "a request with both sides of a truncate: {request:?}"
            );
            if sides == [u32::MAX] {
                // A failed truncate is sent again before any later event.
                truncates += u32::from(last % 2 == 0);
                last |= 1;
            } else {
                assert_eq!(sides[0], 2 * truncates, "after {truncates} truncates");
                last = sides[0];
            }
        }
        assert_eq!((truncates, last), (2, 4));
    })
    .await;
}

async fn rows_of_one_transaction_stay_before_or_after_a_truncate() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int primary key, n int); insert into t values (1, 1), (2, 1)")
            .await;
        fixture
            .sql(
                "update t set n = 2 where id = 1; insert into t values (3, 3);
                     truncate t; insert into t values (1, 4), (4, 4)",
            )
            .await;
        fixture
            .sql(
                "insert into t values (5, 5); truncate t; truncate t;
                     insert into t values (2, 6); delete from t",
            )
            .await;
        fixture.sql("insert into t values (7, 7)").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(ops(&delivery), "ccuctccctt".to_owned() + "cdc");
        assert_eq!(delivery.rebuild().tables["public.t"].len(), 1);
    })
    .await;
}

async fn a_truncate_of_several_tables_sends_one_event_each() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture.sql(
            "create table a (id int primary key); create table b (id int primary key, a int references a);
            create schema \"S x\"; create table \"S x\".c (id int primary key);
             create table d (id int primary key)",
        )
        .await;
        fixture
            .sql("insert into a values (1), (2); insert into b values (1, 1)")
            .await;
        fixture
            .sql("insert into \"S x\".c values (1); insert into d values (1)")
            .await;
        fixture
            .sql("truncate a, \"S x\".c restart identity cascade")
            .await;
        fixture.sql("insert into a values (3)").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["a", "b", "\"S x\".c", "d"]).await;
        assert_eq!(ops(&delivery), "cccccttt".to_owned() + "c");
        let changes = delivery.changes();
        let mut emptied: Vec<String> = changes[5..8].iter().map(|it| it.partition_key.clone()).collect();
        emptied.sort();
        assert_eq!(emptied, ["S x.c", "public.a", "public.b"]);
    })
    .await;
}

async fn a_truncate_of_a_partitioned_table_is_one_of_each_partition() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table p (id int primary key) partition by range (id);
                 create table low partition of p for values from (0) to (10);
                 create table high partition of p for values from (10) to (20)",
            )
            .await;
        fixture.sql("insert into p values (1), (11)").await;
        fixture.sql("truncate p").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["low", "high"]).await;
        let truncates = delivery.changes().split_off(2);
        let mut emptied: Vec<&str> = truncates.iter().map(|it| it.partition_key.as_str()).collect();
        emptied.sort_unstable();
        assert_eq!(emptied, ["public.high", "public.low"]);
    })
    .await;
}

async fn an_excluded_table_sends_no_truncate() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).env("TABLES", "public.a").build().await;
        fixture
            .sql("create table a (id int primary key); create table b (id int primary key)")
            .await;
        fixture
            .sql(
                "insert into a values (1); insert into b values (1); truncate a, b; truncate b;
                     insert into a values (2)",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["a"]).await;
        assert_eq!(ops(&delivery), "ctc");
        assert_eq!(delivery.counts().len(), 1);
    })
    .await;
}

/// The rows have no order among each other, unlike a truncate.
async fn rows_without_a_key_stay_before_or_after_a_truncate() {
    let fixture = Fixture::builder(Plugin::Pgoutput).shards(4).build().await;
    fixture.sql("create table log (n int)").await;
    for side in 0..3 {
        let insert = "insert into log select generate_series(1, 200)";
        fixture.sql(insert).await;
        if side < 2 {
            fixture.sql("truncate log").await;
        }
    }
    fixture.kinesis_proxy.flaky(5, 20);
    fixture.drain().await;
    assert_eq!(fixture.compare(&["log"]).await.changes().len(), 3 * 200 + 2);
    // Spread rows have a suffix in their partition key, and a truncate has none.
    let is_truncate = |(key, _): &(String, usize)| key == "public.log";
    let mut requests = Vec::new();
    for request in fixture.kinesis_proxy.put_log().requests {
        let truncates = request
            .records
            .iter()
            .filter(|record| is_truncate(record))
            .count();
        assert!(truncates == 0 || request.records.len() == 1, "{request:?}");
        requests.push(truncates > 0);
    }
    requests.dedup();
    assert_eq!(requests, [false, true, false, true, false]);
}

async fn a_truncate_empties_a_table_without_a_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (n int); insert into t values (1), (1), (2)")
            .await;
        fixture.sql("truncate t; insert into t values (1)").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(ops(&delivery), "ccctc");
        assert!(
            delivery
                .arrivals
                .iter()
                .all(|arrival| arrival.partition_key.starts_with("public.t"))
        );
    })
    .await;
}

async fn a_truncate_is_an_event(version: u32) {
    with_each_plugin(version, truncated).await;
}
