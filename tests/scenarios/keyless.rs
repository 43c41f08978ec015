//! Rows without a key have the lane of their table, in order.
//!
//! The replica identity identifies rows. With the whole row as identity, the primary key identifies them if
//! there is one.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::keys::{assert_json_steps, assert_steps, execute_and_drain};

crate::scenarios![
    rows_that_only_inserts_write_spread_over_all_shards,
    changes_of_whole_rows_keep_the_order_of_their_table,
    with_keyless_table_all_rows_keep_the_order_of_their_table,
    a_change_of_the_replica_identity_is_a_barrier,
    rows_from_before_the_drop_of_a_key_keep_their_order,
    replica_identity_full_sends_the_whole_old_row,
    replica_identity_full_sends_nulls_of_the_old_row,
    replica_identity_full_keeps_the_lane_of_the_primary_key,
    an_identity_index_is_the_key,
    updates_that_wal2json_drops_are_counted,
    changes_without_identity_arrive_from_test_decoding,
    a_table_that_gets_a_key_later_is_read_by_its_current_key,
];

fn lanes(delivery: &Delivery) -> Vec<String> {
    let mut lanes: Vec<String> = delivery
        .arrivals
        .iter()
        .map(|it| it.partition_key.clone())
        .collect();
    lanes.sort();
    lanes.dedup();
    lanes
}

/// Writes 100 rows with the numbers from 0 into `log`, in ten transactions, and drains a stream that fails.
async fn drain_log(fixture: &Fixture, identity: &str) -> Delivery {
    fixture
        .sql(&format!(
            "create table log (n int, what text); alter table log replica identity {identity}"
        ))
        .await;
    for n in 0..10 {
        fixture
            .sql(&format!(
                "insert into log select {n} * 10 + i, 'x' from generate_series(0, 9) i"
            ))
            .await;
    }
    fixture.kinesis_proxy.flaky(5, 20);
    fixture.drain().await;
    fixture.compare(&["log"]).await
}

/// The numbers of the rows with this partition key, in the order of their arrival.
fn numbers(delivery: &Delivery, lane: &str) -> Vec<Value> {
    let arrivals = delivery.arrivals.iter().filter(|it| it.partition_key == lane);
    arrivals.map(|it| it.json()["after"]["n"].clone()).collect()
}

/// No change can refer to one of these rows, so they need no order, and use all shards.
async fn rows_that_only_inserts_write_spread_over_all_shards() {
    Plugin::each(|plugin| async move {
        for identity in ["default", "nothing"] {
            let fixture = Fixture::builder(plugin).shards(4).build().await;
            let delivery = drain_log(&fixture, identity).await;
            let lanes = lanes(&delivery);
            assert!(lanes.len() > 90, "{lanes:?}");
            assert!(
                lanes.iter().all(|lane| lane.starts_with("public.log#")),
                "{lanes:?}"
            );
        }
    })
    .await;
}

async fn changes_of_whole_rows_keep_the_order_of_their_table() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).shards(4).build().await;
        let delivery = drain_log(&fixture, "full").await;
        let ordered: Vec<Value> = (0..100).map(Value::from).collect();
        assert_eq!(numbers(&delivery, "public.log"), ordered);
        assert_eq!(lanes(&delivery), ["public.log"]);
    })
    .await;
}

async fn with_keyless_table_all_rows_keep_the_order_of_their_table() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .shards(4)
            .env("KEYLESS", "table")
            .build()
            .await;
        let delivery = drain_log(&fixture, "default").await;
        let ordered: Vec<Value> = (0..100).map(Value::from).collect();
        assert_eq!(numbers(&delivery, "public.log"), ordered);
        assert_eq!(lanes(&delivery), ["public.log"]);
    })
    .await;
}

/// The rows of before are acknowledged first: the updates and deletes after the change refer to them.
async fn a_change_of_the_replica_identity_is_a_barrier() {
    let fixture = Fixture::builder(Plugin::Pgoutput).shards(4).build().await;
    fixture.sql("create table log (n int, what text)").await;
    fixture.kinesis_proxy.flaky(5, 20);
    for n in 0..5 {
        fixture
            .sql(&format!(
                "insert into log select {n} * 100 + i, 'x' from generate_series(0, 99) i"
            ))
            .await;
        fixture.sql("alter table log replica identity full").await;
        fixture
            .sql("update log set what = 'y' where n % 7 = 0; delete from log where n % 5 = 0")
            .await;
        fixture.sql("alter table log replica identity default").await;
    }
    fixture.drain().await;
    let delivery = fixture.compare(&["log"]).await;
    assert_eq!(delivery.counts()["public.log"], delivery.changes().len());
    // Each request has rows of one kind, and the kinds alternate as in the log.
    let is_ordered = |(key, _): &(String, usize)| key == "public.log";
    let mut kinds = Vec::new();
    for request in fixture.kinesis_proxy.put_log().requests {
        let ordered = request.records.iter().filter(|record| is_ordered(record)).count();
        assert!(ordered == 0 || ordered == request.records.len(), "{request:?}");
        kinds.push(ordered > 0);
    }
    kinds.dedup();
    assert_eq!(kinds, [false, true].repeat(5));
}

/// A dropped primary key leaves no trace in the catalog. Updates referred to rows of before.
async fn rows_from_before_the_drop_of_a_key_keep_their_order() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).shards(4).build().await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, n int)",
                "insert into t values (1, 1), (2, 1); update t set n = 2",
                "alter table t drop constraint t_pkey",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let lanes = lanes(&delivery);
        assert!(lanes.iter().all(|lane| !lane.contains('#')), "{lanes:?}");
    })
    .await;
}

async fn replica_identity_full_sends_the_whole_old_row() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (n int, what text); alter table t replica identity full",
                "insert into t values (1, 'a'), (1, 'a'), (2, 'b'), (3, 'c')",
                "update t set what = 'z' where n = 2",
                "delete from t where n = 3; update t set n = 5 where n = 1",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
        let events = delivery.of_table("public.t");
        let ops: String = events.iter().filter_map(|event| event["op"].as_str()).collect();
        assert_eq!(
            (ops.as_str(), lanes(&delivery)),
            ("ccccuduu", vec!["public.t".to_owned()])
        );
        assert_eq!(events[4]["before"], json!({"n": 2, "what": "b"}));
        assert_eq!(events[4]["after"], json!({"n": 2, "what": "z"}));
        assert_eq!(events[5]["before"], json!({"n": 3, "what": "c"}));
    })
    .await;
}

/// The old row has its nulls. Without them a consumer cannot find the row of a keyless update.
async fn replica_identity_full_sends_nulls_of_the_old_row() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (n int, what text); alter table t replica identity full",
                "create table k (id int primary key, what text); alter table k replica identity full",
                "insert into t values (1, null), (null, 'b'), (3, 'c');
                 insert into k values (1, null), (2, null)",
                "update t set what = 'z' where n = 1; delete from t where n is null",
                "update k set what = 'w' where id = 1; delete from k where id = 2",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let (t, k) = (delivery.of_table("public.t"), delivery.of_table("public.k"));
        assert_eq!(t[3]["before"], json!({"n": 1, "what": null}));
        assert_eq!(t[4]["before"], json!({"n": null, "what": "b"}));
        assert_eq!(k[2]["before"], json!({"id": 1, "what": null}));
        assert_eq!(k[3]["before"], json!({"id": 2, "what": null}));
        fixture.compare(&["t", "k"]).await;
    })
    .await;
}

async fn replica_identity_full_keeps_the_lane_of_the_primary_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (what text, id int primary key); alter table t replica identity full",
                "insert into t values ('a', 1); update t set what = 'b'; update t set id = 2; delete from t",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
        let (one, two) = (r#"{"id":1}"#, r#"{"id":2}"#);
        let expected = [("c", one), ("u", one), ("d", one), ("c", two), ("d", two)];
        assert_steps(&delivery, &expected);
        let events = delivery.of_table("public.t");
        assert_eq!(events[1]["before"], json!({"what": "a", "id": 1}));
        assert_eq!(events[2]["before"], json!({"what": "b", "id": 1}));
        assert_eq!(events[4]["before"], json!({"what": "b", "id": 2}));
    })
    .await;
}

async fn an_identity_index_is_the_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, code text not null, part int not null, n int);
            create unique index by_code on t (part, code) include (n);
            alter table t replica identity using index by_code",
                "insert into t values (1, 'x', 7, 0), (2, 'y', 7, 0)",
                "update t set n = 1 where id = 1",
                "update t set id = 9 where id = 1",
                "update t set code = 'z' where id = 9; delete from t where id = 2",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
        let key = |code: &str| json!({"code": code, "part": 7});
        let expected = [
            ("c", "x"),
            ("c", "y"),
            ("u", "x"),
            ("u", "x"),
            ("d", "x"),
            ("c", "z"),
            ("d", "y"),
        ];
        assert_json_steps(&delivery, &expected.map(|(op, code)| (op, key(code))));
        let events = delivery.of_table("public.t");
        assert_eq!(
            (&events[3]["after"]["id"], &events[4]["before"]),
            (&json!(9), &key("x"))
        );
    })
    .await;
}

async fn updates_that_wal2json_drops_are_counted() {
    let fixture = Fixture::builder(Plugin::Wal2json).without_slot().build().await;
    fixture.create_slot().await;
    fixture.sql(
        "create table t (n int); create table k (id int primary key); alter table k replica identity nothing",
    )
    .await;
    fixture
        .sql("insert into t values (1), (2); insert into k values (1)")
        .await;
    let quiet = fixture.tick().await;
    assert_eq!((&quiet["notices"], &quiet["changes"]), (&json!(0), &json!(3)));
    fixture
        .sql("update t set n = 9 where n = 1; delete from t where n = 2; delete from k")
        .await;
    fixture.sql("insert into t values (3)").await;
    let report = fixture.tick().await;
    assert!(
        report["notices"].as_u64() >= Some(3),
        "the dropped update and deletes are not counted: {report}"
    );
    assert_eq!(report["changes"], 1);
    let log = fixture.function.log();
    assert!(
        log.iter()
            .any(|line| line.contains("WARN") && line.contains("no tuple identifier")),
        "{}",
        log.join("\n")
    );
    let delivery = fixture.consume().await;
    assert!(delivery.changes().iter().all(|change| change.event().op == "c"));
}

/// test_decoding has no old row for these changes and marks that. The changes arrive in the lane of the
/// table.
async fn changes_without_identity_arrive_from_test_decoding() {
    let fixture = Fixture::builder(Plugin::TestDecoding)
        .without_slot()
        .build()
        .await;
    fixture.create_slot().await;
    execute_and_drain(
        &fixture,
        &[
            "create table t (n int); insert into t values (1), (2)",
            "update t set n = 9 where n = 1; delete from t where n = 2",
        ],
    )
    .await;
    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.t");
    let ops: String = events.iter().filter_map(|event| event["op"].as_str()).collect();
    // The update and the delete may be of any row.
    let changes = delivery.changes();
    let last: Vec<&str> = changes[2..].iter().map(|it| it.partition_key.as_str()).collect();
    assert_eq!((ops.as_str(), last), ("ccud", vec!["public.t"; 2]));
    assert_eq!(
        (&events[2]["before"], &events[2]["after"]),
        (&Value::Null, &json!({"n": 9}))
    );
    assert_eq!(
        (&events[3]["before"], &events[3]["after"]),
        (&json!({}), &Value::Null)
    );
}

/// The key of a table that gets it later.
///
/// pgoutput and wal2json send the key with each change. test_decoding does not, so its changes are read with
/// the current key.
async fn a_table_that_gets_a_key_later_is_read_by_its_current_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int not null, n int); insert into t values (1, 1)")
            .await;
        fixture.drain().await;
        execute_and_drain(
            &fixture,
            &[
                "alter table t add primary key (id)",
                "insert into t values (2, 2); update t set n = 3 where id = 2",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let changes = delivery.changes();
        let first = changes.first().map_or("", |change| change.partition_key.as_str());
        // test_decoding cannot exclude that the table lost a primary key, because `id` is not null.
        let is_spread = plugin != Plugin::TestDecoding;
        assert_eq!(first.starts_with("public.t#"), is_spread, "{first}");
        let two = r#"{"id":2}"#;
        assert_steps(&delivery, &[("c", first), ("c", two), ("u", two)]);
    })
    .await;
}
