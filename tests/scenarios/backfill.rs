//! A backfill brings the rows that were there before the slot, chunk by chunk beside the live changes, and the consumer ends with what
//! PostgreSQL has: through kills, pauses, a truncate and a failover. `make backfill` plays the same with millions of rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use scenarios::backfill::Backfill;
use scenarios::consumer::Delivery;
use scenarios::fault_proxy::{Fault, Side};
use scenarios::fixture::{DEADLINE, Fixture, Plan, Plugin};
use scenarios::function::Outcome;
use scenarios::postgres::{Postgres, REPLUSER, Settings};
use scenarios::wait;
use serde_json::{Value, json};

use crate::cluster::cluster;
use crate::marks::{Marks, let_go};
use crate::refusal::invocation_fails;

crate::scenarios![
    what_was_there_before_arrives_while_writers_write,
    each_envelope_tells_what_was_read,
    a_table_of_one_row_is_its_last_and_an_empty_one_says_nothing,
    killed_in_the_middle_it_reads_at_most_one_chunk_again,
    ticks_carry_it_on_and_status_tells_how_far_it_is,
    it_can_be_paused_resumed_and_cancelled,
    only_one_can_be_pending,
    several_tables_are_read_one_after_the_other,
    a_row_that_moves_between_two_invocations_is_complete,
    a_truncate_in_the_middle_empties_what_was_read,
    a_failover_in_the_middle_loses_nothing,
    writers_do_not_wait_and_the_slot_does_not_lag,
    nothing_is_lost_whatever_dies_in_the_middle,
];

/// Rows of a table that takes several chunks.
const ROWS: usize = 5_000;

/// A fixture whose tables were made and filled before the slot, and may be read by the function.
pub(crate) async fn filled(plan: Plan, sql: &str) -> Fixture {
    let fixture = plan.without_slot().build().await;
    fixture.sql(sql).await;
    fixture
        .sql(&format!(
            "create publication spillway for all tables; grant select on all tables in schema public to {}",
            REPLUSER.0
        ))
        .await;
    fixture.create_slot().await;
    fixture
}

/// The event that starts one, of these tables.
pub(crate) fn start(tables: &[&str], chunk_rows: u64) -> Value {
    json!({"action": "backfill", "tables": tables, "chunk_rows": chunk_rows})
}

/// An order that has nothing beside it.
pub(crate) fn order(what: &str) -> Value {
    json!({"action": "backfill", what: true})
}

/// What a report says of the backfill's state.
pub(crate) fn state(report: &Value) -> &str {
    report["backfill"]["state"].as_str().unwrap_or("none")
}

/// The answer to this event. What is played beside it ends with it when it fails.
pub(crate) async fn answered(fixture: &Fixture, event: Value) -> Value {
    fixture.invoke(event).await.answer()
}

/// The answer to this event in an invocation of so much time.
///
/// On a busy machine the time may be over before anything was answered. Then the next invocation goes on.
pub(crate) async fn answered_within(fixture: &Fixture, mut event: Value, time: Duration) -> Value {
    for _ in 0..10 {
        match fixture.function.invoke(&event, time).await {
            Outcome::Error { kind, .. } if ["OutOfTime", "PeekTimeout"].contains(&kind.as_str()) => {}
            outcome => return outcome.answer(),
        }
        // One that has begun cannot be started again.
        if event.get("tables").is_some() && fixture.backfill().await.is_some() {
            event = json!({});
        }
    }
    panic!("ten invocations of {} s were not answered", time.as_secs())
}

/// Starts it in invocations of so much time, until a part of the table was sent; all reports.
pub(crate) async fn begun_within(fixture: &Fixture, event: Value, time: Duration) -> Vec<Value> {
    let mut reports = vec![answered_within(fixture, event, time).await];
    // On a busy machine no chunk may fit into the first one.
    while rows(&reports[reports.len() - 1]) == 0 {
        assert!(reports.len() < 10, "it does not begin: {reports:#?}");
        reports.push(answered_within(fixture, json!({}), time).await);
    }
    let last = &reports[reports.len() - 1];
    assert_eq!(state(last), "running", "{last}");
    reports
}

/// Goes on from this report with ticks until the backfill is finished; all reports.
pub(crate) async fn finish_from(fixture: &Fixture, report: Value) -> Vec<Value> {
    let mut reports = vec![report];
    while state(&reports[reports.len() - 1]) != "finished" {
        assert!(
            reports.len() < 100,
            "a hundred ticks did not finish: {}",
            reports[99]
        );
        let report = fixture.tick().await;
        assert_ne!(state(&report), "failed", "{report}");
        reports.push(report);
    }
    reports
}

/// Starts it, finishes it and drains what is left; all reports.
pub(crate) async fn run(fixture: &Fixture, event: Value) -> Vec<Value> {
    let first = fixture.invoke(event).await.answer();
    assert_eq!(first["action"], "backfill", "{first}");
    let mut reports = finish_from(fixture, first).await;
    reports.extend(fixture.drain().await);
    reports
}

/// The events of rows of a table that were read, as plain JSON, in the order of positions.
pub(crate) fn reads(delivery: &Delivery, table: &str) -> Vec<Value> {
    let mut events = delivery.of_table(table);
    events.retain(|event| event["op"] == "r");
    events
}

/// The mark of each event that was read.
fn marks(reads: &[Value]) -> Vec<&str> {
    reads
        .iter()
        .map(|event| event["source"]["snapshot"].as_str().unwrap_or_default())
        .collect()
}

/// A table `t` of so many rows, of which each fiftieth has a value that is stored apart.
pub(crate) fn table(rows: usize) -> String {
    format!(
        "create table t (id int primary key, n int not null, body text);
         alter table t alter body set storage external;
         insert into t select i, i, case when i % 50 = 0 then repeat(md5(i::text), 70) end from generate_series(1, {rows}) i;
         analyze t"
    )
}

/// Changes rows of `t` until it is told to stop, and never waits for a lock for long; returns how many transactions it made.
async fn write(fixture: &Fixture, rows: usize, stop: &AtomicBool) -> u64 {
    let (client, mut random, mut written) = (fixture.connect().await, fastrand::Rng::with_seed(7), 0);
    client.batch_execute("set lock_timeout = '100ms'").await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let (row, other) = (random.usize(1..=rows), random.usize(1..=rows));
        let far = rows - random.usize(..rows / 10);
        let sql = match random.u8(..8) {
            0..3 => format!("update t set n = -{written} where id = {row}"),
            3 => format!("delete from t where id = {row}"),
            4 => format!(
                "insert into t values ({row}, {written}, null) on conflict (id) do update set n = excluded.n"
            ),
            5 => format!(
                "begin; update t set n = 0 where id = {row}; update t set n = 1 where id = {other}; rollback"
            ),
            // From the end of the table to before its beginning, and from there to its middle.
            6 => format!(
                "update t set id = -{row} where id = {far} and not exists (select from t where id = -{row})"
            ),
            _ => format!(
                "update t set id = {other} where id = -{row} and not exists (select from t where id = {other})"
            ),
        };
        client.batch_execute(&sql).await.unwrap();
        written += 1;
    }
    written
}

/// The backfill, with a writer beside it from before its beginning until it is finished; the reports.
pub(crate) async fn run_beside_a_writer(fixture: &Fixture, event: Value, rows: usize) -> Vec<Value> {
    let stop = AtomicBool::new(false);
    let (reports, written) = tokio::join!(
        async {
            let first = fixture.invoke(event).await.answer();
            let reports = finish_from(fixture, first).await;
            stop.store(true, Ordering::Relaxed);
            reports
        },
        write(fixture, rows, &stop)
    );
    assert!(written > 0, "nobody wrote");
    fixture.drain().await;
    reports
}

async fn what_was_there_before_arrives_while_writers_write() {
    Plugin::each(|plugin| beside_a_writer(Fixture::plan(plugin))).await;
}

pub(crate) async fn beside_a_writer(plan: Plan) {
    let fixture = filled(plan, &table(ROWS)).await;
    fixture
        .kinesis_proxy
        .always("PutRecords", Fault::Delay(Duration::from_millis(20)));
    let reports = run_beside_a_writer(&fixture, start(&["public.t"], 700), ROWS).await;
    let last = &reports[reports.len() - 1]["backfill"];
    assert_eq!(
        last["tables"],
        json!({"done": 1, "failed": 0, "left": 0}),
        "{last}"
    );
    let delivery = fixture.compare(&["t"]).await;
    let reads = reads(&delivery, "public.t");
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

async fn each_envelope_tells_what_was_read() {
    for envelope in ["dms", "wal2json"] {
        Plugin::each(move |plugin| async move {
            let plan = Fixture::plan(plugin).env("ENVELOPE", envelope);
            let fixture = filled(plan, &table(3000)).await;
            // Not all of the last chunk is overtaken.
            run_beside_a_writer(&fixture, start(&["public.t"], 700), 3000).await;
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

async fn a_table_of_one_row_is_its_last_and_an_empty_one_says_nothing() {
    Plugin::each(|plugin| async move {
        let sql = "create table one (id int primary key); insert into one values (1); create table none (id int primary key)";
        let fixture = filled(Fixture::plan(plugin), sql).await;
        let reports = run(&fixture, json!({"action": "backfill", "tables": "all"})).await;
        let done = reports.iter().find(|report| state(report) == "finished");
        assert_eq!(done.map(|report| report["backfill"]["tables"]["done"].clone()), Some(json!(2)));
        let delivery = fixture.compare(&["one", "none"]).await;
        assert_eq!(marks(&reads(&delivery, "public.one")), ["last_in_data_collection"]);
        assert_eq!(delivery.changes().len(), 1);
    })
    .await;
}

async fn killed_in_the_middle_it_reads_at_most_one_chunk_again() {
    const CHUNK: usize = 400;
    for side in [Side::Request, Side::Answer] {
        Plugin::each(move |plugin| async move {
            let fixture = filled(Fixture::plan(plugin), &table(ROWS)).await;
            // So that most of the table is still to be read when its first chunk counts.
            fixture
                .kinesis_proxy
                .always("PutRecords", Fault::Delay(Duration::from_millis(200)));
            let amid = async {
                wait::until("a chunk is stored as sent", DEADLINE, || async {
                    let stored = fixture.backfill().await.unwrap_or_default();
                    stored["rows"].as_u64() > Some(0)
                })
                .await;
                let mut held = fixture.kinesis_proxy.hold("PutRecords", side);
                held.reached().await;
                held
            };
            let held = tokio::select! {
                ended = fixture.invoke(start(&["public.t"], CHUNK as u64)) => {
                    panic!("it ended before it was killed: {ended:?}")
                }
                held = amid => held,
            };
            fixture.function.kill9().await;
            drop(held);
            fixture.kinesis_proxy.clear();
            let_go(&fixture).await;
            Marks::of(&fixture).await;
            let stored = fixture.backfill().await.expect("the state is stored");
            assert_eq!(stored["table"]["name"], json!(["public", "t"]), "{stored}");
            let rows = stored["rows"].as_u64().unwrap_or(0) as usize;
            assert!(0 < rows && rows < ROWS, "{stored}");
            let report = fixture.tick().await;
            finish_from(&fixture, report).await;
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
    let fixture = filled(Fixture::plan(plugin), &table(FEW as usize)).await;
    slow_down(&fixture);
    fixture
}

fn slow_down(fixture: &Fixture) {
    fixture
        .kinesis_proxy
        .always("PutRecords", Fault::Delay(Duration::from_millis(400)));
}

/// Long enough for some chunks: none is begun in the last seconds of an invocation.
const SHORT: Duration = Duration::from_secs(5);

async fn short(fixture: &Fixture, event: Value) -> Value {
    answered_within(fixture, event, SHORT).await
}

fn rows(report: &Value) -> u64 {
    report["backfill"]["rows"].as_u64().unwrap_or(0)
}

async fn ticks_carry_it_on_and_status_tells_how_far_it_is() {
    Plugin::each(|plugin| async move {
        let fixture = slow(plugin).await;
        let none = fixture.invoke(json!({"action": "status"})).await.answer();
        assert_eq!(none["backfill"], Value::Null, "{none}");
        let mut reports = begun_within(&fixture, start(&["public.t"], 100), SHORT).await;
        let first = reports[reports.len() - 1].clone();
        assert_eq!(first["backfill"]["table"], "public.t");
        let status = fixture.invoke(json!({"action": "status"})).await.answer();
        let told = &status["backfill"];
        assert_eq!(
            (&told["state"], &told["rows"]),
            (&json!("running"), &json!(rows(&first))),
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
        while state(&reports[reports.len() - 1]) != "finished" {
            let report = short(&fixture, json!({})).await;
            assert_eq!(report["action"], "drain", "{report}");
            // On a busy machine a tick may have no time for a chunk; none goes back.
            assert!(
                rows(&report) >= rows(&reports[reports.len() - 1]),
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
        assert_eq!(rows(&reports[reports.len() - 1]), FEW);
        fixture.kinesis_proxy.clear();
        fixture.drain().await;
        assert_eq!(fixture.compare(&["t"]).await.changes().len(), FEW as usize);
    })
    .await;
}

async fn it_can_be_paused_resumed_and_cancelled() {
    let fixture = slow(Plugin::Pgoutput).await;
    let reports = begun_within(&fixture, start(&["public.t"], 50), SHORT).await;
    let begun = &reports[reports.len() - 1];
    let paused = fixture.invoke(order("pause")).await.answer();
    assert_eq!(
        (&paused["action"], state(&paused)),
        (&json!("backfill"), "paused"),
        "{paused}"
    );
    fixture.sql("update t set n = -1 where id = 1200").await;
    let tick = fixture.tick().await;
    assert_eq!(
        (state(&tick), rows(&tick), &tick["changes"]),
        ("paused", rows(begun), &json!(1)),
        "{tick}"
    );
    let mut resumed = short(&fixture, order("resume")).await;
    assert_eq!(resumed["action"], "backfill", "{resumed}");
    for _ in 0..10 {
        if rows(&resumed) == rows(begun) {
            resumed = short(&fixture, json!({})).await;
        }
    }
    assert!(rows(&resumed) > rows(begun), "it does not go on: {resumed}");
    let cancelled = fixture.invoke(order("cancel")).await.answer();
    assert_eq!(
        (&cancelled["action"], state(&cancelled)),
        (&json!("backfill"), "cancelled"),
        "{cancelled}"
    );
    let tick = fixture.tick().await;
    assert_eq!(state(&tick), "none", "{tick}");
    let read = reads(&fixture.consume().await, "public.t").len();
    fixture.kinesis_proxy.clear();
    fixture.drain().await;
    assert_eq!(
        reads(&fixture.consume().await, "public.t").len(),
        read,
        "nothing more is read"
    );
    // Whoever cancels may begin anew.
    run(&fixture, start(&["public.t"], 1_000)).await;
    fixture.compare(&["t"]).await;
}

async fn only_one_can_be_pending() {
    let fixture = slow(Plugin::Pgoutput).await;
    for what in ["cancel", "pause", "resume"] {
        invocation_fails(&fixture, order(what), "BackfillMissing", &[]).await;
    }
    short(&fixture, start(&["public.t"], 100)).await;
    let before = fixture.backfill().await;
    invocation_fails(&fixture, start(&["public.t"], 50), "BackfillPending", &[]).await;
    assert_eq!(fixture.backfill().await, before);
    fixture.kinesis_proxy.clear();
    let report = fixture.tick().await;
    finish_from(&fixture, report).await;
    invocation_fails(&fixture, order("cancel"), "BackfillMissing", &[]).await;
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn several_tables_are_read_one_after_the_other() {
    let sql = "create schema audit; create table audit.b (id int primary key); create table audit.a (id int primary key);
               create table c (id int primary key); create table d (id int primary key);
               insert into audit.a select generate_series(1, 50); insert into audit.b select generate_series(1, 50);
               insert into c select generate_series(1, 50); insert into d select generate_series(1, 50)";
    Plugin::each(move |plugin| async move {
        let fixture = filled(Fixture::plan(plugin), sql).await;
        let role = REPLUSER.0;
        fixture
            .sql(&format!(
                "grant usage on schema audit to {role}; grant select on all tables in schema audit to {role}"
            ))
            .await;
        let reports = run(&fixture, start(&["audit.*", "public.c"], 20)).await;
        let done = reports.iter().find(|report| state(report) == "finished").unwrap();
        assert_eq!(
            done["backfill"]["tables"],
            json!({"done": 3, "failed": 0, "left": 0}),
            "{done}"
        );
        let delivery = fixture.compare(&["audit.a", "audit.b", "c"]).await;
        assert_eq!(reads(&delivery, "public.d").len(), 0);
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
        begun_within(&fixture, start(&["public.t"], 100), SHORT).await;
        // With large values: to before what was read, where it stays, changes, or from where it goes back, and to the end.
        fixture.sql("update t set id = -1 where id = 1200; update t set id = -2 where id = 1150; update t set id = -3 where id = 1100")
            .await;
        fixture.sql("update t set n = 0 where id = -2; update t set id = 1100 where id = -3; update t set id = 2000 where id = 50")
            .await;
        fixture.function.kill9().await;
        fixture.kinesis_proxy.clear();
        let report = fixture.tick().await;
        finish_from(&fixture, report).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

/// A condition under which each row takes so many milliseconds to read.
pub(crate) fn slowly(milliseconds: u64) -> String {
    format!("pg_sleep({milliseconds} / 1000.0) is not null")
}

/// Waits until a chunk is being read under [`slowly`].
pub(crate) async fn until_it_reads(fixture: &Fixture) {
    let sql =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait::until("a chunk is being read", DEADLINE, || async {
        fixture.value(sql).await.as_deref() == Some("1")
    })
    .await;
}

/// Holds a chunk at one row until the scenario lets it go on.
///
/// The scenario creates [`Gate::SQL`] and starts the backfill with the condition [`Gate::CONDITION`]. A chunk
/// reads one row more than it takes, so a gate for the second chunk is closed at its second row.
pub(crate) struct Gate(tokio_postgres::Client);

impl Gate {
    /// SQL that creates the function of the condition. Its cost makes the planner read by the index.
    pub(crate) const SQL: &str = "
        create function gate(id bigint) returns bool language plpgsql cost 1000000 as $$ begin
            while not pg_try_advisory_xact_lock_shared(id) loop perform pg_sleep(0.005); end loop;
            return true;
        end $$";
    /// The condition, for a table whose rows have an `id`.
    pub(crate) const CONDITION: &str = "gate(id)";

    /// A gate that is closed at the row of this number.
    pub(crate) async fn closed_at(fixture: &Fixture, row: u64) -> Self {
        let client = fixture.connect().await;
        let lock = format!("select pg_advisory_lock({row})");
        client.batch_execute(&lock).await.unwrap();
        Self(client)
    }

    /// Opens it.
    pub(crate) async fn open(&self) {
        self.0
            .batch_execute("select pg_advisory_unlock_all()")
            .await
            .unwrap();
    }

    /// Waits until a chunk is held, runs `sql`, and opens the gate when that is done or waits for the chunk.
    pub(crate) async fn open_after(self, fixture: &Fixture, sql: impl Future<Output = ()>) {
        until_it_reads(fixture).await;
        let waits = "select count(*) from pg_locks where not granted and locktype = 'relation' \
                     and database = (select oid from pg_database where datname = current_database())";
        let opened = async {
            wait::until("the SQL waits for the chunk", DEADLINE, || async {
                self.0.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0
            })
            .await;
            self.open().await;
        };
        tokio::pin!(sql);
        tokio::select! {
            () = &mut sql => self.open().await,
            () = opened => sql.await,
        }
    }
}

async fn a_truncate_in_the_middle_empties_what_was_read() {
    Plugin::each(|plugin| async move {
        let fixture = filled(Fixture::plan(plugin), &format!("{}; {}", table(60), Gate::SQL)).await;
        let event =
            json!({"action": "backfill", "tables": ["public.t"], "chunk_rows": 20, "where": Gate::CONDITION});
        let gate = Gate::closed_at(&fixture, 10).await;
        // It waits for the chunk that is being read, and is committed before its rows are sent.
        let truncate = "truncate t; insert into t select i, 0, null from generate_series(10, 80) i";
        let (first, ()) = tokio::join!(
            answered(&fixture, event),
            gate.open_after(&fixture, fixture.sql(truncate))
        );
        finish_from(&fixture, first).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

async fn a_failover_in_the_middle_loses_nothing() {
    for plugin in [Plugin::Pgoutput, Plugin::TestDecoding] {
        let fixture = filled(Fixture::plan(plugin).on_cluster(cluster(17).await), &table(2_000)).await;
        fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
        fixture.drain().await;
        fixture.wait_until_synced().await;
        fixture
            .kinesis_proxy
            .always("PutRecords", Fault::Delay(Duration::from_millis(50)));
        let (first, ()) = tokio::join!(fixture.invoke(start(&["public.t"], 50)), async {
            wait::until("some of it was sent", DEADLINE, || async {
                let stored = fixture.backfill().await.unwrap_or_default();
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
        finish_from(&fixture, report).await;
        fixture.drain().await;
        Marks::of(&fixture).await;
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
    let postgres = Postgres::start(Settings::default()).await;
    let fixture = filled(Fixture::plan(Plugin::Pgoutput).on(postgres), &table(ROWS)).await;
    fixture
        .kinesis_proxy
        .always("PutRecords", Fault::Delay(Duration::from_millis(100)));
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    // Sessions that wait for the function. Others also wait for each other for a moment, to extend a table.
    let waits = "select count(*) from pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) b(pid) \
                 join pg_stat_activity f on f.pid = b.pid and f.application_name like 'spillway%' \
                 where w.datname = current_database() and w.wait_event_type = 'Lock'";
    let (reports, written, waited) = tokio::join!(
        async {
            let mut reports = vec![short(&fixture, start(&["public.t"], 250)).await];
            while state(&reports[reports.len() - 1]) != "finished" {
                assert!(reports.len() < 20, "it does not come to an end: {}", reports[19]);
                most.fetch_max(fixture.lag_bytes().await, Ordering::Relaxed);
                reports.push(short(&fixture, json!({})).await);
            }
            stop.store(true, Ordering::Relaxed);
            reports
        },
        write(&fixture, ROWS, &stop),
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

async fn nothing_is_lost_whatever_dies_in_the_middle() {
    let backfill = Backfill::default();
    // A failover, a crash, and a crash with commits that hang.
    for seed in 1..=3 {
        let played = Box::pin(backfill.play(seed, 2_000)).await;
        assert!(
            played.broken.is_empty(),
            "seed {seed}, {}: {}",
            played.with,
            played.broken.join("\n")
        );
        assert_eq!(
            (played.differences, played.failovers + played.crashes),
            (0, 1),
            "{played:?}"
        );
        assert!(played.rows > 0 && played.reads > 0, "{played:?}");
        assert!(played.stuck > 0 || !played.hangs, "{played:?}");
    }
}
