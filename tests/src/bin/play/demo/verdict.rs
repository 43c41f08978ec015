//! The end of the demo: what a consumer made of the stream, held against PostgreSQL.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use scenarios::aws::kinesis::Kinesis;
use scenarios::consumer::Delivery;
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::postgres::pgbench;
use serde_json::Value;

use super::screen::{Tone, bytes};
use super::{DATABASE, Demo, STREAM};

/// Reads, shows and compares; true when the promise was kept.
pub(crate) async fn pronounce(
    demo: &Demo<'_>,
    kinesis: &Kinesis,
    last: &Value,
    fault: bool,
    start: Instant,
) -> bool {
    let screen = demo.screen;
    screen.title("A consumer reads the stream from its beginning");
    let mut delivery = Delivery::read(kinesis, STREAM).await;
    if fault {
        let lost = lose_one(&mut delivery);
        screen.say(
            Tone::Bad,
            &format!("DEMO_FAULT=drop: the event at {lost} is lost on its way to the consumer"),
        );
    }
    let changes = delivery.changes();
    screen.print(Tone::Faint, "Three of the events:\n");
    for table in ["pgbench_accounts", "pgbench_branches", "pgbench_history"] {
        let middle = changes.iter().skip(changes.len() / 2);
        let is_of = |name: Option<&str>| name == Some(table);
        if let Some(sample) = middle
            .into_iter()
            .find(|it| is_of(it.event().source.table.as_deref()))
        {
            screen.event(sample);
        }
    }

    let mut reasons = delivery.broken();
    let rebuilt = delivery.rebuild();
    reasons.extend(rebuilt.disagreements.iter().cloned());
    let client = demo.postgres.admin(DATABASE).await;
    let transactions: i64 = match client
        .query_one("select count(*) from pgbench_history", &[])
        .await
    {
        Ok(row) => row.get(0),
        Err(error) => panic!("PostgreSQL does not tell what it holds: {error}"),
    };
    let (mut live, mut read) = (HashMap::new(), HashMap::new());
    for change in &changes {
        let event = change.event();
        let counts = if event.op == "r" { &mut read } else { &mut live };
        *counts.entry(event.table()).or_insert(0) += 1;
    }
    let header = [
        "table",
        "transactions",
        "changes",
        "rows backfilled",
        "rows compared",
        "differences",
    ];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let mut rows = 0;
    for name in pgbench::TABLES {
        let compared = oracle::compare(&client, name, &rebuilt, ComparedRows::All).await;
        rows += compared.rows;
        let of_table = Some(format!("public.{name}"));
        let count = |counts: &HashMap<Option<String>, i64>| counts.get(&of_table).copied().unwrap_or(0);
        let seen = count(&live);
        let differences = compared.differences.len();
        let numbers = [
            transactions.to_string(),
            seen.to_string(),
            count(&read).to_string(),
            compared.rows.to_string(),
            differences.to_string(),
        ];
        table.push([name.to_owned()].into_iter().chain(numbers).collect());
        // Each transaction changes one row of each table. An update that is lost and followed by another of
        // the same row would not show in the row.
        if seen != transactions {
            reasons.push(format!(
                "{name}: {transactions} transactions made as many changes, the stream has {seen}"
            ));
        }
        reasons.extend(
            compared
                .differences
                .iter()
                .map(|difference| format!("{name}: {difference}")),
        );
    }
    screen.table(&table);

    screen.title("Summary");
    let (ticks, failed) = (
        demo.ticks.load(Ordering::Relaxed),
        demo.failed.load(Ordering::Relaxed),
    );
    let numbers = [
        ("changes", changes.len().to_string()),
        ("records", delivery.records.to_string()),
        (
            "duplicates, dropped by position",
            delivery.duplicates().to_string(),
        ),
        ("ticks, of which failed", format!("{ticks}, {failed}")),
        (
            "records throttled and put again",
            demo.throttled.load(Ordering::Relaxed).to_string(),
        ),
        (
            "lag after the last tick",
            bytes(last["lag_bytes"].as_u64().unwrap_or(0)),
        ),
        (
            "most memory of the function",
            bytes(demo.function.peak_memory_bytes()),
        ),
        (
            "time after set-up",
            format!("{:.1} s", start.elapsed().as_secs_f32()),
        ),
    ];
    for (name, number) in numbers {
        screen.print(Tone::Plain, &format!("  {name:<33}{number}"));
    }
    println!();
    if rows == 0 {
        reasons.push("nothing was compared".to_owned());
    }
    match reasons.as_slice() {
        [] => screen.print(
            Tone::Good,
            &format!("PASSED: {rows} rows rebuilt from the stream, and each is what PostgreSQL holds."),
        ),
        reasons => {
            screen.print(
                Tone::Bad,
                "FAILED: the consumer does not hold what PostgreSQL holds.",
            );
            for reason in reasons.iter().take(10) {
                screen.print(Tone::Plain, &format!("  {reason}"));
            }
        }
    }
    reasons.is_empty()
}

/// Takes one change, and what repeats it, out of the middle.
fn lose_one(delivery: &mut Delivery) -> String {
    let changes = delivery.changes();
    let lost = changes
        .get(changes.len() / 2)
        .map(|it| it.position.clone())
        .unwrap_or_default();
    delivery.arrivals.retain(|arrival| arrival.position != lost);
    lost
}
