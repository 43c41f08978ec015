//! Load of pgbench: a consumer of each plugin rebuilds every changed row of PostgreSQL.
//!
//! `TRANSACTIONS` sets the number of transactions. `pgbench_history` has no key, so its rows spread over all
//! shards.

use std::time::{Duration, Instant};

use scenarios::consumer::Delivery;
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Function;
use scenarios::postgres::pgbench::{Pgbench, TABLES};
use scenarios::postgres::sql_text::create_slot_sql;
use scenarios::variables::number;
use serde_json::{Value, json};

crate::scenarios![every_row_of_pgbench_is_what_the_consumer_holds];

/// Default number of transactions.
const TRANSACTIONS: u64 = 4_000;
const CLIENTS: u64 = 4;

/// Slot and stream of one plugin. The three plugins share a database.
struct PluginPipeline {
    plugin: Plugin,
    stream: String,
    function: Function,
}

impl PluginPipeline {
    /// Pipeline of a plugin, with its own slot and stream.
    async fn create(fixture: &Fixture, plugin: Plugin) -> Self {
        let name = format!("{}_{}", fixture.slot, plugin.name());
        fixture.sql(&create_slot_sql(&name, plugin.name())).await;
        fixture.kinesis.create_stream(&name, 4).await;
        let mut function = fixture.function.second_instance();
        function.set("SLOT_NAME", &name).await;
        function.set("STREAM_NAME", &name).await;
        // The function bypasses the fault proxy, which would log each of these requests.
        function
            .set("AWS_ENDPOINT_URL_KINESIS", fixture.kinesis.endpoint())
            .await;
        Self {
            plugin,
            stream: name,
            function,
        }
    }

    /// Events of the stream, which is deleted afterwards.
    async fn read_and_delete(&self, fixture: &Fixture) -> Delivery {
        let delivery = Delivery::read(&fixture.kinesis, &self.stream).await;
        fixture.kinesis.delete_stream(&self.stream).await;
        fixture.ssm.delete(&format!("/spillway/{}", self.stream));
        delivery
    }
}

/// Compares the rows that a consumer rebuilds with those of PostgreSQL.
async fn assert_rows(fixture: &Fixture, plugin: &str, delivery: &Delivery) {
    let rebuilt = delivery.rebuild();
    assert!(
        rebuilt.disagreements.is_empty(),
        "{plugin}: {}",
        rebuilt.disagreements.join("\n")
    );
    let client = fixture.connect().await;
    for table in TABLES {
        // The other tables were filled before the slot was created.
        let rows = if table == "pgbench_history" {
            ComparedRows::All
        } else {
            ComparedRows::Changed
        };
        let compared = oracle::compare(&client, table, &rebuilt, rows).await;
        compared.assert_equal();
        assert!(compared.rows > 0, "{plugin}: no row of {table} was compared");
    }
}

/// Writes the transactions, and ticks once during the writes.
async fn write_and_tick(fixture: &Fixture, pipelines: &[PluginPipeline; 3], transactions: u64) {
    let each = (transactions / CLIENTS).to_string();
    let running = Pgbench::run(
        &fixture.postgres,
        &fixture.database,
        &["-c", &CLIENTS.to_string(), "-t", &each],
    );
    let (finished, _) = tokio::join!(running.finished(), tick_all(pipelines));
    finished.unwrap();
}

async fn every_row_of_pgbench_is_what_the_consumer_holds() {
    let transactions = number("TRANSACTIONS", TRANSACTIONS);
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    Pgbench::init(&fixture.postgres, &fixture.database, 1).await;
    fixture.sql("create publication spillway for all tables").await;
    let mut pipelines = Vec::new();
    for plugin in Plugin::ALL {
        pipelines.push(PluginPipeline::create(&fixture, plugin).await);
    }
    let pipelines: [PluginPipeline; 3] = pipelines.try_into().unwrap_or_else(|_| panic!("three plugins"));

    write_and_tick(&fixture, &pipelines, transactions).await;
    let start = Instant::now();
    while tick_all(&pipelines)
        .await
        .iter()
        .any(|report| report["stopped"] != "empty")
    {}
    println!(
        "{transactions} transactions, three plugins: drained {:.1} s after the last",
        start.elapsed().as_secs_f64()
    );

    for pipeline in pipelines {
        let delivery = pipeline.read_and_delete(&fixture).await;
        delivery.assert_promise();
        let plugin = pipeline.plugin.name();
        assert_eq!(
            delivery.counts()["public.pgbench_history"],
            transactions as usize,
            "{plugin}"
        );
        assert_eq!(delivery.changes().len(), 4 * transactions as usize, "{plugin}");
        assert_rows(&fixture, plugin, &delivery).await;
    }
}

/// One tick of each plugin, in parallel.
async fn tick_all(pipelines: &[PluginPipeline; 3]) -> [Value; 3] {
    let tick = async |pipeline: &PluginPipeline| {
        pipeline
            .function
            .invoke(&json!({}), Duration::from_secs(120))
            .await
            .answer()
    };
    let [one, two, three] = pipelines;
    tokio::join!(tick(one), tick(two), tick(three)).into()
}
