//! End of the demo: tables rebuilt from the stream, compared with PostgreSQL.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use scenarios::aws::kinesis::Kinesis;
use scenarios::consumer::Delivery;
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::postgres::{pgbench, query};
use serde_json::Value;

use super::screen::{DemoScreen, TextStyle, bytes};
use super::{DATABASE, Demo, STREAM};

/// Reads the stream, and compares; true when the promise holds.
///
/// It also prints three events.
pub(crate) async fn report(
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
        screen.print_line(
            TextStyle::Bad,
            &format!("DEMO_FAULT=drop: the event at {lost} is lost on its way to the consumer"),
        );
    }
    print_samples(screen, &delivery);
    let mut reasons = delivery.violations();
    let rows = compare(demo, &delivery, &mut reasons).await;
    print_summary(demo, &delivery, last, start);
    if rows == 0 {
        reasons.push("no row was compared".to_owned());
    }
    print_verdict(screen, rows, &reasons);
    reasons.is_empty()
}

/// Prints an event of each of three tables.
///
/// The events are from the middle of the stream.
fn print_samples(screen: &DemoScreen, delivery: &Delivery) {
    let changes = delivery.changes();
    screen.print_untimed(TextStyle::Faint, "Three of the events:\n");
    for table in ["pgbench_accounts", "pgbench_branches", "pgbench_history"] {
        let mut later = changes.iter().skip(changes.len() / 2);
        if let Some(sample) = later.find(|it| it.event().source.table.as_deref() == Some(table)) {
            screen.event(sample);
        }
    }
}

/// Number of changes by table.
type ChangeCounts = HashMap<Option<String>, i64>;

/// Numbers of live changes and of backfilled rows.
fn count(delivery: &Delivery) -> (ChangeCounts, ChangeCounts) {
    let (mut live, mut backfilled) = (ChangeCounts::new(), ChangeCounts::new());
    for change in delivery.changes() {
        let event = change.event();
        let counts = match event.op.as_str() {
            "r" => &mut backfilled,
            _ => &mut live,
        };
        *counts.entry(event.table()).or_insert(0) += 1;
    }
    (live, backfilled)
}

/// Compares all tables with PostgreSQL; returns the number of compared rows.
///
/// It prints a table of the results.
async fn compare(demo: &Demo<'_>, delivery: &Delivery, reasons: &mut Vec<String>) -> usize {
    let rebuilt = delivery.rebuild();
    reasons.extend(rebuilt.disagreements.iter().cloned());
    let client = demo.postgres.admin(DATABASE).await;
    let transactions: i64 = query::value(&client, "select count(*) from pgbench_history").await;
    let (live, backfilled) = count(delivery);
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
        let key = Some(format!("public.{name}"));
        let changes = live.get(&key).copied().unwrap_or(0);
        let numbers = [
            transactions.to_string(),
            changes.to_string(),
            backfilled.get(&key).copied().unwrap_or(0).to_string(),
            compared.rows.to_string(),
            compared.differences.len().to_string(),
        ];
        table.push([name.to_owned()].into_iter().chain(numbers).collect());
        // Each transaction changes one row of each table. A lost update that a later one overwrites does not
        // show in the row, so the number of changes is compared, too.
        if changes != transactions {
            reasons.push(format!(
                "{name}: {transactions} transactions made one change each, the stream has {changes}"
            ));
        }
        let differences = compared.differences.iter();
        reasons.extend(differences.map(|difference| format!("{name}: {difference}")));
    }
    demo.screen.table(&table);
    rows
}

fn print_summary(demo: &Demo<'_>, delivery: &Delivery, last: &Value, start: Instant) {
    let screen = demo.screen;
    screen.title("Summary");
    let ticks = demo.ticks.load(Ordering::Relaxed);
    let failed = demo.failed.load(Ordering::Relaxed);
    let throttled = demo.throttled.load(Ordering::Relaxed);
    let lag = last["lag_bytes"].as_u64().unwrap_or(0);
    let numbers = [
        ("events without duplicates", delivery.changes().len().to_string()),
        ("records", delivery.records.to_string()),
        (
            "duplicates, dropped by position",
            delivery.duplicates().to_string(),
        ),
        ("ticks, and failed ticks", format!("{ticks}, {failed}")),
        ("records throttled and sent again", throttled.to_string()),
        ("lag after the last tick", bytes(lag)),
        (
            "peak memory of the function",
            bytes(demo.function.peak_memory_bytes()),
        ),
        (
            "time after set-up",
            format!("{:.1} s", start.elapsed().as_secs_f32()),
        ),
    ];
    for (name, number) in numbers {
        screen.print_untimed(TextStyle::Plain, &format!("  {name:<34}{number}"));
    }
    println!();
}

fn print_verdict(screen: &DemoScreen, rows: usize, reasons: &[String]) {
    if reasons.is_empty() {
        let passed =
            format!("PASSED: {rows} rows rebuilt from the stream, each equal to its row in PostgreSQL.");
        return screen.print_untimed(TextStyle::Good, &passed);
    }
    screen.print_untimed(
        TextStyle::Bad,
        "FAILED: the rebuilt rows are not those of PostgreSQL.",
    );
    for reason in reasons.iter().take(10) {
        screen.print_untimed(TextStyle::Plain, &format!("  {reason}"));
    }
}

/// Removes a live change from the delivery; returns its position.
///
/// The change is from the middle of the delivery. Its duplicates are removed, too.
///
/// The loss of a backfilled row may have no effect: a later change, or a second read, has the same row.
fn lose_one(delivery: &mut Delivery) -> String {
    let mut changes = delivery.changes();
    changes.retain(|it| it.event().op != "r");
    let middle = changes.get(changes.len() / 2);
    let lost = middle.map(|it| it.position.clone()).unwrap_or_default();
    delivery.arrivals.retain(|arrival| arrival.position != lost);
    lost
}
