//! Plays the storm of many seeds, with and without aggregation, and exits with 1 when one of them broke the promise.
//!
//! `SEEDS` (100) from `FIRST_SEED` (1) on, `EVENTS` (200,000), `AGGREGATION` (`none`, `kpl`, or both when it is not set),
//! `JOBS` (4) at a time. `FIRST_SEED=n SEEDS=1` plays one that failed again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use scenarios::storm::{Played, Storm};

use crate::seeds::{number, play_all, verdict};

const KEYS: usize = 5_000;

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(run())
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
    let all: Vec<(u64, String)> = (first..first + seeds)
        .flat_map(|seed| modes.iter().map(move |mode| (seed, mode.clone())))
        .collect();
    let (began, plays, mut failed) = (Instant::now(), all.len(), Vec::new());
    let play = |(seed, mode): &(u64, String)| {
        let (storm, seed, mode) = (Arc::clone(&storm), *seed, mode.clone());
        async move { storm.play(seed, &mode).await }
    };
    play_all(all, number("JOBS", 4), play, |(seed, mode), played| {
        let played = played.unwrap_or_else(|why| Played {
            broken: vec![why],
            ..Played::default()
        });
        line(seed, &mode, &played);
        if !played.broken.is_empty() {
            failed.push(format!("FIRST_SEED={seed} SEEDS=1 AGGREGATION={mode} make storm"));
        }
    })
    .await;
    verdict(plays, &failed, "", began)
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
