//! Plays the storm of many seeds, with and without aggregation, and exits with 1 when one of them broke the promise.
//!
//! `SEEDS` (100) from `FIRST_SEED` (1) on, `EVENTS` (200,000), `AGGREGATION` (`none`, `kpl`, or both when it is not set),
//! `JOBS` (4) at a time. `FIRST_SEED=n SEEDS=1` plays one that failed again.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use scenarios::storm::{Played, Storm};
use tokio::task::JoinSet;

const KEYS: usize = 5_000;

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(run())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

async fn run() -> ExitCode {
    let (first, seeds, events) = (
        number("FIRST_SEED", 1),
        number("SEEDS", 100),
        number("EVENTS", 200_000),
    );
    let modes = std::env::var("AGGREGATION").map_or(vec!["none".to_owned(), "kpl".to_owned()], |it| vec![it]);
    println!("writing {events} changes of {KEYS} keys, and draining them once in calm weather");
    let storm = Arc::new(Storm::brew(events as usize, KEYS).await);
    println!("calm weather: {:.1} s", storm.calm.as_secs_f64());
    println!(
        "{:>6} {:6}{:>9}{:>6}{:>10}{:>10}{:>10}{:>10}{:>11}{:>10}{:>9}",
        "seed",
        "",
        "seconds",
        "ticks",
        "requests",
        "tried",
        "put",
        "retried",
        "duplicates",
        "reshards",
        "dropped"
    );
    let mut waiting: VecDeque<(u64, String)> = (first..first + seeds)
        .flat_map(|seed| modes.iter().map(move |mode| (seed, mode.clone())))
        .collect();
    let (began, all) = (Instant::now(), waiting.len());
    let (mut playing, mut failed) = (JoinSet::new(), Vec::new());
    let jobs = number("JOBS", 4) as usize;
    while !waiting.is_empty() || !playing.is_empty() {
        while playing.len() < jobs.max(1)
            && let Some((seed, mode)) = waiting.pop_front()
        {
            let storm = Arc::clone(&storm);
            playing.spawn(async move { (seed, storm.play(seed, &mode).await, mode) });
        }
        let Some(played) = playing.join_next().await else {
            break;
        };
        let (seed, played, mode) = played.expect("what a play finds it tells, it does not panic");
        line(seed, &mode, &played);
        if !played.broken.is_empty() {
            failed.push(format!("FIRST_SEED={seed} SEEDS=1 AGGREGATION={mode}"));
        }
    }
    println!(
        "{} of {all} plays kept the promise, in {:.0} s",
        all - failed.len(),
        began.elapsed().as_secs_f64()
    );
    for again in &failed {
        println!("failed: {again} make storm");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn line(seed: u64, mode: &str, played: &Played) {
    println!(
        "{seed:6} {mode:6}{:9.1}{:6}{:10}{:10}{:10}{:10}{:11}{:10}{:9}",
        played.took.as_secs_f64(),
        played.ticks,
        played.requests,
        played.tried,
        played.put,
        played.retried,
        played.duplicates,
        played.reshards,
        played.dropped
    );
    for broken in &played.broken {
        println!("       {broken}");
    }
}
