//! Backfills: tables to read, events that start and control one, and ticks until it is finished.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scenarios::consumer::Delivery;
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::REPLUSER;
use scenarios::wait;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Fixture with tables that were filled before the slot was created.
///
/// The function may read the tables.
pub(crate) async fn fixture_with_tables(builder: FixtureBuilder, sql: &str) -> Fixture {
    let fixture = builder.without_slot().build().await;
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

/// Event that starts a backfill of these tables.
pub(crate) fn start_event(tables: &[&str], chunk_rows: u64) -> Value {
    json!({"action": "backfill", "wait": true, "tables": tables, "chunk_rows": chunk_rows})
}

/// Event that starts a backfill of this table.
///
/// A [`ChunkLock`] holds the chunks of the backfill.
pub(crate) fn start_event_with_lock(table: &str, chunk_rows: impl Into<Value>) -> Value {
    let chunk_rows: Value = chunk_rows.into();
    json!({
        "action": "backfill", "wait": true, "tables": [table], "chunk_rows": chunk_rows,
        "where": ChunkLock::CONDITION,
    })
}

/// Event that pauses, resumes or cancels the backfill.
pub(crate) fn command_event(command: &str) -> Value {
    match command {
        "resume" => json!({"action": "backfill", command: true, "wait": true}),
        _ => json!({"action": "backfill", command: true}),
    }
}

/// State of the backfill in a report; `none` without a backfill.
pub(crate) fn reported_state(report: &Value) -> &str {
    report["backfill"]["state"].as_str().unwrap_or("none")
}

/// Answer to this event.
///
/// # Panics
/// The invocation fails. The panic also ends a future that runs beside it.
pub(crate) async fn invoke_ok(fixture: &Fixture, event: Value) -> Value {
    fixture.invoke(event).await.answer()
}

/// Rows that the report's backfill has sent; 0 without a backfill.
pub(crate) fn backfilled_rows(report: &Value) -> u64 {
    report["backfill"]["rows"].as_u64().unwrap_or(0)
}

/// Errors of an invocation whose servers answered too late.
pub(crate) const LATE: [&str; 3] = ["CheckpointUnavailable", "OutOfTime", "PeekTimeout"];

/// Answer to this event from an invocation with this deadline.
///
/// On a busy machine the deadline may pass before the servers answer, which is a transient error. The next
/// invocation then continues.
///
/// # Panics
/// Ten invocations in a row have no answer, or one has another error.
pub(crate) async fn invoke_within(fixture: &Fixture, mut event: Value, time: Duration) -> Value {
    for _ in 0..10 {
        match fixture.function.invoke(&event, time).await {
            Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) => {}
            outcome => return outcome.answer(),
        }
        // A pending backfill cannot be started a second time.
        if event.get("tables").is_some() && fixture.backfill_state().await.is_some() {
            event = json!({});
        }
    }
    panic!("ten invocations of {} s had no answer", time.as_secs())
}

/// Starts a backfill, and ticks until rows were sent; returns all reports.
///
/// Each invocation has the deadline `time`.
///
/// # Panics
/// Ten invocations send no rows, or the backfill is not running afterwards.
pub(crate) async fn start_within(fixture: &Fixture, event: Value, time: Duration) -> Vec<Value> {
    let mut reports = vec![invoke_within(fixture, event, time).await];
    // On a busy machine the first invocation may have no time for a chunk.
    while backfilled_rows(&reports[reports.len() - 1]) == 0 {
        assert!(reports.len() < 10, "the backfill sends no rows: {reports:#?}");
        reports.push(invoke_within(fixture, json!({}), time).await);
    }
    // There, the commit of the next watermark may take as long as if it waited for a standby.
    let last = &reports[reports.len() - 1];
    assert!(["running", "waiting"].contains(&reported_state(last)), "{last}");
    reports
}

/// Ticks until the backfill is finished; returns all reports.
///
/// `report` is the first of them.
pub(crate) async fn tick_until_finished(fixture: &Fixture, report: Value) -> Vec<Value> {
    let mut reports = vec![report];
    while reported_state(&reports[reports.len() - 1]) != "finished" {
        assert!(
            reports.len() < 100,
            "a hundred ticks did not finish: {}",
            reports[99]
        );
        let report = fixture.tick().await;
        assert_ne!(reported_state(&report), "failed", "{report}");
        reports.push(report);
    }
    reports
}

/// Starts and finishes a backfill, and drains the rest; returns all reports.
///
/// `event` starts the backfill.
pub(crate) async fn run_backfill(fixture: &Fixture, event: Value) -> Vec<Value> {
    let first = fixture.invoke(event).await.answer();
    assert_eq!(first["action"], "backfill", "{first}");
    let mut reports = tick_until_finished(fixture, first).await;
    reports.extend(fixture.drain().await);
    reports
}

/// Events of a table's backfilled rows, in the order of positions.
///
/// They are plain JSON.
pub(crate) fn read_events(delivery: &Delivery, table: &str) -> Vec<Value> {
    let mut events = delivery.of_table(table);
    events.retain(|event| event["op"] == "r");
    events
}

/// SQL that creates a table `t` with this number of rows. Every fiftieth row has a TOAST value.
pub(crate) fn create_table_sql(rows: usize) -> String {
    format!(
        "create table t (id int primary key, n int not null, body text);
         alter table t alter body set storage external;
         insert into t
         select i, i, case when i % 50 = 0 then repeat(md5(i::text), 70) end
         from generate_series(1, {rows}) i;
         analyze t"
    )
}

/// Changes random rows of `t` until `stop`; returns the number of transactions.
///
/// It fails when it waits for a lock longer than a tenth of a second.
pub(crate) async fn change_rows_until(
    fixture: &Fixture,
    rows: usize,
    pause: Duration,
    stop: &AtomicBool,
) -> u64 {
    let (client, mut random, mut written) = (fixture.connect().await, fastrand::Rng::with_seed(7), 0);
    client.batch_execute("set lock_timeout = '100ms'").await.unwrap();
    // Without a pace, a slow machine would only write.
    let mut pace = tokio::time::interval(pause.max(Duration::from_millis(1)));
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
            // From the end of the table to before its start, and later from there to the middle.
            6 => format!(
                "update t set id = -{row} where id = {far} and not exists (select from t where id = -{row})"
            ),
            _ => format!(
                "update t set id = {other}
                 where id = -{row} and not exists (select from t where id = {other})"
            ),
        };
        client.batch_execute(&sql).await.unwrap();
        written += 1;
        pace.tick().await;
    }
    written
}

/// Runs a backfill beside a concurrent writer; returns the reports.
///
/// The writer runs from the start of the backfill to its end.
pub(crate) async fn run_beside_writer(fixture: &Fixture, event: Value, rows: usize) -> Vec<Value> {
    let stop = AtomicBool::new(false);
    let (reports, written) = tokio::join!(
        async {
            let first = fixture.invoke(event).await.answer();
            let reports = tick_until_finished(fixture, first).await;
            stop.store(true, Ordering::Relaxed);
            reports
        },
        change_rows_until(fixture, rows, Duration::ZERO, &stop)
    );
    assert!(written > 0, "the writer wrote nothing");
    fixture.drain().await;
    reports
}

/// SQL condition that delays the read of each row by this time.
pub(crate) fn slow_condition(milliseconds: u64) -> String {
    format!("pg_sleep({milliseconds} / 1000.0) is not null")
}

/// Waits until a chunk is being read under [`slow_condition`] or [`ChunkLock::CONDITION`].
pub(crate) async fn wait_until_chunk_is_read(fixture: &Fixture) {
    let sql =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait::until("a chunk is being read", DEADLINE, || async {
        fixture.value(sql).await.as_deref() == Some("1")
    })
    .await;
}

/// Advisory lock that holds a chunk at one row until its release.
///
/// The scenario creates [`ChunkLock::SQL`] and starts the backfill with [`ChunkLock::CONDITION`]. A chunk
/// reads one row more than it sends, so a lock for the second chunk is at the second row of that chunk.
pub(crate) struct ChunkLock(Client);

impl ChunkLock {
    /// SQL that creates the function of the condition. Its cost makes the planner read by the index.
    pub(crate) const SQL: &str = "
        create function chunk_lock(id bigint) returns bool language plpgsql cost 1000000 as $$ begin
            while not pg_try_advisory_xact_lock_shared(id) loop perform pg_sleep(0.005); end loop;
            return true;
        end $$";
    /// Condition of a backfill, for a table whose rows have an `id`.
    pub(crate) const CONDITION: &str = "chunk_lock(id)";

    /// Lock at the row of this number.
    pub(crate) async fn at_row(fixture: &Fixture, row: u64) -> Self {
        let client = fixture.connect().await;
        let lock = format!("select pg_advisory_lock({row})");
        client.batch_execute(&lock).await.unwrap();
        Self(client)
    }

    /// Releases the lock.
    pub(crate) async fn release(&self) {
        let unlock = "select pg_advisory_unlock_all()";
        self.0.batch_execute(unlock).await.unwrap();
    }

    /// Waits until a chunk is held, runs `sql`, and releases the lock.
    ///
    /// The release is after the end of `sql`, or when `sql` waits for the table that the chunk reads.
    pub(crate) async fn release_after(self, fixture: &Fixture, sql: impl Future<Output = ()>) {
        wait_until_chunk_is_read(fixture).await;
        let waits = "select count(*) as waits from pg_locks where not granted and locktype = 'relation' \
                     and database = (select oid from pg_database where datname = current_database())";
        let released = async {
            wait::until("the SQL waits for the chunk", DEADLINE, || async {
                let row = self.0.query_one(waits, &[]).await.unwrap();
                row.get::<_, i64>("waits") > 0
            })
            .await;
            self.release().await;
        };
        tokio::pin!(sql);
        tokio::select! {
            () = &mut sql => self.release().await,
            () = released => sql.await,
        }
    }
}
