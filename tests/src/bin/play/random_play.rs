//! Programs that run random plays. Each exits with 1 when a play failed.
//!
//! Each runs `SEEDS` seeds from `FIRST_SEED` (1) on. `FIRST_SEED=n SEEDS=1` repeats the play of one seed.
//! - `play breaker`: live changes; 10 seeds, `PARALLEL` (4) at a time.
//! - `play backfill`: backfills of `ROWS` (2,000,000) rows; 5 seeds, `PARALLEL` (1) at a time.
//! - `play storm`: `EVENTS` (200,000) events; 100 seeds with each `AGGREGATION` (`none`, `kpl`), `JOBS` (4)
//!   at a time.

use std::process::ExitCode;
use std::sync::Arc;

use scenarios::random_play::workloads::{backfill, changes, storm};
use scenarios::random_play::{Counter, Engine};
use scenarios::variables::number;

use crate::seeds::{Play, PlayTable};

/// Keys of a storm's backlog.
const STORM_KEYS: usize = 5_000;

/// Runs plays of live changes.
pub(crate) fn breaker() -> ExitCode {
    let engine = Arc::new(Engine::default());
    let plays = seeds(10).map(|seed| {
        let engine = Arc::clone(&engine);
        Play {
            seed,
            command: format!("make breaker FIRST_SEED={seed} SEEDS=1"),
            future: async move { changes::play(&engine, seed).await },
        }
    });
    let table = PlayTable::new(changes::COLUMNS, Some(Counter::Lost));
    scenarios::block_on(table.run(plays, number("PARALLEL", 4)))
}

/// Runs plays of backfills.
pub(crate) fn backfill() -> ExitCode {
    let engine = Arc::new(Engine::default());
    let rows = number("ROWS", 2_000_000);
    let plays = seeds(5).map(|seed| {
        let engine = Arc::clone(&engine);
        Play {
            seed,
            command: format!("make backfill ROWS={rows} FIRST_SEED={seed} SEEDS=1"),
            future: async move { backfill::play(&engine, seed, rows).await },
        }
    });
    let table = PlayTable::new(backfill::COLUMNS, Some(Counter::Differences));
    scenarios::block_on(table.run(plays, number("PARALLEL", 1)))
}

/// Runs plays of storms over one backlog.
pub(crate) fn storm() -> ExitCode {
    let modes = match std::env::var("AGGREGATION").as_deref() {
        Err(_) => vec!["none", "kpl"],
        Ok("none") => vec!["none"],
        Ok("kpl") => vec!["kpl"],
        Ok(other) => panic!("AGGREGATION={other} is neither none nor kpl"),
    };
    let events = number("EVENTS", 200_000);
    let engine = Arc::new(Engine::default());
    println!("writing {events} changes of {STORM_KEYS} keys, and draining them once without faults");
    let write = storm::Backlog::write(&engine, events as usize, STORM_KEYS);
    let (backlog, quiet_time) = scenarios::block_on(Box::pin(write));
    println!("without faults: {:.1} s", quiet_time.as_secs_f64());
    let seeds = seeds(100).flat_map(|seed| modes.iter().map(move |mode| (seed, *mode)));
    let plays = seeds.map(|(seed, mode)| {
        let (engine, backlog) = (Arc::clone(&engine), Arc::clone(&backlog));
        Play {
            seed,
            command: format!("FIRST_SEED={seed} SEEDS=1 AGGREGATION={mode} make storm"),
            future: async move { storm::play(&engine, backlog, seed, mode).await },
        }
    });
    let table = PlayTable::new(storm::COLUMNS, None);
    scenarios::block_on(table.run(plays, number("JOBS", 4)))
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = number("FIRST_SEED", 1);
    first..first + number("SEEDS", count)
}
