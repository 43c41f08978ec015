//! Workload of live changes: writers change several tables while every part fails. No change is lost.
//!
//! A second slot, which no function reads, makes PostgreSQL itself report what was committed.

mod schedule;
mod verdict;
mod writer;

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::consumer::event::Envelope;
use crate::postgres::query::execute;
use crate::random_play::database::DatabaseKind;
use crate::random_play::engine::{Engine, Workload};
use crate::random_play::environment::Environment;
use crate::random_play::result::{Counter, PlayResult, PlayVerdict};
use crate::random_play::settings::PlaySettings;
use crate::random_play::writer::TransactionSource;
use writer::{ChangeWriter, SCHEMA};

/// Slot of `test_decoding` that never moves.
///
/// It is created before the first change.
const EXPECTED_SLOT: &str = "expected";

/// Counters that the table of plays shows.
pub const COLUMNS: &[Counter] = &[
    Counter::Events,
    Counter::Invocations,
    Counter::Faults,
    Counter::Skipped,
    Counter::Replayed,
    Counter::Retried,
    Counter::Duplicates,
    Counter::Stores,
    Counter::Checks,
    Counter::Lost,
];

/// Runs the play of this seed.
///
/// # Panics
/// A part of the play itself cannot do its work.
pub async fn play(engine: &Engine, seed: u64) -> PlayResult {
    Box::pin(engine.play(&ChangesPlay::of_seed(seed))).await
}

/// Play of live changes.
struct ChangesPlay {
    settings: PlaySettings,
    form: Envelope,
}

impl ChangesPlay {
    fn of_seed(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let (database, database_name) = match random.bool() {
            true => (DatabaseKind::Single, "single"),
            false => (DatabaseKind::Cluster, "cluster"),
        };
        let plugins = match database {
            DatabaseKind::Single => ["pgoutput", "wal2json", "test_decoding"],
            DatabaseKind::Cluster => ["pgoutput", "pgoutput", "test_decoding"],
        };
        let plugin = plugins[random.usize(..3)];
        let (envelope, form) = match random.u8(..10) {
            0 => ("dms", Envelope::Dms),
            1 => ("wal2json", Envelope::Wal2json),
            _ => ("debezium", Envelope::Debezium),
        };
        let aggregation = ["none", "none", "kpl"][random.usize(..3)];
        // Aggregates are few, and so are their requests: each request needs more faults.
        let times = if aggregation == "kpl" { 15.0 } else { 4.0 };
        let (markers, markers_text) = match random.u8(..8) {
            0 => ("off", ", no markers"),
            _ => ("on", ""),
        };
        let name = format!("seed_{seed}");
        let settings = PlaySettings {
            database,
            sees_standby: random.bool(),
            variables: vec![
                ("ENVELOPE", envelope),
                ("AGGREGATION", aggregation),
                ("MARKERS", markers),
            ],
            faults: schedule::draw(&mut random, database),
            required: vec![
                &[Counter::Faults],
                &[Counter::Events],
                &[Counter::Stores],
                &[Counter::Checks],
            ],
            summary: format!("{database_name} {plugin} {envelope} {aggregation}{markers_text}"),
            ..PlaySettings::draw(name, seed, plugin, 1..9, times, &mut random)
        };
        Self { settings, form }
    }
}

impl Workload for ChangesPlay {
    const ENDS_WITH_FAULTS: bool = true;

    fn settings(&self) -> &PlaySettings {
        &self.settings
    }

    async fn prepare(&self, environment: &Environment, client: &Client) {
        execute(client, SCHEMA).await;
        let (database, slot) = (&environment.database, environment.slot.as_str());
        database.create_slot(client, EXPECTED_SLOT, "test_decoding").await;
        database.create_slot(client, slot, self.settings.plugin).await;
        if database.synchronise_slots(client, &[EXPECTED_SLOT, slot]).await {
            // The slots were advanced. A checkpoint has to exist before the first failover.
            environment.tick(Duration::from_secs(15)).await;
        }
    }

    fn writer(&self, number: u32, seed: u64, _: &Environment) -> Box<dyn TransactionSource> {
        Box::new(ChangeWriter::new(number, seed, self.form))
    }

    fn next_event(&self, _: &Environment, _: Option<&Value>) -> Option<Value> {
        Some(json!({}))
    }

    async fn verdict(&self, environment: &Environment, client: &Client) -> PlayVerdict {
        let checkpoints = environment.parameters.checkpoints();
        verdict::check_play(
            client,
            &self.settings,
            self.form,
            &environment.stream,
            &checkpoints,
        )
        .await
    }
}
