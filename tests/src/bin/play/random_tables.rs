//! Program that runs the property test of rows and keys: `play tables`.
//!
//! It runs `SEEDS` (1,000) rounds from `FIRST_SEED` (1) on, `BATCH` (25) in one database, and `PARALLEL` (3)
//! batches at a time. `SEED=n` repeats one round alone. It prints a failed round of each kind in full, and
//! the counts at the end. It exits with 1 when a round failed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::random_tables::{RoundSettings, Tally, run};

use crate::seeds::number;

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
    let report = |text: &str, tally: &Tally| {
        let new: Vec<&String> = tally.kinds.keys().filter(|kind| !known.contains(*kind)).collect();
        if !new.is_empty() || show_all {
            println!("{text}");
        }
        known.extend(tally.kinds.keys().cloned());
        if shown.elapsed() > PROGRESS {
            shown = Instant::now();
            println!(
                "{:6.0} s  {} of {} rounds, {} failed",
                began.elapsed().as_secs_f64(),
                tally.rounds,
                settings.count,
                tally.failed
            );
        }
    };
    let tally = scenarios::block_on(Box::pin(run(settings, report)));
    print_totals(&tally, began.elapsed());
    match tally.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn print_totals(tally: &Tally, time: Duration) {
    let (statements, refused) = tally.statements;
    println!("{statements:10}  statements, of which the server refused {refused}");
    println!(
        "{:10}  changes compared with their events, by each plugin",
        tally.changes
    );
    println!("{:10}  events", tally.events);
    println!(
        "{:10}  rows of backfills, {} compared with the log",
        tally.reads, tally.compared
    );
    for (kind, (rounds, seed)) in &tally.kinds {
        println!("{rounds:10}  rounds: {kind} (seed {seed})");
    }
    println!(
        "{} of {} rounds hold, in {:.0} s",
        tally.rounds - tally.failed,
        tally.rounds,
        time.as_secs_f64()
    );
}
