//! A chunk may read older or newer rows than the delivered changes.
//!
//! A commit is in the log before other sessions see it, for as long as it waits for the standby. The consumer
//! ends with the newer row, and with the large values that the change lacked.

use std::time::Duration;

use scenarios::consumer::Delivery;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use scenarios::postgres::tcp_proxy::Direction;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, fixture_with_tables, invoke_ok, invoke_within, read_events, reported_state, run_backfill,
    start_event, start_event_with_lock, start_within, tick_until_finished, wait_until_chunk_is_read,
};
use crate::support::cluster::start_cluster;
use crate::support::positions::wait_until_sessions_end;
use crate::support::versions::pgoutput;

crate::scenarios![
    a_chunk_reads_no_row_older_than_a_delivered_change,
    a_new_sandbox_waits_for_delivered_changes_too,
    a_hanging_commit_during_a_chunk_keeps_its_new_values,
    a_row_that_moves_in_a_hanging_commit_keeps_its_new_value,
    a_change_during_a_chunk_is_completed_from_the_chunk,
    a_key_change_during_a_chunk_is_completed_from_the_chunk,
    a_row_that_moves_to_the_read_part_is_complete,
    a_row_that_moves_to_the_unread_part_is_complete,
    a_row_that_changes_before_an_alter_of_its_column_is_complete,
    a_row_deleted_during_a_chunk_stays_deleted,
    a_table_rewritten_during_a_chunk_is_complete,
    a_change_of_an_oversize_row_keeps_the_omitted_column_named,
    a_backfill_waits_for_a_watermark_behind_the_standby,
];

crate::version_scenarios![a_locked_table_does_not_stop_the_drain];

const ROWS: usize = 20;

/// SQL of the table `doc` and of the chunk lock.
///
/// The rows of `doc` have large values, which are stored outside their row.
fn documents_sql() -> String {
    format!(
        "{};
         create table doc (id int primary key, n int not null, body text);
         alter table doc alter body set storage external;
         insert into doc select i, 1, repeat(md5(i::text), 100) from generate_series(1, {ROWS}) i",
        ChunkLock::SQL
    )
}

/// Fixture on a cluster whose commits can hang.
///
/// The function does not check the standby. It writes no markers, because they would wait for the standby.
async fn fixture_with_hanging_commits() -> Fixture {
    let builder = Fixture::builder(Plugin::Pgoutput)
        .on_cluster(start_cluster(15).await)
        .env("STANDBY_ACK", "off")
        .env("MARKERS", "off");
    let fixture = fixture_with_tables(builder, &documents_sql()).await;
    fixture.drain().await;
    fixture
}

/// Waits until a commit of another session than the function hangs.
async fn wait_until_commit_hangs(fixture: &Fixture) {
    let sql = "select count(*) from pg_stat_activity \
               where wait_event = 'SyncRep' and datname = current_database() \
               and application_name not like 'spillway%'";
    wait::until("the commit hangs", DEADLINE, || async {
        fixture.value(sql).await.as_deref() == Some("1")
    })
    .await;
}

/// Delivery, after a comparison with PostgreSQL that has every large value.
async fn compare_complete(fixture: &Fixture) -> Delivery {
    let delivery = fixture.compare(&["doc"]).await;
    let rebuilt = delivery.rebuild();
    let complete =
        |row: &scenarios::consumer::event::Row| row["body"].as_str().is_some_and(|body| body != UNAVAILABLE);
    assert!(
        rebuilt.tables["public.doc"].rows().all(complete),
        "a large value is missing"
    );
    delivery
}

/// Operation and `n` of each event of a row.
fn events_of_row(delivery: &Delivery, id: u32) -> Vec<(String, Value)> {
    let events = delivery.of_table("public.doc").into_iter();
    let events = events.map(|event| {
        let row = if event["after"].is_null() {
            &event["before"]
        } else {
            &event["after"]
        };
        let op = event["op"].as_str().unwrap_or_default().to_owned();
        (row["id"].clone(), (op, row["n"].clone()))
    });
    events
        .filter(|(of, _)| *of == id)
        .map(|(_, events)| events)
        .collect()
}

/// Asserts that a backfill waits until a delivered change is visible.
///
/// The commit of the change hangs. The backfill starts after the change was delivered.
async fn assert_waits_for_delivered_change(kill: bool) {
    let fixture = fixture_with_hanging_commits().await;
    let client = fixture.connect().await;
    fixture.cluster().replication_proxy().stall(Direction::ToServer);
    let (committed, first) = tokio::join!(client.batch_execute("update doc set n = 2 where id = 3"), async {
        wait_until_commit_hangs(&fixture).await;
        let report = fixture.tick().await;
        assert_eq!(report["changes"], 1, "the change is not delivered: {report}");
        if kill {
            fixture.function.kill9().await;
            wait_until_sessions_end(&fixture).await;
        }
        let deadline = Duration::from_secs(8);
        let first = invoke_within(&fixture, start_event(&["public.doc"], 5), deadline).await;
        assert_eq!(
            read_events(&fixture.consume().await, "public.doc"),
            Vec::<Value>::new(),
            "{first}"
        );
        assert!(
            first["backfill"]["waits_for"].is_string(),
            "the report does not name the wait: {first}"
        );
        assert_eq!(reported_state(&first), "waiting", "{first}");
        fixture.cluster().replication_proxy().clear();
        first
    });
    committed.unwrap();
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    let events = events_of_row(&compare_complete(&fixture).await, 3);
    assert_eq!(events, [("u".to_owned(), json!(2)), ("r".to_owned(), json!(2))]);
}

async fn a_chunk_reads_no_row_older_than_a_delivered_change() {
    assert_waits_for_delivered_change(false).await;
}

async fn a_new_sandbox_waits_for_delivered_changes_too() {
    assert_waits_for_delivered_change(true).await;
}

async fn a_hanging_commit_during_a_chunk_keeps_its_new_values() {
    let fixture = fixture_with_hanging_commits().await;
    let client = fixture.connect().await;
    let lock = ChunkLock::at_row(&fixture, 1).await;
    // The first chunk does not see the change of row 3, nor the second that of row 13. The commit hangs until
    // the invocation has delivered the change and has given up on the second chunk.
    let (first, committed) = tokio::join!(
        async {
            let deadline = Duration::from_secs(8);
            let report = invoke_within(&fixture, start_event_with_lock("public.doc", 10), deadline).await;
            fixture.cluster().replication_proxy().clear();
            report
        },
        async {
            wait_until_chunk_is_read(&fixture).await;
            fixture.cluster().replication_proxy().stall(Direction::ToServer);
            let release_lock = async {
                wait_until_commit_hangs(&fixture).await;
                lock.release().await;
            };
            let sql = "update doc set n = 2 where id in (3, 13)";
            tokio::join!(client.batch_execute(sql), release_lock).0
        }
    );
    committed.unwrap();
    assert_eq!(reported_state(&first), "waiting", "{first}");
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    let delivery = compare_complete(&fixture).await;
    assert_eq!(events_of_row(&delivery, 3), [("u".to_owned(), json!(2))]);
    assert_eq!(
        events_of_row(&delivery, 13),
        [("u".to_owned(), json!(2)), ("r".to_owned(), json!(2))]
    );
}

/// Move of a row in a transaction whose commit hangs.
///
/// The transaction gives the row another large value, and moves it from the unread part to the read part. The
/// transaction is delivered and not visible.
async fn a_row_that_moves_in_a_hanging_commit_keeps_its_new_value() {
    let fixture = fixture_with_hanging_commits().await;
    let event = start_event_with_lock("public.doc", 5);
    let client = fixture.connect().await;
    let lock = ChunkLock::at_row(&fixture, 7).await;
    let (first, committed) = tokio::join!(invoke_ok(&fixture, event), async {
        wait_until_chunk_is_read(&fixture).await;
        fixture.cluster().replication_proxy().stall(Direction::ToServer);
        let sql = "begin; update doc set body = repeat('new ', 1000) where id = 20;
                   update doc set id = -1 where id = 20; commit";
        let (committed, ()) = tokio::join!(client.batch_execute(sql), async {
            wait_until_commit_hangs(&fixture).await;
            lock.release().await;
            // The commit hangs until the function has given up looking for the row.
            wait::until("the backfill restarts", DEADLINE, || async {
                let log = fixture.function.log();
                log.iter()
                    .any(|line| line.contains("restarts from its first row"))
            })
            .await;
            fixture.cluster().replication_proxy().clear();
        });
        committed
    });
    committed.unwrap();
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    compare_complete(&fixture).await;
}

/// Reports of a backfill of `doc` in chunks of ten rows. `sql` runs during the first chunk, or the second.
async fn run_sql_during_chunk_of_ten(fixture: &Fixture, second: bool, sql: &str) -> Vec<Value> {
    run_sql_during_chunk(fixture, 10, second, sql).await
}

/// The same with chunks of another size.
async fn run_sql_during_chunk(fixture: &Fixture, rows: u64, second: bool, sql: &str) -> Vec<Value> {
    let event = start_event_with_lock("public.doc", rows);
    let lock = ChunkLock::at_row(fixture, if second { rows + 2 } else { 1 }).await;
    let (first, ()) = tokio::join!(
        invoke_ok(fixture, event),
        lock.release_after(fixture, fixture.sql(sql))
    );
    let reports = tick_until_finished(fixture, first).await;
    fixture.drain().await;
    reports
}

fn overtaken(reports: &[Value]) -> u64 {
    let counts = reports
        .iter()
        .filter_map(|report| report["backfill"]["overtaken"].as_u64());
    counts.sum()
}

async fn a_change_during_a_chunk_is_completed_from_the_chunk() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        let reports = run_sql_during_chunk_of_ten(
            &fixture,
            false,
            "update doc set n = 2 where id = 3; update doc set n = 3 where id = 3",
        )
        .await;
        assert_eq!(overtaken(&reports), 1, "{reports:#?}");
        let delivery = compare_complete(&fixture).await;
        assert_eq!(
            events_of_row(&delivery, 3),
            [("u".to_owned(), json!(2)), ("u".to_owned(), json!(3))]
        );
        assert_eq!(read_events(&delivery, "public.doc").len(), ROWS - 1);
    })
    .await;
}

async fn a_key_change_during_a_chunk_is_completed_from_the_chunk() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        // To another key of the chunk, before all keys, after all keys, and back over two keys.
        let sql = "delete from doc where id = 4; update doc set id = 4 where id = 3;
                   update doc set id = -1 where id = 5; update doc set id = 1000 where id = 6;
                   update doc set id = 3 where id = 4; update doc set n = 9 where id in (3, -1, 1000)";
        run_sql_during_chunk_of_ten(&fixture, false, sql).await;
        compare_complete(&fixture).await;
    })
    .await;
}

async fn a_row_that_moves_to_the_read_part_is_complete() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        // One row stays there, one changes there, one moves back, and one is deleted.
        let sql = "update doc set id = -1 where id = 20; update doc set id = -2 where id = 19;
                   update doc set n = 2 where id = -2; update doc set id = -3 where id = 18;
                   update doc set id = -4 where id = 17";
        // These rows are in the last chunk, which is not held yet.
        let more = "update doc set id = 18 where id = -3; delete from doc where id = -4";
        run_sql_during_chunk(&fixture, 5, true, &format!("{sql}; {more}")).await;
        compare_complete(&fixture).await;
        // The same before the first chunk.
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        fixture.sql(sql).await;
        run_backfill(&fixture, start_event(&["public.doc"], 6)).await;
        compare_complete(&fixture).await;
    })
    .await;
}

async fn a_row_that_moves_to_the_unread_part_is_complete() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        run_sql_during_chunk_of_ten(
            &fixture,
            true,
            "update doc set id = 100 where id = 1; update doc set id = 99 where id = 15",
        )
        .await;
        compare_complete(&fixture).await;
    })
    .await;
}

/// With wal2json, the updates lack the column: the catalog describes it as of the `alter`.
///
/// One row stays, and one moves to the part of the table that was read.
async fn a_row_that_changes_before_an_alter_of_its_column_is_complete() {
    Plugin::each(|plugin| async move {
        for update in ["set n = 2 where id = 8", "set id = -1 where id = 20"] {
            let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
            let sql =
                format!("begin; update doc {update}; commit; alter table doc alter body set statistics 50");
            run_sql_during_chunk(&fixture, 5, true, &sql).await;
            compare_complete(&fixture).await;
        }
    })
    .await;
}

async fn a_table_rewritten_during_a_chunk_is_complete() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &documents_sql()).await;
    // The snapshot of the second chunk is older than the rewriting commit, and its query waits for that
    // commit.
    let rewrite = "begin; alter table doc alter n type bigint; select pg_sleep(1); commit";
    let reports = run_sql_during_chunk_of_ten(&fixture, false, rewrite).await;
    assert_eq!(
        read_events(&compare_complete(&fixture).await, "public.doc").len(),
        ROWS,
        "{reports:#?}"
    );
}

/// Neither the table of the backfill nor another published one.
async fn a_locked_table_does_not_stop_the_drain(version: u32) {
    let sql = documents_sql() + "; create table other (id int primary key)";
    let fixture = fixture_with_tables(pgoutput(version), &sql).await;
    let event = start_event_with_lock("public.doc", 10);
    let lock = ChunkLock::at_row(&fixture, 12).await;
    start_within(&fixture, event, Duration::from_secs(4)).await;
    lock.release().await;
    fixture.sql("update doc set id = -1 where id = 20").await;
    let client = fixture.connect().await;
    client
        .batch_execute("begin; lock table doc, other in access exclusive mode")
        .await
        .unwrap();
    let deadline = Duration::from_secs(8);
    let report = fixture.function.invoke(&json!({}), deadline).await.answer();
    assert_eq!(report["changes"], 1, "the change is not drained: {report}");
    client.batch_execute("commit").await.unwrap();
    tick_until_finished(&fixture, report).await;
    fixture.drain().await;
    compare_complete(&fixture).await;
}

async fn a_change_of_an_oversize_row_keeps_the_omitted_column_named() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput).env("OVERSIZE", "omit"),
        &documents_sql(),
    )
    .await;
    fixture
        .sql("update doc set body = repeat('x', 2000000) where id = 3")
        .await;
    fixture.drain().await;
    run_sql_during_chunk_of_ten(&fixture, false, "update doc set n = 2 where id = 3").await;
    let delivery = fixture.consume().await;
    let mut events = delivery.of_table("public.doc");
    events.retain(|event| event["after"]["id"] == 3);
    let last = events.last().unwrap();
    assert_eq!(last["source"]["omitted"], json!(["body"]), "{last}");
    assert_eq!(last["after"]["n"], 2);
}

async fn a_backfill_waits_for_a_watermark_behind_the_standby() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput)
            .on_cluster(start_cluster(15).await)
            .env("STANDBY_ACK", "required"),
        &documents_sql(),
    )
    .await;
    fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    fixture.drain().await;
    fixture.cluster().replication_proxy().stall(Direction::ToServer);
    let deadline = Duration::from_secs(8);
    let event = start_event(&["public.doc"], 100);
    let first = invoke_within(&fixture, event, deadline).await;
    let waits_for = first["backfill"]["waits_for"].as_str().unwrap_or_default();
    assert!(waits_for.contains("standby"), "{first}");
    fixture.cluster().replication_proxy().clear();
    tick_until_finished(&fixture, first).await;
    compare_complete(&fixture).await;
}

async fn a_row_deleted_during_a_chunk_stays_deleted() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &documents_sql()).await;
        let sql = "delete from doc where id = 2; delete from doc where id = 3;
                   insert into doc values (3, 5, 'new')";
        let reports = run_sql_during_chunk_of_ten(&fixture, false, sql).await;
        assert_eq!(overtaken(&reports), 2, "{reports:#?}");
        let delivery = compare_complete(&fixture).await;
        assert_eq!(events_of_row(&delivery, 2), [("d".to_owned(), Value::Null)]);
    })
    .await;
}
