//! A stream that throttles, fails, cuts and delays, and is resharded meanwhile, loses nothing and puts nothing of one key out
//! of order. `make storm` plays the same with 200,000 events and 100 seeds.

use scenarios::storm::Storm;

crate::scenarios![every_event_arrives_in_the_order_of_its_key_through_a_storm];

async fn every_event_arrives_in_the_order_of_its_key_through_a_storm() {
    let storm = Storm::brew(4_000, 400).await;
    let (mut retried, mut duplicates) = (0, 0);
    for (aggregation, seeds) in [("none", 2), ("kpl", 5)] {
        for seed in 1..=seeds {
            let played = storm.play(seed, aggregation).await;
            assert!(
                played.broken.is_empty(),
                "seed {seed}, {aggregation}: {}",
                played.broken.join("\n")
            );
            retried += played.retried;
            duplicates += played.duplicates;
        }
    }
    assert!(retried > 0, "nothing was sent again");
    assert!(duplicates > 0, "an answer that was cut makes duplicates");
}
