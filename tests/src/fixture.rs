//! Environment of one scenario.
//!
//! A fixture has a database with its slot, a stream, the parameter of the checkpoint, fault proxies for the
//! AWS emulators, and the function with its configuration. All names are unique. The fixture's drop deletes
//! them all.

mod builder;
mod plugin;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::fake_ssm::FakeSsm;
use crate::aws::fault_proxy::FaultProxy;
use crate::aws::kinesis::Kinesis;
use crate::consumer::Delivery;
use crate::consumer::oracle::{self, ComparedRows};
use crate::lambda::function::{Function, Outcome};
use crate::postgres::Postgres;
use crate::postgres::cluster::Cluster;
use crate::postgres::query;
use crate::postgres::sql_text::{copy_slot_sql, create_failover_slot_sql, create_slot_sql, drop_slot_sql};

pub use builder::FixtureBuilder;
pub use plugin::Plugin;

/// Default limit of an invocation or a wait.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Database, slot, stream, proxies and function of one scenario.
#[derive(Debug)]
pub struct Fixture {
    /// PostgreSQL: the shared server, one of this fixture, or the primary of its cluster.
    pub postgres: PostgresHost,
    /// The Kinesis emulator; the function uses it through [`Fixture::kinesis_proxy`].
    ///
    /// Unused when the fixture has a fake Kinesis.
    pub kinesis: ServerHandle<Kinesis>,
    fake_kinesis: Option<FakeKinesis>,
    /// The parameter store; the function uses it through [`Fixture::ssm_proxy`].
    pub ssm: FakeSsm,
    /// Fault proxy between the function and Kinesis.
    pub kinesis_proxy: FaultProxy,
    /// Fault proxy between the function and SSM.
    pub ssm_proxy: FaultProxy,
    /// The configured function; [`Function::set`] changes a variable.
    pub function: Function,
    /// Output plugin of the slot.
    pub plugin: Plugin,
    /// Name of the database.
    pub database: String,
    /// Name of the slot.
    pub slot: String,
    /// Name of the stream.
    pub stream: String,
    /// Name of the checkpoint's parameter.
    pub parameter: String,
    admin: tokio::sync::Mutex<Option<Client>>,
}

/// Server that all scenarios of the process share, or a fixture's own.
#[derive(Debug)]
pub enum ServerHandle<T: 'static> {
    /// Shared by all scenarios of the process.
    Shared(&'static T),
    /// Stops with its fixture.
    Owned(Box<T>),
}

impl<T> std::ops::Deref for ServerHandle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(server) => server,
            Self::Owned(server) => server,
        }
    }
}

/// PostgreSQL of a fixture.
#[derive(Debug)]
pub enum PostgresHost {
    /// A single server.
    Single(ServerHandle<Postgres>),
    /// A cluster; the primary has the database.
    Cluster(Box<Cluster>),
}

impl PostgresHost {
    /// A single server that stops with its fixture.
    pub fn owned(server: Postgres) -> Self {
        Self::Single(ServerHandle::Owned(Box::new(server)))
    }

    /// Variables with which a function connects to this database.
    pub fn environment(&self, database: &str) -> [(String, String); 6] {
        match self {
            Self::Single(server) => server.environment(database),
            Self::Cluster(cluster) => cluster.environment(database),
        }
    }
}

impl std::ops::Deref for PostgresHost {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        match self {
            Self::Single(server) => server,
            Self::Cluster(cluster) => cluster.primary(),
        }
    }
}

impl Fixture {
    /// A fixture on the shared servers.
    pub async fn new(plugin: Plugin) -> Self {
        Self::builder(plugin).build().await
    }

    /// Builder of a fixture, with the default settings.
    pub fn builder(plugin: Plugin) -> FixtureBuilder {
        FixtureBuilder::new(plugin)
    }

    /// The fake Kinesis of this fixture.
    ///
    /// # Panics
    /// The fixture is on the emulator.
    pub fn fake_kinesis(&self) -> &FakeKinesis {
        self.fake_kinesis
            .as_ref()
            .expect("this fixture has no fake Kinesis")
    }

    /// The cluster of this fixture.
    ///
    /// # Panics
    /// The fixture is on a single server.
    pub fn cluster(&self) -> &Cluster {
        match &self.postgres {
            PostgresHost::Cluster(cluster) => cluster,
            PostgresHost::Single(_) => panic!("this fixture has no cluster"),
        }
    }

    /// Creates the slot as the superuser.
    ///
    /// On a cluster with failover slots, it waits until the slot is synchronised.
    pub async fn create_slot(&self) {
        let (slot, plugin) = (&self.slot, self.plugin.name());
        let failover =
            matches!(&self.postgres, PostgresHost::Cluster(cluster) if cluster.has_failover_slots());
        let create = match failover {
            true => create_failover_slot_sql(slot, plugin),
            false => create_slot_sql(slot, plugin),
        };
        self.sql(&create).await;
        if failover {
            let advance = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())");
            self.cluster()
                .wait_until_synced(slot, || self.sql(&advance))
                .await;
        }
    }

    /// Copies the slot with its position to a new slot.
    pub async fn copy_slot(&self, copy: &str) {
        self.sql(&copy_slot_sql(&self.slot, copy)).await;
    }

    /// Drops the slot as the superuser.
    pub async fn drop_slot(&self) {
        self.sql(&drop_slot_sql(&self.slot)).await;
    }

    /// A new connection to the database, as the superuser.
    pub async fn connect(&self) -> Client {
        self.postgres.admin(&self.database).await
    }

    /// Executes SQL as the superuser; several statements are one transaction.
    pub async fn sql(&self, sql: &str) {
        let client = self.admin().await;
        let client = client.as_ref().expect("it was just connected");
        query::execute(client, sql).await;
    }

    /// First column of the first row as text.
    ///
    /// `None` for null or no row.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let client = self.admin().await;
        let client = client.as_ref().expect("it was just connected");
        let answer = client
            .simple_query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        })?
    }

    async fn admin(&self) -> tokio::sync::MutexGuard<'_, Option<Client>> {
        let mut admin = self.admin.lock().await;
        // The connection is lost when the server crashes.
        if admin.as_ref().is_none_or(Client::is_closed) {
            *admin = Some(self.connect().await);
        }
        admin
    }

    /// The answer to the action `status`.
    pub async fn status(&self) -> Value {
        self.invoke(json!({"action": "status"})).await.answer()
    }

    /// The problems in the answer to `status`: a list of texts.
    pub async fn problems(&self) -> Value {
        self.status().await["problems"].take()
    }

    /// Invokes the function with [`DEADLINE`], again while its answer is `busy`.
    ///
    /// A killed or late invocation may still have the lock. A tick waits half a second for it.
    pub async fn invoke(&self, event: Value) -> Outcome {
        let began = Instant::now();
        loop {
            match self.function.invoke(&event, DEADLINE).await {
                Outcome::Answer(report) if report["stopped"] == "busy" && began.elapsed() < DEADLINE => {}
                outcome => return outcome,
            }
        }
    }

    /// Answer of a tick that must succeed.
    pub async fn tick(&self) -> Value {
        self.invoke(json!({})).await.answer()
    }

    /// Answers of ticks, up to the first that finds the slot empty.
    pub async fn drain(&self) -> Vec<Value> {
        let mut reports = Vec::new();
        loop {
            reports.push(self.tick().await);
            if reports.last().is_some_and(|report| report["stopped"] == "empty") {
                return reports;
            }
            assert!(
                reports.len() < 100,
                "a hundred ticks did not empty the slot: {}",
                reports[99]
            );
        }
    }

    /// Ticks until the standby has the slot at its current position.
    ///
    /// After that, the slot survives a promotion.
    pub async fn wait_until_synced(&self) {
        let tick = || async { drop(self.tick().await) };
        self.cluster().wait_until_synced(&self.slot, tick).await;
    }

    /// `errorType` and `errorMessage` of a tick that must fail.
    pub async fn failing_tick(&self) -> (String, String) {
        self.invoke(json!({})).await.error()
    }

    /// Reads the stream from its beginning.
    ///
    /// # Panics
    /// The delivery breaks the promise, or a PutRecords exceeded a limit.
    pub async fn consume(&self) -> Delivery {
        let delivery = match &self.fake_kinesis {
            Some(fake_kinesis) => {
                fake_kinesis.assert_within_limits();
                Delivery::from_fake(fake_kinesis)
            }
            None => {
                self.kinesis_proxy.put_log().assert_within_limits();
                Delivery::read(&self.kinesis, &self.stream).await
            }
        };
        delivery.assert_promise();
        delivery
    }

    /// Compares whole tables with the rows that a consumer rebuilds.
    ///
    /// The consumer reads the stream. The tables were empty when the slot was created, or were backfilled.
    ///
    /// # Panics
    /// As [`Fixture::consume`]; or a row differs.
    pub async fn compare(&self, tables: &[&str]) -> Delivery {
        let delivery = self.consume().await;
        let rebuilt = delivery.rebuild();
        assert!(
            rebuilt.disagreements.is_empty(),
            "{}",
            rebuilt.disagreements.join("\n")
        );
        let client = self.connect().await;
        for table in tables {
            oracle::compare(&client, table, &rebuilt, ComparedRows::All)
                .await
                .assert_equal();
        }
        delivery
    }

    /// The stored checkpoint; `None` before the first.
    pub async fn checkpoint(&self) -> Option<Value> {
        let text = self.ssm.get(&self.parameter)?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// The stored state of the backfill; `None` when there is none.
    pub async fn backfill_state(&self) -> Option<Value> {
        let text = self.ssm.get(&format!("{}.backfill", self.parameter))?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// Stores a text as the backfill's state, without the fault proxy.
    pub async fn put_backfill(&self, text: &str) {
        self.ssm.put(&format!("{}.backfill", self.parameter), text);
    }

    /// Stores a checkpoint, without the fault proxy.
    pub async fn put_checkpoint(&self, checkpoint: &Value) {
        self.ssm.put(&self.parameter, &checkpoint.to_string());
    }

    /// `confirmed_flush_lsn` of the slot, in the notation of PostgreSQL.
    ///
    /// # Panics
    /// There is no slot.
    pub async fn confirmed_flush(&self) -> String {
        self.find_confirmed_flush()
            .await
            .unwrap_or_else(|| panic!("there is no slot {}", self.slot))
    }

    /// As [`Fixture::confirmed_flush`]; `None` when there is no slot.
    pub async fn find_confirmed_flush(&self) -> Option<String> {
        let slot = &self.slot;
        let sql = format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'");
        self.value(&sql).await
    }

    /// Bytes of WAL that the slot has not confirmed.
    pub async fn lag_bytes(&self) -> u64 {
        let sql = format!(
            "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '{}')",
            self.confirmed_flush().await
        );
        self.value(&sql)
            .await
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        crate::finish(async {
            self.function.kill9().await;
            drop(self.admin.lock().await.take());
            // Owned servers delete all their data when they stop.
            if let PostgresHost::Single(ServerHandle::Shared(postgres)) = self.postgres {
                postgres.drop_database(&self.database).await;
            }
            if let (ServerHandle::Shared(kinesis), None) = (&self.kinesis, &self.fake_kinesis) {
                kinesis.delete_stream(&self.stream).await;
            }
        });
    }
}
