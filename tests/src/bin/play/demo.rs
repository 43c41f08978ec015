//! The whole way in a minute: pgbench writes into a real PostgreSQL, ticks of the real binary drain its slot
//! into Kinesis, a backfill beside them brings the rows that were there before, the server is killed
//! half-way, and at the end a consumer rebuilds every row from the stream and compares each with PostgreSQL.
//! It succeeds only when all are the same and none is missing.
//!
//! `PLUGIN` chooses the output plugin, `AGGREGATION` and `ENVELOPE` are handed to the function.
//! `DEMO_FAULT=drop` loses one event on its way to the consumer, which must make the verdict fail.

mod screen;
mod verdict;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::aws::ssm::Ssm;
use scenarios::fixture::Plugin;
use scenarios::lambda::function::{Function, Outcome};
use scenarios::postgres::pgbench::{self, Pgbench};
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use serde_json::{Value, json};

use screen::{Screen, Tone};

const DATABASE: &str = "pgbench";
const STREAM: &str = "etl_demo";
/// pgbench's rows of history have no key, and there is one branch: each is one lane, whose records go one
/// after the other.
const TRANSACTIONS_A_SECOND: &str = "200";
/// Of each of the two runs of pgbench.
const WRITE_SECONDS: u64 = 10;
/// The tables that were filled before the slot was made. That of history is empty then, and has no key to
/// read it by.
const FILLED: [&str; 3] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches"];
/// The tick that asks for their backfill instead.
const BACKFILL: usize = 3;
/// In place of the minute between two ticks in service.
const TICK: Duration = Duration::from_secs(2);
/// What Lambda would allow an invocation.
const DEADLINE: Duration = Duration::from_secs(30);
/// Less for a tick, so that the backfill takes several.
const TICK_DEADLINE: Duration = Duration::from_secs(8);

pub(crate) fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("for a reason it cannot tell");
        eprintln!("\nthe demo cannot go on: {reason}");
    }));
    let plugin = std::env::var("PLUGIN").unwrap_or_else(|_| "wal2json".to_owned());
    let Some(plugin) = Plugin::from_name(&plugin) else {
        eprintln!("PLUGIN={plugin}: it is wal2json, pgoutput or test_decoding");
        return ExitCode::from(2);
    };
    let fault = std::env::var("DEMO_FAULT").ok().filter(|fault| !fault.is_empty());
    if fault.as_deref().is_some_and(|fault| fault != "drop") {
        eprintln!("DEMO_FAULT is drop, or nothing");
        return ExitCode::from(2);
    }
    let screen = Screen::new();
    match scenarios::block_on(Box::pin(demo(&screen, plugin, fault.is_some()))) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// All that runs, and what it has done so far.
struct Demo<'a> {
    screen: &'a Screen,
    postgres: Postgres,
    function: Function,
    /// Ticks that were begun.
    ticks: AtomicUsize,
    /// Ticks that have ended; one less while a tick runs.
    ended: AtomicUsize,
    /// Ticks that failed.
    failed: AtomicUsize,
    /// The number of the last that did.
    last_failed: AtomicUsize,
    /// Records that were throttled and put again.
    throttled: AtomicU64,
    /// pgbench has nothing more to write.
    written: AtomicBool,
    /// The backfill was asked for.
    asked: AtomicBool,
    /// The backfill has read all.
    filled: AtomicBool,
}

async fn demo(screen: &Screen, plugin: Plugin, fault: bool) -> bool {
    screen.picture();
    screen.title("Setting up");
    let slot = format!("etl_slot_{}", plugin.name());
    let settings = PostgresSettings {
        fsync: true,
        ..PostgresSettings::default()
    };
    let (postgres, ssm) = tokio::join!(Postgres::start(settings), Ssm::start());
    let version = postgres
        .admin("postgres")
        .await
        .query_one("show server_version", &[])
        .await;
    let version: String = version
        .unwrap_or_else(|error| panic!("PostgreSQL does not tell its version: {error}"))
        .get(0);
    screen.say(
        Tone::Plain,
        &format!("PostgreSQL {version} on port {}", postgres.port()),
    );
    let kinesis = Kinesis::start(Limits::Enforced).await;
    kinesis.create_stream(STREAM, 16).await;
    screen.say(
        Tone::Plain,
        &format!(
            "Kinesis (ferrokinesis): stream {STREAM}, 16 shards, each limited to 1 MiB/s and 1,000 records/s"
        ),
    );
    screen.say(Tone::Plain, "SSM (moto) for the checkpoint");
    postgres.create_database(DATABASE).await;
    Pgbench::init(&postgres, DATABASE, 1).await;
    screen.say(Tone::Plain, "pgbench -i -s 1: 100,000 accounts");
    let admin = postgres.admin(DATABASE).await;
    let grant = format!("grant select on {} to {}", FILLED.join(", "), REPLUSER.0);
    let granted = admin.batch_execute(&grant).await;
    granted.unwrap_or_else(|error| panic!("{grant}: {error:?}"));
    if plugin == Plugin::Pgoutput {
        let tables = pgbench::TABLES.join(", ");
        let made = admin
            .batch_execute(&format!("create publication spillway for table {tables}"))
            .await;
        made.unwrap_or_else(|error| panic!("no publication: {error}"));
    }
    let function = Function::new(environment(&postgres, &kinesis, &ssm, &slot));
    let setup = function
        .invoke(&json!({"action": "setup", "plugin": plugin.name()}), DEADLINE)
        .await;
    if !matches!(setup, Outcome::Answer(_)) {
        screen.say(Tone::Bad, &format!("setup: {}", told(&setup)));
        return false;
    }
    screen.say(
        Tone::Plain,
        &format!(
            "the function made slot {slot} as {}, a role with REPLICATION, and SELECT on three tables",
            REPLUSER.0
        ),
    );

    let demo = Demo {
        screen,
        postgres,
        function,
        ticks: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        last_failed: AtomicUsize::new(0),
        throttled: AtomicU64::new(0),
        written: AtomicBool::new(false),
        asked: AtomicBool::new(false),
        filled: AtomicBool::new(false),
    };
    let start = Instant::now();
    screen.title(&format!(
        "pgbench writes {TRANSACTIONS_A_SECOND} transactions a second; a tick every {} s, where in service it is a minute",
        TICK.as_secs()
    ));
    screen.tick_header();
    tokio::join!(demo.write(), demo.tick_while_written());
    demo.screen.say(
        Tone::Plain,
        "pgbench is done; ticks until all is read and the slot is empty",
    );
    let Some(last) = demo.tick_until_empty().await else {
        demo.screen.say(
            Tone::Bad,
            "the slot does not get empty, or the backfill does not end",
        );
        return false;
    };
    verdict::pronounce(&demo, &kinesis, &last, fault, start).await
}

fn environment(postgres: &Postgres, kinesis: &Kinesis, ssm: &Ssm, slot: &str) -> Vec<(String, String)> {
    let variables = [
        ("DB_AUTH", "password"),
        ("SLOT_NAME", slot),
        ("STREAM_NAME", STREAM),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let given = ["AGGREGATION", "ENVELOPE"].map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(postgres.environment(DATABASE))
        .chain(given.into_iter().flatten())
        .collect()
}

impl Demo<'_> {
    /// Two runs of pgbench, and between them the death of its server.
    async fn write(&self) {
        let seconds = WRITE_SECONDS.to_string();
        let endless = ["-c", "4", "-R", TRANSACTIONS_A_SECOND, "-T", "600"];
        let first = Pgbench::run(&self.postgres, DATABASE, &endless);
        tokio::time::sleep(Duration::from_secs(WRITE_SECONDS)).await;
        scenarios::wait::until("a tick runs", DEADLINE, || async {
            self.ended.load(Ordering::Relaxed) < self.ticks.load(Ordering::Relaxed)
        })
        .await;
        let begun = self.ticks.load(Ordering::Relaxed);
        self.postgres.crash().await;
        let pgbench = match first.finished().await {
            Ok(()) => "pgbench did not notice",
            Err(_) => "pgbench went with it",
        };
        self.screen.say(
            Tone::Bad,
            &format!("PostgreSQL was killed with -9 during tick {begun}, and {pgbench}"),
        );
        scenarios::wait::until("a tick finds PostgreSQL gone", DEADLINE + TICK, || async {
            self.last_failed.load(Ordering::Relaxed) > begun
        })
        .await;
        self.postgres.restart().await;
        self.screen.say(
            Tone::Good,
            "PostgreSQL is back on the same folder, and so is pgbench",
        );
        let options = ["-c", "4", "-R", TRANSACTIONS_A_SECOND, "-T", &seconds];
        let second = Pgbench::run(&self.postgres, DATABASE, &options);
        second
            .finished()
            .await
            .unwrap_or_else(|said| panic!("pgbench failed:\n{said}"));
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

    /// The report of the last tick. `None`: the slot does not get empty, the backfill does not end, or a tick
    /// fails.
    async fn tick_until_empty(&self) -> Option<Value> {
        for _ in 0..30 {
            let report = self.tick().await?;
            if report["stopped"] == "empty" && self.filled.load(Ordering::Relaxed) {
                return Some(report);
            }
        }
        None
    }

    async fn tick(&self) -> Option<Value> {
        let number = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let asks = number >= BACKFILL && !self.asked.load(Ordering::Relaxed);
        let event = match asks {
            true => {
                let tables = FILLED.map(|table| format!("public.{table}"));
                json!({"action": "backfill", "tables": tables, "chunk_rows": 10_000})
            }
            false => json!({}),
        };
        if asks {
            self.screen.say(Tone::Strong, &format!("      {event}"));
        }
        let outcome = self.function.invoke(&event, TICK_DEADLINE).await;
        self.ended.fetch_add(1, Ordering::Relaxed);
        if let Outcome::Answer(report) = outcome {
            self.asked.fetch_or(asks, Ordering::Relaxed);
            // The report that said so may be lost.
            let told_nothing = report["backfill"].is_null() && report["stopped"] != "busy";
            let finished = told_nothing && self.asked.load(Ordering::Relaxed);
            self.filled.fetch_or(
                finished || report["backfill"]["state"] == "finished",
                Ordering::Relaxed,
            );
            self.throttled
                .fetch_add(report["throttled"].as_u64().unwrap_or(0), Ordering::Relaxed);
            self.screen.tick(number, &report);
            return Some(report);
        }
        // It had begun although the invocation failed.
        let pending = matches!(&outcome, Outcome::Error { kind, .. } if kind == "BackfillPending");
        self.asked.fetch_or(pending, Ordering::Relaxed);
        self.screen
            .say(Tone::Bad, &format!("{number:>4}  {}", told(&outcome)));
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(number, Ordering::Relaxed);
        None
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(answer) => answer.to_string(),
        Outcome::Error { kind, message } => format!("{kind}: {message}"),
        Outcome::Exited(status) => format!("the function went: {status}"),
        Outcome::TimedOut => "the function was killed at its deadline".to_owned(),
    }
}
