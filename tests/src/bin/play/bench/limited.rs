//! The benchmark on a stream as it is in life: each request takes a while, and each shard has its limits.
//!
//! Four workloads write a backlog of `CHANGES` (60,000) changes: rows with a key, rows without one, both in
//! each transaction, and rows whose keys have a Zipf distribution. Each is drained without and with
//! aggregation, from a stream of `SHARDS` (16) shards that answers after `LATENCY` (10) ms. An invocation has
//! `DEADLINE` (60) seconds, and a drain has at most three. `WORKLOADS=keyed,hot` chooses some of them.
//!
//! The limit of the stream is 1,000 records and 1 MiB a second for each shard. A workload that spreads evenly
//! can reach it; the hottest key of the Zipf workload cannot.

use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::{Counts, FakeKinesis, FakeKinesisSettings};
use scenarios::aws::ssm::Ssm;
use scenarios::lambda::function::Function;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::{Postgres, PostgresSettings};
use serde_json::json;

use crate::seeds::number;

const DATABASE: &str = "limited";

/// Most invocations of a drain.
const INVOCATIONS: u32 = 3;

/// Name of a workload, its pgbench script, and the changes of a transaction.
const WORKLOADS: [(&str, &str, u64); 4] = [
    (
        "keyed",
        "\\set id random(1, 1000000)\nupdate keyed set n = n + 1 where id = :id;\n",
        1,
    ),
    ("keyless", "insert into keyless values (1, repeat('x', 40));\n", 1),
    (
        "mixed",
        "\\set id random(1, 1000000)\nbegin;\nupdate keyed set n = n + 1 where id = :id;\n\
         insert into keyless values (:id, repeat('x', 40));\ncommit;\n",
        2,
    ),
    (
        "hot",
        "\\set id random_zipfian(1, 100000, 1.05)\nupdate keyed set n = n + 1 where id = :id;\n",
        1,
    ),
];

pub(crate) fn main() {
    scenarios::block_on(Box::pin(run()));
}

async fn run() {
    let (changes, shards) = (number("CHANGES", 60_000), number("SHARDS", 16));
    let latency = Duration::from_millis(number("LATENCY", 10));
    println!(
        "{changes} changes for each workload, {shards} shards of 1,000 records and 1 MiB a second, {} ms a request\n",
        latency.as_millis()
    );
    println!(
        "{:8} {:4} {:>8} {:>11} {:>9} {:>7} {:>9} {:>9} {:>6}",
        "workload", "", "seconds", "changes/s", "of limit", "peeks", "sent/need", "refused", "done"
    );
    let postgres = Postgres::start(PostgresSettings {
        conf: "max_wal_size = '16GB'\n".to_owned(),
        ..PostgresSettings::default()
    })
    .await;
    let ssm = Ssm::shared().await;
    create_tables(&postgres).await;
    let chosen = std::env::var("WORKLOADS").unwrap_or_default();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.split(',').any(|it| it == name);
    for workload in WORKLOADS.into_iter().filter(|(name, ..)| is_chosen(name)) {
        for aggregation in ["none", "kpl"] {
            let settings = FakeKinesisSettings {
                shards: usize::try_from(shards).unwrap_or(16),
                throughput: true,
                latency,
                ..FakeKinesisSettings::default()
            };
            let drained = drain(&postgres, ssm, workload, changes, aggregation, settings).await;
            drained.print(workload.0, aggregation, shards);
        }
    }
    println!("\nThe fake Kinesis is in this process, on the same cores.");
}

async fn create_tables(postgres: &Postgres) {
    postgres.create_database(DATABASE).await;
    let admin = postgres.admin(DATABASE).await;
    for sql in [
        "create table keyed as select id, 0 as n, repeat('x', 84) as filler from generate_series(1, 1000000) id",
        "alter table keyed add primary key (id)",
        "create table keyless (n int, what text)",
        "vacuum analyze keyed",
        "create publication spillway for all tables",
    ] {
        let executed = admin.batch_execute(sql).await;
        executed.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// Result of a drain.
struct DrainOutcome {
    took: Duration,
    /// Changes in the stream, each counted once for each time it was sent.
    sent: u64,
    changes: u64,
    /// Bytes of all stored records.
    bytes: u64,
    peeks: u64,
    counts: Counts,
    is_done: bool,
}

impl DrainOutcome {
    fn print(&self, workload: &str, aggregation: &str, shards: u64) {
        let seconds = self.took.as_secs_f64();
        // The limit that is nearer: records or bytes.
        let by_records = self.counts.put as f64 / (1_000 * shards) as f64;
        let by_bytes = self.bytes as f64 / ((1 << 20) * shards) as f64;
        let refused = self.counts.tried - self.counts.put;
        println!(
            "{workload:8} {aggregation:4} {seconds:8.1} {:11.0} {:8.0}% {:7} {:9.3} {:8.1}% {:>6}",
            self.changes as f64 / seconds,
            by_records.max(by_bytes) / seconds * 100.0,
            self.peeks,
            self.sent as f64 / self.changes.max(1) as f64,
            refused as f64 / self.counts.tried.max(1) as f64 * 100.0,
            if self.is_done { "yes" } else { "no" },
        );
    }
}

/// Writes the backlog of a workload, and drains it.
async fn drain(
    postgres: &Postgres,
    ssm: &Ssm,
    (name, script, each): (&str, &str, u64),
    changes: u64,
    aggregation: &str,
    settings: FakeKinesisSettings,
) -> DrainOutcome {
    let slot = format!("{name}_{aggregation}");
    let admin = postgres.admin(DATABASE).await;
    let sql = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    admin.batch_execute(&sql).await.expect("a slot can be created");
    Pgbench::run_script(postgres, DATABASE, script, changes / each).await;
    let kinesis = FakeKinesis::open(&slot, settings).await;
    let environment = [
        ("SLOT_NAME", slot.as_str()),
        ("STREAM_NAME", &slot),
        ("AGGREGATION", aggregation),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let function = Function::new(postgres.environment(DATABASE).into_iter().chain(environment));
    let deadline = Duration::from_secs(number("DEADLINE", 60));
    let (mut peeks, mut sent, mut is_done, mut invocations) = (0, 0, false, 0);
    let began = Instant::now();
    while !is_done && invocations < INVOCATIONS {
        let answer = function.invoke(&json!({}), deadline).await.answer();
        peeks += answer["peeks"].as_u64().unwrap_or(0);
        sent += answer["events"].as_u64().unwrap_or(0);
        is_done = answer["stopped"] == "empty";
        invocations += 1;
    }
    let took = began.elapsed();
    let sql = format!("select pg_drop_replication_slot('{slot}')");
    admin.batch_execute(&sql).await.expect("a slot can be dropped");
    let (mut bytes, mut positions) = (0, std::collections::HashSet::new());
    for arrival in &scenarios::consumer::Delivery::from_fake(&kinesis).arrivals {
        positions.insert(arrival.position.clone());
    }
    kinesis.read(|_, key, data| bytes += (key.len() + data.len()) as u64);
    DrainOutcome {
        took,
        sent,
        changes: positions.len() as u64,
        bytes,
        peeks,
        counts: kinesis.counts(),
        is_done,
    }
}
