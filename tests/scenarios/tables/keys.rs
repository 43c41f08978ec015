//! Rows of one key keep their order: rows whose key changes, and rows without a key.
//!
//! An update of a key is a delete of the old key and then a create of the new one. Each event has the lane of
//! its own key. Rows without a key have the lane of their table. The replica identity identifies rows. With
//! the whole row as identity, the primary key identifies them if there is one.

use std::collections::BTreeSet;

use scenarios::consumer::Delivery;
use scenarios::consumer::position::position_parts;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::keys::{
    assert_id_steps, assert_images, assert_json_steps, assert_steps, execute_and_drain, operations,
    partition_keys,
};
use crate::support::versions::with_each_plugin;

crate::scenarios![
    a_changed_key_is_a_delete_and_then_a_create,
    a_composite_key_changes_in_any_part,
    an_update_that_writes_the_same_key_is_an_update,
    keys_can_be_swapped_in_one_transaction,
    a_deleted_key_can_be_reused_in_the_same_transaction,
    keys_that_all_move_by_one_arrive_complete,
    rows_that_swap_keys_under_a_deferred_constraint_are_both_kept,
    a_reused_key_keeps_its_order_through_partial_failures,
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

crate::version_scenarios![a_key_can_be_reused];

/// Drains these transactions with each plugin, and checks the delivery.
///
/// The tables are compared with those that a consumer rebuilds.
async fn check_each_plugin(
    transactions: &'static [&'static str],
    tables: &'static [&'static str],
    check: fn(&Delivery),
) {
    Plugin::each(move |plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(&fixture, transactions).await;
        check(&fixture.compare(tables).await);
    })
    .await;
}

async fn a_changed_key_is_a_delete_and_then_a_create() {
    let transactions = &[
        "create table t (id int primary key, name text); insert into t values (1, 'x')",
        "update t set id = 2, name = 'y'",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        assert_id_steps(delivery, "c1 d1 c2");
        let events = delivery.of_table("public.t");
        assert_images(&events[1], &json!({"id": 1}), &Value::Null);
        assert_images(&events[2], &Value::Null, &json!({"id": 2, "name": "y"}));
        let position = |at: usize| {
            let position = events[at]["source"]["position"].as_str();
            position_parts(position.unwrap_or_default()).unwrap()
        };
        let (commit_end, lsn, index) = position(1);
        assert_eq!((index, position(2)), (0, (commit_end, lsn, 1)));
    })
    .await;
}

async fn a_composite_key_changes_in_any_part() {
    // The order of the key columns differs from that of the table.
    let transactions = &[
        "create table t (note text, b text, a int, primary key (a, b))",
        "insert into t values ('n', 'x', 1), ('m', 'y', 1)",
        "update t set a = 2 where b = 'x'",
        "update t set b = 'z' where a = 2",
        "update t set a = 3, b = 'w', note = null where a = 2",
        "update t set note = 'o' where a = 1; delete from t where a = 3",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        let key = |a: i32, b: &str| json!({"b": b, "a": a});
        let expected = [
            ("c", key(1, "x")),
            ("c", key(1, "y")),
            ("d", key(1, "x")),
            ("c", key(2, "x")),
            ("d", key(2, "x")),
            ("c", key(2, "z")),
            ("d", key(2, "z")),
            ("c", key(3, "w")),
            ("u", key(1, "y")),
            ("d", key(3, "w")),
        ];
        assert_json_steps(delivery, &expected);
        let before = &delivery.of_table("public.t")[2]["before"];
        assert_eq!(*before, key(1, "x"), "the old row is not the key");
    })
    .await;
}

async fn an_update_that_writes_the_same_key_is_an_update() {
    let transactions = &[
        "create table t (id int primary key, n numeric); insert into t values (1, 1.0)",
        "update t set id = 1, n = 2; update t set id = id",
        "create table decimal_key (k numeric primary key, n int); insert into decimal_key values (1.0, 1)",
        // The two values are equal for PostgreSQL and have other texts, so the key of the consumer changes.
        "update decimal_key set k = 1.00",
    ];
    check_each_plugin(transactions, &["t", "decimal_key"], |delivery| {
        let one = r#"{"id":1}"#;
        let (short, long) = (r#"{"k":"1.0"}"#, r#"{"k":"1.00"}"#);
        let keys = [one, one, one, short, short, long];
        let expected: Vec<_> = ["c", "u", "u", "c", "d", "c"].into_iter().zip(keys).collect();
        assert_steps(delivery, &expected);
    })
    .await;
}

async fn keys_can_be_swapped_in_one_transaction() {
    const SWAP: &str = "update t set id = 0 where id = 1; update t set id = 1 where id = 2;
                        update t set id = 2 where id = 0";
    let transactions = &[
        "create table t (id int primary key, name text); insert into t values (1, 'one'), (2, 'two')",
        SWAP,
        SWAP,
        SWAP,
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        assert_eq!(delivery.changes().len(), 2 + 3 * 6);
        let rows = &delivery.rebuild().tables["public.t"].keyed;
        assert_eq!(rows[r#"{"id":1}"#].row["name"], "two");
        assert!(!rows[r#"{"id":0}"#].alive);
    })
    .await;
}

async fn a_deleted_key_can_be_reused_in_the_same_transaction() {
    Plugin::each(|plugin| assert_reused_keys(Fixture::builder(plugin))).await;
}

async fn a_key_can_be_reused(version: u32) {
    with_each_plugin(version, assert_reused_keys).await;
}

async fn assert_reused_keys(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    let transactions = [
        "create table t (id int primary key, name text)",
        "insert into t values (1, 'one'), (2, 'two'), (3, 'three')",
        "delete from t where id = 1; update t set id = 1 where id = 2",
        "delete from t where id = 3; insert into t values (3, 'new'); update t set id = 4 where id = 3",
        "insert into t values (5, 'five'); update t set id = 6 where id = 5; delete from t where id = 6",
    ];
    execute_and_drain(&fixture, &transactions).await;
    let delivery = fixture.compare(&["t"]).await;
    assert_id_steps(&delivery, "c1 c2 c3 d1 d2 c1 d3 c3 d3 c4 c5 d5 c6 d6");
}

async fn keys_that_all_move_by_one_arrive_complete() {
    // The heap has the rows in descending order, so that no two rows have one key during the update.
    let transactions = &[
        "create table t (id int primary key, name text)",
        "insert into t select i, 'row ' || i from generate_series(1, 200) i order by i desc",
        "update t set id = id + 1",
        "update t set id = id + 1000 where id % 2 = 0",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        assert_eq!(delivery.changes().len(), 200 + 400 + 200);
    })
    .await;
}

/// Rows under a deferred constraint, which is checked at commit.
///
/// Two rows may have one key before that, so such a key does not identify rows.
async fn rows_that_swap_keys_under_a_deferred_constraint_are_both_kept() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        let transactions = [
            "create table t (id int primary key deferrable, name text); alter table t replica identity full",
            "insert into t values (1, 'one'), (2, 'two')",
            "update t set id = 3 - id",
        ];
        execute_and_drain(&fixture, &transactions).await;
        let rebuilt = fixture.consume().await.rebuild();
        let rows = rebuilt.tables["public.t"].rows();
        let mut rows: Vec<Value> = rows.map(|row| Value::from(row.clone())).collect();
        rows.sort_by_key(|row| row["id"].as_i64());
        assert_eq!(
            rows,
            [json!({"id": 1, "name": "two"}), json!({"id": 2, "name": "one"})]
        );
    })
    .await;
}

async fn a_reused_key_keeps_its_order_through_partial_failures() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture.kinesis_proxy.flaky(7, 30);
        fixture
            .sql(
                "create table t (id int primary key, n int);
                 insert into t select i, 0 from generate_series(0, 9) i",
            )
            .await;
        for n in 1..=12 {
            // Ten rows use twenty keys, so each key is freed and reused many times.
            fixture
                .sql(&format!("update t set id = (id + 10) % 20, n = {n}"))
                .await;
        }
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 10 + 12 * 20);
    })
    .await;
}

/// Writes 100 rows into `log`, and drains into a failing stream.
///
/// The rows have the numbers from 0. Ten transactions write them.
async fn drain_log(builder: FixtureBuilder, identity: &str) -> Delivery {
    let fixture = builder.shards(4).build().await;
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

/// Rows without a key, which only inserts write.
///
/// No change can refer to one of these rows. They need no order, and use all shards.
async fn rows_that_only_inserts_write_spread_over_all_shards() {
    Plugin::each(|plugin| async move {
        for identity in ["default", "nothing"] {
            let delivery = drain_log(Fixture::builder(plugin), identity).await;
            let lanes = partition_keys(&delivery);
            let is_spread = lanes.iter().all(|lane| lane.starts_with("public.log#"));
            assert!(is_spread && lanes.len() > 90, "{lanes:?}");
        }
    })
    .await;
}

/// Drains `log`; its rows must arrive in order, in one lane.
async fn assert_log_in_table_lane(builder: FixtureBuilder, identity: &str) {
    let delivery = drain_log(builder, identity).await;
    let arrivals = delivery.arrivals.iter();
    let arrivals = arrivals.filter(|arrival| arrival.partition_key == "public.log");
    let numbers: Vec<Value> = arrivals.map(|it| it.json()["after"]["n"].clone()).collect();
    let ordered: Vec<Value> = (0..100).map(Value::from).collect();
    assert_eq!(numbers, ordered);
    assert_eq!(partition_keys(&delivery), BTreeSet::from(["public.log"]));
}

async fn changes_of_whole_rows_keep_the_order_of_their_table() {
    Plugin::each(|plugin| assert_log_in_table_lane(Fixture::builder(plugin), "full")).await;
}

async fn with_keyless_table_all_rows_keep_the_order_of_their_table() {
    Plugin::each(|plugin| {
        let builder = Fixture::builder(plugin).env("KEYLESS", "table");
        assert_log_in_table_lane(builder, "default")
    })
    .await;
}

/// The rows of before are acknowledged first: the updates and deletes after the change refer to them.
async fn a_change_of_the_replica_identity_is_a_barrier() {
    let fixture = Fixture::builder(Plugin::Pgoutput).shards(4).build().await;
    fixture.sql("create table log (n int, what text)").await;
    fixture.kinesis_proxy.flaky(5, 20);
    for n in 0..3 {
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
    assert_eq!(kinds, [false, true].repeat(3));
}

/// A dropped primary key leaves no trace in the catalog. Updates referred to rows of before.
async fn rows_from_before_the_drop_of_a_key_keep_their_order() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).shards(4).build().await;
        let transactions = [
            "create table t (id int primary key, n int)",
            "insert into t values (1, 1), (2, 1); update t set n = 2",
            "alter table t drop constraint t_pkey",
        ];
        execute_and_drain(&fixture, &transactions).await;
        let delivery = fixture.consume().await;
        let lanes = partition_keys(&delivery);
        assert!(lanes.iter().all(|lane| !lane.contains('#')), "{lanes:?}");
    })
    .await;
}

async fn replica_identity_full_sends_the_whole_old_row() {
    let transactions = &[
        "create table t (n int, what text); alter table t replica identity full",
        "insert into t values (1, 'a'), (1, 'a'), (2, 'b'), (3, 'c')",
        "update t set what = 'z' where n = 2",
        "delete from t where n = 3; update t set n = 5 where n = 1",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        let events = delivery.of_table("public.t");
        assert_eq!(operations(&events), "ccccuduu");
        assert_eq!(partition_keys(delivery), BTreeSet::from(["public.t"]));
        let (old, new) = (json!({"n": 2, "what": "b"}), json!({"n": 2, "what": "z"}));
        assert_images(&events[4], &old, &new);
        assert_eq!(events[5]["before"], json!({"n": 3, "what": "c"}));
    })
    .await;
}

/// The old row has its nulls. Without them a consumer cannot find the row of a keyless update.
async fn replica_identity_full_sends_nulls_of_the_old_row() {
    let transactions = &[
        "create table t (n int, what text); alter table t replica identity full",
        "create table k (id int primary key, what text); alter table k replica identity full",
        "insert into t values (1, null), (null, 'b'), (3, 'c'); insert into k values (1, null), (2, null)",
        "update t set what = 'z' where n = 1; delete from t where n is null",
        "update k set what = 'w' where id = 1; delete from k where id = 2",
    ];
    check_each_plugin(transactions, &["t", "k"], |delivery| {
        let (t, k) = (delivery.of_table("public.t"), delivery.of_table("public.k"));
        assert_eq!(t[3]["before"], json!({"n": 1, "what": null}));
        assert_eq!(t[4]["before"], json!({"n": null, "what": "b"}));
        assert_eq!(k[2]["before"], json!({"id": 1, "what": null}));
        assert_eq!(k[3]["before"], json!({"id": 2, "what": null}));
    })
    .await;
}

async fn replica_identity_full_keeps_the_lane_of_the_primary_key() {
    let transactions = &[
        "create table t (what text, id int primary key); alter table t replica identity full",
        "insert into t values ('a', 1); update t set what = 'b'; update t set id = 2; delete from t",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        assert_id_steps(delivery, "c1 u1 d1 c2 d2");
        let events = delivery.of_table("public.t");
        assert_eq!(events[1]["before"], json!({"what": "a", "id": 1}));
        assert_eq!(events[2]["before"], json!({"what": "b", "id": 1}));
        assert_eq!(events[4]["before"], json!({"what": "b", "id": 2}));
    })
    .await;
}

async fn an_identity_index_is_the_key() {
    let transactions = &[
        "create table t (id int primary key, code text not null, part int not null, n int);
         create unique index by_code on t (part, code) include (n);
         alter table t replica identity using index by_code",
        "insert into t values (1, 'x', 7, 0), (2, 'y', 7, 0)",
        "update t set n = 1 where id = 1",
        "update t set id = 9 where id = 1",
        "update t set code = 'z' where id = 9; delete from t where id = 2",
    ];
    check_each_plugin(transactions, &["t"], |delivery| {
        let key = |code: &str| json!({"code": code, "part": 7});
        let keys = ["x", "y", "x", "x", "x", "z", "y"].map(key);
        let operations = ["c", "c", "u", "u", "d", "c", "d"];
        let expected: Vec<_> = operations.into_iter().zip(keys).collect();
        assert_json_steps(delivery, &expected);
        let events = delivery.of_table("public.t");
        assert_eq!(events[3]["after"]["id"], 9);
        assert_eq!(events[4]["before"], key("x"));
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

/// Changes without an old row, which test_decoding marks.
///
/// They arrive in the lane of the table.
async fn changes_without_identity_arrive_from_test_decoding() {
    let builder = Fixture::builder(Plugin::TestDecoding).without_slot();
    let fixture = builder.build().await;
    fixture.create_slot().await;
    let transactions = [
        "create table t (n int); insert into t values (1), (2)",
        "update t set n = 9 where n = 1; delete from t where n = 2",
    ];
    execute_and_drain(&fixture, &transactions).await;
    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.t");
    // The update and the delete may be of any row.
    let changes = delivery.changes();
    let last: Vec<&str> = changes[2..].iter().map(|it| it.partition_key.as_str()).collect();
    assert_eq!(operations(&events), "ccud");
    assert_eq!(last, ["public.t"; 2]);
    assert_images(&events[2], &Value::Null, &json!({"n": 9}));
    assert_images(&events[3], &json!({}), &Value::Null);
}

/// The key of a table that gets it later.
///
/// pgoutput and wal2json send the key with each change. test_decoding does not, so its changes are read with
/// the current key.
async fn a_table_that_gets_a_key_later_is_read_by_its_current_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        let create = "create table t (id int not null, n int); insert into t values (1, 1)";
        execute_and_drain(&fixture, &[create]).await;
        let transactions = [
            "alter table t add primary key (id)",
            "insert into t values (2, 2); update t set n = 3 where id = 2",
        ];
        execute_and_drain(&fixture, &transactions).await;
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
