//! Delivered changes by operation and partition key.

use std::collections::BTreeSet;

use scenarios::consumer::Delivery;
use scenarios::fixture::Fixture;
use serde_json::Value;

/// Executes each text as one transaction, and drains.
pub(crate) async fn execute_and_drain(fixture: &Fixture, transactions: &[&str]) {
    for sql in transactions {
        fixture.sql(sql).await;
    }
    fixture.drain().await;
}

/// Operation and partition key of every change, in the order of positions.
fn steps(delivery: &Delivery) -> Vec<(String, String)> {
    let changes = delivery.changes();
    let steps = changes.iter().map(|it| (it.event().op, it.partition_key.clone()));
    steps.collect()
}

/// Asserts exactly these operations and partition keys, in position order.
pub(crate) fn assert_steps(delivery: &Delivery, expected: &[(&str, &str)]) {
    let steps = steps(delivery);
    let steps: Vec<(&str, &str)> = steps
        .iter()
        .map(|(op, key)| (op.as_str(), key.as_str()))
        .collect();
    assert_eq!(steps, expected);
}

/// As [`assert_steps`], for partition keys that are JSON objects.
///
/// The order of columns in them does not matter.
pub(crate) fn assert_json_steps(delivery: &Delivery, expected: &[(&str, Value)]) {
    let steps = steps(delivery);
    let steps: Vec<(&str, Value)> = steps
        .iter()
        .map(|(op, key)| (op.as_str(), serde_json::from_str(key).unwrap()))
        .collect();
    assert_eq!(steps, expected);
}

/// Asserts steps such as `c1 u1 d1`: operation, and `id` of the key.
pub(crate) fn assert_id_steps(delivery: &Delivery, steps: &str) {
    let steps = steps.split(' ').map(|step| step.split_at(1));
    let keys: Vec<(&str, String)> = steps.map(|(op, id)| (op, format!(r#"{{"id":{id}}}"#))).collect();
    let expected: Vec<(&str, &str)> = keys.iter().map(|(op, key)| (*op, key.as_str())).collect();
    assert_steps(delivery, &expected);
}

/// Asserts old and new row of an event.
pub(crate) fn assert_images(event: &Value, before: &Value, after: &Value) {
    assert_eq!((&event["before"], &event["after"]), (before, after));
}

/// Operations of events in one text.
pub(crate) fn operations(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["op"].as_str()).collect()
}

/// Distinct partition keys of a delivery.
pub(crate) fn partition_keys(delivery: &Delivery) -> BTreeSet<&str> {
    let arrivals = delivery.arrivals.iter();
    arrivals.map(|arrival| arrival.partition_key.as_str()).collect()
}
