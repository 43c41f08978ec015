//! A backfill of an unsuitable table is refused, and does not start.
//!
//! The error has the name of the table and the reason.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, read_events, run_backfill, start_event};
use crate::support::expected_errors::assert_invocation_fails;

crate::scenarios![
    a_table_without_a_usable_key_is_refused,
    relations_without_a_log_are_refused,
    a_table_without_full_read_access_is_refused,
    an_unknown_table_is_refused,
    an_unpublished_table_is_refused,
    an_invalid_condition_is_refused,
    a_missing_column_is_refused,
    one_refused_table_refuses_the_whole_backfill,
];

crate::version_scenarios![since 18: a_key_without_overlaps_is_no_order_to_read_by];

async fn fixture(sql: &str) -> Fixture {
    fixture_of(Fixture::builder(Plugin::Pgoutput), sql).await
}

async fn fixture_of(builder: FixtureBuilder, sql: &str) -> Fixture {
    fixture_with_tables(
        builder,
        &format!("create table good (id int primary key, n int); insert into good values (1, 1); {sql}"),
    )
    .await
}

/// Asserts that the event is refused, and that no backfill started.
///
/// The message must contain all of `parts`.
async fn assert_refused(fixture: &Fixture, event: Value, parts: &[&str]) {
    assert_invocation_fails(fixture, event.clone(), "BackfillRefused", parts).await;
    assert_eq!(fixture.backfill_state().await, None, "{event} started a backfill");
}

/// Asserts that this table is refused for this reason.
async fn assert_table_refused(fixture: &Fixture, table: &str, reason: &str) {
    assert_refused(fixture, start_event(&[table], 10), &[table, reason]).await;
}

async fn a_table_without_a_usable_key_is_refused() {
    let fixture = fixture(
        "create table bare (n int); insert into bare values (1);
         create table later (id int primary key deferrable initially deferred);
         create table part (id int not null); create unique index on part (id) where id > 0;
         create table computed (id int not null); create unique index on computed ((id + 1));
         create table nullable (id int unique)",
    )
    .await;
    for table in [
        "public.bare",
        "public.later",
        "public.part",
        "public.computed",
        "public.nullable",
    ] {
        assert_table_refused(&fixture, table, "no primary key, and no unique index").await;
    }
    // The error names every refused table.
    assert_refused(
        &fixture,
        start_event(&["public.bare", "public.nullable"], 10),
        &["public.bare", "public.nullable"],
    )
    .await;
}

/// The index of such a key is not a B-tree.
///
/// Another unique index replaces it only if the log has whole old rows.
async fn a_key_without_overlaps_is_no_order_to_read_by(version: u32) {
    let key = "id int4range, during daterange, n int not null unique, \
               primary key (id, during without overlaps)";
    let fixture = fixture_of(
        Fixture::builder(Plugin::Pgoutput).version(version),
        &format!(
            "create table booked ({key}); create table whole ({key});
             alter table whole replica identity full;
             insert into whole select int4range(i, i + 1), '[2026-01-01,)', i from generate_series(1, 7) i"
        ),
    )
    .await;
    assert_table_refused(&fixture, "public.booked", "no primary key, and no unique index").await;
    run_backfill(&fixture, start_event(&["public.whole"], 2)).await;
    let read = read_events(&fixture.consume().await, "public.whole");
    assert_eq!(read.len(), 7);
}

async fn relations_without_a_log_are_refused() {
    let fixture = fixture(
        "create view seen as select * from good; create materialized view kept as select * from good;
         create sequence counted; create unlogged table quick (id int primary key)",
    )
    .await;
    assert_table_refused(&fixture, "public.seen", "view").await;
    assert_table_refused(&fixture, "public.kept", "view").await;
    assert_table_refused(&fixture, "public.counted", "sequence").await;
    assert_table_refused(&fixture, "public.quick", "unlogged").await;
    fixture
        .sql(&format!(
            "create foreign data wrapper hollow; create server nowhere foreign data wrapper hollow;
         create foreign table remote (id int) server nowhere; grant select on remote to {}",
            REPLUSER.0
        ))
        .await;
    assert_table_refused(&fixture, "public.remote", "foreign table").await;
}

async fn a_table_without_full_read_access_is_refused() {
    let role = REPLUSER.0;
    let fixture = fixture(
        "create table closed (id int primary key); create table rows (id int primary key);
         alter table rows enable row level security",
    )
    .await;
    fixture.sql(&format!("revoke select on closed from {role}")).await;
    assert_table_refused(&fixture, "public.closed", "grant select").await;
    assert_table_refused(&fixture, "public.rows", "row security").await;
    fixture
        .sql(&format!(
            "grant select on closed to {role}; alter table rows disable row level security"
        ))
        .await;
    run_backfill(&fixture, start_event(&["public.closed", "public.rows"], 10)).await;
}

async fn an_unknown_table_is_refused() {
    let fixture = fixture("").await;
    assert_table_refused(&fixture, "public.nowhere", "no table").await;
    assert_refused(
        &fixture,
        start_event(&["elsewhere.*"], 10),
        &["elsewhere.*", "no published table"],
    )
    .await;
}

async fn an_unpublished_table_is_refused() {
    let fixture = fixture("create table other (id int primary key)").await;
    fixture
        .sql("drop publication spillway; create publication spillway for table good")
        .await;
    assert_table_refused(&fixture, "public.other", "PUBLICATIONS").await;
    // The other plugins have no publications.
    let fixture = fixture_of(
        Fixture::builder(Plugin::TestDecoding).env("TABLES", "public.good"),
        "create table other (id int primary key)",
    )
    .await;
    assert_table_refused(&fixture, "public.other", "TABLES").await;
    run_backfill(&fixture, start_event(&["public.good"], 10)).await;
}

async fn an_invalid_condition_is_refused() {
    let fixture = fixture("").await;
    for condition in [
        "n >",
        "m = 1",
        "n",
        "n = 1) or (1 = 1",
        "n = 1; drop table good",
        "sum(n) > 1",
    ] {
        let event =
            json!({"action": "backfill", "wait": true, "tables": ["public.good"], "where": condition});
        assert_refused(&fixture, event, &["public.good", "PostgreSQL says"]).await;
    }
    for condition in ["n > $1", "n = $2"] {
        let event = json!({"action": "backfill", "tables": ["public.good"], "where": condition});
        assert_refused(&fixture, event, &["public.good", "with this where", "parameter"]).await;
    }
    assert_eq!(
        fixture.value("select count(*) from good").await.as_deref(),
        Some("1")
    );
}

async fn a_missing_column_is_refused() {
    let fixture = fixture("").await;
    let event =
        json!({"action": "backfill", "wait": true, "tables": ["public.good"], "columns": ["id", "nothing"]});
    assert_refused(&fixture, event, &["public.good", "nothing"]).await;
}

async fn one_refused_table_refuses_the_whole_backfill() {
    let fixture = fixture("create table keyless (n int)").await;
    assert_refused(
        &fixture,
        start_event(&["public.good", "public.keyless"], 10),
        &["public.keyless"],
    )
    .await;
    fixture.drain().await;
    assert_eq!(fixture.consume().await.changes().len(), 0);
}
