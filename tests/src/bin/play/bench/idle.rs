//! Ticks of a cold function that find nothing.

use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::FakeKinesis;
use scenarios::aws::ssm::Ssm;
use scenarios::lambda::function::Function;
use scenarios::postgres::Postgres;
use scenarios::postgres::query::execute;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::usage::{ProgramUsages, Usage, print};
use super::{DATABASE, counting_stream, environment, invoke};

/// Number of measured ticks.
///
/// Several are measured, since the CPU time of one is about as long as its unit.
const TICKS: u32 = 40;

/// Measures ticks after a first one, which stores the checkpoint. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let slot = scenarios::unique("idle");
    execute(&admin, &create_slot_sql(&slot, "pgoutput")).await;
    for _ in 0..2 {
        invoke(postgres, ssm, &slot, "none", &json!({})).await;
    }
    let mut contestant = ProgramUsages::new("Spillway, a cold tick".to_owned());
    let (mut own_cpu, cpu_before) = (Duration::ZERO, postgres.cpu_time());
    for _ in 0..TICKS {
        let (usage, answer) = invoke(postgres, ssm, &slot, "none", &json!({})).await;
        assert_eq!(answer["changes"], 0, "{answer}");
        own_cpu += usage.own_cpu;
        contestant.usages.push(Usage {
            reads: answer["peeks"].as_u64().unwrap_or(0),
            ..usage
        });
    }
    // A session that has ended counts only when the server has waited for it.
    let server_cpu = postgres.cpu_time().saturating_sub(cpu_before) / TICKS;
    for usage in &mut contestant.usages {
        (usage.server_cpu, usage.own_cpu) = (server_cpu, own_cpu / TICKS);
    }
    execute(&admin, &drop_slot_sql(&slot)).await;
    let mut report = print(
        &format!("{TICKS} idle ticks, each of a cold function"),
        1,
        &[contestant],
    );
    let start = median_start_time(postgres, ssm).await;
    let millis = start.as_secs_f64() * 1_000.0;
    println!("from the start of its process to its first request for an event: {millis:.1} ms");
    report["start_ms"] = json!(millis);
    report
}

/// Median time until a new process asks for an event.
async fn median_start_time(postgres: &Postgres, ssm: &Ssm) -> Duration {
    let slot = scenarios::unique("start");
    let kinesis = FakeKinesis::open(&slot, counting_stream()).await;
    let mut times = Vec::new();
    for _ in 0..TICKS {
        let api = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = api.local_addr().expect("a listener has an address");
        let mut variables = environment(postgres, ssm, &kinesis, &slot, "none");
        variables.push(("AWS_LAMBDA_RUNTIME_API".to_owned(), address.to_string()));
        let function = Function::new(variables);
        let (event, began) = (json!({}), Instant::now());
        tokio::select! {
            connected = api.accept() => connected.map(drop).expect("the function connects"),
            _ = function.invoke(&event, Duration::from_secs(60)) => panic!("the function has ended"),
        }
        times.push(began.elapsed());
        function.kill9().await;
    }
    times.sort();
    times[times.len() / 2]
}
