//! Backlog that several programs read in turns.
//!
//! Each program reads from a copy of one slot.

use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::FakeKinesis;
use scenarios::aws::ssm::Ssm;
use scenarios::conformance::debezium_server::{DebeziumConnector, DebeziumServer};
use scenarios::conformance::{EventForm, ValueModes};
use scenarios::fixture::Plugin;
use scenarios::postgres::Postgres;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::query::{execute, value};
use scenarios::postgres::slots::wait_until_free;
use scenarios::postgres::sql_text::{copy_slot_sql, create_slot_sql, drop_slot_sql};
use scenarios::{process_usage, wait};
use serde_json::{Value, json};

use super::usage::{ProgramUsages, Usage, print};
use super::{DATABASE, client_program, counting_stream, invoke, timed};

/// Updates of random rows with a key, for pgbench.
pub(super) const KEYED: &str = "\\set aid random(1, 1000000)\n\
                                update pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n";

/// Workload whose changes fill the backlog.
struct BacklogWorkload {
    name: &'static str,
    statements: Statements,
    /// Changes of all transactions.
    changes: u64,
}

enum Statements {
    /// So many transactions with this script of pgbench.
    Script(&'static str, u64),
    /// One transaction with these statements.
    Once(String),
}

/// Script of [`KEYED`] with an insert of a row without a key.
///
/// pgbench's simple update has the same statements.
const MIXED: &str = "\\set aid random(1, 1000000)\n\
                     begin;\n\
                     update pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n\
                     insert into pgbench_history (tid, bid, aid, delta, mtime)\n\
                     \x20 values (1, 1, :aid, 1, current_timestamp);\n\
                     commit;\n";

/// A program that reads the backlog.
#[derive(Debug, Clone, Copy)]
enum BacklogReader {
    /// `count(*)` over one peek: what the server needs, without a client.
    Count,
    /// `pg_recvlogical` into /dev/null.
    Streaming,
    /// Debezium Server, once it has started: from its first record on.
    Debezium,
    /// Spillway with this plugin and this aggregation.
    Spillway(Plugin, &'static str),
}

const READERS: [BacklogReader; 7] = [
    BacklogReader::Count,
    BacklogReader::Streaming,
    BacklogReader::Debezium,
    BacklogReader::Spillway(Plugin::Pgoutput, "kpl"),
    BacklogReader::Spillway(Plugin::Pgoutput, "none"),
    BacklogReader::Spillway(Plugin::Wal2json, "kpl"),
    BacklogReader::Spillway(Plugin::TestDecoding, "kpl"),
];

impl BacklogReader {
    fn name(self) -> String {
        match self {
            BacklogReader::Count => "count(*) of one peek".to_owned(),
            BacklogReader::Streaming => "pg_recvlogical".to_owned(),
            BacklogReader::Debezium => "Debezium Server".to_owned(),
            BacklogReader::Spillway(plugin, aggregation) => {
                format!("Spillway, {}, {aggregation}", plugin.name())
            }
        }
    }

    fn plugin(self) -> Plugin {
        match self {
            BacklogReader::Count | BacklogReader::Streaming | BacklogReader::Debezium => Plugin::Pgoutput,
            BacklogReader::Spillway(plugin, _) => plugin,
        }
    }
}

/// Writes both workloads, and measures each program `rounds` times. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm, transactions: u64, rounds: u64) -> Value {
    let workloads = [("keyed", KEYED, 1), ("mixed", MIXED, 2)];
    let mut reports = Vec::new();
    for (name, script, changes) in workloads {
        let workload = BacklogWorkload {
            name,
            statements: Statements::Script(script, transactions),
            changes: transactions * changes,
        };
        reports.push(run_workload(postgres, ssm, &workload, &READERS, rounds).await);
    }
    json!(reports)
}

/// Measures the programs once with one large transaction; returns the report.
///
/// The transaction has `rows` rows of 500 bytes.
pub(super) async fn run_huge(postgres: &Postgres, ssm: &Ssm, rows: u64) -> Value {
    let admin = postgres.admin(DATABASE).await;
    execute(&admin, "create table huge (id int primary key, filler text)").await;
    let workload = BacklogWorkload {
        name: "huge",
        statements: Statements::Once(format!(
            "insert into huge select id, repeat('x', 430) from generate_series(1, {rows}) id"
        )),
        changes: rows,
    };
    let readers: Vec<BacklogReader> = READERS
        .into_iter()
        .filter(|it| it.plugin() == Plugin::Pgoutput)
        .collect();
    run_workload(postgres, ssm, &workload, &readers, 1).await
}

async fn run_workload(
    postgres: &Postgres,
    ssm: &Ssm,
    workload: &BacklogWorkload,
    readers: &[BacklogReader],
    rounds: u64,
) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let readers: Vec<BacklogReader> = readers.iter().copied().filter(|it| is_available(*it)).collect();
    for plugin in Plugin::ALL {
        let slot = original(workload, plugin);
        execute(&admin, &create_slot_sql(&slot, plugin.name())).await;
    }
    match &workload.statements {
        Statements::Script(script, transactions) => {
            Pgbench::run_script(postgres, DATABASE, script, *transactions).await;
        }
        Statements::Once(sql) => execute(&admin, sql).await,
    }
    let mut contestants: Vec<_> = readers.iter().map(|it| ProgramUsages::new(it.name())).collect();
    for _ in 0..rounds {
        for (reader, contestant) in readers.iter().zip(&mut contestants) {
            let usage = measure(postgres, &admin, ssm, workload, *reader).await;
            contestant.usages.push(usage);
        }
    }
    for plugin in Plugin::ALL {
        execute(&admin, &drop_slot_sql(&original(workload, plugin))).await;
    }
    let BacklogWorkload { name, changes, .. } = workload;
    print(
        &format!("a backlog, {name}: {changes} changes"),
        *changes,
        &contestants,
    )
}

/// Whether a program is installed. A line says if it is not.
fn is_available(reader: BacklogReader) -> bool {
    !matches!(reader, BacklogReader::Debezium) || is_debezium_installed()
}

/// Whether Debezium Server is installed. A line says if it is not.
pub(super) fn is_debezium_installed() -> bool {
    let is_installed = DebeziumServer::is_installed();
    if !is_installed {
        println!("without Debezium Server: `make tools-conformance` installs it");
    }
    is_installed
}

/// The slot that no program reads, but for its copies.
fn original(workload: &BacklogWorkload, plugin: Plugin) -> String {
    format!("{}_{}", workload.name, plugin.name())
}

/// Lets one program read a copy of the workload's slot.
async fn measure(
    postgres: &Postgres,
    admin: &tokio_postgres::Client,
    ssm: &Ssm,
    workload: &BacklogWorkload,
    reader: BacklogReader,
) -> Usage {
    let (original, slot) = (original(workload, reader.plugin()), scenarios::unique("bench"));
    execute(admin, &copy_slot_sql(&original, &slot)).await;
    let cpu_before = postgres.cpu_time();
    let mut usage = match reader {
        BacklogReader::Count => count(admin, &slot).await,
        BacklogReader::Streaming => stream(postgres, admin, &slot).await,
        BacklogReader::Debezium => {
            let kinesis = FakeKinesis::open(&slot, counting_stream()).await;
            debezium(postgres, &slot, workload.changes, &kinesis).await
        }
        BacklogReader::Spillway(_, aggregation) => {
            let (usage, report) = invoke(postgres, ssm, &slot, aggregation, &json!({})).await;
            assert_eq!(report["stopped"], "empty", "{report}");
            Usage {
                reads: report["peeks"].as_u64().unwrap_or(0),
                ..usage
            }
        }
    };
    usage.server_cpu = postgres.cpu_time().saturating_sub(cpu_before);
    wait_until_free(admin, &slot).await;
    execute(admin, &drop_slot_sql(&slot)).await;
    usage
}

/// Runs Debezium Server until it has sent every change. Its start does not count.
pub(super) async fn debezium(postgres: &Postgres, slot: &str, changes: u64, kinesis: &FakeKinesis) -> Usage {
    let connector = DebeziumConnector {
        port: postgres.port(),
        database: DATABASE,
        slot,
        modes: ValueModes::ALL[0],
        endpoint: kinesis.endpoint(),
        stream: slot,
        form: EventForm::default(),
    };
    let server = DebeziumServer::start(&connector);
    let arrived = async |least: u64| {
        wait::until(
            "Debezium Server sends the changes",
            Duration::from_secs(300),
            || async {
                server.assert_runs();
                kinesis.counts().put >= least
            },
        )
        .await;
    };
    arrived(1).await;
    let (began, cpu_before) = (Instant::now(), process_usage::cpu_time(server.pid()));
    arrived(changes).await;
    let counts = kinesis.counts();
    Usage {
        took: began.elapsed(),
        own_cpu: process_usage::cpu_time(server.pid()).saturating_sub(cpu_before),
        memory: process_usage::peak_memory_bytes(server.pid()),
        records: counts.put,
        put_units: counts.put_units,
        ..Usage::default()
    }
}

async fn count(admin: &tokio_postgres::Client, slot: &str) -> Usage {
    let sql = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes(
             '{slot}', null, null, 'proto_version', '1', 'publication_names', 'spillway')"
    );
    let began = Instant::now();
    execute(admin, &sql).await;
    took(began.elapsed())
}

async fn stream(postgres: &Postgres, admin: &tokio_postgres::Client, slot: &str) -> Usage {
    let end: String = value(admin, "select pg_current_wal_flush_lsn()::text").await;
    let mut command = client_program(postgres, "pg_recvlogical");
    command
        .args([
            "--slot",
            slot,
            "--start",
            "--no-loop",
            "-f",
            "/dev/null",
            "--endpos",
            &end,
        ])
        .args(["-o", "proto_version=1", "-o", "publication_names=spillway"]);
    took(timed(command).await)
}

fn took(took: Duration) -> Usage {
    Usage {
        took,
        ..Usage::default()
    }
}
