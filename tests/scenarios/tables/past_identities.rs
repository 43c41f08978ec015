//! Rows that were written before the table's definition changed.
//!
//! The catalog shows the table as it is now. A row has only the facts of the time when it was written. Two
//! rows never share a key, and a value that is not known is absent.

use std::collections::BTreeMap;

use scenarios::consumer::Delivery;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::keys::{assert_json_steps, execute_and_drain};
use crate::support::versions::with_each_plugin;

crate::version_scenarios![
    with_a_renamed_key_column_each_row_has_its_own_key,
    with_a_key_in_another_column_each_row_has_its_own_key,
    with_a_changed_identity_index_each_row_has_its_own_key,
    with_two_tables_of_one_name_each_row_has_its_own_key,
    a_schema_with_the_name_of_another_leaves_the_rows_of_its_tables,
    an_untouched_large_value_is_not_null_after_the_identity_changed,
    added_and_dropped_columns_leave_the_values_of_earlier_rows,
];

crate::scenarios![
    a_key_that_was_dropped_is_no_key,
    rows_of_a_renamed_table_have_its_key_or_none,
    rows_after_a_change_have_the_new_key,
    an_identity_of_the_past_makes_no_nulls,
    a_newer_index_leaves_the_key_of_an_identity_index,
];

/// Asserts that no two inserts of a table share a row key.
///
/// Inserts without a row key may share the key of their table. No partition key contains a null.
fn assert_keys_differ(delivery: &Delivery) {
    let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for change in delivery.changes() {
        let event = change.json();
        if event["op"] == "c" && change.partition_key.starts_with('{') {
            let (schema, table) = (&event["source"]["schema"], &event["source"]["table"]);
            let key = format!("{schema}.{table} {}", change.partition_key);
            rows.entry(key).or_default().push(event);
        }
        assert!(!change.partition_key.contains("null"), "{}", change.partition_key);
    }
    for (key, rows) in rows {
        assert_eq!(rows.len(), 1, "{key}: {rows:?}");
    }
}

/// No known value of an old row is a null.
fn assert_no_null_before(delivery: &Delivery) {
    for change in delivery.changes() {
        let before = change.json()["before"].clone();
        let mut values = before.as_object().into_iter().flat_map(|row| row.values());
        assert!(values.all(|value| !value.is_null()), "{before}");
    }
}

/// With the default identity, and with the whole row as identity.
const IDENTITIES: [&str; 2] = ["default", "full"];

/// Executes the steps for each identity, and drains after them.
///
/// `$identity` in a step is replaced by the name of the identity.
async fn execute_for_each_identity(fixture: &Fixture, steps: &[&str]) {
    for identity in IDENTITIES {
        let steps: Vec<String> = steps
            .iter()
            .map(|step| step.replace("$identity", identity))
            .collect();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        execute_and_drain(fixture, &steps).await;
    }
}

async fn with_a_renamed_key_column_each_row_has_its_own_key(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_for_each_identity(
            &fixture,
            &[
                "create table $identity_t (a int primary key, b int);
                 alter table $identity_t replica identity $identity",
                "insert into $identity_t values (1, 9), (2, 9)",
                "update $identity_t set b = 8; update $identity_t set a = a + 10",
                "delete from $identity_t where a = 12",
                "alter table $identity_t rename a to c",
                "alter table $identity_t rename b to a; alter table $identity_t rename c to b",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        assert_keys_differ(&delivery);
        for identity in IDENTITIES {
            let deleted = delivery.of_table(&format!("public.{identity}_t")).pop().unwrap();
            assert_eq!(deleted["before"]["a"], 12);
        }
    })
    .await;
}

async fn with_a_key_in_another_column_each_row_has_its_own_key(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_for_each_identity(
            &fixture,
            &[
                "create table $identity_t (a int primary key, b int not null);
                 alter table $identity_t replica identity $identity",
                "insert into $identity_t values (1, 9), (2, 9)",
                "update $identity_t set a = a + 10",
                "delete from $identity_t where a = 12",
                "alter table $identity_t drop constraint $identity_t_pkey;
                 alter table $identity_t add primary key (b)",
            ],
        )
        .await;
        assert_keys_differ(&fixture.consume().await);
    })
    .await;
}

async fn with_a_changed_identity_index_each_row_has_its_own_key(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, a int not null, b int not null);
                 create unique index by_a on t (a);
                 alter table t replica identity using index by_a",
                "insert into t values (1, 1, 9), (2, 2, 9)",
                "update t set id = id + 10",
                "update t set a = a + 10",
                "delete from t where id = 12",
                "create unique index by_b on t (b); alter table t replica identity using index by_b",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        assert_keys_differ(&delivery);
        assert_no_null_before(&delivery);
        let deleted = delivery.of_table("public.t").pop().unwrap();
        assert_eq!(deleted["before"], json!({"a": 12}));
    })
    .await;
}

async fn a_newer_index_leaves_the_key_of_an_identity_index() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table t (id int primary key, code text not null, n int);
                 create unique index by_code on t (code);
                 alter table t replica identity using index by_code",
            )
            .await;
        fixture.drain().await;
        fixture
            .sql("insert into t values (1, 'x', 0), (2, 'y', 0); create index on t (n)")
            .await;
        fixture.sql("delete from t where code = 'x'").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        let keys: Vec<&str> = delivery
            .changes()
            .iter()
            .map(|it| it.partition_key.as_str())
            .collect();
        assert_eq!(keys, [r#"{"code":"x"}"#, r#"{"code":"y"}"#, r#"{"code":"x"}"#]);
    })
    .await;
}

async fn with_two_tables_of_one_name_each_row_has_its_own_key(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_for_each_identity(
            &fixture,
            &[
                "create table $identity_t (a int primary key, b int not null);
                 alter table $identity_t replica identity $identity",
                "insert into $identity_t values (1, 9), (2, 9)",
                "update $identity_t set a = a + 10; delete from $identity_t where a = 12",
                "alter table $identity_t rename to $identity_old",
                "create table $identity_t (a int not null, b int primary key);
                 alter table $identity_t replica identity $identity",
                "insert into $identity_t values (1, 1), (1, 2)",
            ],
        )
        .await;
        assert_keys_differ(&fixture.consume().await);
    })
    .await;
}

/// A schema older than the slot's rows gets the name of another.
///
/// A table of it has another key than the table of the same name. A second one is a materialized view.
async fn a_schema_with_the_name_of_another_leaves_the_rows_of_its_tables(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        fixture.sql("create table other (id int primary key)").await;
        // A grant rewrites the row of a schema, as a rename does.
        let schemas = [
            ("app", ""),
            ("shop", "grant usage on schema shop, shop_new to public;"),
        ];
        for (schema, grant) in schemas {
            let create = format!(
                "create schema {schema}; create schema {schema}_new; {grant}
                 create table {schema}.t (a int primary key, b int not null);
                 create table {schema}_new.t (a int not null, b int primary key);
                 create table {schema}.v (id int primary key);
                 create materialized view {schema}_new.v as select 7 as id"
            );
            fixture.sql(&create).await;
        }
        drain_past_catalog_changes(&fixture).await;
        for (schema, _) in schemas {
            for sql in [
                "insert into $schema.t values (1, 9), (2, 9)",
                "insert into $schema.v values (1)",
                "update $schema.t set a = a + 10; delete from $schema.t where a = 12",
                "alter schema $schema rename to $schema_old; alter schema $schema_new rename to $schema",
                "insert into $schema.t values (1, 1), (1, 2)",
            ] {
                fixture.sql(&sql.replace("$schema", schema)).await;
            }
        }
        fixture.drain().await;
        let delivery = fixture.consume().await;
        assert_keys_differ(&delivery);
        for (schema, _) in schemas {
            let rows = delivery.of_table(&format!("{schema}.v"));
            assert_eq!(rows.len(), 1, "{rows:?}");
        }
    })
    .await;
}

/// Drains until each row of the slot is newer than the catalog.
async fn drain_past_catalog_changes(fixture: &Fixture) {
    let last = fixture.value("select pg_current_xact_id()::text").await.unwrap();
    let passed = format!(
        "select catalog_xmin::text::int8 > {last} from pg_replication_slots where slot_name = '{}'",
        fixture.slot
    );
    for id in 0..10 {
        // A checkpoint logs the running transactions, from which the slot takes its horizon.
        fixture.sql("checkpoint").await;
        fixture.sql(&format!("insert into other values ({id})")).await;
        fixture.drain().await;
        if fixture.value(&passed).await.as_deref() == Some("t") {
            return;
        }
    }
    panic!("the slot's horizon stays before transaction {last}");
}

/// Untouched large value of a row from before the identity changed.
///
/// The update does not log the large value, and its old row is the key.
async fn an_untouched_large_value_is_not_null_after_the_identity_changed(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, big text, n int);
                 alter table t alter column big set storage external",
                "insert into t values (1, repeat('x', 10000), 1), (3, repeat('y', 10000), 1)",
                "update t set id = 2 where id = 1",
                "delete from t where id = 3",
                "alter table t replica identity full",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.t");
        let moved = events
            .iter()
            .rev()
            .find(|event| event["after"]["id"] == 2)
            .unwrap();
        assert_eq!(moved["after"]["big"], UNAVAILABLE);
        assert_no_null_before(&delivery);
    })
    .await;
}

async fn added_and_dropped_columns_leave_the_values_of_earlier_rows(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        execute_for_each_identity(
            &fixture,
            &[
                "create table $identity_t (id int primary key, gone text, kept text);
                 alter table $identity_t replica identity $identity",
                "insert into $identity_t values (1, 'g', 'k'), (2, 'g', 'k')",
                "update $identity_t set kept = 'l' where id = 1",
                "delete from $identity_t where id = 2",
                "alter table $identity_t drop column gone",
                "alter table $identity_t add column more text",
                "update $identity_t set more = 'm'",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        assert_keys_differ(&delivery);
        for identity in IDENTITIES {
            let events = delivery.of_table(&format!("public.{identity}_t"));
            assert_eq!(events[0]["after"], json!({"id": 1, "gone": "g", "kept": "k"}));
            assert_eq!(events[2]["after"], json!({"id": 1, "gone": "g", "kept": "l"}));
            assert_eq!(events[4]["after"], json!({"id": 1, "kept": "l", "more": "m"}));
        }
        for event in delivery.of_table("public.default_t") {
            let before = &event["before"];
            assert!(before.is_null() || *before == json!({"id": 2}), "{before}");
        }
    })
    .await;
}

async fn a_key_that_was_dropped_is_no_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, v text); alter table t replica identity full",
                "insert into t values (1, 'a')",
                "alter table t drop constraint t_pkey",
                "insert into t values (1, 'b'), (1, 'b')",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let mut keys: Vec<_> = delivery
            .changes()
            .iter()
            .map(|it| it.partition_key.clone())
            .collect();
        assert_eq!(keys.split_off(1), ["public.t", "public.t"]);
    })
    .await;
}

/// pgoutput names the table by its OID. It sends neither a whole row's key nor a generated column of the key.
async fn rows_of_a_renamed_table_have_its_key_or_none() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, v text); alter table t replica identity full;
                 create table g (id int, made int generated always as (id / 2) stored, v text,
                   primary key (made, v))",
                "insert into t values (1, 'a'); insert into g values (1, default, 'a'), (3, default, 'a')",
                "alter table t rename to u; alter table g rename to h; create table t (a int primary key)",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let key_of = |table: &str| {
            let changes = delivery.changes().into_iter();
            let mut of_table = changes.filter(|it| it.event().table().as_deref() == Some(table));
            of_table.next().unwrap().partition_key.clone()
        };
        let (t, g) = (key_of("public.t"), key_of("public.g"));
        match plugin {
            Plugin::Pgoutput => assert_eq!((&*t, &*g), (r#"{"id":1}"#, "public.g")),
            Plugin::Wal2json => assert_eq!((&*t, &*g), (r#"{"id":1}"#, r#"{"made":0,"v":"a"}"#)),
            Plugin::TestDecoding => assert_eq!((&*t, &*g), ("public.t", "public.g")),
        }
    })
    .await;
}

async fn rows_after_a_change_have_the_new_key() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (a int primary key, b int not null); alter table t replica identity full",
                "insert into t values (1, 1)",
                "alter table t drop constraint t_pkey; alter table t add primary key (b)",
                "insert into t values (1, 2)",
                "delete from t",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let steps: Vec<_> = delivery
            .of_table("public.t")
            .iter()
            .map(|event| event["op"].clone())
            .collect();
        assert_eq!(steps, ["c", "c", "d", "d"]);
        let changes = delivery.changes();
        let keys: Vec<_> = changes
            .iter()
            .rev()
            .take(3)
            .map(|it| it.partition_key.clone())
            .collect();
        assert_eq!(keys, [r#"{"b":2}"#, r#"{"b":1}"#, r#"{"b":2}"#]);
    })
    .await;
}

/// test_decoding omits nulls, and what the identity does not have.
///
/// Only the identity at the time of the change distinguishes the two.
async fn an_identity_of_the_past_makes_no_nulls() {
    let fixture = Fixture::new(Plugin::TestDecoding).await;
    execute_and_drain(
        &fixture,
        &[
            "create table t (id int primary key, v text, n int)",
            "insert into t values (1, 'a', 1), (2, 'b', 2), (3, null, 3)",
            "delete from t where id = 1",
            "alter table t replica identity full",
            "delete from t where id = 3",
            "alter table t replica identity default",
            "delete from t where id = 2",
        ],
    )
    .await;
    let delivery = fixture.consume().await;
    assert_no_null_before(&delivery);
    let one = |id: i32| json!({"id": id});
    let steps = [1, 2, 3, 1, 3, 2].map(one);
    let ops = ["c", "c", "c", "d", "d", "d"];
    let expected: Vec<_> = ops.into_iter().zip(steps).collect();
    assert_json_steps(&delivery, &expected);
}
