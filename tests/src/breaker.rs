//! The breaker: writers write, ticks drain, and everything fails at random moments. Afterwards nothing is lost.
//!
//! A play is a fresh database, slot, stream and checkpoint. What it is played with, what is written and what goes wrong is
//! drawn from its seed; what meets what is a matter of time, so a seed that failed shows the same weather again, not the
//! very same run.

mod clock;
mod draw;
mod faults;
pub(crate) mod parameter;
pub(crate) mod site;
mod verdict;
pub(crate) mod world;
mod writers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::Client;

use draw::Draw;
use parameter::lsn;
use site::Site;
use world::World;
use writers::{SCHEMA, Writer};

/// Of the ticks that empty the slot in the end.
const DEADLINE: Duration = Duration::from_secs(15);
/// How many of them there may be.
const MOST_TICKS: usize = 40;
/// The slot that nobody moves: by it PostgreSQL itself says what was committed.
const WITNESS: &str = "witness";

/// How one play went.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// What it was played with.
    pub with: String,
    /// How long it took.
    pub took: Duration,
    /// Events of what was committed.
    pub events: usize,
    /// Invocations by how they ended: `stopped` of a report, `errorType`, `killed` or `timed out`.
    pub ticks: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Changes that the slot gave again and the stream surely had.
    pub skipped: u64,
    /// Changes that the slot gave again and that went again.
    pub replayed: u64,
    /// Records that were sent again within an invocation.
    pub retried: u64,
    /// Events that arrived although they had arrived before.
    pub duplicates: usize,
    /// How often slot and checkpoint were held against each other.
    pub looks: u64,
    /// Stores of the checkpoint.
    pub stores: usize,
    /// Changes that never arrived.
    pub lost: usize,
    /// What broke the promise.
    pub broken: Vec<String>,
}

/// Servers, which plays take one after the other: making them costs more than a play.
#[derive(Debug, Default)]
pub struct Breaker {
    idle: Mutex<Vec<Site>>,
}

impl Breaker {
    /// Plays one seed.
    ///
    /// # Panics
    /// A part of the play itself cannot do its work.
    pub async fn play(&self, seed: u64) -> Played {
        let began = Instant::now();
        let draw = Draw::of_seed(seed);
        let site = self.site(&format!("seed_{seed}"), &draw).await;
        let world = World::make(site, seed, &draw).await;
        set_up(&world, draw.plugin).await;
        storm(&world, &draw).await;
        world.calm().await;
        let emptied = empty(&world).await;
        world.end().await;
        let client = connect(&world.site).await;
        let stores = world.parameter.stores();
        let judged = verdict::judge(&client, WITNESS, draw.plugin, draw.form, &world.stream, &stores).await;
        drop(client);
        let seen = world.seen().clone();
        let played = Played {
            with: draw.to_string(),
            took: began.elapsed(),
            events: judged.events,
            ticks: seen.ticks,
            faults: seen.faults,
            skipped: seen.skipped,
            replayed: seen.replayed,
            retried: seen.retried,
            duplicates: judged.duplicates,
            looks: seen.looks,
            stores: stores.len(),
            lost: judged.lost,
            broken: [seen.broken, emptied.err().into_iter().collect(), judged.broken].concat(),
        };
        // What a promise was broken on is not used again.
        if let Some(mut site) = Arc::into_inner(world.site).filter(|_| played.broken.is_empty()) {
            site.clear().await;
            self.idle().push(site);
        }
        played
    }

    async fn site(&self, database: &str, draw: &Draw) -> Site {
        let idle = {
            let mut idle = self.idle();
            let fits = idle.iter().position(|site| site.kind() == draw.site);
            fits.map(|at| idle.swap_remove(at))
        };
        let mut site = match idle {
            Some(site) => site,
            None => Site::make(draw.site).await,
        };
        site.settle(database, draw.sees_standby).await;
        site
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Site>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session with a server that has to be up.
pub(crate) async fn connect(site: &Site) -> Client {
    let client = site.connect().await;
    client.unwrap_or_else(|error| panic!("no fault is on, and the server does not answer: {error:?}"))
}

async fn set_up(world: &World, plugin: &str) {
    let client = connect(&world.site).await;
    run(&client, SCHEMA).await;
    let slots = [WITNESS, world.slot()];
    for (slot, plugin) in slots.into_iter().zip(["test_decoding", plugin]) {
        world.site.create_slot(&client, slot, plugin).await;
    }
    if world.site.keep_slots(&client, &slots).await {
        // They were moved, and their place at the standby is known to nobody until there is a checkpoint.
        world.tick(DEADLINE).await;
    }
}

/// Writers, ticks and all faults at once, until the faults are over.
async fn storm(world: &World, draw: &Draw) {
    let (faults, over) = (&draw.faults, Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    for (seed, number) in draw.writers.iter().zip(0..) {
        let writer = Writer::new(number, *seed, draw.form);
        writers.spawn(writer.write(Arc::clone(&world.site), Arc::clone(&over)));
    }
    let failing = async {
        tokio::join!(
            world.befall_function(&faults.function),
            world.befall_stream(&faults.stream),
            world.befall_parameter(&faults.parameter),
            world.befall_server(&faults.server),
        );
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        failing,
        world.tick_until(draw.ticks.clone(), &over),
        world.look_until(&over),
    );
    writers.join_all().await;
}

/// Ticks until the slot is confirmed beyond all that was written.
///
/// # Errors
/// It did not come to that.
async fn empty(world: &World) -> Result<(), String> {
    let client = &connect(&world.site).await;
    // Its commit is waited for, and so is on disk, as is all before it.
    run(
        client,
        "set synchronous_commit = on; create table the_end (id int primary key)",
    )
    .await;
    let end = value(client, "select pg_current_wal_flush_lsn()::text").await;
    let slot = format!(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{}'",
        world.slot()
    );
    for _ in 0..MOST_TICKS {
        let report = world.tick(DEADLINE).await;
        if report.is_some_and(|report| report["stopped"] == "empty") {
            let confirmed = value(client, &slot).await;
            if lsn(&confirmed.clone().into()) >= lsn(&end.clone().into()) {
                return Ok(());
            }
        }
    }
    Err(format!("{MOST_TICKS} ticks did not empty the slot"))
}

/// Runs SQL that has to succeed.
pub(crate) async fn run(client: &Client, sql: &str) {
    let done = client.batch_execute(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first column of the first row.
pub(crate) async fn value(client: &Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}
