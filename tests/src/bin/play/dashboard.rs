//! A run whose summary lines show the dashboard of template.yaml: load, a stream that throttles, an open
//! transaction, and failures.
//!
//! `TICKS` (48) ticks begin `PERIOD` (3) seconds apart. The summary lines of the function are printed as they
//! are.

use std::process::ExitCode;
use std::time::Duration;

use scenarios::aws::fake_kinesis::FakeKinesisSettings;
use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::query::execute;
use scenarios::postgres::{PostgresSettings, REPLUSER};
use scenarios::variables::number;
use serde_json::json;

const TABLES: &str = "
    create table t (id int generated always as identity primary key, what text);
    create table unpublished (what text);
    alter table unpublished alter what set storage external;
    drop publication if exists spillway;
    create publication spillway for table t";

/// Load and faults of consecutive ticks.
struct Phase {
    /// Part of the ticks at which it begins, in percent.
    begins: u64,
    name: &'static str,
    /// Rows that are written into the table that is drained.
    rows: u64,
    /// Whether a transaction is open.
    is_open: bool,
    /// Whether Kinesis refuses the requests.
    is_refused: bool,
}

impl Phase {
    const fn load(begins: u64, name: &'static str, rows: u64) -> Self {
        Phase {
            begins,
            name,
            rows,
            is_open: false,
            is_refused: false,
        }
    }
}

/// Two shards accept 2,000 records a second.
const PHASES: [Phase; 6] = [
    Phase::load(0, "load", 400),
    Phase::load(17, "more than the shards accept", 5_000),
    Phase::load(33, "load", 400),
    Phase {
        is_open: true,
        ..Phase::load(54, "an open transaction", 400)
    },
    Phase {
        is_refused: true,
        ..Phase::load(81, "Kinesis refuses", 400)
    },
    Phase::load(88, "load", 400),
];

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(Box::pin(run()));
    ExitCode::SUCCESS
}

async fn run() {
    let (ticks, period) = (number("TICKS", 48), Duration::from_secs(number("PERIOD", 3)));
    let fixture = fixture().await;
    let client = fixture.connect().await;
    let mut is_open = false;
    let mut name = "";
    for tick in 0..ticks {
        let next = tokio::time::Instant::now() + period;
        let phases = PHASES.iter().rev();
        let phase = phases
            .into_iter()
            .find(|phase| tick * 100 >= phase.begins * ticks);
        let phase = phase.expect("the first phase begins at once");
        if phase.name != name {
            eprintln!("tick {tick}: {}", phase.name);
            name = phase.name;
        }
        match (is_open, phase.is_open) {
            (false, true) => execute(&client, "begin; insert into t (what) values ('open')").await,
            (true, false) => execute(&client, "rollback").await,
            _ => {}
        }
        is_open = phase.is_open;
        write(&fixture, phase.rows, tick).await;
        let refusal = Fault::refuse("AccessDeniedException", "the stream may not be written");
        match phase.is_refused {
            true => fixture.kinesis_proxy.inject("PutRecords", refusal),
            false => fixture.kinesis_proxy.clear(),
        }
        // A backlog is left to the next tick. On a slow machine an invocation may end later.
        fixture
            .function
            .invoke_with_limit(&json!({}), period, period * 5)
            .await;
        tokio::time::sleep_until(next).await;
    }
    // The log is complete only after the process has ended.
    fixture.function.kill9().await;
    let lines = fixture.function.log().into_iter();
    lines
        .filter(|line| line.contains("\"_aws\""))
        .for_each(|line| println!("{line}"));
}

async fn fixture() -> Fixture {
    let settings = PostgresSettings::with_conf("max_slot_wal_keep_size = '96MB'\nmax_wal_size = '64MB'\n");
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(settings)
        .on_fake_kinesis(FakeKinesisSettings {
            throughput: true,
            latency: Duration::from_millis(10),
            ..FakeKinesisSettings::default()
        })
        .build()
        .await;
    fixture.sql(TABLES).await;
    fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    fixture
}

/// Writes rows, and log that the slot does not send.
///
/// The rows are in transactions of ten. The log has about 2 MiB.
async fn write(fixture: &Fixture, rows: u64, tick: u64) {
    // A third more or less than the average.
    let transactions = rows * (4 + tick * 7 % 5) / 60;
    fixture
        .sql(&format!(
            "do $$ begin
               for i in 1..{transactions} loop
                 insert into t (what) select repeat('x', 60) from generate_series(1, 10);
                 commit;
               end loop;
             end $$"
        ))
        .await;
    fixture
        .sql("insert into unpublished select repeat(md5(i::text), 32) from generate_series(1, 2000) i")
        .await;
    // With it the slot retains less once an old transaction has ended.
    fixture.sql("checkpoint").await;
}
