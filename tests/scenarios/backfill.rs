//! A backfill brings the rows that were there before the slot, chunk by chunk beside the live changes, and the consumer ends with what
//! PostgreSQL has: through kills, pauses, a truncate and a failover. `make backfill` plays the same with millions of rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use scenarios::aws::fault_proxy::{Fault, FaultSide};
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use scenarios::random_play::workloads::backfill as random_backfill;
use scenarios::random_play::{Counter, Engine};
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkGate, backfill_state, backfilled_rows, change_rows_until, command_event, create_table_sql,
    fixture_with_tables, invoke_ok, invoke_within, read_events, run_backfill, run_beside_writer, start_event,
    start_within, tick_until_finished,
};
use crate::support::cluster::start_cluster;
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::positions::{SlotPositions, wait_until_sessions_end};
use crate::support::versions::with_each_plugin;

crate::scenarios![
    existing_rows_arrive_during_writes,
    each_envelope_marks_backfilled_rows,
    a_single_row_is_the_last_and_an_empty_table_sends_no_event,
    a_killed_backfill_reads_at_most_one_chunk_again,
    ticks_continue_a_backfill_and_status_reports_its_progress,
    a_backfill_can_be_paused_resumed_and_cancelled,
    only_one_backfill_can_be_pending,
    a_backfill_reads_tables_one_after_another,
    a_row_that_moves_between_two_invocations_is_complete,
    a_truncate_during_a_backfill_removes_the_rows_read_before,
    a_failover_during_a_backfill_loses_no_row,
    writers_do_not_wait_and_the_slot_does_not_lag,
    a_backfill_loses_no_row_through_crashes_and_failovers,
];

crate::version_scenarios![a_table_is_backfilled_during_writes];

/// Rows of a table that takes several chunks.
const ROWS: usize = 5_000;

/// The mark of each event that was read.
fn marks(reads: &[Value]) -> Vec<&str> {
    reads
        .iter()
        .map(|event| event["source"]["snapshot"].as_str().unwrap_or_default())
        .collect()
}

async fn existing_rows_arrive_during_writes() {
    Plugin::each(|plugin| beside_a_writer(Fixture::builder(plugin))).await;
}

async fn beside_a_writer(builder: FixtureBuilder) {
    let fixture = fixture_with_tables(builder, &create_table_sql(ROWS)).await;
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(20)));
    let reports = run_beside_writer(&fixture, start_event(&["public.t"], 700), ROWS).await;
    let last = &reports[reports.len() - 1]["backfill"];
    assert_eq!(
        last["tables"],
        json!({"done": 1, "failed": 0, "left": 0}),
        "{last}"
    );
    let delivery = fixture.compare(&["t"]).await;
    let reads = read_events(&delivery, "public.t");
    assert_eq!(last["rows"], reads.len(), "{last}");
    let marks = marks(&reads);
    assert_eq!(
        (marks[0], marks[marks.len() - 1]),
        ("first_in_data_collection", "last_in_data_collection")
    );
    assert!(
        marks[1..marks.len() - 1]
            .iter()
            .all(|mark| *mark == "incremental")
    );
    assert!(reads.iter().all(|event| event["before"].is_null()));
    let mut live = delivery.of_table("public.t");
    live.retain(|event| event["op"] != "r");
    assert!(live.iter().all(|event| event["source"]["snapshot"] == "false"));
    assert!(
        delivery.counts().keys().all(|name| name == "public.t"),
        "no watermark is in the stream"
    );
}

async fn each_envelope_marks_backfilled_rows() {
    for envelope in ["dms", "wal2json"] {
        Plugin::each(move |plugin| async move {
            let builder = Fixture::builder(plugin).env("ENVELOPE", envelope);
            let fixture = fixture_with_tables(builder, &create_table_sql(3000)).await;
            // Not all of the last chunk is overtaken.
            run_beside_writer(&fixture, start_event(&["public.t"], 700), 3000).await;
            let delivery = fixture.compare(&["t"]).await;
            let events: Vec<Value> = delivery.changes().iter().map(|it| it.json()).collect();
            let read = |event: &&Value| match envelope {
                "dms" => event["metadata"]["operation"] == "load",
                _ => event["action"] == "I" && event.get("snapshot").is_some(),
            };
            let reads: Vec<&Value> = events.iter().filter(read).collect();
            let mark = |event: &Value| match envelope {
                "dms" => event["metadata"].get("snapshot").cloned(),
                _ => event.get("snapshot").cloned(),
            };
            let within = (envelope == "wal2json").then(|| json!("incremental"));
            assert_eq!(mark(reads[0]), Some(json!("first_in_data_collection")));
            assert_eq!(mark(reads[1]), within);
            assert_eq!(
                mark(reads[reads.len() - 1]),
                Some(json!("last_in_data_collection"))
            );
            if envelope == "dms" {
                let has = |name: &str| reads.iter().any(|event| event["metadata"].get(name).is_some());
                assert!(!has("transaction-id") && !has("transaction-record-id"));
            }
        })
        .await;
    }
}

async fn a_single_row_is_the_last_and_an_empty_table_sends_no_event() {
    Plugin::each(|plugin| async move {
        let sql = "create table one (id int primary key); insert into one values (1); create table none (id int primary key)";
        let fixture = fixture_with_tables(Fixture::builder(plugin), sql).await;
        let reports = run_backfill(&fixture, json!({"action": "backfill", "tables": "all"})).await;
        let done = reports.iter().find(|report| backfill_state(report) == "finished");
        assert_eq!(done.map(|report| report["backfill"]["tables"]["done"].clone()), Some(json!(2)));
        let delivery = fixture.compare(&["one", "none"]).await;
        assert_eq!(marks(&read_events(&delivery, "public.one")), ["last_in_data_collection"]);
        assert_eq!(delivery.changes().len(), 1);
    })
    .await;
}

async fn a_killed_backfill_reads_at_most_one_chunk_again() {
    const CHUNK: usize = 400;
    for side in [FaultSide::Request, FaultSide::Answer] {
        Plugin::each(move |plugin| async move {
            let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS)).await;
            // So that most of the table is still to be read when its first chunk counts.
            fixture
                .kinesis_proxy
                .inject("PutRecords", Fault::Delay(Duration::from_millis(200)));
            let amid = async {
                wait::until("a chunk is stored as sent", DEADLINE, || async {
                    let stored = fixture.backfill_state().await.unwrap_or_default();
                    stored["rows"].as_u64() > Some(0)
                })
                .await;
                let mut held = fixture.kinesis_proxy.hold("PutRecords", side);
                held.wait_until_held().await;
                held
            };
            let held = tokio::select! {
                ended = fixture.invoke(start_event(&["public.t"], CHUNK as u64)) => {
                    panic!("it ended before it was killed: {ended:?}")
                }
                held = amid => held,
            };
            fixture.function.kill9().await;
            drop(held);
            fixture.kinesis_proxy.clear();
            wait_until_sessions_end(&fixture).await;
            SlotPositions::read(&fixture).await;
            let stored = fixture.backfill_state().await.expect("the state is stored");
            assert_eq!(stored["table"]["name"], json!(["public", "t"]), "{stored}");
            let rows = stored["rows"].as_u64().unwrap_or(0) as usize;
            assert!(0 < rows && rows < ROWS, "{stored}");
            let report = fixture.tick().await;
            tick_until_finished(&fixture, report).await;
            fixture.drain().await;
            let delivery = fixture.compare(&["t"]).await;
            let read = delivery.arrivals.iter().filter(|it| it.event().op == "r").count();
            assert!(
                (ROWS..=ROWS + CHUNK).contains(&read),
                "{read} rows of {ROWS} were read"
            );
        })
        .await;
    }
}

/// Rows of a table that is read slowly.
const FEW: u64 = 1_200;

/// A fixture on which a backfill of `t` in chunks of a hundred rows takes several invocations of [`SHORT`].
async fn slow(plugin: Plugin) -> Fixture {
    let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(FEW as usize)).await;
    slow_down(&fixture);
    fixture
}

fn slow_down(fixture: &Fixture) {
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(400)));
}

/// Long enough for some chunks: none is begun in the last seconds of an invocation.
const SHORT: Duration = Duration::from_secs(5);

async fn short(fixture: &Fixture, event: Value) -> Value {
    invoke_within(fixture, event, SHORT).await
}

async fn ticks_continue_a_backfill_and_status_reports_its_progress() {
    Plugin::each(|plugin| async move {
        let fixture = slow(plugin).await;
        let none = fixture.invoke(json!({"action": "status"})).await.answer();
        assert_eq!(none["backfill"], Value::Null, "{none}");
        let mut reports = start_within(&fixture, start_event(&["public.t"], 100), SHORT).await;
        let first = reports[reports.len() - 1].clone();
        assert_eq!(first["backfill"]["table"], "public.t");
        let status = fixture.invoke(json!({"action": "status"})).await.answer();
        let told = &status["backfill"];
        assert_eq!(
            (&told["state"], &told["rows"]),
            (&json!("running"), &json!(backfilled_rows(&first))),
            "{told}"
        );
        let of_table = &told["tables"][0];
        assert_eq!(
            (&of_table["table"], &of_table["state"]),
            (&json!("public.t"), &json!("reading")),
            "{told}"
        );
        assert_eq!(of_table["rows"], told["rows"], "{told}");
        assert!(
            of_table["estimate"]
                .as_u64()
                .is_some_and(|rows| (FEW / 2..FEW * 2).contains(&rows)),
            "{told}"
        );
        let figure = |name: &str| of_table[name].as_f64().unwrap_or_default();
        // What is left, at the rate so far; both are rounded.
        let left = (figure("estimate") - figure("rows")) / figure("rows_per_second");
        assert!(
            figure("rows_per_second") > 0.0 && (figure("seconds_left") - left).abs() < 1.0 + left / 10.0,
            "{told}"
        );
        for name in ["position", "started_at", "updated_at"] {
            assert!(!told[name].is_null(), "{name}: {told}");
        }
        while backfill_state(&reports[reports.len() - 1]) != "finished" {
            let report = short(&fixture, json!({})).await;
            assert_eq!(report["action"], "drain", "{report}");
            // On a busy machine a tick may have no time for a chunk; none goes back.
            assert!(
                backfilled_rows(&report) >= backfilled_rows(&reports[reports.len() - 1]),
                "a tick lost what was read: {report}"
            );
            reports.push(report);
            assert!(reports.len() < 30, "the ticks do not finish it: {reports:#?}");
        }
        assert!(reports.len() > 1, "one invocation did it all: this shows nothing");
        let sum = |name: &str| -> u64 {
            reports
                .iter()
                .filter_map(|report| report["backfill"][name].as_u64())
                .sum()
        };
        assert_eq!((sum("read"), sum("overtaken")), (FEW, 0), "{reports:#?}");
        assert!(sum("chunks") >= FEW / 100);
        assert_eq!(backfilled_rows(&reports[reports.len() - 1]), FEW);
        fixture.kinesis_proxy.clear();
        fixture.drain().await;
        assert_eq!(fixture.compare(&["t"]).await.changes().len(), FEW as usize);
    })
    .await;
}

async fn a_backfill_can_be_paused_resumed_and_cancelled() {
    let fixture = slow(Plugin::Pgoutput).await;
    let reports = start_within(&fixture, start_event(&["public.t"], 50), SHORT).await;
    let begun = &reports[reports.len() - 1];
    let paused = fixture.invoke(command_event("pause")).await.answer();
    assert_eq!(
        (&paused["action"], backfill_state(&paused)),
        (&json!("backfill"), "paused"),
        "{paused}"
    );
    fixture.sql("update t set n = -1 where id = 1200").await;
    let tick = fixture.tick().await;
    assert_eq!(
        (backfill_state(&tick), backfilled_rows(&tick), &tick["changes"]),
        ("paused", backfilled_rows(begun), &json!(1)),
        "{tick}"
    );
    let mut resumed = short(&fixture, command_event("resume")).await;
    assert_eq!(resumed["action"], "backfill", "{resumed}");
    for _ in 0..10 {
        if backfilled_rows(&resumed) == backfilled_rows(begun) {
            resumed = short(&fixture, json!({})).await;
        }
    }
    assert!(
        backfilled_rows(&resumed) > backfilled_rows(begun),
        "it does not go on: {resumed}"
    );
    let cancelled = fixture.invoke(command_event("cancel")).await.answer();
    assert_eq!(
        (&cancelled["action"], backfill_state(&cancelled)),
        (&json!("backfill"), "cancelled"),
        "{cancelled}"
    );
    let tick = fixture.tick().await;
    assert_eq!(backfill_state(&tick), "none", "{tick}");
    let read = read_events(&fixture.consume().await, "public.t").len();
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    assert_eq!(
        read_events(&fixture.consume().await, "public.t").len(),
        read,
        "nothing more is read"
    );
    // Whoever cancels may begin anew.
    run_backfill(&fixture, start_event(&["public.t"], 1_000)).await;
    fixture.compare(&["t"]).await;
}

async fn only_one_backfill_can_be_pending() {
    let fixture = slow(Plugin::Pgoutput).await;
    for what in ["cancel", "pause", "resume"] {
        assert_invocation_fails(&fixture, command_event(what), "BackfillMissing", &[]).await;
    }
    short(&fixture, start_event(&["public.t"], 100)).await;
    let before = fixture.backfill_state().await;
    assert_invocation_fails(&fixture, start_event(&["public.t"], 50), "BackfillPending", &[]).await;
    assert_eq!(fixture.backfill_state().await, before);
    fixture.kinesis_proxy.clear();
    let report = fixture.tick().await;
    tick_until_finished(&fixture, report).await;
    assert_invocation_fails(&fixture, command_event("cancel"), "BackfillMissing", &[]).await;
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn a_backfill_reads_tables_one_after_another() {
    let sql = "create schema audit; create table audit.b (id int primary key); create table audit.a (id int primary key);
               create table c (id int primary key); create table d (id int primary key);
               insert into audit.a select generate_series(1, 50); insert into audit.b select generate_series(1, 50);
               insert into c select generate_series(1, 50); insert into d select generate_series(1, 50)";
    Plugin::each(move |plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), sql).await;
        let role = REPLUSER.0;
        fixture
            .sql(&format!(
                "grant usage on schema audit to {role}; grant select on all tables in schema audit to {role}"
            ))
            .await;
        let reports = run_backfill(&fixture, start_event(&["audit.*", "public.c"], 20)).await;
        let done = reports
            .iter()
            .find(|report| backfill_state(report) == "finished")
            .unwrap();
        assert_eq!(
            done["backfill"]["tables"],
            json!({"done": 3, "failed": 0, "left": 0}),
            "{done}"
        );
        let delivery = fixture.compare(&["audit.a", "audit.b", "c"]).await;
        assert_eq!(read_events(&delivery, "public.d").len(), 0);
        let mut order: Vec<String> = delivery
            .changes()
            .iter()
            .filter_map(|it| it.event().table())
            .collect();
        order.dedup();
        assert_eq!(order.len(), 3, "{order:?}");
    })
    .await;
}

async fn a_row_that_moves_between_two_invocations_is_complete() {
    Plugin::each(|plugin| async move {
        let fixture = slow(plugin).await;
        start_within(&fixture, start_event(&["public.t"], 100), SHORT).await;
        // With large values: to before what was read, where it stays, changes, or from where it goes back, and to the end.
        fixture.sql("update t set id = -1 where id = 1200; update t set id = -2 where id = 1150; update t set id = -3 where id = 1100")
            .await;
        fixture.sql("update t set n = 0 where id = -2; update t set id = 1100 where id = -3; update t set id = 2000 where id = 50")
            .await;
        fixture.function.kill9().await;
        fixture.kinesis_proxy.clear();
        let report = fixture.tick().await;
        tick_until_finished(&fixture, report).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

async fn a_truncate_during_a_backfill_removes_the_rows_read_before() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &format!("{}; {}", create_table_sql(60), ChunkGate::SQL)).await;
        let event =
            json!({"action": "backfill", "tables": ["public.t"], "chunk_rows": 20, "where": ChunkGate::CONDITION});
        let gate = ChunkGate::closed_at(&fixture, 10).await;
        // It waits for the chunk that is being read, and is committed before its rows are sent.
        let truncate = "truncate t; insert into t select i, 0, null from generate_series(10, 80) i";
        let (first, ()) = tokio::join!(
            invoke_ok(&fixture, event),
            gate.open_after(&fixture, fixture.sql(truncate))
        );
        tick_until_finished(&fixture, first).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

async fn a_failover_during_a_backfill_loses_no_row() {
    for plugin in [Plugin::Pgoutput, Plugin::TestDecoding] {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin).on_cluster(start_cluster(17).await),
            &create_table_sql(2_000),
        )
        .await;
        fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
        fixture.drain().await;
        fixture.wait_until_synced().await;
        fixture
            .kinesis_proxy
            .inject("PutRecords", Fault::Delay(Duration::from_millis(50)));
        let (first, ()) = tokio::join!(fixture.invoke(start_event(&["public.t"], 50)), async {
            wait::until("some of it was sent", DEADLINE, || async {
                let stored = fixture.backfill_state().await.unwrap_or_default();
                stored["rows"].as_u64() > Some(300)
            })
            .await;
            fixture
                .sql("update t set n = -1 where id in (1, 1999); update t set id = -id where id = 2000")
                .await;
            fixture.cluster().failover().await;
        });
        assert!(!matches!(first, Outcome::Exited(_)), "{first:?}");
        fixture.kinesis_proxy.clear();
        fixture
            .sql("update t set n = -2 where id in (2, 1000, 1998)")
            .await;
        let report = fixture.tick().await;
        tick_until_finished(&fixture, report).await;
        fixture.drain().await;
        SlotPositions::read(&fixture).await;
        let delivery = fixture.compare(&["t"]).await;
        let read = delivery.arrivals.iter().filter(|it| it.event().op == "r").count();
        assert!(
            read <= 2_000 + 50,
            "{read} rows were read: more than a chunk again"
        );
    }
}

/// A writer that waits for a lock for a tenth of a second fails. Nobody else writes here, so that the lag is the backfill's.
async fn writers_do_not_wait_and_the_slot_does_not_lag() {
    const MOST_LAG: u64 = 8 << 20;
    let postgres = Postgres::start(PostgresSettings::default()).await;
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput).on_server(postgres),
        &create_table_sql(ROWS),
    )
    .await;
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(100)));
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    // Sessions that wait for the function. Others also wait for each other for a moment, to extend a table.
    let waits = "select count(*) from pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) b(pid) \
                 join pg_stat_activity f on f.pid = b.pid and f.application_name like 'spillway%' \
                 where w.datname = current_database() and w.wait_event_type = 'Lock'";
    let (reports, written, waited) = tokio::join!(
        async {
            let mut reports = vec![short(&fixture, start_event(&["public.t"], 250)).await];
            while backfill_state(&reports[reports.len() - 1]) != "finished" {
                assert!(reports.len() < 20, "it does not come to an end: {}", reports[19]);
                most.fetch_max(fixture.lag_bytes().await, Ordering::Relaxed);
                reports.push(short(&fixture, json!({})).await);
            }
            stop.store(true, Ordering::Relaxed);
            reports
        },
        change_rows_until(&fixture, ROWS, &stop),
        async {
            let (client, mut waited) = (fixture.connect().await, 0);
            while !stop.load(Ordering::Relaxed) {
                waited += client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            waited
        }
    );
    assert!(reports.len() > 1 && written > 0);
    assert_eq!(waited, 0, "somebody waited for the function");
    let told = reports
        .iter()
        .filter_map(|report| report["lag_bytes"].as_u64())
        .max();
    let most = most.into_inner();
    assert!(
        told <= Some(MOST_LAG) && most <= MOST_LAG,
        "a lag of {told:?} was told, and {most} seen"
    );
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn a_backfill_loses_no_row_through_crashes_and_failovers() {
    let engine = Engine::default();
    // A failover, a crash, and a crash with commits that hang.
    for seed in 1..=3 {
        let result = random_backfill::play(&engine, seed, 2_000).await;
        let count = |counter| result.counts.get(counter);
        let violations = result.violations.join("\n");
        assert!(
            violations.is_empty(),
            "seed {seed}, {}: {violations}",
            result.settings
        );
        let server_faults = count(Counter::Failovers) + count(Counter::Crashes);
        assert_eq!((count(Counter::Differences), server_faults), (0, 1), "{result:?}");
        assert!(
            count(Counter::Rows) > 0 && count(Counter::Reads) > 0,
            "{result:?}"
        );
        assert!(count(Counter::StandbyFaults) > 0 || seed < 3, "{result:?}");
    }
}

async fn a_table_is_backfilled_during_writes(version: u32) {
    with_each_plugin(version, beside_a_writer).await;
}
