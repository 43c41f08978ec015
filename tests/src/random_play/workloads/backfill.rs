//! Workload of a backfill: writers change the rows that it reads, and the function and its server fail.
//!
//! The table is filled before the slot exists, so only a backfill can send its rows. At the end, a consumer
//! has every row that PostgreSQL has.

mod key_type;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::aws::fault_proxy::FaultSide;
use crate::postgres::REPLUSER;
use crate::postgres::query::execute;
use crate::postgres::sql_text::create_slot_sql;
use crate::postgres::tcp_proxy::{ConnectionFault, Direction};
use crate::random_play::compact_consumer::{CompactConsumer, ConsumedTable};
use crate::random_play::database::DatabaseKind;
use crate::random_play::engine::{Engine, Workload};
use crate::random_play::environment::Environment;
use crate::random_play::faults::{FaultStart, KillPoint, PlayFault, ScheduledFault};
use crate::random_play::result::{Counter, PlayResult, PlayVerdict};
use crate::random_play::settings::{PlaySettings, millis};
use crate::random_play::writer::TransactionSource;
use key_type::KEY_TYPES;
use writer::{RowWriter, WrittenTable};

/// Counters that the table of plays shows.
pub const COLUMNS: &[Counter] = &[
    Counter::Rows,
    Counter::Reads,
    Counter::Overtaken,
    Counter::Invocations,
    Counter::Kills,
    Counter::Failovers,
    Counter::Crashes,
    Counter::StandbyFaults,
    Counter::Duplicates,
    Counter::LagBytes,
    Counter::PeakMemoryBytes,
    Counter::Differences,
];

/// Runs the play of this seed with a table of `rows` rows.
///
/// # Panics
/// A part of the play itself cannot do its work.
pub async fn play(engine: &Engine, seed: u64, rows: u64) -> PlayResult {
    Box::pin(engine.play(&BackfillPlay::of_seed(seed, rows))).await
}

/// Play of a backfill.
struct BackfillPlay {
    settings: PlaySettings,
    table: WrittenTable,
    /// Whether the server fails over; otherwise it crashes and restarts.
    fails_over: bool,
    consumer: Mutex<CompactConsumer>,
}

impl BackfillPlay {
    fn of_seed(seed: u64, rows: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let key_type = KEY_TYPES[(seed % KEY_TYPES.len() as u64) as usize];
        let plugin = ["pgoutput", "pgoutput", "wal2json", "test_decoding"][random.usize(..4)];
        let aggregation = ["none", "kpl", "kpl", "kpl", "kpl"][random.usize(..5)];
        let chunk_rows = (rows / random.u64(10..100)).clamp(50, 50_000);
        // Even seeds fail over. In every second odd seed, commits hang.
        let fails_over = seed.is_multiple_of(2);
        let stalls = if seed % 4 == 3 { random.usize(2..6) } else { 0 };
        let commit_stalls: Vec<Duration> = (0..stalls).map(|_| millis(&mut random, 500..4_000)).collect();
        // While commits hang, a function with markers waits for the commit of its marker. Without markers, it
        // does not wait.
        let markers = if seed % 8 == 7 { "off" } else { "on" };
        // While commits hang, the function must send changes that are not visible yet. So it must not wait
        // for the standby.
        let (standby_ack, hangs) = match commit_stalls.is_empty() {
            true => ("auto", String::new()),
            false => ("off", format!(", commits hang, markers {markers}")),
        };
        let (name, key_name) = (format!("backfill_{seed}"), key_type.name);
        let settings = PlaySettings {
            database: DatabaseKind::Cluster,
            variables: vec![
                ("AGGREGATION", aggregation),
                ("STANDBY_ACK", standby_ack),
                ("MARKERS", markers),
            ],
            faults: [
                kills(&mut random, rows),
                vec![server_fault(&mut random, rows, fails_over)],
                standby_faults(&commit_stalls, rows),
                Vec::new(),
            ],
            deadlines: 4_000..12_000,
            pauses: 5..100,
            time_limit: Duration::from_secs(120 + rows / 1_000),
            drain_deadline: Duration::from_secs(30),
            required: required(!commit_stalls.is_empty()),
            summary: format!("{key_name} {plugin} {aggregation} chunks of {chunk_rows}{hangs}"),
            ..PlaySettings::draw(name, seed, plugin, 1..9, 1.0, &mut random)
        };
        let consumed = ConsumedTable {
            name: "t",
            key_columns: key_type.columns(),
            columns: &["n", "small", "body"],
            // `body` may be large.
            stable_columns: Some(2),
        };
        Self {
            settings,
            table: WrittenTable {
                key_type,
                rows,
                chunk_rows,
            },
            fails_over,
            consumer: Mutex::new(CompactConsumer::new(consumed)),
        }
    }

    fn consumer(&self) -> MutexGuard<'_, CompactConsumer> {
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters that must not be 0.
///
/// If commits hang, there is one more.
fn required(commits_hang: bool) -> Vec<&'static [Counter]> {
    let mut required: Vec<&'static [Counter]> = vec![
        &[Counter::Kills],
        &[Counter::Failovers, Counter::Crashes],
        &[Counter::Reads],
        &[Counter::Overtaken],
    ];
    if commits_hang {
        required.push(&[Counter::StandbyFaults]);
    }
    required
}

/// Kills of the function: more for a larger table.
fn kills(random: &mut Rng, rows: u64) -> Vec<ScheduledFault> {
    let longest_pause = (rows / 400).clamp(700, 5_000);
    let kills = random.u64(3..=3 + rows / 100_000);
    let kill = |_| {
        let side = [FaultSide::Request, FaultSide::Answer][random.usize(..2)];
        let point = match random.u8(..4) {
            0 | 1 => KillPoint::Now,
            2 => KillPoint::Put(side),
            _ => KillPoint::Store(side),
        };
        ScheduledFault {
            start: FaultStart::After(millis(random, 150..longest_pause)),
            fault: PlayFault::Kill(point),
            lasts: Duration::ZERO,
        }
    };
    (0..kills).map(kill).collect()
}

/// Failover or crash of the server in the middle of the backfill.
///
/// The fault starts when a quarter to three quarters of the table are read.
fn server_fault(random: &mut Rng, rows: u64, fails_over: bool) -> ScheduledFault {
    let (share, down) = (0.25 + random.f64() / 2.0, millis(random, 50..1_500));
    ScheduledFault {
        start: FaultStart::RowsRead((rows as f64 * share) as u64),
        fault: match fails_over {
            true => PlayFault::Failover(down),
            false => PlayFault::ServerCrash(down),
        },
        lasts: Duration::ZERO,
    }
}

/// Stalls of the standby's acknowledgements, spread evenly over the table: committed rows are not visible
/// meanwhile.
fn standby_faults(stalls: &[Duration], rows: u64) -> Vec<ScheduledFault> {
    let fault = |(index, time): (usize, &Duration)| ScheduledFault {
        start: FaultStart::RowsRead(rows * index as u64 / stalls.len() as u64),
        fault: PlayFault::StandbyNetwork(ConnectionFault::Stall(Direction::ToServer, *time)),
        lasts: Duration::ZERO,
    };
    stalls.iter().enumerate().map(fault).collect()
}

impl Workload for BackfillPlay {
    const ENDS_WITH_FAULTS: bool = false;

    fn settings(&self) -> &PlaySettings {
        &self.settings
    }

    async fn prepare(&self, environment: &Environment, client: &Client) {
        execute(client, &self.table.fill(REPLUSER.0)).await;
        execute(client, "analyze t").await;
        let (database, slot, plugin) = (&environment.database, &environment.slot, self.settings.plugin);
        if self.fails_over {
            database.create_slot(client, slot, plugin).await;
            database.synchronise_slots(client, &[slot]).await;
            // The slot was advanced. A checkpoint has to exist before the failover.
            environment.tick(self.settings.drain_deadline).await;
        } else {
            // A failover slot would wait for the standby, and decode nothing that is not visible yet.
            execute(client, &create_slot_sql(slot, plugin)).await;
        }
    }

    fn writer(&self, number: u32, seed: u64, environment: &Environment) -> Box<dyn TransactionSource> {
        let rows_read = environment.parameters.rows_read_counter();
        Box::new(RowWriter::new(number, seed, self.table, rows_read))
    }

    fn next_event(&self, environment: &Environment, report: Option<&Value>) -> Option<Value> {
        // The stored state decides, not the report: an answer may be lost, and a killed invocation may have
        // started the backfill.
        let state = environment.parameters.backfill();
        if report.is_some_and(|report| report["backfill"]["state"] == "failed") {
            environment.add_violation(format!("the backfill failed: {state:?}"));
            return None;
        }
        let start = json!({
            "action": "backfill", "wait": true, "tables": ["public.t"], "chunk_rows": self.table.chunk_rows,
        });
        match state {
            None => Some(start),
            Some(state) if state["finished_at"].is_null() => Some(json!({})),
            Some(_) => None,
        }
    }

    fn consume(&self, environment: &Environment) {
        tokio::task::block_in_place(|| {
            let mut consumer = self.consumer();
            environment
                .stream
                .take(|range, key, data| consumer.take_record(range, key, data));
        });
    }

    async fn verdict(&self, _: &Environment, client: &Client) -> PlayVerdict {
        let consumer = self.consumer().take();
        consumer.compare(client).await
    }
}
