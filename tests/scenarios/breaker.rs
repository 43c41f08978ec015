//! Whatever breaks at random while writers write, nothing is lost. `make breaker` plays the same with more seeds.

use std::sync::Arc;

use scenarios::breaker::Breaker;
use tokio::task::JoinSet;

crate::scenarios![nothing_is_lost_whatever_breaks];

const SEEDS: u64 = 10;
/// A play mostly waits.
const PARALLEL: usize = 4;

async fn nothing_is_lost_whatever_breaks() {
    let breaker = Arc::new(Breaker::default());
    let (mut waiting, mut playing, mut faults) = (1..=SEEDS, JoinSet::new(), 0);
    loop {
        while playing.len() < PARALLEL
            && let Some(seed) = waiting.next()
        {
            let breaker = Arc::clone(&breaker);
            playing.spawn(async move { (seed, breaker.play(seed).await) });
        }
        let Some(played) = playing.join_next().await else {
            break;
        };
        let (seed, played) = played.unwrap();
        assert!(
            played.broken.is_empty(),
            "seed {seed}, {}: {}",
            played.with,
            played.broken.join("\n")
        );
        assert_eq!(played.lost, 0);
        assert!(played.stores > 0, "seed {seed} never stored a checkpoint");
        faults += played.faults.values().sum::<u64>();
    }
    assert!(faults >= 4 * SEEDS, "only {faults} faults in {SEEDS} plays");
}
