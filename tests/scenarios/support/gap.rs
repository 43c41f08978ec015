//! Gaps: how to make one, to accept it, and to find its control event in the stream.

use scenarios::consumer::Delivery;
use scenarios::fixture::Fixture;
use scenarios::postgres::slots::wait_until_free;
use serde_json::{Value, json};

/// Event that accepts the gap up to this LSN.
pub(crate) fn accept_gap(lsn: &str) -> Value {
    json!({"action": "drain", "accept_gap": lsn})
}

/// Advances the slot past all changes; returns its new position.
///
/// Another reader would do the same.
pub(crate) async fn advance_slot(fixture: &Fixture) -> String {
    let slot = &fixture.slot;
    wait_until_free(&fixture.connect().await, slot).await;
    fixture
        .sql(&format!(
            "select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())"
        ))
        .await;
    fixture.confirmed_flush().await
}

/// Control events of accepted gaps in the stream, as JSON.
pub(crate) fn gap_events(delivery: &Delivery) -> Vec<Value> {
    let all = delivery.arrivals.iter().map(|it| it.json());
    all.filter(|event| event["op"] == "m" && event["message"]["prefix"] == "spillway.gap_accepted")
        .collect()
}
