//! A value of any size passes with `OVERSIZE=omit`.
//!
//! A drain needs only a function of 128 MiB. The backfills here have 256 MiB. The event omits the large
//! value, and lists the name of its column. A table that `TABLES` leaves out never stops the drain.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::{Value, json};

use crate::support::backfill::{LATE, fixture_with_tables, reported_state, run_backfill, start_event};
use crate::support::positions::wait_until_sessions_end;
use crate::support::reports::reported_sum;
use crate::support::small_function::{assert_memory, small_function};
use crate::support::versions::pgoutput;

crate::scenarios![
    a_value_of_twenty_megabytes_is_omitted_wherever_it_is,
    a_value_of_twenty_megabytes_is_omitted_on_14,
    a_value_of_twenty_megabytes_is_omitted_on_18,
    a_value_larger_than_the_memory_is_omitted_by_pgoutput,
    a_value_larger_than_the_memory_is_omitted_by_wal2json,
    a_value_larger_than_the_memory_is_omitted_by_test_decoding,
    an_excluded_table_never_stops_the_drain,
    the_advice_of_the_error_makes_the_next_tick_pass,
    a_transaction_of_huge_rows_is_resumed_inside,
    a_plan_counts_a_huge_event,
    a_backfill_omits_values_of_any_size,
    a_backfill_fails_a_table_with_a_huge_row_and_names_it,
];

/// Fixture for the smallest function, with the tables `big` and `small`.
async fn fixture(builder: FixtureBuilder) -> Fixture {
    small_function(
        builder,
        "create table big (id int primary key, small text, large text, other bytea);
             alter table big alter large set storage external, alter other set storage external;
             create table small (id int primary key)",
    )
    .await
}

/// Events of a table, in the order of their positions.
///
/// Each has its operation, id, images and omitted columns.
async fn events(fixture: &Fixture, table: &str) -> Vec<Value> {
    let delivery = fixture.consume().await;
    let mut events = delivery.of_table(table);
    for event in &mut events {
        let image = if event["after"].is_null() {
            "before"
        } else {
            "after"
        };
        let row = event[image].clone();
        *event = json!([
            event["op"],
            row["id"],
            row["small"],
            row["large"],
            row["other"],
            event["source"]["omitted"]
        ]);
    }
    events
}

/// Asserts that huge values are omitted in all kinds of changes.
///
/// The values are alone and together, in one transaction and in several.
async fn assert_omitted(builder: FixtureBuilder) {
    let fixture = fixture(builder.env("OVERSIZE", "omit")).await;
    fixture.sql("alter table big replica identity full").await;
    let huge = "repeat(E'x\\'\\n', 7000000)";
    fixture
        .sql(&format!(
            "insert into big values (1, 'a', {huge}, null), (2, 'b', 'c', '\\x00');
             insert into big values (3, 'd', {huge}, decode(repeat('ab', 12000000), 'hex'));
             insert into small values (1)"
        ))
        .await;
    fixture.sql("update big set small = 'e' where id = 1").await;
    fixture.sql("update big set large = 'short' where id = 1").await;
    fixture
        .sql(&format!("update big set large = {huge} where id = 2"))
        .await;
    fixture.sql("delete from big where id = 3").await;
    let reports = fixture.drain().await;
    assert_eq!(reported_sum(&reports, "omitted"), 6, "{reports:?}");
    let large = json!(["large"]);
    let (none, both) = (Value::Null, json!(["large", "other"]));
    assert_eq!(
        events(&fixture, "public.big").await,
        [
            json!(["c", 1, "a", UNAVAILABLE, null, large]),
            json!(["c", 2, "b", "c", "AA==", none]),
            json!(["c", 3, "d", UNAVAILABLE, UNAVAILABLE, both]),
            json!(["u", 1, "e", UNAVAILABLE, null, large]),
            json!(["u", 1, "e", "short", null, none]),
            json!(["u", 2, "b", UNAVAILABLE, "AA==", large]),
            json!(["d", 3, "d", UNAVAILABLE, UNAVAILABLE, both]),
        ]
    );
    fixture.compare(&["small"]).await;
    assert_memory(&fixture);
}

async fn a_value_of_twenty_megabytes_is_omitted_wherever_it_is() {
    Plugin::each(|plugin| async move { assert_omitted(Fixture::builder(plugin)).await }).await;
}

async fn a_value_of_twenty_megabytes_is_omitted_on_14() {
    assert_omitted(pgoutput(14)).await;
}

async fn a_value_of_twenty_megabytes_is_omitted_on_18() {
    assert_omitted(pgoutput(18)).await;
}

/// Asserts that a small function omits a value of 150 MB.
async fn assert_larger_than_memory_is_omitted(plugin: Plugin) {
    let fixture = fixture(Fixture::builder(plugin).env("OVERSIZE", "omit")).await;
    fixture
        .sql("insert into big values (1, 'a', repeat('x', 150000000), null); insert into small values (1)")
        .await;
    fixture.drain().await;
    assert_eq!(
        events(&fixture, "public.big").await,
        [json!(["c", 1, "a", UNAVAILABLE, null, ["large"]])]
    );
    fixture.compare(&["small"]).await;
    assert_memory(&fixture);
}

async fn a_value_larger_than_the_memory_is_omitted_by_pgoutput() {
    assert_larger_than_memory_is_omitted(Plugin::Pgoutput).await;
}

async fn a_value_larger_than_the_memory_is_omitted_by_wal2json() {
    assert_larger_than_memory_is_omitted(Plugin::Wal2json).await;
}

async fn a_value_larger_than_the_memory_is_omitted_by_test_decoding() {
    assert_larger_than_memory_is_omitted(Plugin::TestDecoding).await;
}

async fn an_excluded_table_never_stops_the_drain() {
    for policy in ["fail", "omit"] {
        Plugin::each(move |plugin| async move {
            let builder = Fixture::builder(plugin)
                .env("TABLES", "public.small")
                .env("OVERSIZE", policy);
            let fixture = fixture(builder).await;
            fixture
                .sql(
                    "insert into small values (1); insert into big values (1, 'a', repeat('x', 2000000));
                     insert into big values (2, 'b', repeat('x', 40000000)); insert into small values (2)",
                )
                .await;
            fixture.sql("update big set large = 'y'; delete from big").await;
            let reports = fixture.drain().await;
            assert_eq!(reports[0]["omitted"], 0, "{}", reports[0]);
            assert_eq!(fixture.compare(&["small"]).await.changes().len(), 2);
            assert_memory(&fixture);
        })
        .await;
    }
}

async fn the_advice_of_the_error_makes_the_next_tick_pass() {
    for (name, value) in [("OVERSIZE", "omit"), ("TABLES", "public.small")] {
        for bytes in [2_000_000, 20_000_000] {
            Plugin::each(move |plugin| async move {
                let mut fixture = fixture(Fixture::builder(plugin)).await;
                let sql = format!(
                    "insert into big values (1, 'a', repeat('x', {bytes})); insert into small values (1)"
                );
                fixture.sql(&sql).await;
                let (kind, message) = fixture.failing_tick().await;
                assert_eq!(kind, "Oversize", "{message}");
                for part in ["public.big", "position", &bytes.to_string()[..1], name, "1048576"] {
                    assert!(message.contains(part), "{part}: {message}");
                }
                fixture.function.set(name, value).await;
                let report = fixture.tick().await;
                assert_eq!(report["stopped"], "empty", "{report}");
                fixture.compare(&["small"]).await;
            })
            .await;
        }
    }
}

/// Large transaction that several invocations send.
///
/// No invocation has time for all rows. Each continues after the last acknowledged section.
async fn a_transaction_of_huge_rows_is_resumed_inside() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(Fixture::builder(plugin).env("OVERSIZE", "omit")).await;
        fixture
            .sql(
                "insert into big select i, repeat(md5(i::text), 20000),
                   case when i % 10 = 5 then repeat('x', 20000000) end from generate_series(1, 30) i",
            )
            .await;
        let slow = Fault::Delay(Duration::from_millis(2500));
        fixture.kinesis_proxy.inject("PutRecords", slow);
        let mut reports: Vec<Value> = Vec::new();
        while reports.last().is_none_or(|report| report["stopped"] != "empty") {
            assert!(reports.len() < 30, "{reports:?}");
            match fixture.function.invoke(&json!({}), Duration::from_secs(9)).await {
                // On a busy machine the servers or the stream may answer too late.
                Outcome::Error { kind, .. }
                    if kind == "StreamUnavailable" || LATE.contains(&kind.as_str()) =>
                {
                    reports.push(json!({"error": kind}));
                }
                outcome => reports.push(outcome.answer()),
            }
            wait_until_sessions_end(&fixture).await;
        }
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.big");
        let ids: Vec<_> = events
            .iter()
            .filter_map(|event| event["after"]["id"].as_u64())
            .collect();
        assert_eq!(ids, (1..=30).collect::<Vec<_>>());
        for event in &events {
            let is_huge = event["after"]["id"].as_u64().is_some_and(|id| id % 10 == 5);
            let omitted = if is_huge { json!(["large"]) } else { Value::Null };
            assert_eq!(event["source"]["omitted"], omitted);
        }
        println!("{}: {} invocations", plugin.name(), reports.len());
        assert!(reports.len() > 1, "{reports:?}");
        assert!(!fixture.function.log().join("\n").contains("sent in part"));
        assert_memory(&fixture);
    })
    .await;
}

async fn a_plan_counts_a_huge_event() {
    Plugin::each(|plugin| async move {
        for (policy, oversize, omitted) in [("fail", 1, 1), ("omit", 0, 2)] {
            let fixture = fixture(Fixture::builder(plugin).env("OVERSIZE", policy)).await;
            fixture
                .sql(
                    "insert into big values (1, 'a', repeat('x', 20000000)); insert into small values (1);
                     select pg_logical_emit_message(true, 'p', repeat('x', 2000000))",
                )
                .await;
            let plan = fixture.invoke(json!({"action": "plan"})).await.answer();
            assert_eq!(
                (&plan["oversize"], &plan["events"], &plan["complete"]),
                (&json!(oversize), &json!(3), &json!(true)),
                "{policy}: {plan}"
            );
            assert_eq!(plan["omitted"], omitted, "{policy}: {plan}");
        }
    })
    .await;
}

const BACKFILL_TABLES: &str = "create table doc (id int primary key, small text, large text, other bytea);
     alter table doc alter large set storage external, alter other set storage external;
     insert into doc values (1, 'a', repeat('x', 2000000), '\\x01'), (2, 'b', repeat('x', 20000000), '\\x02'),
       (3, 'c', repeat('x', 300000000), null), (4, 'd', 'e', decode(repeat('ab', 20000000), 'hex')),
       (5, null, repeat('x', 9000000), decode(repeat('ab', 9000000), 'hex')), (6, 'f', 'g', '\\x06');
     create table other (id int primary key, large text); alter table other alter large set storage external;
     insert into other values (1, repeat('x', 300000000));
     create table small (id int primary key); insert into small select generate_series(1, 10)";

async fn a_backfill_omits_values_of_any_size() {
    let builder = Fixture::builder(Plugin::Pgoutput)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("OVERSIZE", "omit");
    let fixture = fixture_with_tables(builder, BACKFILL_TABLES).await;
    run_backfill(&fixture, start_event(&["public.doc", "public.small"], 2)).await;
    let large = json!(["large"]);
    assert_eq!(
        events(&fixture, "public.doc").await,
        [
            json!(["r", 1, "a", UNAVAILABLE, "AQ==", large]),
            json!(["r", 2, "b", UNAVAILABLE, "Ag==", large]),
            json!(["r", 3, "c", UNAVAILABLE, null, large]),
            json!(["r", 4, "d", "e", UNAVAILABLE, ["other"]]),
            json!(["r", 5, null, UNAVAILABLE, UNAVAILABLE, ["large", "other"]]),
            json!(["r", 6, "f", "g", "Bg==", null]),
        ]
    );
    fixture.compare(&["small"]).await;
    let peak = fixture.function.peak_memory_bytes();
    assert!(peak < 256 << 20, "{} MiB were resident", peak >> 20);
}

async fn a_backfill_fails_a_table_with_a_huge_row_and_names_it() {
    let builder = Fixture::builder(Plugin::Pgoutput).env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256");
    let fixture = fixture_with_tables(builder, BACKFILL_TABLES).await;
    let event = json!({
        "action": "backfill", "wait": true, "tables": ["public.small", "public.doc"], "where": "id <> 1",
    });
    let mut report = fixture.invoke(event).await.answer();
    while reported_state(&report) == "running" {
        report = fixture.tick().await;
    }
    assert_eq!(reported_state(&report), "failed", "{report}");
    let status = fixture.status().await;
    let tables = status["backfill"]["tables"].to_string();
    assert!(
        tables.contains("20000") && tables.contains("a record may have 1048576"),
        "{status}"
    );
    fixture.drain().await;
    assert_eq!(fixture.consume().await.of_table("public.small").len(), 9);
}
