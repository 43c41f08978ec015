//! The benchmark: one backlog, drained by Spillway and read by PostgreSQL's own programs, side by side in one run. Times
//! on a shared machine are noisy, so what counts is the ratio to `pg_recvlogical`, which streams the same changes into
//! /dev/null.
//!
//! `TRANSACTIONS` (default 200,000) is the size of the backlog: updates of one row each, spread over a million keys.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use scenarios::function::Function;
use scenarios::kinesis::{Kinesis, Limits};
use scenarios::lab::Plugin;
use scenarios::pgbench::Pgbench;
use scenarios::postgres::{ADMIN, Postgres, REPLUSER, Settings};
use scenarios::ssm::Ssm;
use serde_json::{Value, json};
use tokio::process::Command;

const DATABASE: &str = "bench";
const SCRIPT: &str =
    "\\set aid random(1, 1000000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n";

fn main() {
    let transactions = std::env::var("TRANSACTIONS")
        .ok()
        .map_or(200_000, |n| n.parse().expect("TRANSACTIONS is a number"));
    scenarios::block_on(run(transactions));
}

async fn run(transactions: u64) {
    println!(
        "one backlog of {transactions} transactions, each reader in turn; reading pgoutput unless it says otherwise\n"
    );
    let postgres = Postgres::start(Settings {
        conf: "max_wal_size = '16GB'\n".to_owned(),
        ..Settings::default()
    })
    .await;
    postgres.create_database(DATABASE).await;
    Pgbench::init(&postgres, DATABASE, 10).await;
    let admin = postgres.admin(DATABASE).await;
    admin
        .batch_execute("create publication spillway for all tables")
        .await
        .expect("a publication can be made");
    for (slot, plugin) in [("stream", "pgoutput"), ("peek", "pgoutput")] {
        let sql = format!("select pg_create_logical_replication_slot('{slot}', '{plugin}')");
        admin.batch_execute(&sql).await.expect("a slot can be made");
    }
    for plugin in Plugin::ALL {
        let sql = format!(
            "select pg_create_logical_replication_slot('{0}', '{0}')",
            plugin.name()
        );
        admin.batch_execute(&sql).await.expect("a slot can be made");
    }
    write_backlog(&postgres, transactions).await;
    let row = admin
        .query_one("select pg_current_wal_flush_lsn()::text", &[])
        .await
        .expect("the server answers");
    let end: String = row.get(0);

    let streamed = stream(&postgres, &end).await;
    line("pg_recvlogical > /dev/null", streamed, streamed, transactions, "");
    let peeked = peek(&postgres).await;
    line("psql: one peek > /dev/null", peeked, streamed, transactions, "");
    let kinesis = Kinesis::start(Limits::Off).await;
    let ssm = Ssm::shared().await;
    for plugin in Plugin::ALL {
        let name = plugin.name();
        kinesis.create_stream(name, 16).await;
        let began = Instant::now();
        let report = drain(&postgres, &kinesis, ssm, name).await;
        let took = began.elapsed();
        assert_eq!(report["stopped"], "empty", "{report}");
        assert_eq!(report["records"], transactions, "{report}");
        let more = format!(
            "{} peeks, {} requests, {} MB to Kinesis",
            report["peeks"],
            report["requests"],
            megabytes(&report["bytes"])
        );
        line(&format!("spillway, {name}"), took, streamed, transactions, &more);
    }
    println!("\nKinesis is an emulator in this process, on the same cores; no limits are enforced.");
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

async fn write_backlog(postgres: &Postgres, transactions: u64) {
    let mut script = std::env::temp_dir();
    script.push(format!("{}.sql", scenarios::unique("bench")));
    let written = std::fs::File::create(&script).and_then(|mut file| file.write_all(SCRIPT.as_bytes()));
    written.expect("a script can be written");
    let each = (transactions / 4).to_string();
    let path = script.to_string_lossy().into_owned();
    let bench = Pgbench::run(
        postgres,
        DATABASE,
        &["-c", "4", "-j", "2", "-t", &each, "-f", &path],
    );
    bench.finished().await.expect("pgbench finishes");
    let _ = std::fs::remove_file(&script);
}

fn program(postgres: &Postgres, name: &str) -> Command {
    let mut command = Command::new(postgres.bin().join(name));
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

async fn drain(postgres: &Postgres, kinesis: &Kinesis, ssm: &Ssm, plugin: &str) -> Value {
    let port = postgres.port().to_string();
    let environment = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", REPLUSER.0),
        ("PGPASSWORD", REPLUSER.1),
        ("PGDATABASE", DATABASE),
        ("PGSSLMODE", "disable"),
        ("SLOT_NAME", plugin),
        ("STREAM_NAME", plugin),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let function = Function::new(environment);
    function
        .invoke(&json!({}), Duration::from_secs(600))
        .await
        .answer()
}
