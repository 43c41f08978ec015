//! One of the three databases, with its function, writer and ticks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scenarios::aws::kinesis::Kinesis;
use scenarios::aws::ssm::Ssm;
use scenarios::fixture::PostgresHost;
use scenarios::lambda::function::{Function, Outcome};
use scenarios::postgres::cluster::Cluster;
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER, query};
use scenarios::variables::owned;
use scenarios::wait;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::STREAM;
use crate::demo::backfill_progress::BackfillProgress;
use crate::demo::describe;

/// Time between two ticks; in service it is a minute.
const TICK: Duration = Duration::from_secs(2);
/// Deadline of an invocation.
const DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two transactions of a writer.
const WRITE_PAUSE: Duration = Duration::from_millis(8);
/// First rows of each table whose key is an order's number.
const ORDERS: u32 = 20_000;
/// Maximum number of ticks without sent changes after the last write.
///
/// A failed tick counts, too.
const MAX_TICKS: usize = 30;

/// Amount of work of a writer.
#[derive(Debug, Clone, Copy)]
pub(super) enum WriterLoad {
    /// Transactions of few rows, for this time.
    Time(Duration),
    /// Transactions until this number of rows is written.
    ///
    /// Transactions of few rows and of a thousand rows alternate.
    Rows(u64),
}

/// Properties in which the three databases differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct SourceKind {
    /// Name of database, schema, slot and source.
    pub(super) name: &'static str,
    /// Major version of PostgreSQL.
    pub(super) version: u32,
    /// Whether a standby can be promoted.
    pub(super) has_standby: bool,
    pub(super) plugin: &'static str,
    /// Tables, as in SQL.
    pub(super) tables: &'static [&'static str],
    /// Creates and fills the tables.
    create: &'static str,
    /// Transactions of the writer. `$new`, `$old` and `$cents` are random numbers.
    writes: &'static [&'static str],
    /// Transaction that updates up to a thousand rows.
    writes_many: &'static str,
}

pub(super) const KINDS: [SourceKind; 3] = [
    SourceKind {
        name: "shop",
        version: 15,
        has_standby: false,
        plugin: "wal2json",
        tables: &["shop.customers", "shop.orders"],
        create: include_str!("shop.sql"),
        writes: &[
            "insert into shop.orders values ($new, 1 + $old % 1000, $cents / 100.0, repeat('note ', $cents))
             on conflict (id) do update set amount = excluded.amount",
            "update shop.orders set amount = amount + 1 where id in ($old, $new)",
            "update shop.customers set name = 'customer $cents' where id = 1 + $old % 1000",
            "delete from shop.orders where id = $new",
        ],
        writes_many: "update shop.orders set amount = amount + 1 where id between $old and $old + 999",
    },
    SourceKind {
        name: "billing",
        version: 17,
        has_standby: true,
        plugin: "pgoutput",
        tables: &["billing.invoices"],
        create: include_str!("billing.sql"),
        writes: &[
            "insert into billing.invoices values ($new, $cents / 100.0, repeat('letter ', $cents))
             on conflict (order_id) do update set paid = excluded.paid",
            "update billing.invoices set paid = paid + 0.01 where order_id in ($old, $new)",
            // A key change of a row with a large value.
            "update billing.invoices set order_id = $new where order_id = 20 * ($old / 20)
             and not exists (select from billing.invoices where order_id = $new)",
            "delete from billing.invoices where order_id = $old",
        ],
        writes_many: "update billing.invoices set paid = paid + 0.01
            where order_id between $old and $old + 999",
    },
    SourceKind {
        name: "logistics",
        version: 18,
        has_standby: false,
        plugin: "pgoutput",
        tables: &["logistics.shipments"],
        create: include_str!("logistics.sql"),
        writes: &[
            "insert into logistics.shipments values ($new, 'air', false) on conflict (order_id) do nothing",
            "update logistics.shipments set delivered = not delivered where order_id in ($old, $new)",
            // The row moves to another partition.
            "update logistics.shipments set order_id = $new where order_id = $old
             and not exists (select from logistics.shipments where order_id = $new)",
            "delete from logistics.shipments where order_id = $old",
        ],
        writes_many: "update logistics.shipments set delivered = not delivered
            where order_id between $old and $old + 999",
    },
];

/// A database that is drained.
pub(super) struct SourceDatabase {
    pub(super) kind: SourceKind,
    pub(super) postgres: PostgresHost,
    pub(super) function: Function,
    pub(super) commits: AtomicU64,
    pub(super) rows_written: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) ticks: AtomicU64,
    pub(super) failed_ticks: AtomicU64,
    backfill: BackfillProgress,
}

impl SourceDatabase {
    /// Starts the servers, and creates database, tables, slot and function.
    pub(super) async fn start(kind: SourceKind, kinesis: &Kinesis, ssm: &Ssm) -> Self {
        let settings = PostgresSettings {
            // Only Debian's 15 has wal2json. No version means Debian's.
            version: (kind.plugin != "wal2json").then_some(kind.version),
            ..PostgresSettings::default()
        };
        let postgres = match kind.has_standby {
            true => PostgresHost::Cluster(Box::new(Cluster::start(settings).await)),
            false => PostgresHost::owned(Postgres::start(settings).await),
        };
        postgres.create_database(kind.name).await;
        let (schema, role) = (kind.name, REPLUSER.0);
        let grants = format!(
            "grant usage on schema {schema} to {role};
             grant select on all tables in schema {schema} to {role};
             grant pg_monitor to {role}"
        );
        let source = Self {
            function: Function::new(environment(kind, &postgres, kinesis, ssm)),
            kind,
            postgres,
            commits: AtomicU64::new(0),
            rows_written: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            failed_ticks: AtomicU64::new(0),
            backfill: BackfillProgress::default(),
        };
        source.sql(kind.create).await;
        source.sql(&grants).await;
        let setup = json!({"action": "setup", "plugin": kind.plugin});
        source.function.invoke(&setup, DEADLINE).await.answer();
        if let PostgresHost::Cluster(cluster) = &source.postgres {
            let tick = || async { drop(source.function.invoke(&json!({}), DEADLINE).await) };
            cluster.wait_until_synced(kind.name, tick).await;
        }
        source
    }

    async fn sql(&self, sql: &str) {
        query::execute(&self.postgres.admin(self.kind.name).await, sql).await;
    }

    /// Runs transactions until the load is done.
    ///
    /// A writer that loses its connection connects again.
    pub(super) async fn write(&self, seed: u64, load: WriterLoad) {
        let began = Instant::now();
        let is_over = || match load {
            WriterLoad::Time(time) => began.elapsed() >= time,
            WriterLoad::Rows(rows) => self.rows_written.load(Ordering::Relaxed) >= rows,
        };
        let mut random = fastrand::Rng::with_seed(seed);
        while !is_over() {
            let Ok(client) = self.postgres.try_admin(self.kind.name).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !is_over() {
                let few = self.kind.writes[random.usize(..self.kind.writes.len())];
                let many = matches!(load, WriterLoad::Rows(_)).then_some(self.kind.writes_many);
                let transactions = std::iter::once(few).chain(many);
                if !self.execute(&client, transactions, &mut random).await {
                    break;
                }
                tokio::time::sleep(WRITE_PAUSE).await;
            }
        }
    }

    /// Executes each transaction with random numbers; false if the connection is lost.
    async fn execute(
        &self,
        client: &Client,
        transactions: impl Iterator<Item = &'static str>,
        random: &mut fastrand::Rng,
    ) -> bool {
        for transaction in transactions {
            let sql = transaction
                .replace("$new", &random.u32(ORDERS + 1..ORDERS + 3_000).to_string())
                .replace("$old", &random.u32(1..=ORDERS).to_string())
                .replace("$cents", &random.u32(1..1_000).to_string());
            match client.execute(&sql, &[]).await {
                Ok(rows) => self.rows_written.fetch_add(rows, Ordering::Relaxed),
                Err(error) if is_lost(&error) => return false,
                Err(error) => panic!("{sql}: {error:?}"),
            };
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Ticks until `over`, then until everything is sent.
    ///
    /// The slot is empty then, and the backfill is finished.
    ///
    /// # Panics
    /// After the last write, [`MAX_TICKS`] ticks sent nothing, and changes or rows are left.
    pub(super) async fn tick_until_empty(&self, over: &AtomicBool, report: impl Fn(&str)) {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut left = MAX_TICKS;
        loop {
            let ends = over.load(Ordering::Relaxed);
            clock.tick().await;
            let answer = self.tick(&report).await;
            let sent = answer.as_ref().is_some_and(|answer| answer["changes"] != 0);
            let is_all_sent = answer.is_some_and(|answer| self.backfill.is_all_sent(&answer));
            if ends && is_all_sent {
                return;
            }
            left -= usize::from(ends && !sent);
            assert!(
                left > 0,
                "{}: {MAX_TICKS} ticks sent nothing, but the slot is not empty or the backfill not finished",
                self.kind.name
            );
        }
    }

    /// One tick: a drain, or the start of the backfill.
    async fn tick(&self, report: &impl Fn(&str)) -> Option<Value> {
        let number = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let start = self.backfill.start_event(number, self.kind.tables, 5_000);
        let is_start = start.is_some();
        let event = start.unwrap_or_else(|| json!({}));
        let outcome = self.function.invoke(&event, DEADLINE).await;
        if self.backfill.observe(&outcome, is_start) {
            report("its backfill is finished");
        }
        if let Outcome::Answer(answer) = outcome {
            let changes = answer["changes"].as_u64().unwrap_or(0);
            self.changes.fetch_add(changes, Ordering::Relaxed);
            return Some(answer);
        }
        self.failed_ticks.fetch_add(1, Ordering::Relaxed);
        let reason = match outcome {
            Outcome::Error { kind, .. } => kind,
            other => describe(&other),
        };
        report(&format!("tick {number} failed: {reason}"));
        None
    }

    /// Waits until the next tick begins.
    ///
    /// So a fault that follows occurs during a tick.
    pub(super) async fn wait_for_tick(&self) {
        let begun = self.ticks.load(Ordering::Relaxed);
        wait::until("a tick begins", DEADLINE + TICK, || async {
            self.ticks.load(Ordering::Relaxed) > begun
        })
        .await;
    }
}

/// Whether the server ended the session, or cannot be reached.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    // Class 57: the operator intervened, which includes a crash.
    error.code().is_none_or(|code| code.code().starts_with("57"))
}

fn environment(
    kind: SourceKind,
    postgres: &PostgresHost,
    kinesis: &Kinesis,
    ssm: &Ssm,
) -> Vec<(String, String)> {
    let variables = [
        ("DB_AUTH", "password"),
        ("SLOT_NAME", kind.name),
        ("SOURCE_NAME", kind.name),
        ("STREAM_NAME", STREAM),
        ("AGGREGATION", "kpl"),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    owned(variables).chain(postgres.environment(kind.name)).collect()
}
