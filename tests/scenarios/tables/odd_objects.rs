//! Unusual objects do not prevent the drain or backfill of other tables.

use std::time::Duration;

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::json;

use crate::support::backfill::{
    create_table_sql, fixture_with_tables, reported_state, run_backfill, start_event, start_within,
    tick_until_finished,
};
use crate::support::versions::with_each_plugin;

crate::version_scenarios![
    odd_objects_do_not_stop_a_backfill,
    functions_in_public_are_not_called
];
crate::scenarios![a_backfill_that_cannot_list_its_tables_does_not_stop_the_drain];

/// Objects without columns to describe, or that a backfill cannot read.
const ODD: &str = r#"
    create table z ();
    create table dropped (a int, b text); alter table dropped drop column a, drop column b;
    create table only_generated (g int generated always as (1 + 1) stored);
    create domain positive as int check (value > 0);
    create table of_domain (id positive primary key, gone positive);
    create type pair as (a int, b text); create table typed of pair;
    create table parent (id int primary key, n int); create table child (m int) inherits (parent);
    create table no_partition (id int primary key, n int) partition by range (id);
    create table by_expression (id int not null, what text);
    create unique index on by_expression (lower(what));
    create table broken_index (id int not null, n int); create unique index broken on broken_index (id);
    create function f(int) returns int language sql as 'select $1';
    create view through as select f(id) as id from parent;
    create foreign data wrapper hollow; create server nowhere foreign data wrapper hollow;
    create foreign table remote (id int) server nowhere;
    create materialized view kept as select * from parent;
    create sequence counted; create unlogged table quick (id int primary key);
    create schema closed; create table closed.t (id int primary key); insert into closed.t values (1);
    create table closed.z ();
    create table deferred (id int primary key deferrable initially deferred);
    create table "a ""b"".c d,e" (id int primary key, "x""y.z" text);
    insert into "a ""b"".c d,e" values (1, 'a'), (2, null)"#;

async fn odd_objects_do_not_stop_a_backfill(version: u32) {
    with_each_plugin(version, odd_objects).await;
}

async fn odd_objects(builder: FixtureBuilder) {
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} bool")).collect();
    let sql = format!(
        "{ODD}; create table wide (id int primary key, {}); insert into wide (id) values (1), (2);
         create table good (id int primary key, n int);
         insert into good select i, i from generate_series(1, 50) i;
         create table \"new\nline\" (id int primary key); insert into \"new\nline\" values (1);
         update pg_index set indisvalid = false where indexrelid = 'broken'::regclass",
        columns.join(", ")
    );
    let fixture = fixture_with_tables(builder, &sql).await;
    let (good, odd) = (["good", "wide"], ["\"a \"\"b\"\".c d,e\"", "\"new\nline\""]);
    let names = ["public.good", "public.wide", "public.no_partition"];
    let requests = [
        &names[..],
        &["public.\"a \"\"b\"\".c d,e\"", "public.\"new\nline\""],
    ]
    .concat();
    let first = fixture.invoke(start_event(&requests, 20)).await.answer();
    let status = fixture.status().await;
    assert_eq!(status["problems"], json!([]), "{status}");
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    fixture.compare(&[&good[..], &odd[..]].concat()).await;
    changes_of_odd_tables_arrive(&fixture).await;
    refusals_name_each_table(&fixture).await;
}

/// Asserts that inserts into six unusual tables arrive.
///
/// Four of the tables have no primary key.
async fn changes_of_odd_tables_arrive(fixture: &Fixture) {
    let before = fixture.consume().await.changes().len();
    fixture
        .sql(
            "insert into typed values (1, 'a'); insert into child values (1, 2, 3);
             insert into by_expression values (1, 'a'); insert into broken_index values (1, 2);
             insert into closed.t values (2); insert into of_domain values (1, null)",
        )
        .await;
    fixture.drain().await;
    assert_eq!(fixture.consume().await.changes().len(), before + 6);
}

async fn refusals_name_each_table(fixture: &Fixture) {
    let refused = [
        "public.z",
        "public.dropped",
        "public.by_expression",
        "public.through",
        "closed.t",
    ];
    let (kind, message) = fixture.invoke(start_event(&refused, 10)).await.error();
    assert_eq!(kind, "BackfillRefused", "{message}");
    for table in refused {
        assert!(message.contains(&format!("{table}: ")), "{table}: {message}");
    }
    let role = REPLUSER.0;
    fixture
        .sql(&format!(
            "grant usage on schema closed to {role}; grant select on closed.t to {role}"
        ))
        .await;
    run_backfill(fixture, start_event(&["closed.*"], 10)).await;
    fixture.compare(&["closed.t"]).await;
}

async fn a_backfill_that_cannot_list_its_tables_does_not_stop_the_drain() {
    let rows = 20_000;
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &create_table_sql(rows)).await;
    // A chunk has one row, so the first invocation does not finish.
    start_within(&fixture, start_event(&["public.t"], 1), Duration::from_secs(4)).await;
    fixture
        .sql("revoke select on pg_publication_rel from public")
        .await;
    fixture.sql("update t set n = -1 where id = 7").await;
    let report = fixture.tick().await;
    assert_eq!(
        (&report["changes"], &report["stopped"]),
        (&json!(1), &json!("empty")),
        "{report}"
    );
    assert_eq!(reported_state(&report), "waiting", "{report}");
    let reason = report["backfill"]["waits_for"].to_string();
    assert!(reason.contains("pg_publication_rel"), "{reason}");
    let status = fixture.status().await;
    assert!(
        status["problems"].to_string().contains("pg_publication_rel"),
        "{status}"
    );
    fixture.sql("grant select on pg_publication_rel to public").await;
    let cancel = fixture
        .invoke(json!({"action": "backfill", "cancel": true}))
        .await
        .answer();
    assert_eq!(cancel["backfill"]["state"], "cancelled", "{cancel}");
    run_backfill(&fixture, start_event(&["public.t"], 10_000)).await;
    fixture.compare(&["t"]).await;
}

/// Functions and an operator in `public`.
///
/// Their parameters match those of the queries better than PostgreSQL's own. Before PostgreSQL 15, each role
/// may create objects in `public`.
const HOSTILE: &str = "
    create function public.called(name, name) returns bool language plpgsql
      as $$ begin raise exception 'a function of public was called'; end $$;
    create operator public.!~ (leftarg = name, rightarg = name, function = public.called);
    create function public.format(text, name, name) returns text language plpgsql
      as $$ begin raise exception 'a function of public was called'; end $$;
    create function public.array_out(text) returns text language sql as 'select $1';
    create function public.array_subscript_handler(text) returns text language sql as 'select $1';";

async fn functions_in_public_are_not_called(version: u32) {
    let builder = Fixture::builder(Plugin::Pgoutput)
        .version(version)
        .env("PARTITION_KEYS", "public.t:n")
        .env("COLUMN_RULES", "public.t.gone:omit")
        .env("TABLES", "public.t");
    let sql = "create type mood as enum ('a', 'b');
        create table t (id int primary key, n int, moods mood[], gone text);
        alter table t replica identity full;
        insert into t values (1, 1, '{a}')";
    let fixture = fixture_with_tables(builder, &format!("{HOSTILE} {sql}")).await;
    fixture.sql("insert into t values (2, 2, '{b}')").await;
    run_backfill(&fixture, start_event(&["public.t"], 10)).await;
    let events = fixture.consume().await.of_table("public.t");
    let moods: Vec<_> = events
        .iter()
        .map(|event| event["after"]["moods"].to_string())
        .collect();
    assert!(moods.contains(&r#"["b"]"#.to_owned()), "{moods:?}");
    assert_eq!(fixture.problems().await, json!([]));
    assert!(!fixture.function.log().concat().contains("was called"));
}
