//! Backfills over several invocations: progress, commands, and rows that move between invocations.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    backfilled_rows, command_event, create_table_sql, fixture_with_tables, invoke_within, read_events,
    reported_state, run_backfill, start_event, start_within, tick_until_finished,
};
use crate::support::expected_errors::assert_invocation_fails;

crate::scenarios![
    ticks_continue_a_backfill_and_status_reports_its_progress,
    a_backfill_is_answered_once_it_is_registered,
    a_backfill_can_be_paused_resumed_and_cancelled,
    only_one_backfill_can_be_pending,
    a_row_that_moves_between_two_invocations_is_complete,
    a_row_that_moves_while_the_state_is_denied_is_complete,
];

/// Rows of the table of [`slow_fixture`].
const ROWS: u64 = 1_200;

/// Fixture with a slow stream.
///
/// A backfill of `t` in chunks of a hundred rows takes several invocations of [`SHORT`].
async fn slow_fixture(plugin: Plugin) -> Fixture {
    let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS as usize)).await;
    slow_stream(&fixture);
    fixture
}

fn slow_stream(fixture: &Fixture) {
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(400)));
}

/// Deadline of an invocation, enough for some chunks. None starts in the last seconds of an invocation.
const SHORT: Duration = Duration::from_secs(5);

async fn invoke_short(fixture: &Fixture, event: Value) -> Value {
    invoke_within(fixture, event, SHORT).await
}

/// Asserts that a running backfill of `t` has sent this many rows.
///
/// `progress` is the report of the backfill by `status`.
fn assert_progress(progress: &Value, rows: u64) {
    assert_eq!(
        (&progress["state"], &progress["rows"]),
        (&json!("running"), &json!(rows)),
        "{progress}"
    );
    let of_table = &progress["tables"][0];
    assert_eq!(
        (&of_table["table"], &of_table["state"]),
        (&json!("public.t"), &json!("reading")),
        "{progress}"
    );
    assert_eq!(of_table["rows"], progress["rows"], "{progress}");
    assert!(
        of_table["estimate"]
            .as_u64()
            .is_some_and(|estimate| (ROWS / 2..ROWS * 2).contains(&estimate)),
        "{progress}"
    );
    let figure = |name: &str| of_table[name].as_f64().unwrap_or_default();
    // Time for the remaining rows at the rate so far. Both figures are rounded.
    let left = (figure("estimate") - figure("rows")) / figure("rows_per_second");
    assert!(
        figure("rows_per_second") > 0.0 && (figure("seconds_left") - left).abs() < 1.0 + left / 10.0,
        "{progress}"
    );
    for name in ["position", "started_at", "updated_at"] {
        assert!(!progress[name].is_null(), "{name}: {progress}");
    }
}

async fn ticks_continue_a_backfill_and_status_reports_its_progress() {
    Plugin::each(|plugin| async move {
        let fixture = slow_fixture(plugin).await;
        let none = fixture.status().await;
        assert_eq!(none["backfill"], Value::Null, "{none}");
        let mut reports = start_within(&fixture, start_event(&["public.t"], 100), SHORT).await;
        let first = reports[reports.len() - 1].clone();
        assert_eq!(first["backfill"]["table"], "public.t");
        let status = fixture.status().await;
        assert_progress(&status["backfill"], backfilled_rows(&first));
        while reported_state(&reports[reports.len() - 1]) != "finished" {
            let report = invoke_short(&fixture, json!({})).await;
            assert_eq!(report["action"], "drain", "{report}");
            // On a busy machine a tick may have no time for a chunk. No tick loses progress.
            assert!(
                backfilled_rows(&report) >= backfilled_rows(&reports[reports.len() - 1]),
                "a tick lost progress: {report}"
            );
            reports.push(report);
            assert!(
                reports.len() < 30,
                "the ticks do not finish the backfill: {reports:#?}"
            );
        }
        assert!(
            reports.len() > 1,
            "one invocation finished the backfill: the test is void"
        );
        let sum = |name: &str| -> u64 {
            reports
                .iter()
                .filter_map(|report| report["backfill"][name].as_u64())
                .sum()
        };
        // An invocation that was late has no report.
        assert!(sum("read") <= ROWS && sum("overtaken") == 0, "{reports:#?}");
        assert!(sum("chunks") >= ROWS / 100);
        assert_eq!(backfilled_rows(&reports[reports.len() - 1]), ROWS);
        fixture.kinesis_proxy.clear();
        fixture.drain().await;
        // A chunk that was cut off by a deadline is read again.
        assert!(fixture.compare(&["t"]).await.changes().len() >= ROWS as usize);
    })
    .await;
}

async fn a_backfill_is_answered_once_it_is_registered() {
    let sql = "create table t (id int primary key); insert into t select generate_series(1, 500)";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    fixture.drain().await;
    let puts = fixture.kinesis_proxy.requests("PutRecords");
    for (command, state) in [("start", "running"), ("pause", "paused"), ("resume", "running")] {
        let event = match command {
            "start" => json!({"action": "backfill", "tables": ["public.t"]}),
            _ => json!({"action": "backfill", command: true}),
        };
        let answer = fixture.invoke(event).await.answer();
        assert_eq!(reported_state(&answer), state, "{answer}");
        assert_eq!(answer["backfill"]["rows"], 0, "{answer}");
    }
    assert_eq!(fixture.kinesis_proxy.requests("PutRecords"), puts);
    let reports = tick_until_finished(&fixture, fixture.tick().await).await;
    assert_eq!(backfilled_rows(&reports[reports.len() - 1]), 500);
    fixture.compare(&["t"]).await;
}

async fn a_backfill_can_be_paused_resumed_and_cancelled() {
    let fixture = slow_fixture(Plugin::Pgoutput).await;
    let reports = start_within(&fixture, start_event(&["public.t"], 50), SHORT).await;
    let started = &reports[reports.len() - 1];
    let paused = fixture.invoke(command_event("pause")).await.answer();
    assert_eq!(
        (&paused["action"], reported_state(&paused)),
        (&json!("backfill"), "paused"),
        "{paused}"
    );
    fixture.sql("update t set n = -1 where id = 1200").await;
    let tick = fixture.tick().await;
    assert_eq!(
        (reported_state(&tick), backfilled_rows(&tick), &tick["changes"]),
        ("paused", backfilled_rows(started), &json!(1)),
        "{tick}"
    );
    let mut resumed = invoke_short(&fixture, command_event("resume")).await;
    assert_eq!(resumed["action"], "backfill", "{resumed}");
    for _ in 0..10 {
        if backfilled_rows(&resumed) == backfilled_rows(started) {
            resumed = invoke_short(&fixture, json!({})).await;
        }
    }
    assert!(
        backfilled_rows(&resumed) > backfilled_rows(started),
        "the backfill does not continue: {resumed}"
    );
    let cancelled = fixture.invoke(command_event("cancel")).await.answer();
    assert_eq!(
        (&cancelled["action"], reported_state(&cancelled)),
        (&json!("backfill"), "cancelled"),
        "{cancelled}"
    );
    let tick = fixture.tick().await;
    assert_eq!(reported_state(&tick), "none", "{tick}");
    let read = read_events(&fixture.consume().await, "public.t").len();
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    assert_eq!(
        read_events(&fixture.consume().await, "public.t").len(),
        read,
        "a cancelled backfill reads rows"
    );
    // After a cancel, a new backfill can start.
    run_backfill(&fixture, start_event(&["public.t"], 1_000)).await;
    fixture.compare(&["t"]).await;
}

async fn only_one_backfill_can_be_pending() {
    let fixture = slow_fixture(Plugin::Pgoutput).await;
    for command in ["cancel", "pause", "resume"] {
        assert_invocation_fails(&fixture, command_event(command), "BackfillMissing", &[]).await;
    }
    invoke_short(&fixture, start_event(&["public.t"], 100)).await;
    let before = fixture.backfill_state().await;
    assert_invocation_fails(&fixture, start_event(&["public.t"], 50), "BackfillPending", &[]).await;
    assert_eq!(fixture.backfill_state().await, before);
    fixture.kinesis_proxy.clear();
    let report = fixture.tick().await;
    tick_until_finished(&fixture, report).await;
    assert_invocation_fails(&fixture, command_event("cancel"), "BackfillMissing", &[]).await;
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn a_row_that_moves_between_two_invocations_is_complete() {
    Plugin::each(|plugin| async move {
        let fixture = slow_fixture(plugin).await;
        start_within(&fixture, start_event(&["public.t"], 100), SHORT).await;
        // The rows have large values. They move before the part that was read, where one stays, one changes,
        // and one moves back; and to the end.
        fixture
            .sql(
                "update t set id = -1 where id = 1200; update t set id = -2 where id = 1150;
                 update t set id = -3 where id = 1100",
            )
            .await;
        fixture
            .sql(
                "update t set n = 0 where id = -2; update t set id = 1100 where id = -3;
                 update t set id = 2000 where id = 50",
            )
            .await;
        fixture.function.kill9().await;
        fixture.kinesis_proxy.clear();
        let report = fixture.tick().await;
        tick_until_finished(&fixture, report).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

/// Without the state, the drain would look no row up.
async fn a_row_that_moves_while_the_state_is_denied_is_complete() {
    Plugin::each(|plugin| async move {
        let fixture = slow_fixture(plugin).await;
        start_within(&fixture, start_event(&["public.t"], 100), SHORT).await;
        fixture.sql("update t set id = -1 where id = 1200").await;
        fixture.kinesis_proxy.clear();
        // The first request is for the checkpoint.
        let pass = Fault::Delay(Duration::ZERO);
        fixture.ssm_proxy.inject_once("GetParameter", pass);
        let refusal = Fault::refuse("AccessDeniedException", "no");
        fixture.ssm_proxy.inject_once("GetParameter", refusal);
        assert_invocation_fails(&fixture, json!({}), "CheckpointDenied", &[".backfill"]).await;
        let report = fixture.tick().await;
        tick_until_finished(&fixture, report).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}
