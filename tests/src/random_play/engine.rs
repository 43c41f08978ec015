//! Engine: runs the play of any workload, from an empty database to the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::database::Database;
use super::environment::Environment;
use super::result::{PlayResult, PlayVerdict};
use super::settings::{PlaySettings, millis};
use super::writer::{self, TransactionSource};
use crate::postgres::query;

/// Pause between two reads of the stream by the workload's consumer.
const CONSUME_PAUSE: Duration = Duration::from_millis(200);
/// Longest time in which the last invocations may empty the slot.
const DRAIN_LIMIT: Duration = Duration::from_secs(1_200);

/// Writers, expected state and verdict of one play.
pub(super) trait Workload: Send + Sync {
    /// Whether the end of the last fault ends the phase of faults.
    const ENDS_WITH_FAULTS: bool;

    /// Settings of the play.
    fn settings(&self) -> &PlaySettings;

    /// Database of all plays of the workload; `None` for a new one.
    fn shared_database(&self) -> Option<Arc<Database>> {
        None
    }

    /// Creates tables, publication and slot.
    fn prepare(&self, environment: &Environment, client: &Client) -> impl Future<Output = ()> + Send;

    /// Writer of this number and seed.
    fn writer(&self, number: u32, seed: u64, environment: &Environment) -> Box<dyn TransactionSource>;

    /// Event of the next invocation among faults.
    ///
    /// The invocation is that after `report`. `None` ends the phase of faults.
    fn next_event(&self, environment: &Environment, report: Option<&Value>) -> Option<Value>;

    /// Reads the records that arrived since the last call.
    fn consume(&self, _environment: &Environment) {}

    /// LSN that the slot has to confirm, as PostgreSQL writes it.
    ///
    /// It is the end of the log.
    fn end_of_log(&self, client: &Client) -> impl Future<Output = String> + Send {
        async {
            // The server waits for the disk at this commit, so everything before it is flushed, too.
            let create = "set synchronous_commit = on; create table the_end (id int primary key)";
            query::execute(client, create).await;
            query::value(client, "select pg_current_wal_flush_lsn()::text").await
        }
    }

    /// Compares the stream with PostgreSQL.
    fn verdict(&self, environment: &Environment, client: &Client)
    -> impl Future<Output = PlayVerdict> + Send;
}

/// Engine with the servers that its plays reuse: to start them takes longer than a small play.
#[derive(Debug, Default)]
pub struct Engine {
    idle: Mutex<Vec<Database>>,
}

impl Engine {
    /// Runs one play.
    ///
    /// # Panics
    /// A part of the play itself cannot do its work.
    pub(super) async fn play(&self, workload: &impl Workload) -> PlayResult {
        let settings = workload.settings();
        let shared = workload.shared_database();
        let database = match &shared {
            Some(database) => Arc::clone(database),
            None => Arc::new(self.new_database(settings).await),
        };
        let environment = Environment::start(database, settings).await;
        workload
            .prepare(&environment, &environment.database.session().await)
            .await;
        let began = Instant::now();
        play_with_faults(workload, &environment).await;
        environment.end_faults().await;
        empty_slot(workload, &environment).await;
        environment.stop().await;
        workload.consume(&environment);
        let verdict = workload
            .verdict(&environment, &environment.database.session().await)
            .await;
        let duration = began.elapsed();

        environment.result().violations.extend(verdict.violations);
        let has_violations = !environment.result().violations.is_empty();
        let logs = if has_violations {
            environment.logs()
        } else {
            Vec::new()
        };
        let (database, mut result) = environment.into_parts();
        result.logs = logs;
        result.duration = duration;
        result.counts.add_all(&verdict.counts);
        result.add_shortfalls(&settings.required);
        match shared {
            Some(shared) => shared.drop_slot(&settings.name).await,
            None => self.reuse(database, &result).await,
        }
        result
    }

    async fn new_database(&self, settings: &PlaySettings) -> Database {
        let idle = {
            let mut idle = self.idle();
            let fits = idle
                .iter()
                .position(|database| database.kind() == settings.database);
            fits.map(|index| idle.swap_remove(index))
        };
        let mut database = match idle {
            Some(database) => database,
            None => Database::start(settings.database, "").await,
        };
        database.create(&settings.name, settings.sees_standby).await;
        database
    }

    /// Keeps the servers for the next play. Servers of a play with a violation end here: they may be damaged.
    async fn reuse(&self, database: Arc<Database>, result: &PlayResult) {
        if let Some(mut database) = Arc::into_inner(database).filter(|_| result.violations.is_empty()) {
            database.clear().await;
            self.idle().push(database);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Database>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs writers, invocations and faults until the workload is over.
///
/// They run beside each other.
async fn play_with_faults(workload: &impl Workload, environment: &Environment) {
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for (seed, number) in workload.settings().writers.iter().zip(0..) {
        let source = workload.writer(number, *seed, environment);
        let database = Arc::clone(&environment.database);
        writers.spawn(writer::write(source, database, Arc::clone(&over)));
    }
    tokio::join!(
        inject_faults(workload, environment, &over),
        invoke_until_over(workload, environment, &over),
        consume_until_over(workload, environment, &over),
        environment.check_slot_until(&over),
    );
    writers.join_all().await;
}

async fn inject_faults<W: Workload>(workload: &W, environment: &Environment, over: &AtomicBool) {
    environment.inject_all(&workload.settings().faults, over).await;
    if W::ENDS_WITH_FAULTS {
        over.store(true, Ordering::Relaxed);
    }
}

async fn invoke_until_over(workload: &impl Workload, environment: &Environment, over: &AtomicBool) {
    let settings = workload.settings();
    let (mut random, began) = (settings.random.clone(), Instant::now());
    let mut report = None;
    while !over.load(Ordering::Relaxed)
        && let Some(event) = workload.next_event(environment, report.as_ref())
    {
        if began.elapsed() > settings.time_limit {
            let limit = settings.time_limit.as_secs();
            environment.add_violation(format!("the workload is not finished after {limit} s"));
            break;
        }
        let deadline = millis(&mut random, settings.deadlines.clone());
        report = environment.invoke(&event, deadline).await;
        tokio::time::sleep(millis(&mut random, settings.pauses.clone())).await;
    }
    over.store(true, Ordering::Relaxed);
}

async fn consume_until_over(workload: &impl Workload, environment: &Environment, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        workload.consume(environment);
        tokio::time::sleep(CONSUME_PAUSE).await;
    }
}

/// Invokes the function until the slot has confirmed everything that was written.
async fn empty_slot(workload: &impl Workload, environment: &Environment) {
    let (settings, began) = (workload.settings(), Instant::now());
    let client = environment.database.session().await;
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{}' from pg_replication_slots where slot_name = '{}'",
        workload.end_of_log(&client).await,
        environment.slot
    );
    let mut invocations = 0;
    while invocations < settings.drain_invocations && began.elapsed() < DRAIN_LIMIT {
        invocations += 1;
        let report = environment.tick(settings.drain_deadline).await;
        workload.consume(environment);
        if report.is_some_and(|report| report["stopped"] == "empty")
            && query::value(&client, &confirmed).await
        {
            return;
        }
    }
    environment.add_violation(format!("{invocations} invocations did not empty the slot"));
}

/// Runs plays, and passes each result to `done`.
///
/// At most `parallel` plays run at a time. A result is passed as soon as its play ends. A play that panics
/// has a violation that names the panic.
pub async fn play_all<T, F>(
    plays: impl IntoIterator<Item = (T, F)>,
    parallel: u64,
    mut done: impl FnMut(T, PlayResult),
) where
    T: Send + 'static,
    F: Future<Output = PlayResult> + Send + 'static,
{
    let (mut waiting, mut running) = (plays.into_iter(), JoinSet::new());
    loop {
        while (running.len() as u64) < parallel.max(1)
            && let Some((name, play)) = waiting.next()
        {
            let play = tokio::spawn(play);
            running.spawn(async move { (name, play.await) });
        }
        let Some(ended) = running.join_next().await else {
            return;
        };
        let (name, result) = ended.expect("the task only waits for its play");
        done(
            name,
            result.unwrap_or_else(|panic| PlayResult::of_panic(&panic.to_string())),
        );
    }
}
