//! A backfill reads what the slot would give: the rows and columns that the publication has, and no others.

use scenarios::fixture::{Fixture, Plan, Plugin};
use serde_json::{Value, json};

use crate::backfill::{filled, reads, run, start};

crate::scenarios![
    the_rows_and_columns_of_the_publication_are_read,
    the_rows_and_columns_of_several_publications_are_read,
    generated_columns_are_as_in_live_changes,
    a_table_that_the_function_leaves_out_is_not_read,
];

async fn the_rows_and_columns_of_the_publication_are_read() {
    of_the_publication(Fixture::plan(Plugin::Pgoutput)).await;
}

pub(crate) async fn of_the_publication(plan: Plan) {
    let fixture = filled(
        plan,
        "create table t (id int primary key, n int, secret text); insert into t select i, i % 10, 's' from generate_series(1, 100) i",
    )
    .await;
    fixture
        .sql("drop publication spillway; create publication spillway for table t (id, n) where (id > 40)")
        .await;
    run(&fixture, start(&["public.t"], 7)).await;
    fixture.sql("update t set n = 11").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let events = reads(&delivery, "public.t");
    let rows: Vec<&Value> = events.iter().map(|event| &event["after"]).collect();
    let wanted: Vec<Value> = (41..=100).map(|id| json!({"id": id, "n": id % 10})).collect();
    assert_eq!(rows, wanted.iter().collect::<Vec<_>>());
    assert_eq!(
        delivery.of_table("public.t").len(),
        120,
        "the live changes are the same rows"
    );
}

/// A row is published when one of them has it, and a column filter they share.
async fn the_rows_and_columns_of_several_publications_are_read() {
    let fixture = filled(
        Fixture::plan(Plugin::Pgoutput).env("PUBLICATIONS", "spillway,more"),
        "create table t (id int primary key, n int, secret text); insert into t select i, i % 10, 's' from generate_series(1, 30) i",
    )
    .await;
    fixture
        .sql(
            "drop publication spillway; create publication spillway for table t (id, n) where (id > 25);
         create publication more for table t (id, n) where (id < 4)",
        )
        .await;
    run(&fixture, start(&["public.t"], 2)).await;
    let events = reads(&fixture.consume().await, "public.t");
    let ids: Vec<u64> = events
        .iter()
        .filter_map(|event| event["after"]["id"].as_u64())
        .collect();
    assert_eq!(ids, [1, 2, 3, 26, 27, 28, 29, 30]);
    assert!(events.iter().all(|event| event["after"].get("secret").is_none()));
}

async fn generated_columns_are_as_in_live_changes() {
    Plugin::each(|plugin| generated(Fixture::plan(plugin))).await;
}

pub(crate) async fn generated(plan: Plan) {
    let fixture = filled(
        plan,
        "create table t (id int primary key, n int, twice int generated always as (n * 2) stored); insert into t (id, n) values (1, 1), (2, 2)",
    )
    .await;
    run(&fixture, start(&["public.t"], 1)).await;
    fixture.sql("insert into t (id, n) values (3, 3)").await;
    fixture.drain().await;
    let events = fixture.compare(&["t"]).await.of_table("public.t");
    let columns = |at: usize| -> Vec<String> {
        let row = events[at]["after"].as_object();
        row.into_iter().flat_map(|row| row.keys().cloned()).collect()
    };
    assert_eq!((columns(0), columns(1)), (columns(2), columns(2)));
}

async fn a_table_that_the_function_leaves_out_is_not_read() {
    Plugin::each(|plugin| async move {
        let fixture = filled(
            Fixture::plan(plugin).env("TABLES", "public.t"),
            "create table t (id int primary key); create table u (id int primary key); insert into t values (1); insert into u values (1)",
        )
        .await;
        run(&fixture, json!({"action": "backfill", "tables": "all"})).await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 1);
    })
    .await;
}
