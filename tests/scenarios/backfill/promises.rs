//! A backfill sends the rows from before the slot, beside live changes.
//!
//! It sends them chunk by chunk. The consumer ends with the rows of PostgreSQL, through kills, a truncate and
//! a failover. `make backfill` plays the same with millions of rows.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use scenarios::aws::fault_proxy::{Fault, FaultSide};
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::{PostgresSettings, REPLUSER};
use scenarios::random_play::workloads::backfill as random_backfill;
use scenarios::random_play::{Counter, Engine};
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, change_rows_until, create_table_sql, fixture_with_tables, invoke_ok, invoke_within,
    read_events, reported_state, run_backfill, run_beside_writer, start_event, start_event_with_lock,
    tick_until_finished,
};
use crate::support::cluster::start_cluster;
use crate::support::positions::{SlotPositions, wait_until_sessions_end};
use crate::support::versions::with_each_plugin;

crate::scenarios![
    existing_rows_arrive_during_writes,
    each_envelope_marks_backfilled_rows,
    a_single_row_is_the_last_and_an_empty_table_sends_no_event,
    a_killed_backfill_reads_at_most_one_chunk_again,
    a_backfill_reads_tables_one_after_another,
    a_truncate_during_a_backfill_removes_the_rows_read_before,
    a_failover_during_a_backfill_loses_no_row,
    writers_do_not_wait_and_the_slot_does_not_lag,
    a_backfill_loses_no_row_through_crashes_and_failovers,
];

crate::version_scenarios![a_table_is_backfilled_during_writes];

/// Rows of a table that takes several chunks.
const ROWS: usize = 5_000;

/// `source.snapshot` of each event.
fn snapshot_marks(reads: &[Value]) -> Vec<&str> {
    reads
        .iter()
        .map(|event| event["source"]["snapshot"].as_str().unwrap_or_default())
        .collect()
}

async fn existing_rows_arrive_during_writes() {
    Plugin::each(|plugin| assert_backfill_during_writes(Fixture::builder(plugin))).await;
}

async fn assert_backfill_during_writes(builder: FixtureBuilder) {
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
    let snapshot_marks = snapshot_marks(&reads);
    assert_eq!(
        (snapshot_marks[0], snapshot_marks[snapshot_marks.len() - 1]),
        ("first_in_data_collection", "last_in_data_collection")
    );
    assert!(
        snapshot_marks[1..snapshot_marks.len() - 1]
            .iter()
            .all(|mark| *mark == "incremental")
    );
    assert!(reads.iter().all(|event| event["before"].is_null()));
    let mut live = delivery.of_table("public.t");
    live.retain(|event| event["op"] != "r");
    assert!(live.iter().all(|event| event["source"]["snapshot"] == "false"));
    assert!(
        delivery.counts().keys().all(|name| name == "public.t"),
        "a watermark is in the stream"
    );
}

async fn each_envelope_marks_backfilled_rows() {
    for envelope in ["dms", "wal2json"] {
        Plugin::each(move |plugin| async move {
            let builder = Fixture::builder(plugin).env("ENVELOPE", envelope);
            let fixture = fixture_with_tables(builder, &create_table_sql(3000)).await;
            // The last chunk has rows that no change overtakes.
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
        let sql = "create table one (id int primary key); insert into one values (1);
                   create table none (id int primary key)";
        let fixture = fixture_with_tables(Fixture::builder(plugin), sql).await;
        let reports = run_backfill(&fixture, json!({"action": "backfill", "tables": "all"})).await;
        let done = reports.iter().find(|report| reported_state(report) == "finished");
        assert_eq!(
            done.map(|report| report["backfill"]["tables"]["done"].clone()),
            Some(json!(2))
        );
        let delivery = fixture.compare(&["one", "none"]).await;
        assert_eq!(
            snapshot_marks(&read_events(&delivery, "public.one")),
            ["last_in_data_collection"]
        );
        assert_eq!(delivery.changes().len(), 1);
    })
    .await;
}

async fn a_killed_backfill_reads_at_most_one_chunk_again() {
    const CHUNK: usize = 400;
    for side in [FaultSide::Request, FaultSide::Answer] {
        Plugin::each(move |plugin| async move {
            let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS)).await;
            // The stream is slow, so most of the table is unread when the first chunk counts.
            fixture
                .kinesis_proxy
                .inject("PutRecords", Fault::Delay(Duration::from_millis(200)));
            let hold_request = async {
                wait::until("the state counts a chunk", DEADLINE, || async {
                    let stored = fixture.backfill_state().await.unwrap_or_default();
                    stored["rows"].as_u64() > Some(0)
                })
                .await;
                let mut held = fixture.kinesis_proxy.hold("PutRecords", side);
                held.wait_until_held().await;
                held
            };
            let held = tokio::select! {
                outcome = fixture.invoke(start_event(&["public.t"], CHUNK as u64)) => {
                    panic!("the backfill ended before the kill: {outcome:?}")
                }
                held = hold_request => held,
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
                "{read} of {ROWS} rows were read"
            );
        })
        .await;
    }
}

async fn a_backfill_reads_tables_one_after_another() {
    let sql = "create schema audit; create table audit.b (id int primary key);
               create table audit.a (id int primary key); create table c (id int primary key);
               create table d (id int primary key);
               insert into audit.a select generate_series(1, 50);
               insert into audit.b select generate_series(1, 50);
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
            .find(|report| reported_state(report) == "finished")
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

async fn a_truncate_during_a_backfill_removes_the_rows_read_before() {
    Plugin::each(|plugin| async move {
        let sql = format!("{}; {}", create_table_sql(60), ChunkLock::SQL);
        let fixture = fixture_with_tables(Fixture::builder(plugin), &sql).await;
        let event = start_event_with_lock("public.t", 20);
        let lock = ChunkLock::at_row(&fixture, 10).await;
        // The truncate waits for the chunk that is being read, and is committed before its rows are sent.
        let truncate = "truncate t; insert into t select i, 0, null from generate_series(10, 80) i";
        let (first, ()) = tokio::join!(
            invoke_ok(&fixture, event),
            lock.release_after(&fixture, fixture.sql(truncate))
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
            wait::until("some rows were sent", DEADLINE, || async {
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
            "{read} rows were read: more than one chunk twice"
        );
    }
}

/// Limit of an invocation that ends before the backfill is finished.
const SHORT: Duration = Duration::from_secs(5);

/// Ticks the backfill of `t` to its end; returns reports and lag.
///
/// The lag is the largest one that is read between the ticks, in bytes.
async fn reports_and_lag(fixture: &Fixture) -> (Vec<Value>, u64) {
    let mut reports = vec![invoke_within(fixture, start_event(&["public.t"], 250), SHORT).await];
    let mut lag_bytes = 0;
    while reported_state(&reports[reports.len() - 1]) != "finished" {
        assert!(
            reports.len() < 20,
            "the ticks do not finish the backfill: {}",
            reports[19]
        );
        lag_bytes = lag_bytes.max(fixture.lag_bytes().await);
        reports.push(invoke_within(fixture, json!({}), SHORT).await);
    }
    (reports, lag_bytes)
}

/// Counts sessions that wait for the function, until `stop`.
///
/// Other sessions may wait for each other to extend a table.
async fn count_waits_until(fixture: &Fixture, stop: &AtomicBool) -> i64 {
    let sql = "select count(*) as waits from pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) b(pid) \
               join pg_stat_activity f on f.pid = b.pid and f.application_name like 'spillway%' \
               where w.datname = current_database() and w.wait_event_type = 'Lock'";
    let (client, waits) = (fixture.connect().await, AtomicI64::new(0));
    wait::until("the backfill finishes", SHORT * 20, || async {
        let count: i64 = client.query_one(sql, &[]).await.unwrap().get("waits");
        waits.fetch_add(count, Ordering::Relaxed);
        stop.load(Ordering::Relaxed)
    })
    .await;
    waits.into_inner()
}

/// Runs a backfill beside writers with a short lock timeout.
///
/// A writer fails when it waits for a lock for a tenth of a second. The server is not shared, so that the lag
/// is that of the backfill.
async fn writers_do_not_wait_and_the_slot_does_not_lag() {
    const MAX_LAG: u64 = 8 << 20;
    // A writer without pauses outruns a drain that waits 100 ms for each answer.
    const WRITE_PAUSE: Duration = Duration::from_millis(5);
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput).on_new_server(PostgresSettings::default()),
        &create_table_sql(ROWS),
    )
    .await;
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(100)));
    let stop = AtomicBool::new(false);
    let ((reports, most), written, waits) = tokio::join!(
        async {
            let reports = reports_and_lag(&fixture).await;
            stop.store(true, Ordering::Relaxed);
            reports
        },
        change_rows_until(&fixture, ROWS, WRITE_PAUSE, &stop),
        count_waits_until(&fixture, &stop)
    );
    assert!(reports.len() > 1 && written > 0);
    assert_eq!(waits, 0, "a writer waited for the function");
    let reported = reports
        .iter()
        .filter_map(|report| report["lag_bytes"].as_u64())
        .max();
    assert!(
        reported <= Some(MAX_LAG) && most <= MAX_LAG,
        "the reports have a lag of {reported:?}, the server of {most}"
    );
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn a_backfill_loses_no_row_through_crashes_and_failovers() {
    let engine = Engine::default();
    // The seeds have a failover, a crash, and a crash with commits that hang.
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
    with_each_plugin(version, assert_backfill_during_writes).await;
}
