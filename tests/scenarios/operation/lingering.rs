//! A function that lingers polls often, and confirms about once a second.

use std::time::{Duration, Instant};

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use scenarios::wait;
use serde_json::json;

use crate::support::positions::wait_until_sessions_end;

crate::scenarios![
    each_commit_arrives_once_and_few_windows_are_confirmed,
    a_kill_between_two_confirmations_loses_nothing,
    a_window_that_ends_at_its_row_bound_is_confirmed_with_a_marker,
];

const DEADLINE: Duration = Duration::from_secs(60);

/// Fixture whose function lingers for `seconds` seconds, with an empty table.
async fn fixture(plugin: Plugin, seconds: u32) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .env("LINGER_SECONDS", &seconds.to_string())
        // Polls follow one another quickly, so that most of them find one or two commits.
        .env("POLL_CPU_PERCENT", "50")
        .build()
        .await;
    fixture.sql("create table t (id int primary key, n int)").await;
    fixture
}

/// Commits until `end`, at most 500 times a second.
///
/// Returns the number of commits.
async fn write_until(fixture: &Fixture, end: Instant) -> u64 {
    let mut commits = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    while Instant::now() < end {
        pace.tick().await;
        let sql = format!(
            "insert into t values ({}, 0) on conflict (id) do update set n = t.n + 1",
            commits % 7
        );
        fixture.sql(&sql).await;
        commits += 1;
    }
    commits
}

async fn each_commit_arrives_once_and_few_windows_are_confirmed() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin, 8).await;
        let oracle = format!("{}_oracle", fixture.slot);
        fixture.sql(&create_slot_sql(&oracle, "test_decoding")).await;
        let end = Instant::now() + Duration::from_secs(4);
        let event = json!({});
        let (outcome, commits) = tokio::join!(fixture.invoke(event), write_until(&fixture, end));
        let report = outcome.answer();
        assert_eq!(report["stopped"], "empty", "{report}");
        assert_eq!(report["changes"], commits, "{report}");
        assert_eq!(report["events"], commits, "{report}");
        assert_eq!(report["skipped"], 0, "{report}");
        let delivery = fixture.compare(&["public.t"]).await;
        assert_eq!(delivery.arrivals.len() as u64, commits, "an event arrived twice");
        // Each confirmed window writes a marker.
        let count = format!(
            "select count(*) from pg_logical_slot_peek_changes('{oracle}', null, null)
             where data like '%spillway.marker%'"
        );
        let markers: u64 = fixture
            .value(&count)
            .await
            .unwrap_or_default()
            .parse()
            .expect("a count");
        // If every poll were confirmed, there would be ten times as many. A busy machine has fewer polls.
        let seconds = report["elapsed_ms"].as_u64().unwrap_or(0) / 1_000;
        assert!(
            (1..=seconds + 3).contains(&markers),
            "{markers} markers in {report}"
        );
        fixture.sql(&drop_slot_sql(&oracle)).await;
        let later = fixture.invoke(json!({})).await.answer();
        assert_eq!(
            (&later["changes"], &later["skipped"]),
            (&json!(0), &json!(0)),
            "{later}"
        );
    })
    .await;
}

async fn a_kill_between_two_confirmations_loses_nothing() {
    Plugin::each(|plugin| async move {
        let mut fixture = fixture(plugin, 50).await;
        let end = Instant::now() + Duration::from_secs(3);
        let (outcome, commits) = tokio::join!(fixture.invoke(json!({})), async {
            let commits = write_until(&fixture, end).await;
            wait::until("the last commit arrives", DEADLINE, || async {
                let delivery = Delivery::read(&fixture.kinesis, &fixture.stream).await;
                delivery.changes().len() as u64 == commits
            })
            .await;
            fixture.function.kill9().await;
            commits
        });
        assert!(matches!(outcome, Outcome::Exited(_)), "{outcome:?}");
        wait_until_sessions_end(&fixture).await;
        fixture.function.unset("LINGER_SECONDS").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["public.t"]).await;
        assert_eq!(delivery.changes().len() as u64, commits);
    })
    .await;
}

async fn a_window_that_ends_at_its_row_bound_is_confirmed_with_a_marker() {
    // Three loads, each larger than the row bound of an unconfirmed window. Such a window reads at least one
    // of them.
    const LOADS: i64 = 3;
    const ROWS: i64 = 30_000;
    let mut fixture = fixture(Plugin::Pgoutput, 14).await;
    fixture.function.set("AGGREGATION", "kpl").await;
    let writing = async {
        let mut commits = 0;
        for load in 0..LOADS {
            commits += write_until(&fixture, Instant::now() + Duration::from_millis(1_700)).await;
            let (first, last) = (load * ROWS + 10, (load + 1) * ROWS + 9);
            let sql = format!("insert into t select i, 0 from generate_series({first}, {last}) i");
            fixture.sql(&sql).await;
        }
        commits + write_until(&fixture, Instant::now() + Duration::from_secs(3)).await
    };
    let (outcome, commits) = tokio::join!(fixture.invoke(json!({})), writing);
    // On a busy machine, the loads may outlast the invocation. Further ticks send the rest.
    let mut reports = vec![outcome.answer()];
    reports.extend(fixture.drain().await);
    let changes: i64 = reports
        .iter()
        .filter_map(|report| report["changes"].as_i64())
        .sum();
    assert_eq!(changes, commits as i64 + LOADS * ROWS, "{reports:?}");
    fixture.compare(&["public.t"]).await;
}
