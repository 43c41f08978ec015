//! A database with many tables costs no more than one with few: the tables that occur are read.

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use scenarios::variables::number;
use serde_json::Value;

use crate::support::backfill::{reported_state, run_backfill, start_event};

crate::scenarios![
    only_the_tables_that_occur_are_read,
    a_window_of_many_tables_has_the_key_of_each,
];

/// Fixture with tables `t1`, `t2` and so on from before the slot.
///
/// Each transaction creates two hundred of them. `MANY_TABLES` sets their number, for measurements by hand.
async fn fixture_with_many(plugin: Plugin) -> Fixture {
    let tables = number("MANY_TABLES", 2000);
    let fixture = Fixture::builder(plugin)
        .without_slot()
        .env("LOG_LEVEL", "debug")
        .build()
        .await;
    fixture
        .sql(&format!(
            "do $$ begin
                for i in 1..{tables} loop
                    execute format('create table t%s (id int primary key, n numeric(9,2))', i);
                    execute format('alter table t%s replica identity full', i);
                    if i % 200 = 0 then commit; end if;
                end loop;
            end $$"
        ))
        .await;
    fixture
        .sql(&format!(
            "grant select on t1, t2 to {}; create publication spillway for all tables;
             insert into t1 select i, i from generate_series(1, 200) i",
            REPLUSER.0
        ))
        .await;
    fixture.create_slot().await;
    fixture
}

/// Sum of this field over the debug lines with this message.
///
/// The function is killed first. Its log is complete after that.
async fn logged_sum(fixture: &Fixture, message: &str, field: &str) -> u64 {
    fixture.function.kill9().await;
    let lines = fixture.function.log().into_iter();
    let fields = lines.filter_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        let fields = line.get("fields").unwrap_or(&line);
        (fields["message"] == message).then(|| fields[field].as_u64())?
    });
    fields.sum()
}

/// Prints the milliseconds and the chunks of invocations. No test asserts them.
fn print_times(plugin: Plugin, what: &str, reports: &[Value]) {
    for report in reports {
        let (ms, chunks) = (&report["elapsed_ms"], &report["backfill"]["chunks"]);
        println!("{} {what}: {ms} ms, {chunks} chunks", plugin.name());
    }
}

async fn only_the_tables_that_occur_are_read() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_many(plugin).await;
        fixture
            .sql("insert into t2 values (1, 1.5); insert into t3 values (1, 1.5); update t2 set n = 2")
            .await;
        let reports = fixture.drain().await;
        print_times(plugin, "drain", &reports);
        let read = logged_sum(&fixture, "the catalog was read", "tables").await;
        assert!((2..=6).contains(&read), "{read} tables were read for two");
        let reports = run_backfill(&fixture, start_event(&["public.t1"], 50)).await;
        print_times(plugin, "backfill", &reports);
        let last = &reports[reports.len() - 2..];
        assert!(
            last.iter().any(|report| reported_state(report) == "finished"),
            "{last:?}"
        );
        let described = logged_sum(&fixture, "relations were described", "relations").await;
        let chunks: u64 = reports
            .iter()
            .filter_map(|report| report["backfill"]["chunks"].as_u64())
            .sum();
        assert!(chunks >= 4, "{reports:?}");
        assert!(
            described <= 3 * chunks,
            "{described} relations were described for {chunks} chunks"
        );
        let read = logged_sum(&fixture, "the catalog was read", "tables").await;
        assert!(
            read <= 6 + 6 * chunks,
            "{read} tables were read in {chunks} chunks"
        );
        fixture.compare(&["t1", "t2", "t3"]).await;
    })
    .await;
}

async fn a_window_of_many_tables_has_the_key_of_each() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_many(plugin).await;
        fixture
            .sql(
                "do $$ begin
                    for i in 1..600 loop
                        execute format('insert into t%s values (1000, %s)', i, i);
                        if i % 3 = 0 then commit; end if;
                    end loop;
                    commit;
                    for i in 1..600 loop execute format('delete from t%s where id = 1000', i); end loop;
                end $$",
            )
            .await;
        let report = fixture.drain().await.remove(0);
        assert_eq!(report["changes"], 1200, "{report}");
        let delivery = fixture.consume().await;
        let keys = delivery
            .arrivals
            .iter()
            .map(|arrival| arrival.partition_key.as_str());
        assert_eq!(keys.filter(|key| *key == r#"{"id":1000}"#).count(), 1200);
        let numbers = delivery.changes().into_iter().filter_map(|change| {
            let after = change.json()["after"].take();
            after["n"].as_str().map(str::to_owned)
        });
        // Each has the scale of its column.
        assert!(numbers.into_iter().all(|number| number.ends_with(".00")));
    })
    .await;
}
