//! The function's log and its errors contain no values of rows.
//!
//! The state of a backfill has values, so a new parameter is encrypted. A parameter of an earlier version
//! stays unencrypted until it is deleted.

use std::time::Duration;

use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    command_event, fixture_with_tables, slow_condition, start_within, tick_until_finished,
};
use crate::support::expected_errors::{assert_invocation_fails, assert_not_logged};

crate::scenarios![
    the_state_of_a_backfill_is_encrypted_and_its_values_are_not_logged,
    a_parameter_of_an_earlier_version_keeps_its_type_until_it_is_deleted,
    an_error_of_postgresql_that_quotes_a_value_is_reported_by_its_code,
    the_log_of_a_plan_does_not_name_keys,
];

/// A value in the backfill's condition. No row has it.
///
/// It must not be in the function's log.
const NAMED: &str = "mallory@named.example";
/// The end of each key.
///
/// It must not be in the function's log.
const KEYS: &str = "@rows.example";

/// Table whose key is an e-mail address.
async fn fixture() -> Fixture {
    let sql = format!(
        "create table people (email text primary key, n int not null);
         insert into people select i || '{KEYS}', i from generate_series(1, 600) i"
    );
    let builder = Fixture::builder(Plugin::Pgoutput).env("LOG_LEVEL", "debug");
    fixture_with_tables(builder, &sql).await
}

/// Starts a backfill whose invocation ends in the middle of the table.
///
/// The cursor is inside of the table at that time.
async fn start(fixture: &Fixture) {
    let condition = format!("{} and email <> '{NAMED}'", slow_condition(10));
    let event = json!({
        "action": "backfill", "wait": true, "tables": ["public.people"], "chunk_rows": 50, "where": condition,
    });
    start_within(fixture, event, Duration::from_secs(4)).await;
    let state = fixture.backfill_state().await.unwrap().to_string();
    assert!(state.contains(KEYS) && state.contains(NAMED), "{state}");
}

fn parameter(fixture: &Fixture) -> String {
    format!("{}.backfill", fixture.parameter)
}

/// Finishes the backfill, and checks that each row arrives.
async fn finish(fixture: &Fixture) {
    let report: Value = fixture.tick().await;
    tick_until_finished(fixture, report).await;
    fixture.drain().await;
    fixture.compare(&["people"]).await;
}

async fn the_state_of_a_backfill_is_encrypted_and_its_values_are_not_logged() {
    let fixture = fixture().await;
    start(&fixture).await;
    let name = parameter(&fixture);
    let found = fixture.ssm.parameter_type(&name);
    assert_eq!(found, Some("SecureString".to_owned()));
    let status = fixture.status().await;
    assert!(status.to_string().contains(NAMED), "the caller sees it: {status}");
    finish(&fixture).await;
    // The checkpoint has positions only.
    let found = fixture.ssm.parameter_type(&fixture.parameter);
    assert_eq!(found, Some("String".to_owned()));
    let checkpoint = fixture.checkpoint().await.unwrap().to_string();
    assert!(!checkpoint.contains('@'), "{checkpoint}");
    assert_not_logged(&fixture, NAMED).await;
    assert_not_logged(&fixture, KEYS).await;
}

async fn a_parameter_of_an_earlier_version_keeps_its_type_until_it_is_deleted() {
    let fixture = fixture().await;
    start(&fixture).await;
    let name = parameter(&fixture);
    let state = fixture.ssm.get(&name).unwrap();
    // As the earlier version stored it. SSM would refuse a store with another type.
    fixture.ssm.delete(&name);
    fixture.ssm.put(&name, &state);
    finish(&fixture).await;
    let found = fixture.ssm.parameter_type(&name);
    assert_eq!(found, Some("String".to_owned()));
    // The function is warm, and has the former type in memory.
    fixture.ssm.delete(&name);
    start(&fixture).await;
    let found = fixture.ssm.parameter_type(&name);
    assert_eq!(found, Some("SecureString".to_owned()));
    fixture.invoke(command_event("cancel")).await.answer();
    assert_eq!(fixture.ssm.get(&name), None);
}

async fn an_error_of_postgresql_that_quotes_a_value_is_reported_by_its_code() {
    let fixture = fixture().await;
    // PostgreSQL's message quotes the value of the condition. The function must not pass the message on.
    let event = |condition: &str| {
        json!({
            "action": "backfill", "wait": true, "tables": ["public.people"], "where": condition,
        })
    };
    let quoted = event(&format!("n = '{NAMED}'"));
    assert_invocation_fails(&fixture, quoted, "BackfillRefused", &["public.people", "22P02"]).await;
    // PostgreSQL's message quotes the row that the condition fails for.
    let report = fixture.invoke(event("email::int > 0")).await.answer();
    assert_eq!(report["backfill"]["state"], "failed", "{report}");
    let status = fixture.status().await;
    let reason = status["backfill"]["tables"][0]["reason"]
        .as_str()
        .unwrap_or_default();
    assert!(reason.contains("22P02"), "{status}");
    assert!(!status.to_string().contains(KEYS), "{status}");
    assert_not_logged(&fixture, NAMED).await;
    assert_not_logged(&fixture, KEYS).await;
}

async fn the_log_of_a_plan_does_not_name_keys() {
    let fixture = fixture().await;
    fixture.sql("update people set n = 0 where n = 1").await;
    let plan = json!({"action": "plan", "keys": true});
    let plan = fixture.invoke(plan).await.answer();
    assert!(plan["hottest_keys"].to_string().contains(KEYS), "{plan}");
    assert_not_logged(&fixture, KEYS).await;
}
