//! Delivered changes by operation and partition key.

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

/// The delivery has exactly these operations under these partition keys, in the order of positions.
pub(crate) fn assert_steps(delivery: &Delivery, expected: &[(&str, &str)]) {
    let steps = steps(delivery);
    let steps: Vec<(&str, &str)> = steps
        .iter()
        .map(|(op, key)| (op.as_str(), key.as_str()))
        .collect();
    assert_eq!(steps, expected);
}

/// The same for partition keys that are JSON objects, in which the order of columns does not matter.
pub(crate) fn assert_json_steps(delivery: &Delivery, expected: &[(&str, Value)]) {
    let steps = steps(delivery);
    let steps: Vec<(&str, Value)> = steps
        .iter()
        .map(|(op, key)| (op.as_str(), serde_json::from_str(key).unwrap()))
        .collect();
    assert_eq!(steps, expected);
}
