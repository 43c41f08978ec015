//! Backfills under fire: writers change the rows that are being read, the function is killed, and its server dies or hangs in the middle.
//! Afterwards a consumer has what PostgreSQL has, row by row.
//!
//! A play is a fresh database on a primary and its synchronous standby, with a table that was filled before the slot was made: only a
//! backfill can bring it. What it is played with is drawn from its seed; what meets what is a matter of time.

mod draw;
mod key;
mod ledger;
mod world;
mod writers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::breaker::parameter::lsn;
use crate::breaker::site::{Kind, Site};
use crate::breaker::{connect, run, value};
use crate::postgres::REPLUSER;
use draw::Draw;
use world::World;
use writers::Writer;

/// Of the ticks that empty the slot in the end.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many of them there may be.
const MOST_TICKS: usize = 40;

/// How one play went.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// What it was played with.
    pub with: String,
    /// From the start of the backfill to the end of the comparison.
    pub took: Duration,
    /// Rows that PostgreSQL has in the end, each of which was compared.
    pub rows: u64,
    /// Events of rows that were read.
    pub reads: u64,
    /// Rows that were read and not sent, since a live change came first, as the reports say.
    pub overtaken: u64,
    /// Invocations by how they ended: `stopped` of a report, `errorType`, `killed` or `timed out`.
    pub invocations: BTreeMap<String, u64>,
    /// Kills of the function.
    pub kills: u64,
    /// Failovers of the server.
    pub failovers: u64,
    /// Crashes of the server, which came back.
    pub crashes: u64,
    /// How often commits hung.
    pub stuck: u64,
    /// Whether commits were to hang.
    pub hangs: bool,
    /// Events that arrived although they had arrived before.
    pub duplicates: u64,
    /// Rows and values that are not the same.
    pub differences: u64,
    /// The largest lag that a report told, in bytes.
    pub lag_bytes: u64,
    /// The most memory that the function had resident, in bytes.
    pub peak_memory_bytes: u64,
    /// What broke the promise.
    pub broken: Vec<String>,
}

impl Played {
    /// What it would have to be played with and was not: one that was calm shows nothing.
    pub fn lacks(&self) -> Vec<&'static str> {
        [
            ("no kill of the function", self.kills == 0),
            (
                "neither a failover nor a crash of the server",
                self.failovers + self.crashes == 0,
            ),
            ("no commit that hung", self.hangs && self.stuck == 0),
            ("no row that was read", self.reads == 0),
            ("no row that was overtaken", self.overtaken == 0),
        ]
        .into_iter()
        .filter_map(|(what, lacks)| lacks.then_some(what))
        .collect()
    }
}

/// Servers, which plays take one after the other: making them costs more than a small play.
#[derive(Debug, Default)]
pub struct Backfill {
    idle: Mutex<Vec<Site>>,
}

impl Backfill {
    /// Plays one seed with a table of so many rows.
    ///
    /// # Panics
    /// A part of the play itself cannot do its work.
    pub async fn play(&self, seed: u64, rows: u64) -> Played {
        let draw = Draw::of_seed(seed, rows);
        let site = self.site(&format!("backfill_{seed}")).await;
        let world = World::make(site, &draw, rows).await;
        set_up(&world, &draw, rows).await;
        let began = Instant::now();
        storm(&world, &draw, rows).await;
        world.calm().await;
        let emptied = empty(&world).await;
        world.end().await;
        let client = connect(&world.site).await;
        let ledger = std::mem::take(&mut *world.ledger());
        let compared = ledger.compare(&client, "t").await;
        drop(client);
        let seen = world.seen().clone();
        let played = Played {
            with: draw.to_string(),
            took: began.elapsed(),
            rows: compared.rows,
            reads: ledger.reads,
            overtaken: seen.overtaken,
            invocations: seen.invocations,
            kills: seen.kills,
            failovers: seen.failovers,
            crashes: seen.crashes,
            stuck: seen.stuck,
            hangs: !draw.stuck.is_empty(),
            duplicates: ledger.duplicates,
            differences: compared.differences,
            lag_bytes: seen.lag_bytes,
            peak_memory_bytes: world.peak_memory_bytes(),
            broken: [
                seen.broken,
                emptied.err().into_iter().collect(),
                ledger.broken,
                compared.told,
            ]
            .concat(),
        };
        // What a promise was broken on is not used again.
        if let Some(mut site) = Arc::into_inner(world.site).filter(|_| played.broken.is_empty()) {
            site.clear().await;
            self.idle().push(site);
        }
        played
    }

    async fn site(&self, database: &str) -> Site {
        let idle = self.idle().pop();
        let mut site = match idle {
            Some(site) => site,
            None => Site::make(Kind::Cluster).await,
        };
        site.settle(database, true).await;
        site
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Site>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table is filled first, and the slot made then.
async fn set_up(world: &World, draw: &Draw, rows: u64) {
    let client = connect(&world.site).await;
    run(&client, &writers::fill(&draw.key, rows, REPLUSER.0)).await;
    run(&client, "analyze t").await;
    let slot = world.slot();
    if draw.fails_over() {
        world.site.create_slot(&client, slot, draw.plugin).await;
        world.site.keep_slots(&client, &[slot]).await;
        // It was moved, and its place at the standby is known to nobody until there is a checkpoint.
        world.invoke(&json!({}), DEADLINE).await;
    } else {
        // Not one that waits for the standby: what it gives need not be visible.
        let (plugin, create) = (draw.plugin, "pg_create_logical_replication_slot");
        run(&client, &format!("select {create}('{slot}', '{plugin}')")).await;
    }
}

/// The backfill, the writers and all faults at once, until the backfill is finished.
async fn storm(world: &World, draw: &Draw, rows: u64) {
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for number in 0..draw.writers.len() as u64 {
        let writer = Writer::new(number, draw, rows, world.sent());
        writers.spawn(writer.write(Arc::clone(&world.site), Arc::clone(&over)));
    }
    let limit = Duration::from_secs(120 + rows / 1_000);
    let backfilled = async {
        let finished = world.backfill(draw, limit).await;
        over.store(true, Ordering::Relaxed);
        finished
    };
    let (finished, ..) = tokio::join!(
        backfilled,
        world.kill(&draw.kills, &over),
        world.befall_server(draw, &over),
        world.hang(draw, &over),
        world.consume_until(&over),
    );
    if !finished {
        let told = format!("the backfill is not finished after {} s", limit.as_secs());
        world.seen().broken.push(told);
    }
    writers.join_all().await;
}

/// Ticks until the slot is confirmed beyond all that was written.
///
/// # Errors
/// It did not come to that.
async fn empty(world: &World) -> Result<(), String> {
    let client: &Client = &connect(&world.site).await;
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
        let report = world.invoke(&json!({}), DEADLINE).await;
        if report.is_some_and(|report| report["stopped"] == "empty") {
            let confirmed = value(client, &slot).await;
            if lsn(&confirmed.into()) >= lsn(&end.clone().into()) {
                return Ok(());
            }
        }
        world.consume();
    }
    Err(format!("{MOST_TICKS} ticks did not empty the slot"))
}
