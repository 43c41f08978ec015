//! No event is lost or out of order while the stream fails.
//!
//! The stream fails in every way, and is resharded. `make storm` plays the same with 200,000 events and 100
//! seeds.

use std::sync::Arc;

use scenarios::random_play::workloads::storm;
use scenarios::random_play::{Counter, Engine, PlayCounts};

crate::scenarios![every_event_arrives_in_the_order_of_its_key_through_a_storm];

async fn every_event_arrives_in_the_order_of_its_key_through_a_storm() {
    let engine = Engine::default();
    let (backlog, _) = Box::pin(storm::Backlog::write(&engine, 4_000, 400)).await;
    let mut counts = PlayCounts::default();
    for (aggregation, seeds) in [("none", 2), ("kpl", 5)] {
        for seed in 1..=seeds {
            let result = storm::play(&engine, Arc::clone(&backlog), seed, aggregation).await;
            let failures = result.failures().join("\n");
            assert!(failures.is_empty(), "seed {seed}, {aggregation}: {failures}");
            counts.add_all(&result.counts);
        }
    }
    assert!(counts.get(Counter::Retried) > 0, "no record was sent again");
    assert!(
        counts.get(Counter::Duplicates) > 0,
        "an answer that is cut makes duplicates, and none arrived"
    );
}
