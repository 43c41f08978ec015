//! No change is lost while function, server and stream fail at random.
//!
//! `make breaker` does the same with more seeds.

use std::sync::Arc;

use scenarios::random_play::workloads::changes;
use scenarios::random_play::{Counter, Engine, play_all};

crate::scenarios![no_change_is_lost_while_every_part_fails];

const SEEDS: u64 = 5;
/// A play waits most of its time.
const PARALLEL: u64 = 4;

async fn no_change_is_lost_while_every_part_fails() {
    let engine = Arc::new(Engine::default());
    let mut faults = 0;
    let plays = (1..=SEEDS).map(|seed| {
        let engine = Arc::clone(&engine);
        (seed, async move { changes::play(&engine, seed).await })
    });
    play_all(plays, PARALLEL, |seed, result| {
        let failures = result.failures().join("\n");
        assert!(
            failures.is_empty(),
            "seed {seed}, {}: {failures}",
            result.settings
        );
        assert_eq!(result.counts.get(Counter::Lost), 0);
        faults += result.counts.get(Counter::Faults);
    })
    .await;
    assert!(faults >= 4 * SEEDS, "only {faults} faults in {SEEDS} plays");
}
