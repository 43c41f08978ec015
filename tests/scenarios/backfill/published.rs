//! A backfill reads only the rows and columns that the publication has.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, fixture_with_tables, invoke_ok, read_events, reported_state, run_backfill, start_event,
    start_event_with_lock,
};
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::versions::{pgoutput, with_each_plugin};

crate::scenarios![
    the_rows_and_columns_of_the_publication_are_read,
    the_rows_and_columns_of_several_publications_are_read,
    a_row_filter_beside_the_schema_does_not_count,
    generated_columns_match_live_changes,
    an_excluded_table_is_not_read,
    a_partition_with_another_identity_fails_its_root_and_is_refused,
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
///
/// A publication of other operations sends no row, so its missing filter does not count.
async fn the_rows_and_columns_of_several_publications_are_read() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput).env("PUBLICATIONS", "spillway,more,truncates"),
        "create table t (id int primary key, n int, secret text);
         insert into t select i, i % 10, 's' from generate_series(1, 30) i",
    )
    .await;
    fixture
        .sql(
            "drop publication spillway; create publication spillway for table t (id, n) where (id > 25);
         create publication more for table t (id, n) where (id < 4);
         create publication truncates for table t (id, n) with (publish = 'truncate, delete')",
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

/// The schema is in the same publication, so PostgreSQL applies no filter.
async fn a_row_filter_beside_the_schema_does_not_count() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput),
        "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 9) i",
    )
    .await;
    fixture
        .sql(
            "drop publication spillway;
             create publication spillway for table t where (id > 3), tables in schema public",
        )
        .await;
    run_backfill(&fixture, start_event(&["public.t"], 2)).await;
    fixture.sql("update t set n = 1").await;
    fixture.drain().await;
    let delivery = fixture.compare(&["t"]).await;
    assert_eq!(read_events(&delivery, "public.t").len(), 9);
    assert_eq!(delivery.changes().len(), 18);
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

/// The partition gets its identity during the backfill.
///
/// Its updates would have no key, so they would make each chunk invalid.
async fn a_partition_with_another_identity_fails_its_root_and_is_refused() {
    let sql = "create table p (id int primary key, code text not null) partition by range (id);
               create table sub partition of p for values from (0) to (100) partition by range (id);
               create table p1 partition of sub for values from (0) to (100);
               create unique index by_code on p1 (code);
               insert into p select i, 'c' || i from generate_series(1, 30) i";
    let sql = format!("{sql}; {}", ChunkLock::SQL);
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &sql).await;
    fixture
        .sql("alter publication spillway set (publish_via_partition_root = true)")
        .await;
    let event = start_event_with_lock("public.p", 10);
    let lock = ChunkLock::at_row(&fixture, 5).await;
    let alter = fixture.sql("alter table p1 replica identity using index by_code");
    let (mut report, ()) = tokio::join!(
        invoke_ok(&fixture, event.clone()),
        lock.release_after(&fixture, alter)
    );
    while ["running", "waiting"].contains(&reported_state(&report)) {
        report = fixture.tick().await;
    }
    assert_eq!(reported_state(&report), "failed", "{report}");
    let reason = "the replica identity of partition public.p1";
    let status = fixture.status().await;
    assert!(status["backfill"].to_string().contains(reason), "{status}");
    assert_invocation_fails(&fixture, event, "BackfillRefused", &["public.p: ", reason]).await;
    fixture.drain().await;
}
