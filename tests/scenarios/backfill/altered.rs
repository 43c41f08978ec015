//! Tables that are altered, dropped, renamed or created during a backfill.

use std::time::Duration;

use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, command_event, create_table_sql, fixture_with_tables, invoke_ok, read_events, reported_state,
    run_backfill, start_event_with_lock, start_within,
};

crate::scenarios![
    a_dropped_and_a_renamed_table_fail,
    a_table_that_leaves_the_publication_fails,
    a_table_that_is_dropped_before_its_read_fails_only_if_it_was_named,
    a_new_table_does_not_restart_another_table,
    a_table_with_the_name_of_a_renamed_one_is_read_from_its_start,
    a_chunk_waits_for_a_column_drop,
    row_security_enabled_during_a_chunk_fails_the_table,
    an_oversize_row_that_moves_fails_the_table,
];

const ROWS: u64 = 60;

/// Deadline of an invocation whose second chunk is held.
const SHORT: Duration = Duration::from_secs(3);

/// Fixture with a backfill that paused after the first chunk of `t`.
///
/// The backfill is in the middle of the table.
async fn paused_fixture(plugin: Plugin, more_sql: &str, tables: Value) -> Fixture {
    let fixture = fixture_with_tables(
        Fixture::builder(plugin),
        &format!(
            "{}; {}; {more_sql}",
            create_table_sql(ROWS as usize),
            ChunkLock::SQL
        ),
    )
    .await;
    let event = json!({
        "action": "backfill", "wait": true, "tables": tables, "chunk_rows": 10, "where": ChunkLock::CONDITION,
    });
    let lock = ChunkLock::at_row(&fixture, 12).await;
    start_within(&fixture, event, SHORT).await;
    fixture.invoke(command_event("pause")).await.answer();
    lock.release().await;
    fixture
}

/// Resumes the backfill and ticks until it ends; returns the last report.
async fn resume_until_end(fixture: &Fixture) -> Value {
    let mut report = fixture.invoke(command_event("resume")).await.answer();
    while ["running", "waiting"].contains(&reported_state(&report)) {
        report = fixture.tick().await;
    }
    fixture.drain().await;
    report
}

/// State and reason of a table in `status`.
async fn table_status(fixture: &Fixture, table: &str) -> (String, String) {
    let status = fixture.status().await;
    let tables = status["backfill"]["tables"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    tables
        .filter(|it| it["table"] == table)
        .map(|it| (text(&it["state"]), text(&it["reason"])))
        .next()
        .unwrap_or_else(|| panic!("status does not have {table}: {status}"))
}

async fn a_dropped_and_a_renamed_table_fail() {
    let fixture = paused_fixture(
        Plugin::Pgoutput,
        "create table u (id int primary key)",
        json!(["public.t", "public.u"]),
    )
    .await;
    fixture.sql("drop table t; alter table u rename to a").await;
    let report = resume_until_end(&fixture).await;
    assert_eq!(reported_state(&report), "failed", "{report}");
    for table in ["public.t", "public.u"] {
        let (state, reason) = table_status(&fixture, table).await;
        assert!(
            state == "failed" && reason.contains("no longer exists"),
            "{table} {state}: {reason}"
        );
    }
}

async fn a_table_that_leaves_the_publication_fails() {
    let fixture = paused_fixture(
        Plugin::Pgoutput,
        "create table u (id int primary key)",
        json!("all"),
    )
    .await;
    fixture
        .sql("drop publication spillway; create publication spillway for table u")
        .await;
    let report = resume_until_end(&fixture).await;
    assert_eq!(
        (reported_state(&report), &report["backfill"]["tables"]),
        ("failed", &json!({"done": 1, "failed": 1, "left": 0})),
        "{report}"
    );
    let (_, reason) = table_status(&fixture, "public.t").await;
    assert!(reason.contains("no longer published"), "{reason}");
}

/// `u` is dropped while the invocation that has listed it reads `t`.
async fn a_table_that_is_dropped_before_its_read_fails_only_if_it_was_named() {
    for (tables, state, counts) in [
        (
            json!("all"),
            "finished",
            json!({"done": 1, "failed": 0, "left": 0}),
        ),
        (
            json!(["public.*", "public.u"]),
            "failed",
            json!({"done": 1, "failed": 1, "left": 0}),
        ),
    ] {
        let sql = format!(
            "{}; {}; create table u (id int primary key)",
            create_table_sql(ROWS as usize),
            ChunkLock::SQL
        );
        let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &sql).await;
        let mut event = start_event_with_lock("public.t", 10);
        event["tables"] = tables;
        let lock = ChunkLock::at_row(&fixture, 12).await;
        let (mut report, ()) = tokio::join!(
            invoke_ok(&fixture, event),
            lock.release_after(&fixture, fixture.sql("drop table u"))
        );
        while ["running", "waiting"].contains(&reported_state(&report)) {
            report = fixture.tick().await;
        }
        assert_eq!(
            (reported_state(&report), &report["backfill"]["tables"]),
            (state, &counts),
            "{report}"
        );
    }
}

/// The new table precedes the other by name. Its rows are in the log.
async fn a_new_table_does_not_restart_another_table() {
    Plugin::each(|plugin| async move {
        let fixture = paused_fixture(plugin, "", json!("all")).await;
        fixture
            .sql(&format!(
                "create table a (id int primary key); grant select on a to {};
             insert into a select generate_series(1, 10)",
                REPLUSER.0
            ))
            .await;
        let report = resume_until_end(&fixture).await;
        assert_eq!(reported_state(&report), "finished", "{report}");
        let delivery = fixture.compare(&["t", "a"]).await;
        assert_eq!(
            read_events(&delivery, "public.t").len() as u64,
            ROWS,
            "a row was read twice"
        );
    })
    .await;
}

async fn a_table_with_the_name_of_a_renamed_one_is_read_from_its_start() {
    Plugin::each(|plugin| async move {
        let fixture = paused_fixture(plugin, "", json!(["public.t"])).await;
        fixture
            .sql(&format!(
                "create table fresh (like t including all);
             alter publication spillway set (publish = 'insert, update, delete, truncate');
             alter table t rename to old; alter table fresh rename to t; grant select on t to {};
             insert into t select i, -i, null from generate_series(1, 20) i",
                REPLUSER.0
            ))
            .await;
        let report = resume_until_end(&fixture).await;
        assert_eq!(reported_state(&report), "finished", "{report}");
        let read: Vec<Value> = read_events(&fixture.consume().await, "public.t")
            .into_iter()
            .filter(|event| event["after"]["n"].as_i64() < Some(0))
            .map(|event| event["after"]["id"].clone())
            .collect();
        assert_eq!(read, (1..=20).map(Value::from).collect::<Vec<_>>());
    })
    .await;
}

/// Reports of a backfill during which a transaction alters the table.
///
/// The transaction runs beside the first chunk and commits late. The next chunk is described before the
/// commit and read after it.
async fn alter_during_chunk(fixture: &Fixture, alter: &str) -> Vec<Value> {
    fixture.sql(ChunkLock::SQL).await;
    let event = start_event_with_lock("public.t", 20);
    let client = fixture.connect().await;
    let lock = ChunkLock::at_row(fixture, 10).await;
    let (first, ()) = tokio::join!(invoke_ok(fixture, event), async {
        // The transaction waits for the first chunk. The next chunk waits for the transaction, and has
        // described the table already.
        let begun = async { client.batch_execute(&format!("begin; {alter}")).await.unwrap() };
        lock.release_after(fixture, begun).await;
        let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
        wait::until("the next chunk waits", DEADLINE, || async {
            fixture.value(waits).await.as_deref() == Some("1")
        })
        .await;
        client.batch_execute("commit").await.unwrap();
    });
    let mut reports = vec![first];
    while ["running", "waiting"].contains(&reported_state(&reports[reports.len() - 1])) {
        reports.push(fixture.tick().await);
    }
    fixture.drain().await;
    reports
}

async fn a_chunk_waits_for_a_column_drop() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS as usize)).await;
        let reports = alter_during_chunk(&fixture, "alter table t drop column body").await;
        let last = &reports[reports.len() - 1];
        assert_eq!(reported_state(last), "finished", "{last}");
        let read = read_events(&fixture.consume().await, "public.t");
        assert_eq!(read.len() as u64, ROWS);
        assert!(read[read.len() - 1]["after"].get("body").is_none());
    })
    .await;
}

async fn row_security_enabled_during_a_chunk_fails_the_table() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput),
        &create_table_sql(ROWS as usize),
    )
    .await;
    let reports = alter_during_chunk(&fixture, "alter table t enable row level security").await;
    let last = &reports[reports.len() - 1];
    assert_eq!(reported_state(last), "failed", "{last}");
    let (_, reason) = table_status(&fixture, "public.t").await;
    assert!(
        reason.contains("row security") || reason.contains("row-level security"),
        "{reason}"
    );
    fixture.sql("alter table t disable row level security").await;
    run_backfill(&fixture, json!({"action": "backfill", "tables": ["public.t"]})).await;
    fixture.compare(&["t"]).await;
}

/// Move of an oversize row during the backfill of its table.
///
/// The row moves from the unread part to the part that was read. The lookup of the row finds that it is too
/// large.
async fn an_oversize_row_that_moves_fails_the_table() {
    Plugin::each(|plugin| async move {
        let fixture = paused_fixture(
            plugin,
            &format!("update t set body = repeat('x', 1100000) where id = {ROWS}"),
            json!(["public.t"]),
        )
        .await;
        fixture
            .sql(&format!("update t set id = -1 where id = {ROWS}"))
            .await;
        let report = resume_until_end(&fixture).await;
        assert_eq!(reported_state(&report), "failed", "{report}");
        let (_, reason) = table_status(&fixture, "public.t").await;
        assert!(reason.contains("a record may have"), "{reason}");
        // A smaller value can be read.
        fixture.sql("update t set body = 'small' where id = -1").await;
        run_backfill(&fixture, json!({"action": "backfill", "tables": ["public.t"]})).await;
        fixture.compare(&["t"]).await;
    })
    .await;
}
