//! Program that runs the property test of rows and keys: `play tables`.
//!
//! It runs `SEEDS` (1,000) rounds from `FIRST_SEED` (1) on, `BATCH` (25) in one database, and `PARALLEL` (3)
//! batches at a time. `SEED=n` repeats one round alone. It prints a failed round of each kind in full, and
//! the counts at the end. It exits with 1 when a round failed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::random_tables::{RoundCounts, RoundSettings, run};
use scenarios::variables::number;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs the rounds.
pub(crate) fn main() -> ExitCode {
    let alone = std::env::var("SEED").is_ok();
    let settings = RoundSettings {
        first: if alone {
            number("SEED", 1)
        } else {
            number("FIRST_SEED", 1)
        },
        count: if alone { 1 } else { number("SEEDS", 1_000) },
        batch: number("BATCH", 25) as usize,
        parallel: number("PARALLEL", 3) as usize,
    };
    let (began, mut shown) = (Instant::now(), Instant::now());
    let mut known = BTreeSet::new();
    let show_all = number("SHOW_ALL", 0) > 0;
    let report = |text: &str, counts: &RoundCounts| {
        let new: Vec<&String> = counts
            .kinds
            .keys()
            .filter(|kind| !known.contains(*kind))
            .collect();
        if !new.is_empty() || show_all {
            println!("{text}");
        }
        known.extend(counts.kinds.keys().cloned());
        if shown.elapsed() > PROGRESS {
            shown = Instant::now();
            println!(
                "{:6.0} s  {} of {} rounds, {} failed",
                began.elapsed().as_secs_f64(),
                counts.rounds,
                settings.count,
                counts.failed
            );
        }
    };
    let counts = scenarios::block_on(Box::pin(run(settings, report)));
    print_totals(&counts, began.elapsed());
    match counts.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn print_totals(counts: &RoundCounts, time: Duration) {
    let (statements, refused) = counts.statements;
    println!("{statements:10}  statements, of which the server refused {refused}");
    println!(
        "{:10}  changes compared with their events, by each plugin",
        counts.changes
    );
    println!("{:10}  events", counts.events);
    println!(
        "{:10}  rows of backfills, {} compared with the log",
        counts.reads, counts.compared
    );
    for (kind, (rounds, seed)) in &counts.kinds {
        println!("{rounds:10}  rounds: {kind} (seed {seed})");
    }
    println!(
        "{} of {} rounds hold, in {:.0} s",
        counts.rounds - counts.failed,
        counts.rounds,
        time.as_secs_f64()
    );
}
