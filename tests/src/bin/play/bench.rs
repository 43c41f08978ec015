//! The benchmark: Spillway and PostgreSQL's own programs read the same backlog in one run.
//!
//! Times on a shared machine are noisy. So the ratio to `pg_recvlogical` counts, which streams the same
//! changes into /dev/null.
//!
//! A second table has the costs of a change in the stream: records, bytes and put units, without and with
//! aggregation. The baseline is one PutRecord for each message of wal2json.
//!
//! The last table is a backfill of `ROWS` (500,000) rows. The baseline is psql, which copies them into
//! /dev/null.
//!
//! `TRANSACTIONS` (200,000) is the size of the backlog: updates of one row each, spread over a million keys.

use std::process::Stdio;
use std::time::{Duration, Instant};

use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::aws::ssm::Ssm;
use scenarios::fixture::Plugin;
use scenarios::lambda::function::Function;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::{ADMIN, Postgres, PostgresSettings, REPLUSER};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::seeds::number;

const DATABASE: &str = "bench";

/// Slot (also stream) and plugin of each drain. The first one aggregates.
const RUNS: [(&str, Plugin); 4] = [
    ("pgoutput_kpl", Plugin::Pgoutput),
    ("pgoutput", Plugin::Pgoutput),
    ("wal2json", Plugin::Wal2json),
    ("test_decoding", Plugin::TestDecoding),
];

/// Label of the baseline of costs.
const SINGLE: &str = "a PutRecord for each message";

/// Table of the backfill.
const FILLED: &str = "filled_accounts";

const SCRIPT: &str =
    "\\set aid random(1, 1000000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n";

pub(crate) fn main() {
    let (transactions, rows) = (number("TRANSACTIONS", 200_000), number("ROWS", 500_000));
    scenarios::block_on(Box::pin(run(transactions, rows)));
}

async fn run(transactions: u64, rows: u64) {
    println!(
        "one backlog of {transactions} transactions, each reader in turn, with pgoutput unless it is named\n"
    );
    let postgres = Postgres::start(PostgresSettings {
        conf: "max_wal_size = '16GB'\n".to_owned(),
        ..PostgresSettings::default()
    })
    .await;
    let admin = create_backlog(&postgres, transactions, rows).await;
    let sql = "select pg_current_wal_flush_lsn()::text as lsn";
    let row = admin.query_one(sql, &[]).await.expect("the server answers");
    let end: String = row.get("lsn");

    let streamed = stream(&postgres, &end).await;
    line("pg_recvlogical > /dev/null", streamed, streamed, transactions, "");
    let peeked = peek(&postgres).await;
    line("psql: one peek > /dev/null", peeked, streamed, transactions, "");
    let kinesis = Kinesis::start(Limits::Off).await;
    let ssm = Ssm::shared().await;
    // The first store takes the emulator more than a second.
    ssm.put("/warm", "up").await;
    ssm.delete("/warm").await;
    let single = put_one_by_one(&admin, &kinesis).await;
    let mut costs = vec![(SINGLE, single.cost)];
    costs.extend(drains(&postgres, &kinesis, ssm, transactions, streamed).await);
    let seconds = single.took.as_secs_f64();
    let messages = single.put as f64 / seconds / 1000.0;
    println!(
        "{SINGLE:28} {seconds:7.2} s {messages:7.1} k changes/s           one after the other, the first {}",
        single.put
    );
    print_costs(&costs, transactions);
    backfills(&postgres, &admin, &kinesis, ssm, rows).await;
    println!("\nKinesis is an emulator in this process, on the same cores. Its limits are off.");
}

/// Creates tables, publication and slots, and then the backlog; returns a connection of the superuser.
async fn create_backlog(postgres: &Postgres, transactions: u64, rows: u64) -> tokio_postgres::Client {
    postgres.create_database(DATABASE).await;
    Pgbench::init(postgres, DATABASE, 10).await;
    let admin = postgres.admin(DATABASE).await;
    let role = REPLUSER.0;
    // The tables come before the slots, which would have to decode them.
    let statements = [
        format!("create table {FILLED} as select * from pgbench_accounts where aid <= {rows}"),
        format!("alter table {FILLED} add primary key (aid)"),
        format!("vacuum analyze {FILLED}"),
        format!("grant select on {FILLED} to {role}"),
        "create publication spillway for all tables".to_owned(),
    ];
    let slots = RUNS.map(|(slot, plugin)| (slot, plugin.name()));
    let slots = slots
        .into_iter()
        .chain([("stream", "pgoutput"), ("peek", "pgoutput")]);
    let slots = slots
        .map(|(slot, plugin)| format!("select pg_create_logical_replication_slot('{slot}', '{plugin}')"));
    for sql in statements.into_iter().chain(slots) {
        let executed = admin.batch_execute(&sql).await;
        executed.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    Pgbench::run_script(postgres, DATABASE, SCRIPT, transactions).await;
    admin
}

/// Drains the backlog once for each of [`RUNS`], and prints a line for each; returns the costs of those with
/// pgoutput.
async fn drains(
    postgres: &Postgres,
    kinesis: &Kinesis,
    ssm: &Ssm,
    transactions: u64,
    streamed: Duration,
) -> Vec<(&'static str, Cost)> {
    let mut costs = Vec::new();
    for (slot, plugin) in RUNS {
        kinesis.create_stream(slot, 16).await;
        let began = Instant::now();
        let report = invoke(postgres, kinesis, ssm, slot, &json!({})).await;
        let took = began.elapsed();
        assert_eq!(report["stopped"], "empty", "{report}");
        assert_eq!(report["changes"], transactions, "{report}");
        let more = format!(
            "{} peeks, {} requests, {} MB to Kinesis",
            report["peeks"],
            report["requests"],
            megabytes(&report["bytes"])
        );
        line(&format!("spillway, {slot}"), took, streamed, transactions, &more);
        if plugin == Plugin::Pgoutput {
            costs.push((slot, Cost::of_stream(kinesis, slot).await));
        }
        kinesis.delete_stream(slot).await;
    }
    costs
}

fn print_costs(costs: &[(&str, Cost)], transactions: u64) {
    println!(
        "\n{:28} {:>9} {:>9} {:>11}",
        "per change", "records", "bytes", "put units"
    );
    for (what, cost) in costs {
        let per = |amount: u64| amount as f64 / transactions as f64;
        println!(
            "{what:28} {:9.4} {:9.1} {:11.4}",
            per(cost.records),
            per(cost.bytes),
            per(cost.put_units)
        );
    }
}

/// Costs in a stream.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    records: u64,
    /// Bytes of data and partition keys.
    bytes: u64,
    /// Units of 25 KiB, by which Kinesis charges each record.
    put_units: u64,
}

impl Cost {
    fn add(&mut self, partition_key: &str, data: &[u8]) {
        let bytes = (partition_key.len() + data.len()) as u64;
        self.records += 1;
        self.bytes += bytes;
        self.put_units += bytes.div_ceil(25 << 10);
    }

    /// Costs of all records in a stream.
    async fn of_stream(kinesis: &Kinesis, stream: &str) -> Self {
        let mut cost = Self::default();
        for shard in kinesis.shards(stream).await {
            kinesis
                .read_shard(stream, shard.shard_id(), |key, data| cost.add(key, data))
                .await;
        }
        cost
    }
}

/// Result of sending single messages, as the script does that Spillway replaces.
struct SinglePuts {
    cost: Cost,
    /// Number of messages that were sent.
    put: usize,
    /// Time for sending them.
    took: Duration,
}

/// Computes the cost of one PutRecord for each message of wal2json, all with one key, and sends the first
/// 5,000.
async fn put_one_by_one(admin: &tokio_postgres::Client, kinesis: &Kinesis) -> SinglePuts {
    const KEY: &str = "default";
    let sql = "select data from pg_logical_slot_peek_changes(
                   'wal2json', null, null, 'format-version', '2', 'include-transaction', 'false')";
    let rows = admin.query(sql, &[]).await.expect("the slot can be peeked");
    let messages: Vec<&str> = rows.iter().map(|row| row.get("data")).collect();
    let mut cost = Cost::default();
    messages
        .iter()
        .for_each(|message| cost.add(KEY, message.as_bytes()));
    kinesis.create_stream(KEY, 16).await;
    let (began, put) = (Instant::now(), messages.len().min(5_000));
    for message in &messages[..put] {
        kinesis.put(KEY, KEY, message.as_bytes()).await;
    }
    let took = began.elapsed();
    kinesis.delete_stream(KEY).await;
    SinglePuts { cost, put, took }
}

/// Backfills a table with and without aggregation, and copies it with psql.
async fn backfills(
    postgres: &Postgres,
    admin: &tokio_postgres::Client,
    kinesis: &Kinesis,
    ssm: &Ssm,
    rows: u64,
) {
    println!("\na table of {rows} rows");
    let line = |what: &str, took: Duration, copied: Duration, more: &str| {
        let rate = rows as f64 / took.as_secs_f64() / 1000.0;
        let ratio = took.as_secs_f64() / copied.as_secs_f64();
        println!(
            "{what:28} {:7.2} s {rate:7.1} k rows/s    {ratio:6.2} x  {more}",
            took.as_secs_f64()
        );
    };
    let copied = copy(postgres).await;
    line("psql: copy > /dev/null", copied, copied, "");
    for slot in ["backfill_kpl", "backfill"] {
        let sql = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        admin.batch_execute(&sql).await.expect("a slot can be created");
        kinesis.create_stream(slot, 16).await;
        let event = json!({"action": "backfill", "tables": [format!("public.{FILLED}")]});
        let began = Instant::now();
        let report = invoke(postgres, kinesis, ssm, slot, &event).await;
        let took = began.elapsed();
        let backfill = &report["backfill"];
        assert_eq!(
            (&backfill["state"], &backfill["rows"]),
            (&json!("finished"), &json!(rows)),
            "{report}"
        );
        let more = format!(
            "{} chunks, {} requests, {} MB to Kinesis",
            backfill["chunks"],
            report["requests"],
            megabytes(&report["bytes"])
        );
        line(&format!("spillway, {slot}"), took, copied, &more);
        kinesis.delete_stream(slot).await;
    }
}

async fn copy(postgres: &Postgres) -> Duration {
    let mut command = program(postgres, "psql");
    command
        .args(["-qAt", "-c"])
        .arg(format!("copy (select * from {FILLED}) to stdout"));
    timed(command).await
}

fn megabytes(bytes: &Value) -> u64 {
    bytes.as_u64().unwrap_or(0) / 1_000_000
}

fn line(what: &str, took: Duration, streamed: Duration, transactions: u64, more: &str) {
    let rate = transactions as f64 / took.as_secs_f64() / 1000.0;
    let ratio = took.as_secs_f64() / streamed.as_secs_f64();
    println!(
        "{what:28} {:7.2} s {rate:7.1} k changes/s {ratio:6.2} x  {more}",
        took.as_secs_f64()
    );
}

fn program(postgres: &Postgres, name: &str) -> Command {
    let mut command = Command::new(postgres.client_programs().join(name));
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &postgres.port().to_string(),
        "-U",
        ADMIN.0,
        "-d",
        DATABASE,
    ]);
    command
        .env("PGPASSWORD", ADMIN.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn stream(postgres: &Postgres, end: &str) -> Duration {
    let mut command = program(postgres, "pg_recvlogical");
    command.args([
        "--slot",
        "stream",
        "--start",
        "--no-loop",
        "-f",
        "/dev/null",
        "--endpos",
        end,
    ]);
    command.args(["-o", "proto_version=1", "-o", "publication_names=spillway"]);
    timed(command).await
}

async fn peek(postgres: &Postgres) -> Duration {
    let mut command = program(postgres, "psql");
    command.args(["-qAt", "-c"]).arg(
        "copy (select lsn, data from pg_logical_slot_peek_binary_changes('peek', null, null,
           'proto_version', '1', 'publication_names', 'spillway')) to stdout (format binary)",
    );
    timed(command).await
}

async fn timed(mut command: Command) -> Duration {
    let began = Instant::now();
    let status = command
        .status()
        .await
        .expect("PostgreSQL's programs are beside its server");
    assert!(status.success(), "{command:?} ended with {status}");
    began.elapsed()
}

async fn invoke(postgres: &Postgres, kinesis: &Kinesis, ssm: &Ssm, slot: &str, event: &Value) -> Value {
    let aggregation = if slot.ends_with("_kpl") { "kpl" } else { "none" };
    let environment = [
        ("SLOT_NAME", slot),
        ("STREAM_NAME", slot),
        ("AGGREGATION", aggregation),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let function = Function::new(postgres.environment(DATABASE).into_iter().chain(environment));
    function.invoke(event, Duration::from_secs(600)).await.answer()
}
