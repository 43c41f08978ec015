//! Kills of the function with SIGKILL at random points of one backlog.
//!
//! No change is lost, and repeated changes have the same positions. `KILLS` sets the number of kills (25),
//! `SEED` repeats a run.

use std::time::{Duration, Instant};

use fastrand::Rng;
use scenarios::aws::fault_proxy::{Fault, FaultSide};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::variables::number;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::{SlotPositions, wait_until_sessions_end};

crate::scenarios![killed_at_random_points_of_a_backlog_it_loses_nothing];

/// Number of changes of the backlog.
const CHANGES: u32 = 30_000;
/// Changes added after a drain that ended before its kill.
const MORE: u32 = 3_000;
const KEYS: u32 = 5_000;

/// After this time the kills are enough, if there were so many.
const MAX_TIME: Duration = Duration::from_secs(120);
const MIN_KILLS: u64 = 10;

/// Moment of a kill.
#[derive(Debug)]
enum KillMoment {
    /// This time after the invocation.
    Elapsed(Duration),
    /// After this many more requests at the fault proxy.
    Requests(u64),
    /// At the next store of the checkpoint, before or after its effect.
    Store(FaultSide),
}

fn moment(random: &mut Rng) -> KillMoment {
    match random.u8(..10) {
        // Most kills are early, some are after the end.
        0..4 => KillMoment::Elapsed(Duration::from_secs_f64(2.5 * random.f64().powi(2))),
        4..8 => KillMoment::Requests(random.u64(1..40)),
        8 => KillMoment::Store(FaultSide::Request),
        _ => KillMoment::Store(FaultSide::Answer),
    }
}

fn requests(fixture: &Fixture) -> u64 {
    fixture.kinesis_proxy.requests("PutRecords") + fixture.ssm_proxy.requests("PutParameter")
}

/// Waits until so many requests have arrived at the proxies.
async fn wait_for_requests(fixture: &Fixture, count: u64) {
    loop {
        let arrivals = (
            fixture.kinesis_proxy.next_request(),
            fixture.ssm_proxy.next_request(),
        );
        if requests(fixture) >= count {
            return;
        }
        tokio::select! {
            () = arrivals.0 => {}
            () = arrivals.1 => {}
        }
    }
}

/// Invokes the function, and kills it after this time.
///
/// The time may end anywhere in the invocation. The result is false if the function answered before.
async fn kill_after(fixture: &Fixture, time: Duration) -> bool {
    let tick = json!({});
    let outcome = fixture.function.invoke_with_limit(&tick, DEADLINE, time).await;
    if outcome == Outcome::TimedOut {
        wait_until_sessions_end(fixture).await;
        return true;
    }
    outcome.answer();
    false
}

/// Invokes the function, and kills it at this moment.
///
/// The result is false if the function answered before.
async fn kill(fixture: &Fixture, moment: KillMoment) -> bool {
    if let KillMoment::Elapsed(time) = moment {
        return kill_after(fixture, time).await;
    }
    let from = requests(fixture);
    let mut held = match moment {
        KillMoment::Store(side) => Some(fixture.ssm_proxy.hold("PutParameter", side)),
        _ => None,
    };
    let moment_reached = async {
        match (moment, &mut held) {
            (KillMoment::Requests(count), _) => wait_for_requests(fixture, from + count).await,
            (KillMoment::Store(_), Some(held)) => held.wait_until_held().await,
            _ => {}
        }
    };
    let answered = tokio::select! {
        outcome = fixture.invoke(json!({})) => Some(outcome.answer()),
        () = moment_reached => None,
    };
    if answered.is_some() {
        fixture.ssm_proxy.clear();
        return false;
    }
    fixture.function.kill9().await;
    wait_until_sessions_end(fixture).await;
    true
}

async fn killed_at_random_points_of_a_backlog_it_loses_nothing() {
    let kills = number("KILLS", 25);
    let seed = number("SEED", fastrand::u64(..1_000_000));
    eprintln!("random_kills: {kills} kills, SEED={seed}");
    let mut random = Rng::with_seed(seed);

    let fixture = Fixture::builder(Plugin::Pgoutput).shards(8).build().await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    backlog::write(&fixture, random.u32(..), CHANGES, KEYS).await;
    // A whole drain then takes longer than the pause between two stores of the checkpoint. Some kills
    // therefore find a part confirmed.
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(150)));
    let (mut killed, mut missed, mut ahead) = (0, 0, 0);
    let began = Instant::now();
    // A slow machine makes fewer kills.
    while killed < kills && (killed < MIN_KILLS || began.elapsed() < MAX_TIME) {
        let moment = moment(&mut random);
        if kill(&fixture, moment).await {
            killed += 1;
        } else {
            missed += 1;
            backlog::write(&fixture, random.u32(..), MORE, KEYS).await;
        }
        let marks = SlotPositions::read(&fixture).await;
        ahead += u32::from(marks.confirmed < marks.checkpoint);
    }
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    let delivery = backlog::compare(&fixture).await;
    let (changes, duplicates) = (delivery.changes().len(), delivery.duplicates());
    eprintln!(
        "random_kills: {changes} changes, {duplicates} duplicates; {ahead} kills found the checkpoint \
         ahead of the slot, {missed} drains had ended before"
    );
    assert!(
        duplicates > 0,
        "{killed} kills and no duplicate: no kill hit a drain"
    );
}
