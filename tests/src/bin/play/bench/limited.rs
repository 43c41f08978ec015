//! A stream as it is in life: each request takes a while, and each shard has its limits.
//!
//! Five workloads write a backlog of `CHANGES` (160,000) changes: rows with a key, rows without one, both in
//! each transaction, rows whose keys have a Zipf distribution, and rows of a table with `replica identity
//! full`. Each is drained without and with aggregation, from a stream of `SHARDS` (16) shards that answers
//! after `LATENCY` (10) ms. An invocation has `DEADLINE` (60) seconds, and a drain has at most three.
//! `WORKLOADS=keyed,hot` chooses some of them. `backfill` is a backfill of `ROWS` rows into the same stream.
//!
//! A shard accepts 1,000 records and 1 MiB a second. A workload that spreads evenly can reach this limit. The
//! Zipf workload cannot, because of its hottest key. All rows of `full` are in one shard. So its limit is
//! that of one shard, and it has a sixteenth of the changes. These two have one round. So has Debezium
//! Server: it reads the mixed workload.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::ssm::Ssm;
use scenarios::consumer::Delivery;
use scenarios::lambda::function::Function;
use scenarios::postgres::Postgres;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::query::execute;
use scenarios::postgres::slots::wait_until_free;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use scenarios::variables::number;
use serde_json::{Value, json};

use super::backlog::{debezium, is_debezium_installed};
use super::{DATABASE, FILLED, environment};

/// Most invocations of a drain.
const INVOCATIONS: u32 = 3;

struct LimitedWorkload {
    name: &'static str,
    /// A transaction, for pgbench.
    script: &'static str,
    /// Changes of a transaction.
    changes: u64,
    /// Whether all its rows have one partition key, and so one shard.
    has_one_key: bool,
}

const WORKLOADS: [LimitedWorkload; 5] = [
    LimitedWorkload {
        name: "keyed",
        script: "\\set id random(1, 1000000)\nupdate limited_keyed set n = n + 1 where id = :id;\n",
        changes: 1,
        has_one_key: false,
    },
    LimitedWorkload {
        name: "keyless",
        script: "insert into limited_keyless values (1, repeat('x', 40));\n",
        changes: 1,
        has_one_key: false,
    },
    LimitedWorkload {
        name: "mixed",
        script: "\\set id random(1, 1000000)\nbegin;\nupdate limited_keyed set n = n + 1 where id = :id;\n\
                 insert into limited_keyless values (:id, repeat('x', 40));\ncommit;\n",
        changes: 2,
        has_one_key: false,
    },
    LimitedWorkload {
        name: "hot",
        script: "\\set id random_zipfian(1, 100000, 1.05)\n\
                 update limited_keyed set n = n + 1 where id = :id;\n",
        changes: 1,
        has_one_key: false,
    },
    LimitedWorkload {
        name: "full",
        script: "insert into limited_full values (1, repeat('x', 40));\n",
        changes: 1,
        has_one_key: true,
    },
];

/// The stream, and the size of a backlog.
#[derive(Clone, Copy)]
struct Conditions {
    changes: u64,
    shards: u64,
    /// Number of shards that the rows can use.
    usable_shards: u64,
    latency: Duration,
}

impl Conditions {
    /// The conditions of a workload.
    fn of(self, workload: &LimitedWorkload) -> Self {
        match workload.has_one_key {
            false => self,
            true => Conditions {
                changes: self.changes / 16,
                usable_shards: 1,
                ..self
            },
        }
    }

    fn stream(&self) -> FakeKinesisSettings {
        FakeKinesisSettings {
            shards: usize::try_from(self.shards).unwrap_or(16),
            throughput: true,
            latency: self.latency,
            ..FakeKinesisSettings::default()
        }
    }
}

/// Drains each workload `rounds` times, without and with aggregation. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm, rounds: u64) -> Value {
    let shards = number("SHARDS", 16);
    let conditions = Conditions {
        changes: number("CHANGES", 160_000),
        shards,
        usable_shards: shards,
        latency: Duration::from_millis(number("LATENCY", 10)),
    };
    println!(
        "\na stream with limits: {} changes for each workload (`full`: a sixteenth), \
         {} shards of 1,000 records and 1 MiB a second, {} ms a request",
        conditions.changes,
        conditions.shards,
        conditions.latency.as_millis()
    );
    print_header();
    create_tables(postgres).await;
    let chosen = std::env::var("WORKLOADS").unwrap_or_default();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.split(',').any(|it| it == name);
    let mut reports = Vec::new();
    for workload in WORKLOADS.iter().filter(|it| is_chosen(it.name)) {
        let conditions = conditions.of(workload);
        let rounds = match workload.name {
            "hot" | "full" => 1,
            _ => rounds,
        };
        let mut drains: [Vec<LimitedDrain>; 2] = Default::default();
        for _ in 0..rounds {
            for (aggregation, drains) in ["none", "kpl"].into_iter().zip(&mut drains) {
                drains.push(drain(postgres, ssm, workload, aggregation, &conditions).await);
            }
        }
        for (aggregation, drains) in ["none", "kpl"].into_iter().zip(&drains) {
            let name = format!("{}, {aggregation}", workload.name);
            reports.push(print(&name, drains, &conditions));
        }
        if workload.name == "mixed" && is_debezium_installed() {
            let drained = debezium_drain(postgres, workload, &conditions).await;
            reports.push(print("mixed, Debezium", &[drained], &conditions));
        }
    }
    if is_chosen("backfill") {
        for aggregation in ["none", "kpl"] {
            let backfilled = backfill(postgres, ssm, aggregation, &conditions).await;
            reports.push(print(
                &format!("backfill, {aggregation}"),
                &[backfilled],
                &conditions,
            ));
        }
    }
    json!(reports)
}

fn print_header() {
    println!(
        "{:16} {:>8} {:>12} {:>9} {:>8} {:>7} {:>5} {:>10} {:>6} {:>9} {:>8} {:>5}",
        "",
        "seconds",
        "spread",
        "changes/s",
        "of limit",
        "CPU µs",
        "MiB",
        "put units",
        "peeks",
        "sent/need",
        "refused",
        "done"
    );
}

/// Backfills a table into the stream.
async fn backfill(
    postgres: &Postgres,
    ssm: &Ssm,
    aggregation: &str,
    conditions: &Conditions,
) -> LimitedDrain {
    let (slot, admin) = (scenarios::unique("limited"), postgres.admin(DATABASE).await);
    execute(&admin, &create_slot_sql(&slot, "pgoutput")).await;
    let kinesis = FakeKinesis::open(&slot, conditions.stream()).await;
    let function = Function::new(environment(postgres, ssm, &kinesis, &slot, aggregation));
    let event = json!({"action": "backfill", "wait": true, "tables": [format!("public.{FILLED}")]});
    let began = Instant::now();
    let answer = function.invoke(&event, Duration::from_secs(600)).await.answer();
    let took = began.elapsed();
    execute(&admin, &drop_slot_sql(&slot)).await;
    let rows = answer["backfill"]["rows"].as_u64().unwrap_or(0);
    LimitedDrain {
        sent: answer["events"].as_u64().unwrap_or(0),
        peeks: answer["peeks"].as_u64().unwrap_or(0),
        is_done: answer["backfill"]["state"] == "finished",
        cpu: function.cpu_time(),
        memory: function.peak_memory_bytes(),
        ..stored(&kinesis, took, rows, conditions)
    }
}

async fn create_tables(postgres: &Postgres) {
    let admin = postgres.admin(DATABASE).await;
    for sql in [
        "create table limited_keyed as
           select id, 0 as n, repeat('x', 84) as filler from generate_series(1, 1000000) id",
        "alter table limited_keyed add primary key (id)",
        "create table limited_keyless (n int, what text)",
        "create table limited_full (n int, what text)",
        "alter table limited_full replica identity full",
        "vacuum analyze limited_keyed",
    ] {
        execute(&admin, sql).await;
    }
}

/// A drain of a backlog.
struct LimitedDrain {
    took: Duration,
    /// Changes of the backlog that arrived.
    changes: u64,
    /// Changes that were sent, each counted once for each time.
    sent: u64,
    /// Least time for these records, in seconds.
    ///
    /// All shards that the rows can use are at their limit during this time. The limit is that of records or
    /// of bytes.
    least_seconds: f64,
    /// Share of the records that were refused.
    refused: f64,
    put_units: u64,
    cpu: Duration,
    memory: u64,
    peeks: u64,
    is_done: bool,
}

/// Writes the backlog of a workload for a slot.
async fn write_backlog(postgres: &Postgres, slot: &str, workload: &LimitedWorkload, changes: u64) {
    let admin = postgres.admin(DATABASE).await;
    execute(&admin, &create_slot_sql(slot, "pgoutput")).await;
    Pgbench::run_script(postgres, DATABASE, workload.script, changes / workload.changes).await;
}

/// Writes the backlog of a workload, and drains it.
async fn drain(
    postgres: &Postgres,
    ssm: &Ssm,
    workload: &LimitedWorkload,
    aggregation: &str,
    conditions: &Conditions,
) -> LimitedDrain {
    let slot = scenarios::unique("limited");
    write_backlog(postgres, &slot, workload, conditions.changes).await;
    let kinesis = FakeKinesis::open(&slot, conditions.stream()).await;
    let function = Function::new(environment(postgres, ssm, &kinesis, &slot, aggregation));
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
    let admin = postgres.admin(DATABASE).await;
    execute(&admin, &drop_slot_sql(&slot)).await;
    let arrivals = Delivery::from_fake(&kinesis).arrivals;
    let positions: HashSet<&str> = arrivals.iter().map(|arrival| arrival.position.as_str()).collect();
    LimitedDrain {
        sent,
        peeks,
        is_done,
        cpu: function.cpu_time(),
        memory: function.peak_memory_bytes(),
        ..stored(&kinesis, took, positions.len() as u64, conditions)
    }
}

/// Lets Debezium Server read the backlog of a workload. Its start does not count.
async fn debezium_drain(
    postgres: &Postgres,
    workload: &LimitedWorkload,
    conditions: &Conditions,
) -> LimitedDrain {
    let slot = scenarios::unique("limited");
    write_backlog(postgres, &slot, workload, conditions.changes).await;
    let kinesis = FakeKinesis::open(&slot, conditions.stream()).await;
    let usage = debezium(postgres, &slot, conditions.changes, &kinesis).await;
    let admin = postgres.admin(DATABASE).await;
    wait_until_free(&admin, &slot).await;
    execute(&admin, &drop_slot_sql(&slot)).await;
    LimitedDrain {
        sent: usage.records,
        is_done: true,
        cpu: usage.own_cpu,
        memory: usage.memory,
        ..stored(&kinesis, usage.took, conditions.changes, conditions)
    }
}

/// Result of a drain, from the records of the stream.
fn stored(kinesis: &FakeKinesis, took: Duration, changes: u64, conditions: &Conditions) -> LimitedDrain {
    let mut bytes = 0;
    kinesis.read(|_, key, data| bytes += (key.len() + data.len()) as u64);
    let (counts, shards) = (kinesis.counts(), conditions.usable_shards as f64);
    let by_records = counts.put as f64 / (1_000.0 * shards);
    let by_bytes = bytes as f64 / (f64::from(1 << 20) * shards);
    LimitedDrain {
        took,
        changes,
        sent: 0,
        least_seconds: by_records.max(by_bytes),
        refused: (counts.tried - counts.put) as f64 / counts.tried.max(1) as f64,
        put_units: counts.put_units,
        cpu: Duration::ZERO,
        memory: 0,
        peeks: 0,
        is_done: false,
    }
}

/// Prints the medians, and returns them with every round.
fn print(name: &str, drains: &[LimitedDrain], conditions: &Conditions) -> Value {
    let median = |value: &dyn Fn(&LimitedDrain) -> f64| {
        let mut values: Vec<f64> = drains.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let per_change = |value: f64, drain: &LimitedDrain| value / drain.changes.max(1) as f64;
    let times: Vec<f64> = drains.iter().map(|drain| drain.took.as_secs_f64()).collect();
    let least = times.iter().copied().fold(f64::MAX, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    let seconds = median(&|drain| drain.took.as_secs_f64());
    let a_second = median(&|drain| drain.changes as f64 / drain.took.as_secs_f64());
    let of_limit = median(&|drain| drain.least_seconds / drain.took.as_secs_f64());
    let cpu = median(&|drain| per_change(drain.cpu.as_secs_f64() * 1e6, drain));
    let memory = median(&|drain| drain.memory as f64) / f64::from(1 << 20);
    let put_units = median(&|drain| per_change(drain.put_units as f64, drain));
    let sent = median(&|drain| per_change(drain.sent as f64, drain));
    let refused = median(&|drain| drain.refused);
    let peeks = median(&|drain| drain.peeks as f64);
    let is_done = drains.iter().all(|drain| drain.is_done);
    println!(
        "{name:16} {seconds:8.1} {:>12} {a_second:9.0} {:7.0}% {cpu:7.2} {memory:5.0} {put_units:10.4} \
         {peeks:6.0} {sent:9.3} {:7.1}% {:>5}",
        format!("{least:.1}-{most:.1}"),
        of_limit * 100.0,
        refused * 100.0,
        if is_done { "yes" } else { "no" },
    );
    json!({
        "name": name,
        "changes": conditions.changes,
        "seconds": times,
        "changes_per_second": a_second,
        "share_of_the_limit": of_limit,
        "cpu_microseconds_per_change": cpu,
        "peak_memory_mib": memory,
        "put_units_per_change": put_units,
        "sent_per_change": sent,
        "refused": refused,
        "is_done": is_done,
    })
}
