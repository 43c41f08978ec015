//! Checkpoint and slot cover only events that the stream has acknowledged.
//!
//! The same holds for checkpoints that are stored during a drain, while requests are in flight.

use std::collections::BTreeMap;
use std::time::Duration;

use scenarios::aws::fault_proxy::FaultSide;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::positions::{SlotPositions, commit_end, wait_until_sessions_end};

crate::scenarios![an_unacknowledged_event_holds_the_checkpoint_back];

/// Fixture with 2,000 rows in the log.
///
/// Each row is a transaction and has its own key. Therefore, the rows take several requests.
async fn fixture() -> Fixture {
    // Without markers: a marker in the log would be acknowledged before the rows.
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("MARKERS", "off")
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    fixture.drain().await;
    let client = fixture.connect().await;
    let rows = "do $$ begin for n in 1..2000 loop insert into t values (n); commit; end loop; end $$";
    client.batch_execute(rows).await.unwrap();
    fixture
}

async fn an_unacknowledged_event_holds_the_checkpoint_back() {
    let fixture = fixture().await;
    let before = SlotPositions::read(&fixture).await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
    // The deadline is longer than one second, after which a checkpoint is stored during a drain. It is
    // shorter than the time that the function waits for an answer.
    let (event, deadline) = (json!({}), Duration::from_secs(6));
    let outcome = tokio::join!(fixture.function.invoke(&event, deadline), held.wait_until_held()).0;
    // The first events are in the held request. The other requests pass, and none of their events may count.
    assert!(
        fixture.kinesis_proxy.requests("PutRecords") > 1,
        "no other request passed"
    );
    assert!(
        matches!(outcome, Outcome::Answer(_) | Outcome::Error { .. }),
        "{outcome:?}"
    );
    // Requests overtake each other, so the held request need not have the first rows.
    let positions = SlotPositions::read(&fixture).await;
    let arrived = fixture.consume().await;
    let ends = arrived.arrivals.iter().map(|arrival| {
        let event = arrival.event();
        let id = event.after.and_then(|row| row["id"].as_u64()).unwrap_or(0);
        (commit_end(&event.source.position), id)
    });
    let ends: BTreeMap<u64, u64> = ends.collect();
    assert!(ends.len() < 2000, "every event arrived");
    let covered = ends.range(..=positions.checkpoint).map(|(_, id)| *id);
    let gapless = covered.zip(1..).all(|(id, expected)| id == expected);
    assert!(gapless, "the checkpoint covers events that have not arrived");
    assert!(before.checkpoint <= positions.checkpoint);
    fixture.function.kill9().await;
    wait_until_sessions_end(&fixture).await;
    drop(held);
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}
