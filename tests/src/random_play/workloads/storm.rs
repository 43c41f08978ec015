//! Workload of a storm: one backlog, drained through a stream with every fault.
//!
//! Every event arrives, and the events of one key arrive in order. A first play on a stream without faults
//! records the expected events. Each play drains its own copy of the slot.

mod backlog;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tokio_postgres::Client;

use crate::postgres::query::execute;
use crate::postgres::sql_text::copy_slot_sql;
use crate::random_play::compact_consumer::{CompactConsumer, ConsumedTable, EventHashes};
use crate::random_play::database::{Database, DatabaseKind};
use crate::random_play::engine::{Engine, Workload};
use crate::random_play::environment::Environment;
use crate::random_play::result::{Counter, PlayResult, PlayVerdict};
use crate::random_play::settings::PlaySettings;
use crate::random_play::writer::TransactionSource;

/// Counters that the table of plays shows.
pub const COLUMNS: &[Counter] = &[
    Counter::Invocations,
    Counter::Requests,
    Counter::Tried,
    Counter::Put,
    Counter::Retried,
    Counter::Duplicates,
    Counter::Reshards,
    Counter::Dropped,
];

/// Database of the backlog, and `SOURCE_NAME` of all plays: an event contains its source.
const DATABASE: &str = "storm";
/// Slot before the backlog. No play drains it.
const TEMPLATE: &str = "template";
/// Events that are reported of one play.
const MAX_CASES: usize = 10;
/// Longer than a play takes.
const DEADLINE: Duration = Duration::from_secs(600);
/// `errorType`s that a later invocation repairs. The server has no faults, but a busy machine may exceed a
/// time limit.
const TOLERATED_ERRORS: [&str; 5] = [
    "StreamUnavailable",
    "CheckpointUnavailable",
    "Busy",
    "OutOfTime",
    "PeekTimeout",
];

/// Backlog of changes, and the events that it makes.
#[derive(Debug)]
pub struct Backlog {
    database: Arc<Database>,
    /// End of the log after the backlog, as PostgreSQL writes an LSN.
    end: String,
    /// Set by the play without faults.
    expected: OnceLock<EventHashes>,
}

impl Backlog {
    /// Writes `events` changes of `keys` keys, and drains them once.
    ///
    /// The drain uses a stream without faults. The second value is the time of that drain.
    ///
    /// # Panics
    /// The drain does not deliver exactly the changes that were written.
    pub async fn write(engine: &Engine, events: usize, keys: usize) -> (Arc<Self>, Duration) {
        let mut database = Database::start(DatabaseKind::Single, "max_wal_size = '8GB'\n").await;
        database.create(DATABASE, true).await;
        let end = backlog::write(&database.session().await, TEMPLATE, events, keys).await;
        let backlog = Arc::new(Self {
            database: Arc::new(database),
            end,
            expected: OnceLock::new(),
        });
        let result = Box::pin(engine.play(&StormPlay::new(Arc::clone(&backlog), None, "none"))).await;
        let failures = result.failures();
        assert!(failures.is_empty(), "the play without faults fails: {failures:?}");
        let expected = backlog.expected.get().map_or(0, EventHashes::len);
        assert_eq!(
            expected, events,
            "a stream without faults has every written change"
        );
        (backlog, result.duration)
    }
}

/// Runs the play of this seed with this `AGGREGATION`.
///
/// # Panics
/// A part of the play itself cannot do its work.
pub async fn play(
    engine: &Engine,
    backlog: Arc<Backlog>,
    seed: u64,
    aggregation: &'static str,
) -> PlayResult {
    Box::pin(engine.play(&StormPlay::new(backlog, Some(seed), aggregation))).await
}

/// Play of a storm.
struct StormPlay {
    settings: PlaySettings,
    backlog: Arc<Backlog>,
}

impl StormPlay {
    /// Play of a seed; without one, the play without faults.
    fn new(backlog: Arc<Backlog>, seed: Option<u64>, aggregation: &'static str) -> Self {
        let (name, times) = match (seed, aggregation) {
            (None, _) => ("quiet".to_owned(), 0.0),
            // Aggregates are few, and so are their requests: each request needs more faults.
            (Some(seed), "kpl") => (format!("seed_{seed}_kpl"), 15.0),
            (Some(seed), _) => (format!("seed_{seed}_{aggregation}"), 1.0),
        };
        let seed = seed.unwrap_or(0);
        let mut random = Rng::with_seed(seed);
        let settings = PlaySettings {
            variables: vec![("SOURCE_NAME", DATABASE), ("AGGREGATION", aggregation)],
            // The backlog exists already.
            writers: Vec::new(),
            drain_deadline: DEADLINE,
            drain_invocations: 50,
            tolerated_errors: &TOLERATED_ERRORS,
            required: vec![&[Counter::Put]],
            summary: aggregation.to_owned(),
            ..PlaySettings::draw(name, seed, "pgoutput", 4..17, times, &mut random)
        };
        Self { settings, backlog }
    }

    /// Compares the arrived events with those of the fault-free play.
    ///
    /// The events of the play without faults are stored as the expected ones.
    fn compare_events(&self, arrived: &EventHashes) -> Vec<String> {
        let Some(expected) = self.backlog.expected.get() else {
            let _ = self.backlog.expected.set(arrived.clone());
            return Vec::new();
        };
        let missing = expected
            .keys()
            .filter(|position| !arrived.contains_key(*position));
        let missing = missing.count();
        let different = arrived
            .iter()
            .filter(|(position, content)| expected.get(*position) != Some(*content));
        let different = different.take(MAX_CASES).map(|(position, _)| {
            let known = match expected.contains_key(position) {
                true => "is not the event of the play without faults",
                false => "was never written",
            };
            format!("{position:x?} {known}")
        });
        let missing = (missing > 0).then(|| format!("{missing} events have not arrived"));
        missing.into_iter().chain(different).collect()
    }
}

impl Workload for StormPlay {
    const ENDS_WITH_FAULTS: bool = true;

    fn settings(&self) -> &PlaySettings {
        &self.settings
    }

    fn shared_database(&self) -> Option<Arc<Database>> {
        Some(Arc::clone(&self.backlog.database))
    }

    async fn prepare(&self, environment: &Environment, client: &Client) {
        let slot = &environment.slot;
        execute(client, &copy_slot_sql(TEMPLATE, slot)).await;
    }

    fn writer(&self, _: u32, _: u64, _: &Environment) -> Box<dyn TransactionSource> {
        unreachable!("the backlog exists already, and the settings have no writers")
    }

    /// No invocation: the engine empties the slot after the phase of faults, and the stream keeps its faults.
    fn next_event(&self, _: &Environment, _: Option<&Value>) -> Option<Value> {
        None
    }

    async fn end_of_log(&self, _: &Client) -> String {
        self.backlog.end.clone()
    }

    async fn verdict(&self, environment: &Environment, client: &Client) -> PlayVerdict {
        let stream = &environment.stream;
        let mut consumer = CompactConsumer::new(ConsumedTable {
            name: "storm",
            key_columns: vec!["id"],
            columns: &["n", "note"],
            stable_columns: None,
        });
        // Parsing takes seconds. Meanwhile other plays need this thread for their endpoints.
        tokio::task::block_in_place(|| {
            stream.read(|range, key, data| consumer.take_record(range, key, data));
        });
        let violations = self.compare_events(consumer.events());
        let mut verdict = consumer.compare(client).await;
        verdict.violations.extend(violations);
        let put_log = stream.put_log();
        let shared = put_log.shared_keys.iter().take(3);
        verdict
            .violations
            .extend(shared.map(|key| format!("two unacknowledged records of one key: {key}")));
        let counts = stream.counts();
        for (counter, count) in [
            (Counter::Requests, counts.requests),
            (Counter::Tried, counts.tried),
            (Counter::Put, counts.put),
            (Counter::Reshards, counts.reshards),
        ] {
            verdict.counts.add(counter, count);
        }
        verdict
    }
}
