//! Plays backfills under fire, and exits with 1 when one of them broke the promise.
//!
//! `SEEDS` (5) from `FIRST_SEED` (1) on, `PARALLEL` (1) at a time, each with a table of `ROWS` (2,000,000).
//! `FIRST_SEED=n SEEDS=1` plays one that failed again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use scenarios::backfill::{Backfill, Played};

use crate::seeds::{number, play_all, verdict};

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(run())
}

async fn run() -> ExitCode {
    let (first, seeds, rows) = (
        number("FIRST_SEED", 1),
        number("SEEDS", 5),
        number("ROWS", 2_000_000),
    );
    let (backfill, began) = (Arc::new(Backfill::default()), Instant::now());
    println!(
        "{:>6}{:>9}{:>9}{:>9}{:>10}{:>8}{:>7}{:>9}{:>7}{:>6}{:>7}{:>8}{:>8}{:>8}  with",
        "seed",
        "seconds",
        "rows",
        "reads",
        "overtaken",
        "ticks",
        "kills",
        "failover",
        "crash",
        "hung",
        "again",
        "lag MB",
        "MiB",
        "differ"
    );
    let (mut total, mut failed) = (Total::default(), Vec::new());
    let play = |seed: &u64| {
        let (backfill, seed) = (Arc::clone(&backfill), *seed);
        async move { backfill.play(seed, rows).await }
    };
    play_all(
        first..first + seeds,
        number("PARALLEL", 1),
        play,
        |seed, played| {
            let mut played = played.unwrap_or_else(|why| Played {
                broken: vec![why],
                ..Played::default()
            });
            let lacks = played.lacks().into_iter();
            played
                .broken
                .extend(lacks.map(|what| format!("it was calm: {what}")));
            line(seed, &played);
            if !played.broken.is_empty() {
                failed.push(format!("make backfill ROWS={rows} FIRST_SEED={seed} SEEDS=1"));
            }
            total.add(&played);
        },
    )
    .await;
    total.print();
    let differences = format!(", {} differences", total.differences);
    verdict(seeds as usize, &failed, &differences, began)
}

fn line(seed: u64, played: &Played) {
    println!(
        "{seed:6}{:9.1}{:9}{:9}{:10}{:8}{:7}{:9}{:7}{:6}{:7}{:8.1}{:8}{:8}  {}",
        played.took.as_secs_f64(),
        played.rows,
        played.reads,
        played.overtaken,
        played.invocations.values().sum::<u64>(),
        played.kills,
        played.failovers,
        played.crashes,
        played.stuck,
        played.duplicates,
        played.lag_bytes as f64 / 1e6,
        played.peak_memory_bytes >> 20,
        played.differences,
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
    rows: u64,
    reads: u64,
    overtaken: u64,
    invocations: BTreeMap<String, u64>,
    kills: u64,
    failovers: u64,
    crashes: u64,
    stuck: u64,
    duplicates: u64,
    differences: u64,
    lag_bytes: u64,
    peak_memory_bytes: u64,
}

impl Total {
    fn add(&mut self, played: &Played) {
        self.plays += 1;
        for (ended, count) in &played.invocations {
            *self.invocations.entry(ended.clone()).or_default() += count;
        }
        self.rows += played.rows;
        self.reads += played.reads;
        self.overtaken += played.overtaken;
        self.kills += played.kills;
        self.failovers += played.failovers;
        self.crashes += played.crashes;
        self.stuck += played.stuck;
        self.duplicates += played.duplicates;
        self.differences += played.differences;
        self.lag_bytes = self.lag_bytes.max(played.lag_bytes);
        self.peak_memory_bytes = self.peak_memory_bytes.max(played.peak_memory_bytes);
    }

    fn print(&self) {
        println!("\ninvocations");
        for (ended, count) in &self.invocations {
            println!("{count:10}  {ended}");
        }
        println!("in {} plays", self.plays);
        for (count, what) in [
            (self.rows, "rows of PostgreSQL in the end, each compared"),
            (self.reads, "events of rows that were read"),
            (self.overtaken, "rows that were read and overtaken by a change"),
            (self.kills, "kills of the function"),
            (self.failovers, "failovers"),
            (self.crashes, "crashes of the server"),
            (self.stuck, "times that commits hung"),
            (self.duplicates, "events that arrived again"),
            (self.lag_bytes, "bytes of lag at most"),
            (self.peak_memory_bytes, "bytes resident at most"),
            (self.differences, "differences"),
        ] {
            println!("{count:10}  {what}");
        }
    }
}
