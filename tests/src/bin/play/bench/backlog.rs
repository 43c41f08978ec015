//! A backlog that several programs read in turns, each from a copy of one slot.

use std::time::{Duration, Instant};

use scenarios::aws::ssm::Ssm;
use scenarios::fixture::Plugin;
use scenarios::postgres::Postgres;
use scenarios::postgres::pgbench::Pgbench;
use serde_json::{Value, json};

use super::usage::{Contestant, Usage, print};
use super::{DATABASE, client_program, execute, invoke, timed};

/// Statements of a transaction, for pgbench.
struct Workload {
    name: &'static str,
    script: &'static str,
    /// Changes of a transaction.
    changes: u64,
}

/// Updates of random rows with a key; and the same with an insert of a row without a key, as pgbench's simple
/// update does.
const WORKLOADS: [Workload; 2] = [
    Workload {
        name: "keyed",
        script: "\\set aid random(1, 1000000)\n\
                 update pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n",
        changes: 1,
    },
    Workload {
        name: "mixed",
        script: "\\set aid random(1, 1000000)\n\
                 begin;\n\
                 update pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n\
                 insert into pgbench_history (tid, bid, aid, delta, mtime)\n\
                 \x20 values (1, 1, :aid, 1, current_timestamp);\n\
                 commit;\n",
        changes: 2,
    },
];

/// A program that reads the backlog.
#[derive(Debug, Clone, Copy)]
enum Reader {
    /// `count(*)` over one peek: what the server needs, without a client.
    Count,
    /// `pg_recvlogical` into /dev/null.
    Streaming,
    /// Spillway with this plugin and this aggregation.
    Spillway(Plugin, &'static str),
}

const READERS: [Reader; 6] = [
    Reader::Count,
    Reader::Streaming,
    Reader::Spillway(Plugin::Pgoutput, "kpl"),
    Reader::Spillway(Plugin::Pgoutput, "none"),
    Reader::Spillway(Plugin::Wal2json, "kpl"),
    Reader::Spillway(Plugin::TestDecoding, "kpl"),
];

impl Reader {
    fn name(self) -> String {
        match self {
            Reader::Count => "count(*) of one peek".to_owned(),
            Reader::Streaming => "pg_recvlogical".to_owned(),
            Reader::Spillway(plugin, aggregation) => format!("Spillway, {}, {aggregation}", plugin.name()),
        }
    }

    fn plugin(self) -> Plugin {
        match self {
            Reader::Count | Reader::Streaming => Plugin::Pgoutput,
            Reader::Spillway(plugin, _) => plugin,
        }
    }
}

/// Writes each workload, and measures each program `rounds` times. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm, transactions: u64, rounds: u64) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let mut reports = Vec::new();
    for workload in &WORKLOADS {
        for plugin in Plugin::ALL {
            let slot = original(workload, plugin);
            let sql = format!(
                "select pg_create_logical_replication_slot('{slot}', '{}')",
                plugin.name()
            );
            execute(&admin, &sql).await;
        }
        Pgbench::run_script(postgres, DATABASE, workload.script, transactions).await;
        let changes = transactions * workload.changes;
        let mut contestants = READERS.map(|reader| Contestant::new(reader.name()));
        for _ in 0..rounds {
            for (reader, contestant) in READERS.into_iter().zip(&mut contestants) {
                let usage = measure(postgres, &admin, ssm, workload, reader).await;
                contestant.usages.push(usage);
            }
        }
        for plugin in Plugin::ALL {
            drop_slot(&admin, &original(workload, plugin)).await;
        }
        let title = format!("a backlog, {}: {changes} changes", workload.name);
        reports.push(print(&title, changes, &contestants));
    }
    json!(reports)
}

/// The slot that no program reads, but for its copies.
fn original(workload: &Workload, plugin: Plugin) -> String {
    format!("{}_{}", workload.name, plugin.name())
}

async fn drop_slot(admin: &tokio_postgres::Client, slot: &str) {
    execute(admin, &format!("select pg_drop_replication_slot('{slot}')")).await;
}

/// Lets one program read a copy of the workload's slot.
async fn measure(
    postgres: &Postgres,
    admin: &tokio_postgres::Client,
    ssm: &Ssm,
    workload: &Workload,
    reader: Reader,
) -> Usage {
    let (original, slot) = (original(workload, reader.plugin()), scenarios::unique("bench"));
    let sql = format!("select pg_copy_logical_replication_slot('{original}', '{slot}')");
    execute(admin, &sql).await;
    let cpu_before = postgres.cpu_time();
    let mut usage = match reader {
        Reader::Count => count(admin, &slot).await,
        Reader::Streaming => stream(postgres, admin, &slot).await,
        Reader::Spillway(_, aggregation) => {
            let (usage, report) = invoke(postgres, ssm, &slot, aggregation, &json!({})).await;
            assert_eq!(report["stopped"], "empty", "{report}");
            Usage {
                reads: report["peeks"].as_u64().unwrap_or(0),
                ..usage
            }
        }
    };
    usage.server_cpu = postgres.cpu_time().saturating_sub(cpu_before);
    drop_slot(admin, &slot).await;
    usage
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
    let sql = "select pg_current_wal_flush_lsn()::text as lsn";
    let row = admin.query_one(sql, &[]).await.expect("the server answers");
    let end: String = row.get("lsn");
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
