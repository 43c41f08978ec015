//! Plays the breaker's seeds, and exits with 1 when one of them broke the promise.
//!
//! `SEEDS` (10) from `FIRST_SEED` (1) on, `PARALLEL` (4) at a time. `FIRST_SEED=n SEEDS=1` plays one that failed again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use scenarios::breaker::{Breaker, Played};

use crate::seeds::{number, play_all, verdict};

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(run())
}

async fn run() -> ExitCode {
    let (first, seeds) = (number("FIRST_SEED", 1), number("SEEDS", 10));
    let (breaker, began) = (Arc::new(Breaker::default()), Instant::now());
    println!(
        "{:>6}{:>9}{:>8}{:>7}{:>7}{:>9}{:>9}{:>9}{:>7}{:>6}  with",
        "seed", "seconds", "events", "ticks", "faults", "skipped", "replayed", "again", "stores", "lost"
    );
    let (mut total, mut failed) = (Total::default(), Vec::new());
    let play = |seed: &u64| {
        let (breaker, seed) = (Arc::clone(&breaker), *seed);
        async move { breaker.play(seed).await }
    };
    play_all(
        first..first + seeds,
        number("PARALLEL", 4),
        play,
        |seed, played| {
            let played = played.unwrap_or_else(|why| Played {
                broken: vec![why],
                ..Played::default()
            });
            line(seed, &played);
            if !played.broken.is_empty() {
                failed.push(format!("make breaker FIRST_SEED={seed} SEEDS=1"));
            }
            total.add(&played);
        },
    )
    .await;
    total.print();
    let lost = format!(", {} changes lost", total.lost);
    verdict(seeds as usize, &failed, &lost, began)
}

fn line(seed: u64, played: &Played) {
    println!(
        "{seed:6}{:9.1}{:8}{:7}{:7}{:9}{:9}{:9}{:7}{:6}  {}",
        played.took.as_secs_f64(),
        played.events,
        played.ticks.values().sum::<u64>(),
        played.faults.values().sum::<u64>(),
        played.skipped,
        played.replayed,
        played.duplicates,
        played.stores,
        played.lost,
        played.with
    );
    for broken in &played.broken {
        println!("       {broken:.600}");
    }
}

/// Of all plays.
#[derive(Default)]
struct Total {
    plays: u64,
    events: usize,
    ticks: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    skipped: u64,
    replayed: u64,
    retried: u64,
    again: usize,
    looks: u64,
    stores: usize,
    lost: usize,
}

impl Total {
    fn add(&mut self, played: &Played) {
        self.plays += 1;
        self.events += played.events;
        for (ended, count) in &played.ticks {
            *self.ticks.entry(ended.clone()).or_default() += count;
        }
        for (fault, count) in &played.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.skipped += played.skipped;
        self.replayed += played.replayed;
        self.retried += played.retried;
        self.again += played.duplicates;
        self.looks += played.looks;
        self.stores += played.stores;
        self.lost += played.lost;
    }

    fn print(&self) {
        println!("\nfaults");
        for (fault, count) in &self.faults {
            println!("{count:10}  {fault}");
        }
        println!("ticks");
        for (ended, count) in &self.ticks {
            println!("{count:10}  {ended}");
        }
        println!("in {} plays", self.plays);
        for (count, what) in [
            (self.events as u64, "events of what was committed"),
            (self.again as u64, "events that arrived again"),
            (self.skipped, "changes that were read again and skipped"),
            (self.replayed, "changes that were read again and sent again"),
            (self.retried, "records that were sent again within a tick"),
            (
                self.stores as u64,
                "checkpoints stored, each held against the stream",
            ),
            (self.looks, "looks at slot and checkpoint"),
            (self.lost as u64, "changes lost"),
        ] {
            println!("{count:10}  {what}");
        }
    }
}
