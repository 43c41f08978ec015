//! What a scenario needs, put together: a database and its slot, a stream, the parameter of the checkpoint, fault proxies in
//! front of AWS, and the function configured for all of them. Names are unique; everything is dropped at the end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::aws::fake_kinesis::{self, FakeKinesis};
use crate::aws::fault_proxy::FaultProxy;
use crate::aws::kinesis::Kinesis;
use crate::aws::ssm::Ssm;
use crate::consumer::Delivery;
use crate::consumer::oracle::{self, ComparedRows};
use crate::lambda::function::{Function, Outcome};
use crate::postgres::Postgres;
use crate::postgres::cluster::Cluster;

/// The output plugin of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// PostgreSQL's own, binary.
    Pgoutput,
    /// JSON.
    Wal2json,
    /// Text.
    TestDecoding,
}

impl Plugin {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Pgoutput, Self::Wal2json, Self::TestDecoding];

    /// As PostgreSQL calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pgoutput => "pgoutput",
            Self::Wal2json => "wal2json",
            Self::TestDecoding => "test_decoding",
        }
    }

    /// Plays a scenario with each of all, as [`Plugin::each_of`] does.
    pub async fn each<F: Future<Output = ()> + Send + 'static>(scenario: impl Fn(Self) -> F) {
        Self::each_of(&Self::ALL, scenario).await;
    }

    /// Plays a scenario with each of these, and says with which one it failed.
    pub async fn each_of<F>(plugins: &[Self], scenario: impl Fn(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let play = |plugin: &Self| (*plugin, tokio::spawn(scenario(*plugin)));
        let played: Vec<_> = plugins.iter().map(play).collect();
        for (plugin, played) in played {
            let Err(panic) = played.await.map_err(tokio::task::JoinError::into_panic) else {
                continue;
            };
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            panic!("with {}: {}", plugin.name(), said.unwrap_or_default());
        }
    }

    /// The plugin of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name() == name)
    }
}

/// As long as anything of a scenario may take, unless it says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A scenario's own world. It is dropped with all it holds.
#[derive(Debug)]
pub struct Fixture {
    /// The server: the shared one, this fixture's, or the one of a cluster that writes.
    pub postgres: PostgresHost,
    /// Kinesis, which the function reaches through [`Fixture::kinesis_proxy`], unless the fixture is on a fake Kinesis.
    pub kinesis: ServerHandle<Kinesis>,
    fake_kinesis: Option<FakeKinesis>,
    /// SSM, which the function reaches through [`Fixture::ssm_proxy`].
    pub ssm: &'static Ssm,
    /// Between the function and Kinesis.
    pub kinesis_proxy: FaultProxy,
    /// Between the function and SSM.
    pub ssm_proxy: FaultProxy,
    /// The function, configured; change it with [`Function::set`].
    pub function: Function,
    /// The plugin of the slot.
    pub plugin: Plugin,
    /// The database.
    pub database: String,
    /// The slot.
    pub slot: String,
    /// The stream.
    pub stream: String,
    /// The parameter that holds the checkpoint.
    pub parameter: String,
    admin: tokio::sync::Mutex<Option<Client>>,
}

/// Shared by the process, or owned by one fixture.
#[derive(Debug)]
pub enum ServerHandle<T: 'static> {
    /// By the process.
    Shared(&'static T),
    /// By one.
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

/// Where the database of a fixture is.
#[derive(Debug)]
pub enum PostgresHost {
    /// On one server.
    Single(ServerHandle<Postgres>),
    /// On the primary of a cluster.
    Cluster(Box<Cluster>),
}

impl PostgresHost {
    /// By which variables a function finds a database here.
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

/// How a fixture is put together.
#[derive(Debug)]
pub struct FixtureBuilder {
    plugin: Plugin,
    shards: i32,
    slot: bool,
    postgres: Option<PostgresHost>,
    version: Option<u32>,
    kinesis: Option<Kinesis>,
    fake_kinesis: Option<fake_kinesis::FakeKinesisSettings>,
    environment: Vec<(String, String)>,
}

impl FixtureBuilder {
    /// With so many shards, instead of two.
    pub fn shards(mut self, shards: i32) -> Self {
        self.shards = shards;
        self
    }

    /// Without publication and slot: the scenario makes them, or `setup` does.
    pub fn without_slot(mut self) -> Self {
        self.slot = false;
        self
    }

    /// On this server, which ends with the fixture.
    pub fn on_server(mut self, postgres: Postgres) -> Self {
        self.postgres = Some(PostgresHost::Single(ServerHandle::Owned(Box::new(postgres))));
        self
    }

    /// On this cluster, which ends with the fixture: the function connects to its endpoint, and the slot is a failover slot,
    /// synchronised, where the version has such.
    pub fn on_cluster(mut self, cluster: Cluster) -> Self {
        self.postgres = Some(PostgresHost::Cluster(Box::new(cluster)));
        self
    }

    /// On the shared server of this major version, instead of Debian's.
    pub fn version(mut self, version: impl Into<Option<u32>>) -> Self {
        self.version = version.into();
        self
    }

    /// With this Kinesis, which ends with the fixture.
    pub fn on_kinesis(mut self, kinesis: Kinesis) -> Self {
        self.kinesis = Some(kinesis);
        self
    }

    /// With a fake Kinesis in place of the stream on Kinesis; it brings its own shards.
    pub fn on_fake_kinesis(mut self, settings: fake_kinesis::FakeKinesisSettings) -> Self {
        self.fake_kinesis = Some(settings);
        self
    }

    /// With one more variable in the function's environment, or another value of one.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts it together. The publication `spillway` is for all tables.
    pub async fn build(self) -> Fixture {
        let postgres = match self.postgres {
            Some(host) => host,
            None => PostgresHost::Single(ServerHandle::Shared(Postgres::shared_of(self.version).await)),
        };
        let kinesis = match self.kinesis {
            Some(server) => ServerHandle::Owned(Box::new(server)),
            None => ServerHandle::Shared(Kinesis::shared().await),
        };
        let ssm = Ssm::shared().await;
        let name = crate::unique("fixture");
        let fake_kinesis = match self.fake_kinesis {
            Some(settings) => Some(FakeKinesis::open(&name, settings).await),
            None => None,
        };
        let kinesis_proxy = match &fake_kinesis {
            Some(fake_kinesis) => FaultProxy::open(fake_kinesis.endpoint()).await,
            None => FaultProxy::open_for_emulator(kinesis.endpoint(), Kinesis::MOST_BYTES).await,
        };
        let ssm_proxy = FaultProxy::open(ssm.endpoint()).await;
        let parameter = format!("/spillway/{name}");
        let text = |value: &str| value.to_owned();
        let environment = [
            ("DB_AUTH", text("password")),
            ("SLOT_NAME", name.clone()),
            ("STREAM_NAME", name.clone()),
            ("AWS_ENDPOINT_URL_KINESIS", text(kinesis_proxy.endpoint())),
            ("AWS_ENDPOINT_URL_SSM", text(ssm_proxy.endpoint())),
        ];
        let environment = environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let environment = postgres.environment(&name).into_iter().chain(environment);
        let function = Function::new(environment.chain(self.environment));
        let fixture = Fixture {
            postgres,
            kinesis,
            fake_kinesis,
            ssm,
            kinesis_proxy,
            ssm_proxy,
            function,
            plugin: self.plugin,
            database: name.clone(),
            slot: name.clone(),
            stream: name,
            parameter,
            admin: tokio::sync::Mutex::default(),
        };
        fixture.postgres.create_database(&fixture.database).await;
        if fixture.fake_kinesis.is_none() {
            fixture.kinesis.create_stream(&fixture.stream, self.shards).await;
        }
        if self.slot {
            fixture.sql("create publication spillway for all tables").await;
            fixture.create_slot().await;
        }
        fixture
    }
}

impl Fixture {
    /// On the shared servers.
    pub async fn new(plugin: Plugin) -> Self {
        Self::builder(plugin).build().await
    }

    /// To be changed before it is built.
    pub fn builder(plugin: Plugin) -> FixtureBuilder {
        FixtureBuilder {
            plugin,
            shards: 2,
            slot: true,
            postgres: None,
            version: None,
            kinesis: None,
            fake_kinesis: None,
            environment: Vec::new(),
        }
    }

    /// The double that it is on.
    ///
    /// # Panics
    /// It is on an emulator.
    pub fn fake_kinesis(&self) -> &FakeKinesis {
        self.fake_kinesis
            .as_ref()
            .expect("this fixture is not on a fake Kinesis")
    }

    /// The pair that it is on.
    ///
    /// # Panics
    /// It is on one server.
    pub fn cluster(&self) -> &Cluster {
        match &self.postgres {
            PostgresHost::Cluster(cluster) => cluster,
            PostgresHost::Single(_) => panic!("this fixture is not on a cluster"),
        }
    }

    /// Creates the slot, as the superuser.
    pub async fn create_slot(&self) {
        let (slot, plugin) = (&self.slot, self.plugin.name());
        let failover =
            matches!(&self.postgres, PostgresHost::Cluster(cluster) if cluster.has_failover_slots());
        let more = if failover { ", false, false, true" } else { "" };
        self.sql(&format!(
            "select pg_create_logical_replication_slot('{slot}', '{plugin}'{more})"
        ))
        .await;
        if failover {
            let advance = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())");
            self.cluster()
                .wait_until_synced(slot, || self.sql(&advance))
                .await;
        }
    }

    /// A connection of its own to the database, as the superuser.
    pub async fn connect(&self) -> Client {
        self.postgres.admin(&self.database).await
    }

    /// Runs SQL in the database as the superuser, several statements as one transaction.
    pub async fn sql(&self, sql: &str) {
        let client = self.admin().await;
        let client = client.as_ref().expect("it was just connected");
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The first column of the first row as text; `None` when it is null or there is no row.
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
        // A crash of the server ends the connection.
        if admin.as_ref().is_none_or(Client::is_closed) {
            *admin = Some(self.connect().await);
        }
        admin
    }

    /// Invokes the function, with [`DEADLINE`].
    pub async fn invoke(&self, event: Value) -> Outcome {
        self.function.invoke(&event, DEADLINE).await
    }

    /// A tick that has to succeed.
    pub async fn tick(&self) -> Value {
        self.invoke(json!({})).await.answer()
    }

    /// Ticks until one finds nothing more; their reports.
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

    /// Ticks until the slot stands on the standby of the cluster where it stands now, and would outlive a promotion.
    pub async fn wait_until_synced(&self) {
        let tick = || async { drop(self.tick().await) };
        self.cluster().wait_until_synced(&self.slot, tick).await;
    }

    /// A tick that has to fail: its `errorType` and `errorMessage`.
    pub async fn failing_tick(&self) -> (String, String) {
        self.invoke(json!({})).await.error()
    }

    /// Reads the stream from its beginning, and holds it to the promise and PutRecords to its limits.
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

    /// Compares whole tables, which were empty when the slot was made, with what a consumer rebuilds.
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

    /// The checkpoint, if one is stored.
    pub async fn checkpoint(&self) -> Option<Value> {
        let text = self.ssm.get(&self.parameter).await?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// The state of the backfill, if one is stored.
    pub async fn backfill_state(&self) -> Option<Value> {
        let text = self.ssm.get(&format!("{}.backfill", self.parameter)).await?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// Stores a text as the state of the backfill, past the fault proxy.
    pub async fn put_backfill(&self, text: &str) {
        self.ssm.put(&format!("{}.backfill", self.parameter), text).await;
    }

    /// Stores a checkpoint, past the fault proxy.
    pub async fn put_checkpoint(&self, checkpoint: &Value) {
        self.ssm.put(&self.parameter, &checkpoint.to_string()).await;
    }

    /// `confirmed_flush_lsn` of the slot, as PostgreSQL writes it.
    pub async fn confirmed_flush(&self) -> String {
        let slot = &self.slot;
        let sql = format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'");
        self.value(&sql)
            .await
            .unwrap_or_else(|| panic!("there is no slot {slot}"))
    }

    /// How many bytes of WAL the slot has not confirmed.
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
            // What is private goes as a whole.
            if let PostgresHost::Single(ServerHandle::Shared(postgres)) = self.postgres {
                postgres.drop_database(&self.database).await;
            }
            if let (ServerHandle::Shared(kinesis), None) = (&self.kinesis, &self.fake_kinesis) {
                kinesis.delete_stream(&self.stream).await;
            }
            self.ssm.delete(&self.parameter).await;
            self.ssm.delete(&format!("{}.backfill", self.parameter)).await;
        });
    }
}
