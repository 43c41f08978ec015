//! Backlog with the CPU share of a Lambda function.
//!
//! Lambda chooses the share by the memory of the function. A function of 1,769 MB has one core (AWS Lambda's
//! guide, "Configure Lambda function memory").

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use scenarios::aws::fake_kinesis::FakeKinesis;
use scenarios::aws::ssm::Ssm;
use scenarios::cpu_quota::CpuQuota;
use scenarios::lambda::function::{Function, drain_binary};
use scenarios::postgres::Postgres;
use scenarios::postgres::pgbench::Pgbench;
use scenarios::postgres::query::execute;
use scenarios::postgres::sql_text::{copy_slot_sql, create_slot_sql, drop_slot_sql};
use serde_json::{Value, json};

use super::{DATABASE, backlog, counting_stream, environment};

/// Memory sizes in MB.
const SIZES: [u32; 3] = [512, 1_024, 1_769];

/// Memory of a function with one core, in MB.
const ONE_CORE: f64 = 1_769.0;

const SLOT: &str = "shares";

/// Drains a keyed backlog with each size. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm, transactions: u64, rounds: u64) -> Value {
    let admin = postgres.admin(DATABASE).await;
    execute(&admin, &create_slot_sql(SLOT, "pgoutput")).await;
    Pgbench::run_script(postgres, DATABASE, backlog::KEYED, transactions).await;
    println!("\nwith Lambda's share of a core, kpl: {transactions} changes");
    println!(
        "{:>8} {:>6} {:>9} {:>11} {:>26}",
        "MB", "share", "seconds", "changes/s", "GB-s per million changes"
    );
    let mut reports = Vec::new();
    for size in SIZES {
        let share = f64::from(size) / ONE_CORE;
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            match drain(postgres, &admin, ssm, size, share).await {
                Some(took) => seconds.push(took.as_secs_f64()),
                None => {
                    println!("this process may not limit the CPU of others: it needs root");
                    return Value::Null;
                }
            }
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
        let rate = transactions as f64 / median;
        let gb_seconds = f64::from(size) / 1024.0 * median / transactions as f64 * 1e6;
        println!("{size:8} {share:6.2} {median:9.2} {rate:11.0} {gb_seconds:26.1}");
        reports.push(json!({
            "memory_mb": size,
            "share": share,
            "seconds": seconds,
            "changes_per_second": rate,
            "gb_seconds_per_million_changes": gb_seconds,
        }));
    }
    execute(&admin, &drop_slot_sql(SLOT)).await;
    json!(reports)
}

/// Time of a cold drain; `None` if the CPU cannot be limited.
async fn drain(
    postgres: &Postgres,
    admin: &tokio_postgres::Client,
    ssm: &Ssm,
    size: u32,
    share: f64,
) -> Option<Duration> {
    let quota = CpuQuota::create(share)?;
    let slot = scenarios::unique(SLOT);
    execute(admin, &copy_slot_sql(SLOT, &slot)).await;
    let script = std::env::temp_dir().join(format!("{slot}.sh"));
    let written = std::fs::write(&script, quota.script(&drain_binary()))
        .and_then(|()| std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)));
    written.expect("a script can be written");
    let kinesis = FakeKinesis::open(&slot, counting_stream()).await;
    let mut variables = environment(postgres, ssm, &kinesis, &slot, "kpl");
    variables.push(("AWS_LAMBDA_FUNCTION_MEMORY_SIZE".to_owned(), size.to_string()));
    let function = Function::of_program(script.clone(), variables);
    let began = Instant::now();
    let answer = function
        .invoke(&json!({}), Duration::from_secs(600))
        .await
        .answer();
    let took = began.elapsed();
    assert_eq!(answer["stopped"], "empty", "{answer}");
    function.kill9().await;
    let _ = std::fs::remove_file(&script);
    execute(admin, &drop_slot_sql(&slot)).await;
    Some(took)
}
