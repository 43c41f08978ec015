//! A backfill reads only the rows and columns that the publication has.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, read_events, run_backfill, start_event};
use crate::support::versions::{pgoutput, with_each_plugin};

crate::scenarios![
    the_rows_and_columns_of_the_publication_are_read,
    the_rows_and_columns_of_several_publications_are_read,
    generated_columns_match_live_changes,
    an_excluded_table_is_not_read,
];

crate::version_scenarios![generated_columns_match_the_live_changes];

crate::version_scenarios![since 15: published_rows_and_columns_are_backfilled];

async fn the_rows_and_columns_of_the_publication_are_read() {
    assert_published_part_is_read(Fixture::builder(Plugin::Pgoutput)).await;
}

async fn assert_published_part_is_read(builder: FixtureBuilder) {
    let fixture = fixture_with_tables(
        builder,
        "create table t (id int primary key, n int, secret text);
         insert into t select i, i % 10, 's' from generate_series(1, 100) i",
    )
    .await;
    fixture
        .sql("drop publication spillway; create publication spillway for table t (id, n) where (id > 40)")
        .await;
    run_backfill(&fixture, start_event(&["public.t"], 7)).await;
    fixture.sql("update t set n = 11").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let events = read_events(&delivery, "public.t");
    let rows: Vec<&Value> = events.iter().map(|event| &event["after"]).collect();
    let expected: Vec<Value> = (41..=100).map(|id| json!({"id": id, "n": id % 10})).collect();
    assert_eq!(rows, expected.iter().collect::<Vec<_>>());
    assert_eq!(
        delivery.of_table("public.t").len(),
        120,
        "the live changes have other rows"
    );
}

/// One publication with a row is enough to publish it. The publications share their column filter.
async fn the_rows_and_columns_of_several_publications_are_read() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput).env("PUBLICATIONS", "spillway,more"),
        "create table t (id int primary key, n int, secret text);
         insert into t select i, i % 10, 's' from generate_series(1, 30) i",
    )
    .await;
    fixture
        .sql(
            "drop publication spillway; create publication spillway for table t (id, n) where (id > 25);
         create publication more for table t (id, n) where (id < 4)",
        )
        .await;
    run_backfill(&fixture, start_event(&["public.t"], 2)).await;
    let events = read_events(&fixture.consume().await, "public.t");
    let ids: Vec<u64> = events
        .iter()
        .filter_map(|event| event["after"]["id"].as_u64())
        .collect();
    assert_eq!(ids, [1, 2, 3, 26, 27, 28, 29, 30]);
    assert!(events.iter().all(|event| event["after"].get("secret").is_none()));
}

async fn generated_columns_match_live_changes() {
    Plugin::each(|plugin| assert_generated_columns_match(Fixture::builder(plugin))).await;
}

async fn assert_generated_columns_match(builder: FixtureBuilder) {
    let fixture = fixture_with_tables(
        builder,
        "create table t (id int primary key, n int, twice int generated always as (n * 2) stored);
         insert into t (id, n) values (1, 1), (2, 2)",
    )
    .await;
    run_backfill(&fixture, start_event(&["public.t"], 1)).await;
    fixture.sql("insert into t (id, n) values (3, 3)").await;
    fixture.drain().await;
    let events = fixture.compare(&["t"]).await.of_table("public.t");
    let columns = |at: usize| -> Vec<String> {
        let row = events[at]["after"].as_object();
        row.into_iter().flat_map(|row| row.keys().cloned()).collect()
    };
    assert_eq!((columns(0), columns(1)), (columns(2), columns(2)));
}

async fn an_excluded_table_is_not_read() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin).env("TABLES", "public.t"),
            "create table t (id int primary key); create table u (id int primary key);
             insert into t values (1); insert into u values (1)",
        )
        .await;
        run_backfill(&fixture, json!({"action": "backfill", "tables": "all"})).await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 1);
    })
    .await;
}

async fn generated_columns_match_the_live_changes(version: u32) {
    with_each_plugin(version, assert_generated_columns_match).await;
}

async fn published_rows_and_columns_are_backfilled(version: u32) {
    assert_published_part_is_read(pgoutput(version)).await;
}
