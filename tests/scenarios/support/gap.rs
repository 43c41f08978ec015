//! A gap: how a scenario makes one, accepts it, and finds its control event in the stream.

use scenarios::consumer::Delivery;
use scenarios::fixture::Fixture;
use serde_json::{Value, json};

/// The event that accepts the gap up to this LSN.
pub(crate) fn accept_gap(lsn: &str) -> Value {
    json!({"action": "drain", "accept_gap": lsn})
}

/// Somebody reads past everything. Returns where the slot stands then.
pub(crate) async fn advance_slot(fixture: &Fixture) -> String {
    let slot = &fixture.slot;
    fixture
        .sql(&format!(
            "select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())"
        ))
        .await;
    fixture.confirmed_flush().await
}

/// The control events of the stream.
pub(crate) fn gap_events(delivery: &Delivery) -> Vec<Value> {
    let all = delivery.arrivals.iter().map(|it| it.json());
    all.filter(|event| event["op"] == "m" && event["message"]["prefix"] == "spillway.gap_accepted")
        .collect()
}
