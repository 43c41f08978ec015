//! Each line of the log has the fields of its invocation.
//!
//! The saved queries find their lines.

use std::collections::BTreeSet;

use scenarios::aws::alarms::Metrics;
use scenarios::aws::template::properties;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, start_event};
use crate::support::positions::wait_until_sessions_end;
use crate::support::project_files::read_project_file;

crate::scenarios![
    each_line_has_the_fields_of_its_invocation,
    the_saved_queries_find_their_lines,
];

/// All lines as objects. The sandbox is ended first: only then the log is complete.
async fn lines(fixture: &Fixture) -> Vec<Value> {
    fixture.function.kill9().await;
    let lines = fixture.function.log().into_iter();
    let parsed =
        lines.map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
    parsed.collect()
}

async fn each_line_has_the_fields_of_its_invocation() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("LOG_LEVEL", "debug")
        .env("POWERTOOLS_SERVICE_NAME", "orders \"drain\"")
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    fixture.tick().await;
    fixture.sql("insert into t values (2)").await;
    // A tick that finds the lock taken would be repeated.
    wait_until_sessions_end(&fixture).await;
    fixture.tick().await;
    fixture.drop_slot().await;
    assert_eq!(fixture.failing_tick().await.0, "SlotMissing");
    // A new sandbox.
    fixture.function.kill9().await;
    assert_eq!(fixture.failing_tick().await.0, "SlotMissing");
    let lines = lines(&fixture).await;

    let invocations = fixture.function.invocations();
    assert_eq!(invocations.len(), 4);
    let is_cold = [true, false, false, true];
    let mut of_invocations = Vec::new();
    for line in &lines {
        let id = &line["function_request_id"];
        let number = invocations.iter().position(|ids| *id == json!(ids.request));
        let number = number.unwrap_or_else(|| panic!("the line of no invocation: {line}"));
        assert_eq!(line["xray_trace_id"], json!(invocations[number].trace), "{line}");
        assert_eq!(line["cold_start"], json!(is_cold[number]), "{line}");
        assert_eq!(line["service"], "orders \"drain\"", "{line}");
        of_invocations.push(number);
    }
    assert!(of_invocations.is_sorted(), "{of_invocations:?}");
    let count = |number: usize, is_counted: fn(&Value) -> bool| {
        let lines = lines.iter().zip(&of_invocations);
        lines
            .filter(|(line, of)| **of == number && is_counted(line))
            .count()
    };
    for number in 0..4 {
        // The summary line has no level: Lambda must not drop it.
        let summaries = count(number, |line| {
            line["_aws"].is_object() && line.get("level").is_none()
        });
        let levels = count(number, |line| line["level"].is_string());
        assert_eq!(summaries, 1, "{lines:#?}");
        assert_eq!(summaries + levels, count(number, |_| true), "{lines:#?}");
    }
    assert!(count(0, |line| line["level"] == "DEBUG") > 0, "{lines:#?}");
    for number in [2, 3] {
        assert_eq!(count(number, |line| line["level"] == "ERROR"), 1, "{lines:#?}");
    }
    // It panics when a metric of a line is no number of it.
    let mut metrics = Metrics::default();
    metrics.add_lines(0, &fixture.function.log());
    assert_eq!(metrics.values("Drains"), [1.0, 1.0]);
    assert_eq!(metrics.values("Failures"), [1.0, 1.0]);
}

/// Pointer to a field, such as `backfill.tables.failed`, as Logs Insights names it.
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('.', "/"))
}

/// The value of a field that is not null.
fn field<'v>(line: &'v Value, name: &str) -> Option<&'v Value> {
    line.pointer(&pointer(name)).filter(|value| !value.is_null())
}

/// Whether a line passes a filter.
///
/// Only filters as our queries use them are understood.
fn passes(filter: &str, line: &Value) -> bool {
    let holds = |condition: &str| {
        let condition = condition.trim();
        if let Some(name) = condition
            .strip_prefix("ispresent(")
            .and_then(|it| it.strip_suffix(')'))
        {
            return field(line, name).is_some();
        }
        let (name, text) = condition
            .split_once(" = ")
            .unwrap_or_else(|| panic!("the condition {condition}"));
        field(line, name).is_some_and(|value| *value == json!(text.trim_matches('"')))
    };
    filter.split(" or ").any(|part| part.split(" and ").all(holds))
}

/// Lines that a query finds.
///
/// # Panics
/// It finds none, or none of them has one of its fields.
fn found<'v>(query: &str, lines: &'v [Value]) -> Vec<&'v Value> {
    let commands: Vec<&str> = query.split('|').map(str::trim).collect();
    let filter = commands.iter().find_map(|it| it.strip_prefix("filter "));
    let filter = filter.expect("a query has a filter");
    let found: Vec<&Value> = lines.iter().filter(|line| passes(filter, line)).collect();
    assert!(!found.is_empty(), "no line passes {filter}: {lines:#?}");
    for command in commands {
        let fields = command
            .strip_prefix("fields ")
            .map(|names| names.split(',').map(str::trim).collect());
        // `max(lag_bytes) as lag`
        let stats = command.strip_prefix("stats ").map(|stats| {
            let calls = stats.split(" as ").filter_map(|part| part.rsplit_once('('));
            calls.map(|(_, name)| name.trim_end_matches(')')).collect()
        });
        let names: Vec<&str> = fields.or(stats).unwrap_or_default();
        for name in names
            .into_iter()
            .filter(|name| *name != "@timestamp" && !name.starts_with("5m"))
        {
            // A backfill that is finished has no table: null.
            let is_known = found.iter().any(|line| line.pointer(&pointer(name)).is_some());
            assert!(is_known, "no line has {name}: {found:#?}");
        }
    }
    found
}

async fn the_saved_queries_find_their_lines() {
    let sql = "create table t (id int primary key); insert into t select generate_series(1, 9)";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    fixture.sql("insert into t values (10)").await;
    fixture.tick().await;
    fixture.invoke(start_event(&["public.t"], 2)).await.answer();
    fixture.drain().await;
    fixture.drop_slot().await;
    fixture.failing_tick().await;
    let lines = lines(&fixture).await;

    let query = |name: &str| {
        let query = properties(name, &[]);
        query["QueryString"]
            .as_str()
            .expect("a query has a text")
            .to_owned()
    };
    let failures = found(&query("FailuresQuery"), &lines);
    assert_eq!(failures.len(), 1, "{failures:#?}");
    assert_eq!(
        (&failures[0]["error_type"], &failures[0]["level"]),
        (&json!("SlotMissing"), &json!("ERROR"))
    );
    let ticks = found(&query("TicksQuery"), &lines);
    assert!(ticks.iter().all(|line| line["_aws"].is_object()), "{ticks:#?}");
    found(&query("ThroughputQuery"), &lines);
    found(&query("BackfillQuery"), &lines);

    let guide = read_project_file("docs/operating.md");
    let (_, text) = guide
        .split_once("\n```\nfields @timestamp")
        .expect("the page has a query");
    let (text, _) = text.split_once("```").expect("the query ends");
    for ids in fixture.function.invocations() {
        let query = format!("fields @timestamp{text}").replace("REQUEST_ID", &ids.request);
        let (_, filter) = query.split_once("filter ").expect("it has a filter");
        let filter = filter.lines().next().unwrap_or_default();
        let found: Vec<_> = lines.iter().filter(|line| passes(filter, line)).collect();
        let of_this = |line: &&Value| line["function_request_id"] == json!(ids.request);
        assert_eq!(found, Vec::from_iter(lines.iter().filter(of_this)));
        let summaries = found.iter().filter(|line| line["_aws"].is_object());
        assert_eq!(summaries.count(), 1, "{found:#?}");
    }
    let ids: BTreeSet<_> = lines
        .iter()
        .map(|line| line["function_request_id"].to_string())
        .collect();
    assert_eq!(ids.len(), fixture.function.invocations().len());
}
