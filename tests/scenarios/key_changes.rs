//! Update of a key: a delete of the old key and then a create of the new one.
//!
//! Each event has the lane of its own key.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::keys::{assert_json_steps, assert_steps, execute_and_drain};
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
];

crate::version_scenarios![a_key_can_be_reused];

async fn a_changed_key_is_a_delete_and_then_a_create() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, name text); insert into t values (1, 'x')",
                "update t set id = 2, name = 'y'",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
        assert_steps(
            &delivery,
            &[("c", r#"{"id":1}"#), ("d", r#"{"id":1}"#), ("c", r#"{"id":2}"#)],
        );
        let events = delivery.of_table("public.t");
        assert_eq!(
            (&events[1]["before"], &events[1]["after"]),
            (&json!({"id": 1}), &Value::Null)
        );
        assert_eq!(
            (&events[2]["before"], &events[2]["after"]),
            (&Value::Null, &json!({"id": 2, "name": "y"}))
        );
        let place = |at: usize| {
            let position = events[at]["source"]["position"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            position
                .rsplit_once('.')
                .map(|(record, index)| (record.to_owned(), index.to_owned()))
                .unwrap()
        };
        assert_eq!(
            (place(1).1.as_str(), place(2).1.as_str()),
            ("00000000", "00000001")
        );
        assert_eq!(place(1).0, place(2).0);
    })
    .await;
}

async fn a_composite_key_changes_in_any_part() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        // The order of the key columns differs from that of the table.
        execute_and_drain(
            &fixture,
            &[
                "create table t (note text, b text, a int, primary key (a, b))",
                "insert into t values ('n', 'x', 1), ('m', 'y', 1)",
                "update t set a = 2 where b = 'x'",
                "update t set b = 'z' where a = 2",
                "update t set a = 3, b = 'w', note = null where a = 2",
                "update t set note = 'o' where a = 1; delete from t where a = 3",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
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
        assert_json_steps(&delivery, &expected);
        let events = delivery.of_table("public.t");
        assert_eq!(
            events[2]["before"],
            key(1, "x"),
            "the old row has other columns than the key"
        );
    })
    .await;
}

async fn an_update_that_writes_the_same_key_is_an_update() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int primary key, n numeric); insert into t values (1, 1.0)")
            .await;
        fixture
            .sql("update t set id = 1, n = 2; update t set id = id")
            .await;
        fixture
            .sql(
                "create table decimal_key (k numeric primary key, n int);
                     insert into decimal_key values (1.0, 1)",
            )
            .await;
        // The two values are equal for PostgreSQL and have other texts, so the key of the consumer changes.
        fixture.sql("update decimal_key set k = 1.00").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t", "decimal_key"]).await;
        let one = r#"{"id":1}"#;
        let (short, long) = (r#"{"k":"1.0"}"#, r#"{"k":"1.00"}"#);
        let expected = [
            ("c", one),
            ("u", one),
            ("u", one),
            ("c", short),
            ("d", short),
            ("c", long),
        ];
        assert_steps(&delivery, &expected);
    })
    .await;
}

async fn keys_can_be_swapped_in_one_transaction() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table t (id int primary key, name text);
                     insert into t values (1, 'one'), (2, 'two')",
            )
            .await;
        for _ in 0..3 {
            fixture
                .sql(
                    "update t set id = 0 where id = 1; update t set id = 1 where id = 2;
                         update t set id = 2 where id = 0",
                )
                .await;
        }
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 2 + 3 * 6);
        let rows = &delivery.rebuild().tables["public.t"].keyed;
        assert_eq!(rows[r#"{"id":1}"#].row["name"], "two");
        assert!(!rows[r#"{"id":0}"#].alive);
    })
    .await;
}

async fn a_deleted_key_can_be_reused_in_the_same_transaction() {
    Plugin::each(|plugin| taken_again(Fixture::builder(plugin))).await;
}

async fn taken_again(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    execute_and_drain(
        &fixture,
        &[
            "create table t (id int primary key, name text)",
            "insert into t values (1, 'one'), (2, 'two'), (3, 'three')",
            "delete from t where id = 1; update t set id = 1 where id = 2",
            "delete from t where id = 3; insert into t values (3, 'new'); update t set id = 4 where id = 3",
            "insert into t values (5, 'five'); update t set id = 6 where id = 5; delete from t where id = 6",
        ],
    )
    .await;
    let delivery = fixture.compare(&["t"]).await;
    let expected = [
        ("c", 1),
        ("c", 2),
        ("c", 3),
        ("d", 1),
        ("d", 2),
        ("c", 1),
        ("d", 3),
        ("c", 3),
        ("d", 3),
        ("c", 4),
        ("c", 5),
        ("d", 5),
        ("c", 6),
        ("d", 6),
    ];
    assert_json_steps(&delivery, &expected.map(|(op, id)| (op, json!({"id": id}))));
}

async fn keys_that_all_move_by_one_arrive_complete() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int primary key, name text)")
            .await;
        fixture
            .sql("insert into t select i, 'row ' || i from generate_series(1, 200) i order by i desc")
            .await;
        // The heap has the rows in descending order, so that no two rows have one key during the update.
        execute_and_drain(
            &fixture,
            &[
                "update t set id = id + 1",
                "update t set id = id + 1000 where id % 2 = 0",
            ],
        )
        .await;
        let delivery = fixture.compare(&["t"]).await;
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
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key deferrable, name text);
                 alter table t replica identity full",
                "insert into t values (1, 'one'), (2, 'two')",
                "update t set id = 3 - id",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let rebuilt = delivery.rebuild();
        let mut rows: Vec<Value> = rebuilt.tables["public.t"]
            .rows()
            .map(|row| Value::from(row.clone()))
            .collect();
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

async fn a_key_can_be_reused(version: u32) {
    with_each_plugin(version, taken_again).await;
}
