//! A stream that throttles, fails, cuts and delays, and is resharded meanwhile, loses nothing and puts nothing of one key out
//! of order. `make storm` plays the same with 200,000 events and 100 seeds.

use scenarios::storm::Storm;

crate::scenarios![every_event_arrives_in_the_order_of_its_key_through_a_storm];

async fn every_event_arrives_in_the_order_of_its_key_through_a_storm() {
    let storm = Storm::brew(4_000, 400).await;
    let mut duplicates = 0;
    for seed in 1..=3 {
        let played = storm.play(seed, "none").await;
        assert!(
            played.broken.is_empty(),
            "FIRST_SEED={seed}: {}",
            played.broken.join("\n")
        );
        assert!(played.retried > 0, "seed {seed}: nothing was sent again");
        duplicates += played.duplicates;
    }
    assert!(duplicates > 0, "an answer that was cut makes duplicates");
}
