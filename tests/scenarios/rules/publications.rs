//! Publications that did not exist when a change was committed: the drain stops before that change.
//!
//! Everything before it is sent and confirmed first.
//!
//! PostgreSQL reads the publication from the catalog as of the change, not from the present one. Up to
//! version 17 the peek fails. From 18 on the server only warns, and leaves the change out. The advice of the
//! error is tried, too.

use scenarios::fixture::{Fixture, FixtureBuilder};
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::run_backfill;
use crate::support::expected_errors::{assert_invocation_fails, assert_tick_fails};
use crate::support::gap::{accept_gap, advance_slot, gap_events};
use crate::support::positions::{save_slot, set_slot_back};
use crate::support::project_files::read_project_file;
use crate::support::versions::pgoutput;

crate::version_scenarios![
    a_publication_that_was_renamed_for_a_while_stops_the_drain,
    a_publication_that_was_dropped_for_a_while_stops_the_drain,
    one_of_two_publications_that_was_away_stops_the_drain,
    a_slot_that_is_older_than_its_publication_stops_the_drain,
    every_change_before_the_absence_of_a_publication_is_sent,
    a_slot_that_went_back_stops_at_the_same_change,
    a_publication_that_was_away_without_a_change_stops_nothing,
    a_new_publication_is_added_without_loss,
    the_published_tables_are_those_of_the_view,
    a_partition_of_another_publication_has_the_name_of_the_root,
];

/// Part of the advice for tables that were in the stream before.
const ADVANCE: &str = "pg_replication_slot_advance";

/// Asserts that ticks and a plan stop by name.
///
/// The first tick reads the log before the change, at least a marker. After it the slot does not move.
async fn assert_stops(fixture: &Fixture) {
    let parts = [fixture.slot.as_str(), "PUBLICATIONS", ADVANCE, "repair"];
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PublicationMissing", "{message}");
    assert_tick_fails(fixture, "PublicationMissing", &parts).await;
    let plan = json!({"action": "plan"});
    assert_invocation_fails(fixture, plan, "PublicationMissing", &parts).await;
}

/// Fixture with a publication of `t`, whose first row is drained.
async fn drained_fixture(builder: FixtureBuilder) -> Fixture {
    let fixture = builder.without_slot().build().await;
    fixture
        .sql(&format!(
            "create table t (id int primary key, what text); create publication spillway for table t;
             grant select on all tables in schema public to {}",
            REPLUSER.0
        ))
        .await;
    fixture.create_slot().await;
    fixture
        .sql("insert into t values (1, 'drained'), (2, 'drained')")
        .await;
    fixture.drain().await;
    fixture
}

/// Asserts that the drain stops at changes between `away` and `back`.
///
/// The drain continues as the error says, with a gap and a repair. No row stays wrong.
async fn assert_absence_stops(version: u32, away: &str, back: &str) {
    let fixture = drained_fixture(pgoutput(version)).await;
    fixture.sql(away).await;
    fixture.sql("insert into t values (4, 'away')").await;
    fixture.sql("delete from t where id = 1").await;
    fixture.sql(back).await;
    fixture.sql("insert into t values (5, 'after')").await;
    assert_stops(&fixture).await;

    let confirmed = advance_slot(&fixture).await;
    assert_tick_fails(&fixture, "Gap", &[&confirmed]).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    fixture.sql("update t set what = 'repaired' where id = 4").await;
    fixture.drain().await;
    let delivery = fixture.compare(&["t"]).await;
    assert_eq!(
        gap_events(&delivery).len(),
        1,
        "consumers do not learn of the gap"
    );
}

async fn a_publication_that_was_renamed_for_a_while_stops_the_drain(version: u32) {
    let away = "alter publication spillway rename to elsewhere";
    assert_absence_stops(version, away, "alter publication elsewhere rename to spillway").await;
}

async fn a_publication_that_was_dropped_for_a_while_stops_the_drain(version: u32) {
    let back = "create publication spillway for table t";
    assert_absence_stops(version, "drop publication spillway", back).await;
}

/// The server skips the changes of a missing publication.
///
/// The drain cannot know which changes are missing. So it sends nothing, not even the changes of the other
/// publication.
async fn one_of_two_publications_that_was_away_stops_the_drain(version: u32) {
    let mut fixture = drained_fixture(pgoutput(version)).await;
    fixture
        .sql("create table u (id int primary key); create publication second for table u")
        .await;
    fixture.function.set("PUBLICATIONS", "spillway,second").await;
    fixture.sql("insert into u values (1)").await;
    fixture.drain().await;
    fixture.sql("alter publication second rename to elsewhere").await;
    fixture.sql("insert into u values (2)").await;
    fixture.sql("alter publication elsewhere rename to second").await;
    fixture.sql("insert into t values (6, 'of the other')").await;
    assert_stops(&fixture).await;
}

async fn a_slot_that_is_older_than_its_publication_stops_the_drain(version: u32) {
    let fixture = pgoutput(version).without_slot().build().await;
    fixture.sql("create table t (id int primary key)").await;
    fixture.create_slot().await;
    fixture.sql("insert into t values (1)").await;
    // A missing publication stops it by the same name, and setup creates one that is newer than the change.
    assert_tick_fails(&fixture, "PublicationMissing", &["spillway", "setup"]).await;
    let grant = "grant create on database {} to {}";
    let grant = grant
        .replacen("{}", &fixture.database, 1)
        .replacen("{}", REPLUSER.0, 1);
    fixture.sql(&grant).await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    let problems = answer["problems"].to_string();
    for part in [
        &fixture.slot,
        "existed before",
        "PublicationMissing",
        "PUBLICATIONS",
    ] {
        assert!(problems.contains(part), "{answer}");
    }
    fixture.sql("alter publication spillway add table t").await;
    fixture.sql("insert into t values (2)").await;
    assert_stops(&fixture).await;
    assert_eq!(fixture.consume().await.changes().len(), 0, "a change was sent");
}

/// Changes before the absence of a publication.
///
/// The server returns no row of a window with a change during the absence. Smaller windows read the rows
/// before it.
async fn every_change_before_the_absence_of_a_publication_is_sent(version: u32) {
    let fixture = drained_fixture(pgoutput(version)).await;
    let rows_before = 50;
    let ids = |events: Vec<Value>| -> Vec<Option<i64>> {
        let id = |event: &Value| event["after"]["id"].as_i64();
        events.iter().map(id).collect()
    };
    for id in 3..=rows_before {
        let sql = format!("insert into t values ({id}, 'before')");
        fixture.sql(&sql).await;
    }
    let before = fixture.value("select pg_current_wal_flush_lsn()").await.unwrap();
    fixture.sql("drop publication spillway").await;
    fixture.sql("insert into t values (51, 'away')").await;
    fixture.sql("create publication spillway for table t").await;
    fixture.sql("insert into t values (52, 'after')").await;
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PublicationMissing", "{message}");
    let confirmed = fixture.confirmed_flush().await;
    assert!(message.contains(&format!("after {confirmed}")), "{message}");
    let reaches = format!("select '{confirmed}'::pg_lsn >= '{before}'::pg_lsn");
    assert_eq!(fixture.value(&reaches).await.as_deref(), Some("t"), "{message}");
    let sent = ids(fixture.consume().await.of_table("public.t"));
    assert_eq!(sent, (1..=rows_before).map(Some).collect::<Vec<_>>());
    assert_stops(&fixture).await;
    assert_eq!(ids(fixture.consume().await.of_table("public.t")), sent);
}

/// The slot goes back, as after a crash. The search for the marker then reads the refused change, too.
async fn a_slot_that_went_back_stops_at_the_same_change(version: u32) {
    let fixture = drained_fixture(pgoutput(version)).await;
    save_slot(&fixture).await;
    for id in 11..=20 {
        fixture
            .sql(&format!("insert into t values ({id}, 'before')"))
            .await;
    }
    fixture.sql("drop publication spillway").await;
    fixture.sql("insert into t values (21, 'away')").await;
    fixture.sql("create publication spillway for table t").await;
    assert_stops(&fixture).await;
    let confirmed = fixture.confirmed_flush().await;
    set_slot_back(&fixture).await;
    assert_ne!(fixture.confirmed_flush().await, confirmed);
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PublicationMissing", "{message}");
    assert_tick_fails(&fixture, "PublicationMissing", &[&confirmed]).await;
    assert_eq!(fixture.confirmed_flush().await, confirmed);
    assert_eq!(fixture.consume().await.changes().len(), 12);
}

async fn a_publication_that_was_away_without_a_change_stops_nothing(version: u32) {
    let fixture = drained_fixture(pgoutput(version)).await;
    fixture.sql("drop publication spillway").await;
    fixture.sql("create publication spillway for table t").await;
    fixture.sql("insert into t values (3, 'after')").await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 3);
}

/// The advice for a publication whose tables were never in the stream.
async fn a_new_publication_is_added_without_loss(version: u32) {
    let mut fixture = drained_fixture(pgoutput(version)).await;
    fixture
        .sql(
            "create table u (id int primary key, what text);
             insert into u values (1, 'before'), (2, 'before')",
        )
        .await;
    fixture.sql(&format!("grant select on u to {}", REPLUSER.0)).await;
    fixture.sql("insert into t values (3, 'before')").await;
    fixture.sql("create publication second for table u").await;
    fixture
        .sql("insert into u values (3, 'between'); delete from u where id = 1")
        .await;
    fixture.function.set("PUBLICATIONS", "spillway,second").await;
    assert_stops(&fixture).await;

    fixture.function.set("PUBLICATIONS", "spillway").await;
    fixture.drain().await;
    fixture.function.set("PUBLICATIONS", "spillway,second").await;
    fixture
        .sql("insert into u values (4, 'after'); delete from u where id = 2")
        .await;
    run_backfill(&fixture, json!({"action": "backfill", "tables": ["public.u"]})).await;
    fixture
        .sql("update u set what = 'live'; insert into t values (4, 'after')")
        .await;
    fixture.drain().await;
    let delivery = fixture.compare(&["t", "u"]).await;
    assert_eq!(gap_events(&delivery).len(), 0, "there is no gap");
}

/// The root is of one publication, and the partition of another one.
async fn a_partition_of_another_publication_has_the_name_of_the_root(version: u32) {
    let rule = [
        ("COLUMN_RULES", "public.leaf.secret:omit"),
        ("TABLES", "public.leaf"),
    ];
    let builder = pgoutput(version).env("PUBLICATIONS", "of_root,of_leaf");
    let builder = rule
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    let fixture = builder.without_slot().build().await;
    fixture
        .sql(
            "create table root (id int primary key, secret text) partition by range (id);
             create table leaf partition of root for values from (0) to (10);
             create publication of_root for table root with (publish_via_partition_root);
             create publication of_leaf for table leaf",
        )
        .await;
    fixture.create_slot().await;
    let problems = fixture.problems().await.to_string();
    for (name, value) in rule {
        assert!(problems.contains(&format!("{name}: {value}")), "{problems}");
    }
}

/// Publications of each kind: of tables, of all tables, via the root or not.
const PUBLICATIONS: &str = "
    create schema app;
    create table plain (id int primary key, n int, gone int, g int generated always as (id + 1) stored);
    alter table plain drop column gone;
    create table empty ();
    create unlogged table unlogged (id int);
    create view plain_view as select * from plain;
    create table app.root (id int, v text) partition by range (id);
    create table app.part partition of app.root for values from (0) to (10);
    create table part_elsewhere partition of app.root for values from (10) to (20) partition by range (id);
    create table app.deep partition of part_elsewhere for values from (10) to (15);
    create table app.lonely (id int) partition by list (id);
    create table parent (id int); create table child () inherits (parent);
    create publication of_tables for table plain, empty, only parent, app.root;
    create publication of_tables_via_root for table plain, app.root, app.part, app.deep, app.lonely
      with (publish_via_partition_root);
    create publication of_a_part_via_root for table part_elsewhere with (publish_via_partition_root);
    create publication of_all for all tables;
    create publication of_all_via_root for all tables with (publish_via_partition_root);
    create publication of_none;";

/// As [`PUBLICATIONS`], from PostgreSQL 15 on.
const PUBLICATIONS_OF_15: &str = "
    create publication of_a_schema for tables in schema app;
    create publication of_a_schema_via_root for tables in schema app with (publish_via_partition_root);
    create publication of_both for table plain, tables in schema app;
    create publication of_a_filtered_table_and_its_schema
      for table plain where (id > 3), app.deep where (id > 3), tables in schema public;
    create publication of_columns for table plain (id, n) where (n > 0), app.deep (id);
    create publication of_columns_via_root for table app.root (id) where (id > 3), app.deep
      with (publish_via_partition_root);";

/// As [`PUBLICATIONS`], from PostgreSQL 18 on.
const PUBLICATIONS_OF_18: &str = "
    create publication of_generated for table plain with (publish_generated_columns = stored);
    create publication of_a_generated_column for table plain (id, g);";

/// Spillway's own query locks no table. From PostgreSQL 16 on, the view waits for locked tables.
async fn the_published_tables_are_those_of_the_view(version: u32) {
    let fixture = pgoutput(version).without_slot().build().await;
    fixture.sql(PUBLICATIONS).await;
    if version >= 15 {
        fixture.sql(PUBLICATIONS_OF_15).await;
    }
    if version >= 18 {
        fixture.sql(PUBLICATIONS_OF_18).await;
    }
    let file = |name: &str| read_project_file(&format!("functions/drain/src/postgres/{name}.sql"));
    let own = format!(
        "with recursive {}, {} select publication, schema, name, columns, filter from published",
        file("publication_members"),
        file("published_tables")
    );
    // In version 15, the view also lists generated columns, which the slot does not send.
    let columns = match version {
        14 => "null::text[], null",
        15 => "coalesce(array_remove(attnames::text[], 'g'), '{}'), rowfilter",
        _ => "coalesce(attnames::text[], '{}'), rowfilter",
    };
    let view = format!(
        "select pubname::text, schemaname::text, tablename::text, {columns} from pg_publication_tables"
    );
    let names = "select string_agg(pubname, ' ' order by pubname) from pg_publication";
    let names = fixture.value(names).await.unwrap();
    let mut count = 0;
    for name in names.split(' ') {
        let own = own.replace("any($1)", &format!("'{name}'"));
        let view = format!("{view} where pubname = '{name}'");
        for (first, second) in [(&own, &view), (&view, &own)] {
            let difference = fixture
                .value(&format!(
                    "select string_agg(d::text, ' ') from (({first}) except ({second})) d"
                ))
                .await;
            assert_eq!(difference, None, "{name} of version {version}");
        }
        let tables = format!("select count(*)::text from ({own}) o");
        count += fixture.value(&tables).await.unwrap().parse::<u32>().unwrap();
    }
    assert!(count > 20, "{count}");
}
