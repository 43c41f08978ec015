//! The whole path of the data in a minute.
//!
//! pgbench writes into a real PostgreSQL, and ticks of the real binary drain its slot into Kinesis. A
//! backfill sends the rows that existed before the slot. The server is killed half-way. At the end a consumer
//! rebuilds every row from the stream, and each is compared with PostgreSQL. The demo succeeds only when all
//! rows are equal and none is missing.
//!
//! `PLUGIN` chooses the output plugin; `AGGREGATION` and `ENVELOPE` are passed to the function.
//! `SCENARIO=consolidate` plays [`consolidate`] instead.
//! `DEMO_FAULT=drop` loses events on their way to the consumer: then the verdict must fail.

mod backfill_progress;
mod consolidate;
pub(crate) mod screen;
mod verdict;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::aws::ssm::Ssm;
use scenarios::fixture::Plugin;
use scenarios::lambda::function::{Function, Outcome};
use scenarios::postgres::pgbench::{self, Pgbench};
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER, query};
use scenarios::variables::owned;
use serde_json::{Value, json};

use backfill_progress::BackfillProgress;
use screen::{DemoScreen, TextStyle};

const DATABASE: &str = "pgbench";
const STREAM: &str = "etl_demo";
/// Rate of pgbench. Its history has no key, and it has one branch: each is one lane with one record in
/// flight.
const TRANSACTIONS_A_SECOND: &str = "200";
/// Seconds of each of the two runs of pgbench.
const WRITE_SECONDS: u64 = 10;
/// Tables with rows before the slot is created, for the backfill. The history is empty then, and has no key.
const FILLED: [&str; 3] = [
    "public.pgbench_accounts",
    "public.pgbench_tellers",
    "public.pgbench_branches",
];
/// Time between two ticks; in service it is a minute.
const TICK: Duration = Duration::from_secs(2);
/// Deadline of an invocation that is no tick.
const DEADLINE: Duration = Duration::from_secs(30);
/// Deadline of a tick, so short that the backfill takes several ticks.
const TICK_DEADLINE: Duration = Duration::from_secs(8);

pub(crate) fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("the reason is unknown");
        eprintln!("\nthe demo failed: {reason}");
    }));
    let screen = DemoScreen::new();
    let fault = std::env::var("DEMO_FAULT").ok().filter(|fault| !fault.is_empty());
    if fault.as_deref().is_some_and(|fault| fault != "drop") {
        eprintln!("DEMO_FAULT is `drop` or not set");
        return ExitCode::from(2);
    }
    let loses = fault.is_some();
    match std::env::var("SCENARIO").as_deref() {
        Ok("consolidate") => {
            return exit_code(scenarios::block_on(Box::pin(consolidate::demo(&screen, loses))));
        }
        Ok("") | Err(_) => {}
        Ok(other) => {
            eprintln!("SCENARIO={other} is not `consolidate`");
            return ExitCode::from(2);
        }
    }
    let plugin = std::env::var("PLUGIN").unwrap_or_else(|_| "wal2json".to_owned());
    let Some(plugin) = Plugin::from_name(&plugin) else {
        eprintln!("PLUGIN={plugin} is not one of wal2json, pgoutput, test_decoding");
        return ExitCode::from(2);
    };
    exit_code(scenarios::block_on(Box::pin(demo(&screen, plugin, loses))))
}

fn exit_code(passed: bool) -> ExitCode {
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Servers, function and counters of the demo.
struct Demo<'a> {
    screen: &'a DemoScreen,
    postgres: Postgres,
    function: Function,
    /// Number of started ticks.
    ticks: AtomicU64,
    /// Number of ended ticks; one less than `ticks` while a tick runs.
    ended: AtomicU64,
    /// Number of failed ticks.
    failed: AtomicU64,
    /// Number of the last failed tick.
    last_failed: AtomicU64,
    /// Number of records that were throttled and sent again.
    throttled: AtomicU64,
    /// Whether pgbench has ended.
    written: AtomicBool,
    backfill: BackfillProgress,
}

async fn demo(screen: &DemoScreen, plugin: Plugin, fault: bool) -> bool {
    screen.picture();
    screen.title("Setting up");
    let settings = PostgresSettings {
        fsync: true,
        ..PostgresSettings::default()
    };
    let (postgres, ssm) = tokio::join!(Postgres::start(settings), Ssm::start());
    let admin = postgres.admin("postgres").await;
    let version: String = query::value(&admin, "show server_version").await;
    let port = postgres.port();
    screen.print_line(TextStyle::Plain, &format!("PostgreSQL {version} on port {port}"));
    let kinesis = Kinesis::start(Limits::Enforced).await;
    kinesis.create_stream(STREAM, 16).await;
    let stream = format!("stream {STREAM}, 16 shards, each limited to 1 MiB/s and 1,000 records/s");
    screen.print_line(TextStyle::Plain, &format!("Kinesis (ferrokinesis): {stream}"));
    screen.print_line(TextStyle::Plain, "SSM (moto) for the checkpoint");
    create_tables(&postgres, plugin).await;
    screen.print_line(TextStyle::Plain, "pgbench -i -s 1: 100,000 accounts");
    let slot = format!("etl_slot_{}", plugin.name());
    let function = Function::new(environment(&postgres, &kinesis, &ssm, &slot));
    let setup = json!({"action": "setup", "plugin": plugin.name()});
    let setup = function.invoke(&setup, DEADLINE).await;
    if !matches!(setup, Outcome::Answer(_)) {
        screen.print_line(TextStyle::Bad, &format!("setup: {}", describe(&setup)));
        return false;
    }
    let role = REPLUSER.0;
    screen.print_line(
        TextStyle::Plain,
        &format!(
            "the function created slot {slot} as {role}, a role with REPLICATION and SELECT on three tables"
        ),
    );

    let demo = Demo::new(screen, postgres, function);
    let start = Instant::now();
    screen.title(&format!(
        "pgbench writes {TRANSACTIONS_A_SECOND} transactions a second; a tick every {} s \
         (in service: every minute)",
        TICK.as_secs()
    ));
    screen.tick_header();
    tokio::join!(demo.write(), demo.tick_while_written());
    screen.print_line(
        TextStyle::Plain,
        "pgbench has ended; ticks until the backfill is finished and the slot is empty",
    );
    let Some(last) = demo.tick_until_empty().await else {
        screen.print_line(
            TextStyle::Bad,
            "the slot is not empty, or the backfill is not finished, after 30 ticks",
        );
        return false;
    };
    verdict::report(&demo, &kinesis, &last, fault, start).await
}

/// Creates and fills pgbench's tables, and grants the function what it needs.
async fn create_tables(postgres: &Postgres, plugin: Plugin) {
    postgres.create_database(DATABASE).await;
    Pgbench::init(postgres, DATABASE, 1).await;
    let mut sql = format!("grant select on {} to {}", FILLED.join(", "), REPLUSER.0);
    if plugin == Plugin::Pgoutput {
        let tables = pgbench::TABLES.join(", ");
        sql.push_str(&format!("; create publication spillway for table {tables}"));
    }
    query::execute(&postgres.admin(DATABASE).await, &sql).await;
}

fn environment(postgres: &Postgres, kinesis: &Kinesis, ssm: &Ssm, slot: &str) -> Vec<(String, String)> {
    let variables = [
        ("DB_AUTH", "password"),
        ("SLOT_NAME", slot),
        ("STREAM_NAME", STREAM),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let passed = ["AGGREGATION", "ENVELOPE"].map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    owned(variables)
        .chain(postgres.environment(DATABASE))
        .chain(passed.into_iter().flatten())
        .collect()
}

impl<'a> Demo<'a> {
    fn new(screen: &'a DemoScreen, postgres: Postgres, function: Function) -> Self {
        Self {
            screen,
            postgres,
            function,
            ticks: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failed: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            written: AtomicBool::new(false),
            backfill: BackfillProgress::default(),
        }
    }

    /// Runs pgbench twice, and kills the server during the first run.
    async fn write(&self) {
        let seconds = WRITE_SECONDS.to_string();
        let long_run = ["-c", "4", "-R", TRANSACTIONS_A_SECOND, "-T", "600"];
        let first = Pgbench::run(&self.postgres, DATABASE, &long_run);
        tokio::time::sleep(Duration::from_secs(WRITE_SECONDS)).await;
        scenarios::wait::until("a tick runs", DEADLINE, || async {
            self.ended.load(Ordering::Relaxed) < self.ticks.load(Ordering::Relaxed)
        })
        .await;
        let begun = self.ticks.load(Ordering::Relaxed);
        self.postgres.crash().await;
        let pgbench = match first.finished().await {
            Ok(()) => "pgbench did not notice",
            Err(_) => "pgbench failed",
        };
        self.screen.print_line(
            TextStyle::Bad,
            &format!("PostgreSQL was killed with SIGKILL during tick {begun}, and {pgbench}"),
        );
        scenarios::wait::until("a tick finds PostgreSQL down", DEADLINE + TICK, || async {
            self.last_failed.load(Ordering::Relaxed) > begun
        })
        .await;
        self.postgres.restart().await;
        self.screen.print_line(
            TextStyle::Good,
            "PostgreSQL runs again on the same folder, and pgbench too",
        );
        let options = ["-c", "4", "-R", TRANSACTIONS_A_SECOND, "-T", &seconds];
        let second = Pgbench::run(&self.postgres, DATABASE, &options);
        second
            .finished()
            .await
            .unwrap_or_else(|stderr| panic!("pgbench failed:\n{stderr}"));
        self.written.store(true, Ordering::Relaxed);
    }

    async fn tick_while_written(&self) {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        clock.tick().await;
        loop {
            clock.tick().await;
            if self.written.load(Ordering::Relaxed) {
                return;
            }
            self.tick().await;
        }
    }

    /// Report of the last tick. `None` when the slot is not empty after 30 ticks.
    ///
    /// A tick may fail. The next tick then tries again.
    async fn tick_until_empty(&self) -> Option<Value> {
        for _ in 0..30 {
            let Some(report) = self.tick().await else {
                continue;
            };
            if self.backfill.is_all_sent(&report) {
                return Some(report);
            }
        }
        None
    }

    async fn tick(&self) -> Option<Value> {
        let number = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let start = self.backfill.start_event(number, &FILLED, 10_000);
        if let Some(start) = &start {
            self.screen
                .print_line(TextStyle::Strong, &format!("      {start}"));
        }
        let is_start = start.is_some();
        let event = start.unwrap_or_else(|| json!({}));
        let outcome = self.function.invoke(&event, TICK_DEADLINE).await;
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.backfill.observe(&outcome, is_start);
        if let Outcome::Answer(report) = outcome {
            self.throttled
                .fetch_add(report["throttled"].as_u64().unwrap_or(0), Ordering::Relaxed);
            self.screen.tick(number, &report);
            return Some(report);
        }
        self.screen
            .print_line(TextStyle::Bad, &format!("{number:>4}  {}", describe(&outcome)));
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(number, Ordering::Relaxed);
        None
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(answer) => answer.to_string(),
        Outcome::Error { kind, message } => format!("{kind}: {message}"),
        Outcome::Exited(status) => format!("the function exited: {status}"),
        Outcome::TimedOut => "the function was killed at its deadline".to_owned(),
    }
}
