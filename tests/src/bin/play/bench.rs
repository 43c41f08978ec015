//! The benchmark: Spillway and other programs read the same backlog, and the same table.
//!
//! The programs take turns for `ROUNDS` (5) rounds, and the medians count: times on a shared machine are
//! noisy. `TRANSACTIONS` (200,000) is the size of a backlog, and `ROWS` (500,000) that of the table. One
//! transaction of `HUGE_ROWS` (2,000,000) rows is read once.
//!
//! `PARTS=backlog,huge,backfill,idle,lambda,tip,limited` chooses parts. Their results replace those of
//! an earlier run in `target/bench/report.json`.
//!
//! The sink counts the records of 16 shards, and keeps none. That of the part `limited` has the limits of
//! Kinesis.

mod backfill;
mod backlog;
mod idle;
mod lambda;
mod limited;
mod tip;
mod usage;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::ssm::Ssm;
use scenarios::lambda::function::Function;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::query::execute;
use scenarios::postgres::{ADMIN, Postgres, PostgresSettings, REPLUSER};
use scenarios::variables::{number, owned};
use serde_json::{Value, json};
use tokio::process::Command;

use usage::Usage;

const DATABASE: &str = "bench";

/// Table of the backfill.
const FILLED: &str = "filled_accounts";

/// Path of the report, relative to the project's folder.
const REPORT: &str = "target/bench/report.json";

pub(crate) fn main() {
    scenarios::block_on(Box::pin(run()));
}

async fn run() {
    let (transactions, rows) = (number("TRANSACTIONS", 200_000), number("ROWS", 500_000));
    let rounds = number("ROUNDS", 5);
    let parts = std::env::var("PARTS").unwrap_or_default();
    let is_chosen = |part: &str| parts.is_empty() || parts.split(',').any(|it| it == part);
    println!("{rounds} rounds, each program in turn; the sink is on the same cores");
    let postgres = Postgres::start(PostgresSettings::with_conf("max_wal_size = '16GB'\n")).await;
    create_tables(&postgres, rows).await;
    let ssm = Ssm::shared().await;
    // The first store takes the emulator more than a second.
    ssm.put("/warm", "up").await;
    ssm.delete("/warm").await;
    let mut report = stored_report();
    report["rounds"] = json!(rounds);
    if is_chosen("backlog") {
        report["backlog"] = backlog::run(&postgres, ssm, transactions, rounds).await;
    }
    if is_chosen("huge") {
        report["huge"] = backlog::run_huge(&postgres, ssm, number("HUGE_ROWS", 2_000_000)).await;
    }
    if is_chosen("backfill") {
        report["backfill"] = backfill::run(&postgres, ssm, rows, rounds).await;
    }
    if is_chosen("idle") {
        report["idle"] = idle::run(&postgres, ssm).await;
    }
    if is_chosen("lambda") {
        report["lambda"] = lambda::run(&postgres, ssm, transactions, rounds).await;
    }
    if is_chosen("tip") {
        report["tip"] = tip::run(&postgres, ssm).await;
    }
    if is_chosen("limited") {
        report["limited"] = limited::run(&postgres, ssm, rounds).await;
    }
    store(&report);
}

/// Creates the tables and the publication.
async fn create_tables(postgres: &Postgres, rows: u64) {
    postgres.create_database(DATABASE).await;
    Pgbench::init(postgres, DATABASE, 10).await;
    let admin = postgres.admin(DATABASE).await;
    for sql in [
        format!("create table {FILLED} as select * from pgbench_accounts where aid <= {rows}"),
        format!("alter table {FILLED} add primary key (aid)"),
        format!("vacuum analyze {FILLED}"),
        format!("grant select on {FILLED} to {}", REPLUSER.0),
        "create publication spillway for all tables".to_owned(),
    ] {
        execute(&admin, &sql).await;
    }
}

/// Invokes a cold function once. Returns its usage without the server's, and its answer.
async fn invoke(
    postgres: &Postgres,
    ssm: &Ssm,
    slot: &str,
    aggregation: &str,
    event: &Value,
) -> (Usage, Value) {
    let kinesis = FakeKinesis::open(slot, counting_stream()).await;
    let function = Function::new(environment(postgres, ssm, &kinesis, slot, aggregation));
    let began = Instant::now();
    let answer = function.invoke(event, Duration::from_secs(600)).await.answer();
    let took = began.elapsed();
    let counts = kinesis.counts();
    let usage = Usage {
        took,
        first: counts.first_put.map_or(Duration::ZERO, |at| at - began),
        own_cpu: function.cpu_time(),
        memory: function.peak_memory_bytes(),
        records: counts.put,
        put_units: counts.put_units,
        ..Usage::default()
    };
    (usage, answer)
}

/// Variables of a function that drains slot `slot` into stream `slot`.
fn environment(
    postgres: &Postgres,
    ssm: &Ssm,
    kinesis: &FakeKinesis,
    slot: &str,
    aggregation: &str,
) -> Vec<(String, String)> {
    let variables = [
        ("SLOT_NAME", slot),
        ("STREAM_NAME", slot),
        ("AGGREGATION", aggregation),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    owned(variables).chain(postgres.environment(DATABASE)).collect()
}

/// A stream of 16 shards without limits, which counts its records.
fn counting_stream() -> FakeKinesisSettings {
    FakeKinesisSettings {
        shards: 16,
        keeps_records: false,
        ..FakeKinesisSettings::default()
    }
}

/// A program of PostgreSQL that connects to the database.
fn client_program(postgres: &Postgres, name: &str) -> Command {
    let mut command = Command::new(postgres.client_programs().join(name));
    let port = postgres.port().to_string();
    command
        .args(["-h", "127.0.0.1", "-p", &port, "-U", ADMIN.0, "-d", DATABASE])
        .env("PGPASSWORD", ADMIN.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a program to its end.
async fn timed(mut command: Command) -> Duration {
    let began = Instant::now();
    let status = command.status().await;
    let status = status.expect("PostgreSQL's programs are beside its server");
    assert!(status.success(), "{command:?} ended with {status}");
    began.elapsed()
}

fn report_file() -> PathBuf {
    scenarios::project_path(REPORT)
}

/// The report of an earlier run; empty without one.
fn stored_report() -> Value {
    let text = std::fs::read_to_string(report_file()).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| json!({}))
}

fn store(report: &Value) {
    let file = report_file();
    let folder = file.parent().expect("a file is in a folder");
    let text = serde_json::to_string_pretty(report).expect("a report is JSON");
    let stored = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, text + "\n"));
    stored.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    println!("\nreport: {REPORT}");
}
