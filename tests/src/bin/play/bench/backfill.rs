//! Backfill of a table, and a copy with psql.
//!
//! Both read the same table.

use scenarios::aws::ssm::Ssm;
use scenarios::postgres::Postgres;
use scenarios::postgres::query::execute;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use serde_json::{Value, json};

use super::usage::{ProgramUsages, Usage, print};
use super::{DATABASE, FILLED, client_program, invoke, timed};

/// Aggregation of each backfill.
const AGGREGATIONS: [&str; 2] = ["kpl", "none"];

/// Measures the copy and each backfill `rounds` times. Returns the report.
pub(super) async fn run(postgres: &Postgres, ssm: &Ssm, rows: u64, rounds: u64) -> Value {
    let admin = postgres.admin(DATABASE).await;
    let mut contestants = vec![ProgramUsages::new("psql: copy to /dev/null".to_owned())];
    contestants
        .extend(AGGREGATIONS.map(|aggregation| ProgramUsages::new(format!("Spillway, {aggregation}"))));
    for _ in 0..rounds {
        let took = copy(postgres).await;
        contestants[0].usages.push(Usage {
            took,
            ..Usage::default()
        });
        for (aggregation, contestant) in AGGREGATIONS.into_iter().zip(&mut contestants[1..]) {
            contestant
                .usages
                .push(backfill(postgres, &admin, ssm, aggregation, rows).await);
        }
    }
    print(&format!("a backfill of {rows} rows"), rows, &contestants)
}

async fn backfill(
    postgres: &Postgres,
    admin: &tokio_postgres::Client,
    ssm: &Ssm,
    aggregation: &str,
    rows: u64,
) -> Usage {
    let slot = scenarios::unique("backfill");
    execute(admin, &create_slot_sql(&slot, "pgoutput")).await;
    let event = json!({"action": "backfill", "wait": true, "tables": [format!("public.{FILLED}")]});
    let cpu_before = postgres.cpu_time();
    let (usage, report) = invoke(postgres, ssm, &slot, aggregation, &event).await;
    let server_cpu = postgres.cpu_time().saturating_sub(cpu_before);
    let backfill = &report["backfill"];
    let expected = (&json!("finished"), &json!(rows));
    assert_eq!((&backfill["state"], &backfill["rows"]), expected, "{report}");
    execute(admin, &drop_slot_sql(&slot)).await;
    Usage {
        server_cpu,
        reads: backfill["chunks"].as_u64().unwrap_or(0),
        ..usage
    }
}

async fn copy(postgres: &Postgres) -> std::time::Duration {
    let mut command = client_program(postgres, "psql");
    command
        .args(["-qAt", "-c"])
        .arg(format!("copy (select * from {FILLED}) to stdout"));
    timed(command).await
}
