//! Placeholders in `STREAM_NAME` choose the stream of a table.
//!
//! The schema and the name of the table determine its stream. Order and continuity are the same as with one
//! stream. Messages and control events are sent to `MESSAGE_STREAM_NAME`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::consumer::Delivery;
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::wait;
use serde_json::json;

use crate::support::backfill::{fixture_with_tables, run_backfill};
use crate::support::expected_errors::assert_tick_fails;
use crate::support::gap::{accept_gap, advance_slot, gap_events};
use crate::support::positions::{SlotPositions, wait_until_sessions_end};
use crate::support::reshard::reshard;

crate::scenarios![
    each_change_is_sent_to_the_stream_of_its_schema,
    a_table_without_its_stream_stops_the_drain_until_the_stream_exists,
    order_holds_in_every_stream_despite_failures_kills_and_a_reshard,
    a_drain_writes_to_at_most_fifty_streams,
    control_events_are_sent_to_the_stream_of_messages,
    setup_and_status_name_missing_streams,
    a_plan_forecasts_the_records_of_each_stream,
];

/// Two schemas, each with a table `t` that has the same keys. The name of one schema has a character that
/// Kinesis does not accept.
const TABLES: &str = r#"
    create schema "Web Shop"; grant usage on schema "Web Shop" to public;
    create table public.t (id int primary key, n int); create table public.log (line text);
    create table "Web Shop".t (id int primary key, n int);
    grant select on all tables in schema "Web Shop" to public"#;

const COMPARED: [&str; 3] = ["public.t", "public.log", r#""Web Shop".t"#];

/// A fixture with a stream for each schema, called `NAME-SCHEMA`. The stream of messages is called `NAME`.
async fn fixture(plugin: Plugin, shards: i32, aggregation: &str) -> Fixture {
    let builder = Fixture::builder(plugin).env("AGGREGATION", aggregation);
    let mut fixture = fixture_with_tables(builder, TABLES).await;
    use_pattern(&mut fixture, "{schema}").await;
    for stream in table_streams(&fixture) {
        fixture.kinesis.create_stream(&stream, shards).await;
    }
    fixture
}

/// Sets `STREAM_NAME` to the fixture's stream name, a hyphen and `suffix`.
///
/// `MESSAGE_STREAM_NAME` becomes the fixture's stream.
async fn use_pattern(fixture: &mut Fixture, suffix: &str) {
    let (pattern, messages) = (format!("{}-{suffix}", fixture.stream), fixture.stream.clone());
    fixture.function.set("STREAM_NAME", &pattern).await;
    fixture.function.set("MESSAGE_STREAM_NAME", &messages).await;
}

fn table_streams(fixture: &Fixture) -> [String; 2] {
    ["public", "Web_Shop"].map(|schema| format!("{}-{schema}", fixture.stream))
}

/// Compares the rows of all streams with PostgreSQL. Returns what each stream has.
///
/// # Panics
/// A row differs, or the events of a stream are not in order.
async fn compare(fixture: &Fixture) -> BTreeMap<String, Delivery> {
    let mut all = Delivery::default();
    let mut deliveries = BTreeMap::new();
    for stream in table_streams(fixture).iter().chain([&fixture.stream]) {
        let delivery = Delivery::read(&fixture.kinesis, stream).await;
        delivery.assert_promise();
        deliveries.insert(stream.clone(), delivery);
        all.add_stream(&fixture.kinesis, stream).await;
    }
    let rebuilt = all.rebuild();
    assert!(rebuilt.disagreements.is_empty(), "{:?}", rebuilt.disagreements);
    let client = fixture.connect().await;
    for table in COMPARED {
        let compared = oracle::compare(&client, table, &rebuilt, ComparedRows::All).await;
        compared.assert_equal();
    }
    deliveries
}

/// The tables of a stream, with their number of changes.
fn counts(delivery: &Delivery) -> Vec<(String, usize)> {
    delivery.counts().into_iter().collect()
}

async fn each_change_is_sent_to_the_stream_of_its_schema() {
    Plugin::each(|plugin| async move {
        for aggregation in ["none", "kpl"] {
            let fixture = fixture(plugin, 2, aggregation).await;
            for sql in [
                "insert into t select i, 0 from generate_series(1, 40) i;
                 insert into log values ('a'), ('b')",
                r#"insert into "Web Shop".t select i, 0 from generate_series(1, 30) i; update t set n = 1"#,
                r#"truncate "Web Shop".t, t; insert into t values (1, 1);
                   insert into "Web Shop".t values (1, 2)"#,
                r#"update t set id = 2; delete from "Web Shop".t; insert into "Web Shop".t values (1, 3)"#,
            ] {
                fixture.sql(sql).await;
            }
            if plugin != Plugin::Wal2json {
                fixture
                    .sql("select pg_logical_emit_message(true, 'app', 'x')")
                    .await;
            }
            let reports = fixture.drain().await;
            SlotPositions::read(&fixture).await;
            let deliveries = compare(&fixture).await;
            let [public, shop] = table_streams(&fixture).map(|stream| counts(&deliveries[&stream]));
            let one = |table: &str, count| (table.to_owned(), count);
            assert_eq!(
                public,
                [one("public.log", 2), one("public.t", 40 + 40 + 1 + 1 + 2)]
            );
            assert_eq!(shop, [one("Web Shop.t", 30 + 1 + 1 + 1 + 1)]);
            let messages = counts(&deliveries[&fixture.stream]);
            // A message names no table.
            let expected = (plugin != Plugin::Wal2json).then(|| one(".", 1));
            assert_eq!(messages, Vec::from_iter(expected), "{reports:?}");
        }
    })
    .await;
}

async fn a_table_without_its_stream_stops_the_drain_until_the_stream_exists() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin, 1, "none").await;
        fixture
            .sql("create schema later; create table later.t (id int primary key)")
            .await;
        fixture
            .sql("insert into t select i, 0 from generate_series(1, 10) i")
            .await;
        fixture.sql("insert into later.t values (1)").await;
        fixture
            .sql("insert into t select i, 0 from generate_series(11, 20) i")
            .await;
        let stream = format!("{}-later", fixture.stream);
        let parts = [stream.as_str(), "changes of table later.t wait"];
        let (kind, message) = fixture.failing_tick().await;
        assert_eq!(kind, "StreamMissing", "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        // The changes before the first one of the table are confirmed.
        assert_tick_fails(&fixture, "StreamMissing", &parts).await;
        let public = &table_streams(&fixture)[0];
        let before = Delivery::read(&fixture.kinesis, public).await;
        assert_eq!(counts(&before), [("public.t".to_owned(), 10)]);
        fixture.kinesis.create_stream(&stream, 1).await;
        let reports = fixture.drain().await;
        assert_eq!(reports[0]["changes"], 11, "{reports:?}");
        compare(&fixture).await;
        let later = Delivery::read(&fixture.kinesis, &stream).await;
        assert_eq!(counts(&later), [("later.t".to_owned(), 1)]);
    })
    .await;
}

async fn order_holds_in_every_stream_despite_failures_kills_and_a_reshard() {
    Plugin::each(|plugin| async move {
        for aggregation in ["none", "kpl"] {
            let fixture = fixture(plugin, 3, aggregation).await;
            let write = |from: u32| {
                format!(
                    r#"do $$ begin
                        for i in {from}..{from} + 59 loop
                            insert into t values (i, 0); insert into "Web Shop".t values (i, 0);
                            update t set n = n + 1 where id % 30 = i % 30;
                            update "Web Shop".t set n = n + 1 where id % 20 = i % 20;
                            commit;
                        end loop;
                    end $$"#
                )
            };
            let client = fixture.connect().await;
            client.batch_execute(&write(1)).await.unwrap();
            fixture.kinesis_proxy.flaky(7, 10);
            for time in [400, 800] {
                let limit = Duration::from_millis(time);
                fixture
                    .function
                    .invoke_with_limit(&json!({}), DEADLINE, limit)
                    .await;
                wait_until_sessions_end(&fixture).await;
            }
            client.batch_execute(&write(101)).await.unwrap();
            let shop = &table_streams(&fixture)[1];
            tokio::join!(fixture.invoke(json!({})), reshard(&fixture.kinesis, shop));
            client.batch_execute(&write(201)).await.unwrap();
            wait::until("a drain ends although requests fail", DEADLINE, || async {
                let answer = fixture.invoke(json!({})).await;
                matches!(answer, Outcome::Answer(report) if report["stopped"] == "empty")
            })
            .await;
            compare(&fixture).await;
        }
    })
    .await;
}

async fn a_drain_writes_to_at_most_fifty_streams() {
    let mut fixture = fixture(Plugin::Pgoutput, 1, "none").await;
    use_pattern(&mut fixture, "{table}").await;
    for n in 1..=49 {
        fixture
            .kinesis
            .create_stream(&format!("{}-t{n}", fixture.stream), 1)
            .await;
    }
    let all = "do $$ begin for n in 1..49 loop
                   execute format('create table t%s (id int primary key)', n);
                   execute format('insert into t%s values (1)', n);
               end loop; end $$";
    fixture.sql(all).await;
    fixture
        .sql("create table one_more (id int primary key); insert into one_more values (1)")
        .await;
    let parts = ["table public.one_more", "50 streams"];
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "TooManyStreams", "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    for n in 1..=49 {
        let stream = format!("{}-t{n}", fixture.stream);
        let delivery = Delivery::read(&fixture.kinesis, &stream).await;
        assert_eq!(delivery.arrivals.len(), 1, "{stream}");
    }
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(problems.contains("at most 50"), "{problems}");
    // With {schema}, two streams are enough.
    use_pattern(&mut fixture, "{schema}").await;
    let reports = fixture.drain().await;
    assert_eq!(reports[0]["changes"], 1, "{reports:?}");
}

async fn control_events_are_sent_to_the_stream_of_messages() {
    let fixture = fixture(Plugin::Pgoutput, 1, "none").await;
    fixture
        .sql("insert into t select i, 0 from generate_series(1, 20) i")
        .await;
    fixture.drain().await;
    fixture
        .sql(r#"delete from t where id < 5; insert into "Web Shop".t values (1, 1)"#)
        .await;
    let confirmed = advance_slot(&fixture).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    let tables = ["public.t", r#""Web Shop".t"#];
    let event = json!({"action": "backfill", "repair": true, "wait": true, "tables": tables});
    run_backfill(&fixture, event).await;
    let deliveries = compare(&fixture).await;
    let messages = &deliveries[&fixture.stream];
    assert_eq!(gap_events(messages).len(), 1);
    let prefixes = messages
        .arrivals
        .iter()
        .map(|arrival| arrival.json()["message"]["prefix"].clone());
    // They may be in different shards, so they are read in any order.
    let prefixes: BTreeSet<String> = prefixes
        .map(|prefix| prefix.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        Vec::from_iter(prefixes),
        ["spillway.gap_accepted", "spillway.repaired"]
    );
}

async fn setup_and_status_name_missing_streams() {
    Plugin::each(|plugin| async move {
        let mut fixture = fixture(plugin, 1, "none").await;
        // Events name the partition, and not its root.
        fixture
            .sql(
                "create table p (id int primary key) partition by range (id);
                 create table p1 partition of p for values from (0) to (10)",
            )
            .await;
        use_pattern(&mut fixture, "all-{table}").await;
        for action in ["status", "setup"] {
            let answer = fixture.invoke(json!({"action": action})).await.answer();
            let problems = answer["problems"].as_array().unwrap();
            assert_eq!(problems.len(), 3, "{answer}");
            for (problem, (schema, table)) in
                problems
                    .iter()
                    .zip([("public", "log"), ("public", "p1"), ("", "t")])
            {
                let problem = problem.as_str().unwrap();
                let start = format!("the changes of table {schema}");
                let end = format!("there is no stream {}-all-{table}:", fixture.stream);
                assert!(problem.starts_with(&start) && problem.contains(&end), "{answer}");
            }
            if action == "status" {
                let pattern = format!("{}-all-{{table}}", fixture.stream);
                assert_eq!(answer["stream_pattern"], pattern);
            }
        }
        for table in ["log", "p1", "t"] {
            let stream = format!("{}-all-{table}", fixture.stream);
            fixture.kinesis.create_stream(&stream, 1).await;
        }
        // All functions of an account share a limit of such requests.
        for _ in 0..4 {
            let throttled = Fault::refuse("LimitExceededException", "Rate exceeded");
            fixture
                .kinesis_proxy
                .inject_once("DescribeStreamSummary", throttled);
        }
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([]), "{status}");
    })
    .await;
}

async fn a_plan_forecasts_the_records_of_each_stream() {
    for aggregation in ["none", "kpl"] {
        let mut fixture = fixture(Plugin::Pgoutput, 2, aggregation).await;
        fixture
            .sql(
                "insert into t select i, 0 from generate_series(1, 40) i;
                 insert into log values ('a'), ('b')",
            )
            .await;
        fixture
            .sql(r#"insert into "Web Shop".t select i, 0 from generate_series(1, 30) i"#)
            .await;
        fixture
            .sql("select pg_logical_emit_message(true, 'app', 'x')")
            .await;
        let plan = fixture.invoke(json!({"action": "plan"})).await.answer();
        assert_eq!(
            fixture.kinesis_proxy.requests("PutRecords"),
            0,
            "the plan sent records"
        );
        assert_eq!(plan["stream"], fixture.stream, "{plan}");
        let mut planned: BTreeMap<&str, u64> = BTreeMap::new();
        for shard in plan[aggregation]["shards"].as_array().unwrap() {
            let records = planned.entry(shard["stream"].as_str().unwrap()).or_default();
            *records += shard["records"].as_u64().unwrap();
        }
        let report = fixture.tick().await;
        assert_eq!(plan["events"], report["events"], "{plan}");
        for (stream, delivery) in compare(&fixture).await {
            let records = delivery.records as u64;
            assert!(records > 0, "{stream} is empty");
            match aggregation {
                "none" => assert_eq!(planned[&*stream], records, "{stream}: {plan}"),
                // While a drain waits for rows it sends what it has, so it may send more records.
                _ => assert!((1..=records).contains(&planned[&*stream]), "{stream}: {plan}"),
            }
        }
        assert_eq!(planned.len(), 3, "{plan}");

        use_pattern(&mut fixture, "{schema}-{table}").await;
        fixture.sql("insert into t values (41, 0)").await;
        let (kind, message) = fixture.invoke(json!({"action": "plan"})).await.error();
        let stream = format!("{}-public-t", fixture.stream);
        assert_eq!(kind, "StreamMissing", "{message}");
        assert!(message.contains(&stream), "{message}");
    }
}
