//! What the programs share that play many seeds, a few at a time.

use std::process::ExitCode;
use std::time::Instant;

use tokio::task::JoinSet;

/// A number of the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Plays all of them, so many at a time. What came of each is told to `done` in the order in which they end: a play that panics fails with
/// its panic, as others fail with what they find.
pub(crate) async fn play_all<S, P, F>(
    seeds: impl IntoIterator<Item = S>,
    at_a_time: u64,
    play: impl Fn(&S) -> F,
    mut done: impl FnMut(S, Result<P, String>),
) where
    S: Send + 'static,
    P: Send + 'static,
    F: Future<Output = P> + Send + 'static,
{
    let (mut waiting, mut playing) = (seeds.into_iter(), JoinSet::new());
    loop {
        while (playing.len() as u64) < at_a_time.max(1)
            && let Some(seed) = waiting.next()
        {
            let play = tokio::spawn(play(&seed));
            playing.spawn(async move { (seed, play.await) });
        }
        let Some(played) = playing.join_next().await else {
            return;
        };
        let (seed, played) = played.expect("it only waits for a play");
        done(
            seed,
            played.map_err(|panic| format!("the play itself failed: {panic}")),
        );
    }
}

/// Says how many of `all` plays kept the promise, what else there is to say, and how those are played again that did not.
pub(crate) fn verdict(all: usize, failed: &[String], what: &str, began: Instant) -> ExitCode {
    println!(
        "{} of {all} plays kept the promise{what}, in {:.0} s",
        all - failed.len(),
        began.elapsed().as_secs_f64()
    );
    for again in failed {
        println!("failed: {again}");
    }
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
