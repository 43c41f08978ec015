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
use crate::support::versions::pgoutput;

crate::version_scenarios![
    a_publication_that_was_renamed_for_a_while_stops_the_drain,
    a_publication_that_was_dropped_for_a_while_stops_the_drain,
    one_of_two_publications_that_was_away_stops_the_drain,
    a_slot_that_is_older_than_its_publication_stops_the_drain,
    every_change_before_the_absence_of_a_publication_is_sent,
    a_publication_that_was_away_without_a_change_stops_nothing,
    a_new_publication_is_added_without_loss,
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
    fixture.sql("create publication spillway for table t").await;
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
