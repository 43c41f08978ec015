//! Ticks of a cold function that find nothing.

use scenarios::aws::ssm::Ssm;
use scenarios::postgres::Postgres;
use serde_json::{Value, json};

use super::usage::{Contestant, Usage, print};
use super::{DATABASE, execute, invoke};

/// Number of measured ticks.
///
/// Several are measured, since the CPU time of one is about as long as its unit.
const TICKS: u32 = 40;

/// Measures ticks after a first one, which stores the checkpoint. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let slot = scenarios::unique("idle");
    execute(
        &admin,
        &format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"),
    )
    .await;
    for _ in 0..2 {
        invoke(postgres, ssm, &slot, "none", &json!({})).await;
    }
    let mut contestant = Contestant::new("Spillway, a cold tick".to_owned());
    let (mut own_cpu, cpu_before) = (std::time::Duration::ZERO, postgres.cpu_time());
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
    execute(&admin, &format!("select pg_drop_replication_slot('{slot}')")).await;
    print(
        &format!("{TICKS} idle ticks, each of a cold function"),
        1,
        &[contestant],
    )
}
