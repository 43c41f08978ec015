//! The end of the log: the time from a commit to its record, while the function lingers.

use std::time::{Duration, SystemTime};

use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::ssm::Ssm;
use scenarios::lambda::function::Function;
use scenarios::postgres::Postgres;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::query::execute;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use serde_json::{Value, json};

use super::{DATABASE, backlog, environment};

/// Commits a second.
const RATE: &str = "500";

/// Seconds of writing.
const SECONDS: u64 = 20;

/// Time of each request to the stream.
const LATENCY: Duration = Duration::from_millis(10);

/// Writes and drains at the same time. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let slot = scenarios::unique("tip");
    execute(&admin, &create_slot_sql(&slot, "pgoutput")).await;
    let settings = FakeKinesisSettings {
        shards: 4,
        latency: LATENCY,
        ..FakeKinesisSettings::default()
    };
    let kinesis = FakeKinesis::open(&slot, settings).await;
    let linger = (SECONDS + 5).to_string();
    let mut variables = environment(postgres, ssm, &kinesis, &slot, "none");
    variables.push(("LINGER_SECONDS".to_owned(), linger));
    let function = Function::new(variables);
    let script = std::env::temp_dir().join(format!("{slot}.sql"));
    std::fs::write(&script, backlog::KEYED).expect("a script can be written");
    let (file, seconds) = (script.to_string_lossy(), SECONDS.to_string());
    let writer = Pgbench::run(postgres, DATABASE, &["-R", RATE, "-T", &seconds, "-f", &file]);
    let cpu_before = postgres.cpu_time();
    let event = json!({});
    let (answer, written) = tokio::join!(
        function.invoke(&event, Duration::from_secs(SECONDS + 60)),
        writer.finished()
    );
    written.unwrap_or_else(|stderr| panic!("pgbench:\n{stderr}"));
    let server_cpu = postgres.cpu_time().saturating_sub(cpu_before);
    let _ = std::fs::remove_file(&script);
    let answer = answer.answer();
    execute(&admin, &drop_slot_sql(&slot)).await;
    let mut latencies = Vec::new();
    kinesis.read_timed(|stored, data| latencies.push(latency(stored, data)));
    latencies.sort_by(f64::total_cmp);
    let percentile = |percent: usize| {
        latencies
            .get(latencies.len() * percent / 100)
            .copied()
            .unwrap_or(0.0)
    };
    let (half, most) = (percentile(50), percentile(99));
    println!(
        "\nthe end of the log: {RATE} commits a second for {SECONDS} s, {} ms a request\n\
         {} changes: p50 {half:.0} ms, p99 {most:.0} ms; {} peeks; the server's CPU {:.2} s, \
         writers included",
        LATENCY.as_millis(),
        latencies.len(),
        answer["peeks"],
        server_cpu.as_secs_f64()
    );
    json!({
        "changes": latencies.len(),
        "p50_milliseconds": half,
        "p99_milliseconds": most,
        "peeks": answer["peeks"],
        "server_cpu_seconds": server_cpu.as_secs_f64(),
    })
}

/// Milliseconds from an event's commit to the storage of its record.
fn latency(stored: SystemTime, data: &[u8]) -> f64 {
    let event: Value = serde_json::from_slice(data).expect("an event is JSON");
    let committed = event["source"]["ts_us"]
        .as_u64()
        .expect("an event has its commit time");
    let committed = SystemTime::UNIX_EPOCH + Duration::from_micros(committed);
    stored.duration_since(committed).unwrap_or_default().as_secs_f64() * 1e3
}
