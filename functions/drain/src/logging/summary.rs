//! The summary line of an invocation: its answer, with metrics in CloudWatch's embedded metric format.
//!
//! CloudWatch extracts the metrics from the line. It bills a metric for each hour in which the metric has a
//! value. So a count that is mostly zero is left out while it is zero.
//!
//! Source: "Specification: Embedded metric format" in the CloudWatch user guide. `_aws` names the metrics,
//! and their values are further fields of the object.

use serde_json::{Map, Value, json};

use crate::error::Error;

/// A metric: its name, its unit, and the place of its value in an answer.
struct Metric {
    name: &'static str,
    unit: &'static str,
    /// JSON pointer into the answer.
    pointer: &'static str,
    /// Whether zero is left out.
    skips_zero: bool,
}

impl Metric {
    const fn new(name: &'static str, unit: &'static str, pointer: &'static str) -> Self {
        Metric {
            name,
            unit,
            pointer,
            skips_zero: false,
        }
    }

    const fn of_count(name: &'static str, pointer: &'static str) -> Self {
        Metric {
            skips_zero: true,
            ..Metric::new(name, "Count", pointer)
        }
    }
}

/// The metrics of a drain.
const METRICS: [Metric; 17] = [
    Metric::new("Changes", "Count", "/changes"),
    Metric::new("LagBytes", "Bytes", "/lag_bytes"),
    Metric::new("RetainedBytes", "Bytes", "/retained_bytes"),
    Metric::new("SafeWalBytes", "Bytes", "/safe_wal_size"),
    Metric::new("BehindSeconds", "Seconds", "/behind_seconds"),
    Metric::new("CheckpointAgeSeconds", "Seconds", "/checkpoint_age_seconds"),
    Metric::new(
        "OldestTransactionSeconds",
        "Seconds",
        "/oldest_transaction/age_seconds",
    ),
    Metric::of_count("Throttled", "/throttled"),
    Metric::of_count("Retried", "/retried"),
    Metric::of_count("HeldBytes", "/held_bytes"),
    Metric::of_count("Notices", "/notices"),
    Metric::of_count("Omitted", "/omitted"),
    Metric::of_count("TablesLeft", "/tables_left"),
    Metric::of_count("Unconfirmed", "/unconfirmed"),
    Metric::of_count("Replayed", "/replayed"),
    Metric::of_count("BackfillRows", "/backfill/read"),
    Metric::of_count("BackfillFailedTables", "/backfill/tables/failed"),
];

/// Actions whose answers have the metrics.
const DRAINS: [&str; 2] = ["drain", "backfill"];

/// The summary line of an answer.
///
/// `now` is in ms since 1970-01-01 UTC.
pub fn answer_line(answer: &Value, namespace: &str, now: i64) -> Map<String, Value> {
    let mut line = fields_of(answer);
    remove_values(&mut line);
    let is_drain = DRAINS.iter().any(|action| answer["action"] == *action);
    if is_drain {
        let mut metrics = drain_metrics(answer);
        // A busy drain does not count, because another drainer has the slot. The answer to a backfill command
        // that did not drain has no `stopped`.
        if answer["stopped"]
            .as_str()
            .is_some_and(|stopped| stopped != "busy")
        {
            metrics.insert(0, ("Drains", "Count", json!(1)));
        }
        if !metrics.is_empty() {
            add_metrics(&mut line, namespace, now, &metrics);
        }
    }
    line
}

/// The fields of an answer or a report.
fn fields_of(answer: &Value) -> Map<String, Value> {
    match answer {
        Value::Object(fields) => fields.clone(),
        other => Map::from_iter([("answer".to_owned(), other.clone())]),
    }
}

/// Removes fields that may contain values of rows.
///
/// These are the condition of a backfill, and the partition keys of a plan. Only the caller of the function
/// receives them. The log has more readers.
fn remove_values(line: &mut Map<String, Value>) {
    let request = line
        .get_mut("backfill")
        .and_then(|backfill| backfill.get_mut("request"));
    if let Some(request) = request.and_then(Value::as_object_mut) {
        request.remove("where");
    }
    let keys = line.get_mut("hottest_keys").and_then(Value::as_array_mut);
    for key in keys.into_iter().flatten().filter_map(Value::as_object_mut) {
        key.remove("key");
    }
}

/// The summary line of a failed invocation.
///
/// `report` has the slot, the action, and the figures of a drain that failed. `now` is in ms since 1970-01-01
/// UTC.
pub fn failure_line(error: &Error, report: &Value, namespace: &str, now: i64) -> Map<String, Value> {
    let mut metrics = drain_metrics(report);
    let mut line = fields_of(report);
    line.remove("stopped");
    line.insert("error_type".to_owned(), json!(error.name()));
    metrics.insert(0, ("Failures", "Count", json!(1)));
    if error.is_discontinuity() {
        metrics.insert(1, ("Discontinuities", "Count", json!(1)));
    }
    add_metrics(&mut line, namespace, now, &metrics);
    line
}

/// Names, units and values of the metrics that an answer has.
fn drain_metrics(answer: &Value) -> Vec<(&'static str, &'static str, Value)> {
    let value = |metric: &Metric| {
        let value = answer.pointer(metric.pointer).filter(|value| value.is_number())?;
        let is_left_out = metric.skips_zero && value.as_f64() == Some(0.0);
        (!is_left_out).then(|| (metric.name, metric.unit, value.clone()))
    };
    METRICS.iter().filter_map(value).collect()
}

fn add_metrics(
    line: &mut Map<String, Value>,
    namespace: &str,
    now: i64,
    metrics: &[(&'static str, &'static str, Value)],
) {
    let names: Vec<Value> = metrics
        .iter()
        .map(|(name, unit, _)| json!({"Name": name, "Unit": unit}))
        .collect();
    line.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now,
            // The namespace has one function, so the metrics need no dimension.
            "CloudWatchMetrics": [{"Namespace": namespace, "Dimensions": [[]], "Metrics": names}],
        }),
    );
    for (name, _, value) in metrics {
        line.insert((*name).to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::continuity::ContinuityError;

    fn names(line: &Value) -> Vec<&str> {
        let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array();
        let metrics = metrics.map(Vec::as_slice).unwrap_or_default();
        metrics
            .iter()
            .filter_map(|metric| metric["Name"].as_str())
            .collect()
    }

    #[test]
    fn the_line_of_a_drain_has_its_metrics_and_no_zero_counts() {
        let answer = json!({"action": "drain", "stopped": "empty", "changes": 0, "lag_bytes": 48,
            "retained_bytes": 7, "safe_wal_size": null, "throttled": 0, "retried": 3,
            "oldest_transaction": {"pid": 1, "age_seconds": 9}, "backfill": {"tables": {"failed": 1}}});
        let line = Value::Object(answer_line(&answer, "Spillway/s", 5));
        let expected = [
            "Drains",
            "Changes",
            "LagBytes",
            "RetainedBytes",
            "OldestTransactionSeconds",
            "Retried",
            "BackfillFailedTables",
        ];
        assert_eq!(names(&line), expected);
        for name in names(&line) {
            assert!(line[name].is_number(), "{name} of {line}");
        }
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "Spillway/s");
        assert_eq!(line["_aws"]["Timestamp"], 5);
        assert_eq!(
            (&line["lag_bytes"], &line["OldestTransactionSeconds"]),
            (&json!(48), &json!(9))
        );
    }

    #[test]
    fn only_an_invocation_that_drained_counts_as_a_drain() {
        let busy = json!({"action": "drain", "stopped": "busy", "changes": 0});
        let line = Value::Object(answer_line(&busy, "n", 0));
        assert_eq!(names(&line), ["Changes"]);
        let cancelled = json!({"action": "backfill", "backfill": {"state": "cancelled", "read": 3}});
        let line = Value::Object(answer_line(&cancelled, "n", 0));
        assert_eq!(names(&line), ["BackfillRows"]);
        let paused = json!({"action": "backfill", "backfill": {"state": "paused", "read": 0}});
        assert_eq!(Value::Object(answer_line(&paused, "n", 0)), paused);
        let status = json!({"action": "status", "lag_bytes": 1});
        assert_eq!(Value::Object(answer_line(&status, "n", 0)), status);
    }

    #[test]
    fn the_line_has_neither_the_condition_of_a_backfill_nor_the_names_of_keys() {
        let request = json!({"tables": "all", "where": "n = 7"});
        let status = json!({"action": "status", "backfill": {"rows": 1, "request": request}});
        let expected = json!({"action": "status", "backfill": {"rows": 1, "request": {"tables": "all"}}});
        assert_eq!(Value::Object(answer_line(&status, "n", 0)), expected);
        let plan = json!({"action": "plan", "hottest_keys": [{"key": "{\"id\":7}", "events": 2}]});
        let expected = json!({"action": "plan", "hottest_keys": [{"events": 2}]});
        assert_eq!(Value::Object(answer_line(&plan, "n", 0)), expected);
    }

    #[test]
    fn a_failure_has_the_figures_of_its_drain() {
        let error = Error::from(ContinuityError::SlotMissing {
            slot: "s".to_owned(),
            checkpoint: Lsn(1),
        });
        let report = json!({"action": "drain", "stopped": "empty", "retained_bytes": 5});
        let line = Value::Object(failure_line(&error, &report, "n", 0));
        assert_eq!(names(&line), ["Failures", "Discontinuities", "RetainedBytes"]);
        assert_eq!(
            (&line["error_type"], &line["stopped"]),
            (&json!("SlotMissing"), &Value::Null)
        );
        let report = json!({"action": "drain", "slot": "s"});
        let line = Value::Object(failure_line(&Error::OutOfTime, &report, "n", 0));
        assert_eq!(names(&line), ["Failures"]);
        assert_eq!(line["slot"], "s");
    }
}
