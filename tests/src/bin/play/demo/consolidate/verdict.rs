//! Verdict of the consolidation: compares the answers of one query, and every row of every table.

use std::sync::atomic::Ordering;
use std::time::Instant;

use scenarios::consumer::example::{ExampleConsumer, ExampleFigures, query_duckdb};
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::postgres::{ADMIN, query};

use super::Consolidation;
use super::source::SourceDatabase;
use crate::demo::screen::TextStyle;

const QUESTION: &str = include_str!("question.sql");
const VIEWS: &str = include_str!("views.sql");

/// Reports whether the consumer has the rows of the sources.
///
/// It ends the consumer, queries both sides and compares all rows. The result is true when nothing differs.
pub(super) async fn report(demo: &Consolidation<'_>, consumer: ExampleConsumer, began: Instant) -> bool {
    let screen = demo.screen;
    let (figures, stored) = consumer.finish().await;
    let mut differences = Vec::new();
    let mut table = vec![["table", "rows", "differences"].map(str::to_owned).to_vec()];
    for source in &demo.sources {
        let client = source.postgres.admin(source.kind.name).await;
        let rebuilt = stored.get(source.kind.name).cloned().unwrap_or_default();
        for name in source.kind.tables {
            let compared = oracle::compare(&client, name, &rebuilt, ComparedRows::All).await;
            let counts = [compared.rows.to_string(), compared.differences.len().to_string()];
            table.push([(*name).to_owned()].into_iter().chain(counts).collect());
            differences.extend(compared.differences.iter().map(|it| format!("{name}: {it}")));
            if compared.rows == 0 {
                differences.push(format!("{name} is empty"));
            }
        }
    }
    screen.title("Every row in DuckDB, compared with its source");
    screen.table(&table);

    screen.title("One question over the three databases");
    screen.print_untimed(TextStyle::Faint, QUESTION);
    let in_duckdb = query_duckdb(&demo.file, &[VIEWS, QUESTION]).await;
    let at_sources = ask_sources(&demo.sources).await;
    screen.print_untimed(
        TextStyle::Faint,
        "DuckDB's answer, and in brackets that of the sources:",
    );
    print_answers(demo, &in_duckdb, &at_sources);
    if in_duckdb.is_empty() || in_duckdb != at_sources {
        differences.push("the answers differ".to_owned());
    }
    print_summary(demo, figures, began);
    if differences.is_empty() {
        screen.print_untimed(TextStyle::Good, "PASSED: DuckDB and the three sources agree.");
        return true;
    }
    screen.print_untimed(TextStyle::Bad, "FAILED: DuckDB differs from the sources.");
    for difference in differences.iter().take(10) {
        screen.print_untimed(TextStyle::Plain, &format!("  {difference}"));
    }
    false
}

/// Answer of the PostgreSQL 15 server over all three databases.
///
/// The server reads the tables of the two others through foreign tables.
async fn ask_sources(sources: &[SourceDatabase; 3]) -> Vec<Vec<String>> {
    let [shop, others @ ..] = sources;
    let client = shop.postgres.admin(shop.kind.name).await;
    let mut sql = "create extension postgres_fdw;".to_owned();
    for other in others {
        let (name, port) = (other.kind.name, other.postgres.port());
        sql.push_str(&format!(
            "create server {name} foreign data wrapper postgres_fdw
                 options (host '127.0.0.1', port '{port}', dbname '{name}');
             create user mapping for {user} server {name} options (user '{user}', password '{password}');
             create schema {name};
             import foreign schema {name} from server {name} into {name};",
            user = ADMIN.0,
            password = ADMIN.1,
        ));
    }
    query::execute(&client, &sql).await;
    let rows = query::rows(&client, QUESTION, &[]).await;
    let text = |row: &tokio_postgres::Row| (0..row.len()).map(|at| row.get(at)).collect();
    rows.iter().map(text).collect()
}

/// Prints each column of DuckDB's answer beside that of the sources.
fn print_answers(demo: &Consolidation<'_>, in_duckdb: &[Vec<String>], at_sources: &[Vec<String>]) {
    let mut table = vec![vec!["country".to_owned()]];
    for name in ["orders", "ordered", "paid", "delivered"] {
        table[0].extend([name.to_owned(), "(sources)".to_owned()]);
    }
    for (ours, theirs) in in_duckdb.iter().zip(at_sources) {
        let mut row = vec![ours[0].clone()];
        for (one, other) in ours.iter().zip(theirs).skip(1) {
            row.extend([one.clone(), format!("({other})")]);
        }
        table.push(row);
    }
    demo.screen.table(&table);
}

fn print_summary(demo: &Consolidation<'_>, figures: ExampleFigures, began: Instant) {
    let screen = demo.screen;
    screen.title("Summary");
    let sum = |of: fn(&SourceDatabase) -> u64| demo.sources.iter().map(of).sum::<u64>().to_string();
    let numbers = [
        (
            "committed transactions",
            sum(|it| it.commits.load(Ordering::Relaxed)),
        ),
        ("rows written", sum(|it| it.rows_written.load(Ordering::Relaxed))),
        (
            "changes sent, as the ticks report",
            sum(|it| it.changes.load(Ordering::Relaxed)),
        ),
        ("records, each of many events", figures.records.to_string()),
        (
            "batches, and partly failed ones",
            format!("{}, {}", figures.batches, figures.partial),
        ),
        ("batches sent again", figures.sent_again.to_string()),
        (
            "ticks, and failed ticks",
            format!(
                "{}, {}",
                sum(|it| it.ticks.load(Ordering::Relaxed)),
                sum(|it| it.failed_ticks.load(Ordering::Relaxed))
            ),
        ),
        (
            "time after set-up",
            format!("{:.1} s", began.elapsed().as_secs_f32()),
        ),
    ];
    for (name, number) in numbers {
        screen.print_untimed(TextStyle::Plain, &format!("  {name:<34}{number}"));
    }
    println!();
}
