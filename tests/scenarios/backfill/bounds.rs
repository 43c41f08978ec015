//! Limits of the load that a backfill causes.
//!
//! No writer waits for it, memory does not grow with the table, a failed table does not stop the others, and
//! rows that a gap may have changed are read again.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, command_event, create_table_sql, fixture_with_tables, invoke_ok, invoke_within, read_events,
    reported_state, run_backfill, slow_condition, start_event, start_event_with_lock, tick_until_finished,
    wait_until_chunk_is_read,
};
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::gap::{accept_gap, advance_slot};

crate::scenarios![
    a_writer_does_not_wait_for_a_chunk,
    memory_does_not_grow_with_the_table,
    a_failed_table_does_not_stop_other_tables,
    a_pending_backfill_restarts_after_a_gap,
    a_unique_index_replaces_a_primary_key,
    an_invalid_backfill_state_does_not_stop_the_drain,
    a_teardown_ends_a_pending_backfill,
];

/// Writer with a short lock timeout, during the read of a chunk.
///
/// A lock holds the chunk during its read. The writer fails when it waits for a lock for half a second.
async fn a_writer_does_not_wait_for_a_chunk() {
    const ROWS: usize = 25;
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput),
        &format!("{}; {}", create_table_sql(ROWS), ChunkLock::SQL),
    )
    .await;
    let event = start_event_with_lock("public.t", ROWS);
    let lock = ChunkLock::at_row(&fixture, 10).await;
    let (first, ()) = tokio::join!(invoke_ok(&fixture, event), async {
        wait_until_chunk_is_read(&fixture).await;
        let client = fixture.connect().await;
        client.batch_execute("set lock_timeout = '500ms'").await.unwrap();
        for id in 1..=ROWS {
            let change =
                format!("update t set n = -n where id = {id}; delete from t where id = {id} and id % 10 = 0");
            client.batch_execute(&change).await.unwrap();
        }
        client
            .batch_execute("insert into t values (100, 1, null); alter table t set (fillfactor = 90)")
            .await
            .unwrap();
        // The chunk was being read during all writes, and still is.
        wait_until_chunk_is_read(&fixture).await;
        lock.release().await;
    });
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

/// Backfill of a table larger than the function's memory.
///
/// Each row has almost a megabyte. All rows together have 144 MB, and the function has 128 MiB.
async fn memory_does_not_grow_with_the_table() {
    const ROWS: usize = 150;
    const MIB: u64 = 128;
    for aggregation in ["none", "kpl"] {
        let builder = Fixture::builder(Plugin::Pgoutput)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &MIB.to_string())
            .env("AGGREGATION", aggregation);
        let sql = format!(
            "create table t (id int primary key, body text); alter table t alter body set storage external;
             insert into t select i, repeat(md5(i::text), 30000) from generate_series(1, {ROWS}) i"
        );
        let fixture = fixture_with_tables(builder, &sql).await;
        let reports = run_backfill(&fixture, start_event(&["public.t"], 1_000_000)).await;
        let chunks: u64 = reports
            .iter()
            .filter_map(|report| report["backfill"]["chunks"].as_u64())
            .sum();
        assert!(chunks > 5, "{chunks} chunks");
        assert!(
            reports.iter().all(|report| report["notices"] == 0),
            "{reports:#?}"
        );
        let peak = fixture.function.peak_memory_bytes();
        assert!(peak < MIB << 20, "{aggregation}: {peak} bytes");
        fixture.compare(&["t"]).await;
    }
}

/// Backfill of four tables, of which three fail.
///
/// One table has a row larger than a record. One is dropped during the backfill, and one loses its key.
async fn a_failed_table_does_not_stop_other_tables() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create table a (id int primary key, body text);
             insert into a select i, 'small' from generate_series(1, 30) i;
             insert into a values (31, repeat('x', 2000000));
             create table b (id int primary key); insert into b select generate_series(1, 30);
             create table c (id int primary key); insert into c select generate_series(1, 30);
             create table d (id int primary key); insert into d select generate_series(1, 30)",
        )
        .await;
        fixture.sql(ChunkLock::SQL).await;
        let event = json!({
            "action": "backfill", "wait": true, "tables": "all", "chunk_rows": 10,
            "where": ChunkLock::CONDITION,
        });
        let lock = ChunkLock::at_row(&fixture, 5).await;
        let alter = fixture.sql("drop table b; alter table c drop constraint c_pkey");
        let (mut report, ()) = tokio::join!(invoke_ok(&fixture, event), lock.release_after(&fixture, alter));
        while reported_state(&report) == "running" {
            report = fixture.tick().await;
        }
        assert_eq!(
            (reported_state(&report), &report["backfill"]["tables"]),
            ("failed", &json!({"done": 1, "failed": 2, "left": 0})),
            "{report}"
        );
        let status = fixture.status().await;
        let reason = |table: &str| -> String {
            let tables = status["backfill"]["tables"].as_array().into_iter().flatten();
            let mut of_table = tables.filter(|it| it["table"] == table);
            of_table.next().map_or_else(String::new, |it| {
                it["reason"].as_str().unwrap_or_default().to_owned()
            })
        };
        for (table, parts) in [
            ("public.a", &["key hash", "2000", "1048576", "OVERSIZE=omit"][..]),
            ("public.c", &["no primary key"]),
        ] {
            let reason = reason(table);
            assert!(
                parts.iter().all(|part| reason.contains(part)),
                "{table} {reason}: {status}"
            );
        }
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let read = |table: &str| read_events(&delivery, table).len();
        assert_eq!((read("public.a"), read("public.d")), (30, 30));
        // Repaired tables can be read.
        fixture
            .sql("delete from a where id = 31; alter table c add primary key (id)")
            .await;
        run_backfill(&fixture, start_event(&["public.a", "public.c"], 1_000)).await;
        fixture.compare(&["a", "c", "d"]).await;
    })
    .await;
}

/// Rows that were read before the gap may have changed in it.
async fn a_pending_backfill_restarts_after_a_gap() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(1_000)).await;
        fixture
            .kinesis_proxy
            .inject("PutRecords", Fault::Delay(Duration::from_millis(400)));
        let deadline = Duration::from_secs(5);
        let first = invoke_within(&fixture, start_event(&["public.t"], 50), deadline).await;
        // On a slow machine, the time may be too short for the first chunk.
        assert!(
            ["running", "waiting"].contains(&reported_state(&first)),
            "{first}"
        );
        fixture.kinesis_proxy.clear();
        fixture
            .sql("update t set n = -1 where id <= 500; insert into t values (0, 0, null)")
            .await;
        let confirmed = advance_slot(&fixture).await;
        let report = fixture.invoke(accept_gap(&confirmed)).await.answer();
        tick_until_finished(&fixture, report).await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

/// The index is over columns that are not null. In the stream, the replica identity identifies the rows.
async fn a_unique_index_replaces_a_primary_key() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create table t (a int not null, b text not null, n int); create unique index on t (b, a);
             alter table t replica identity full;
             insert into t select i % 7, 'b' || i, i from generate_series(1, 100) i",
        )
        .await;
        run_backfill(&fixture, start_event(&["public.t"], 30)).await;
        fixture
            .sql("update t set n = -1 where n % 10 = 0; delete from t where n % 10 = 1")
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(read_events(&delivery, "public.t").len(), 100);
    })
    .await;
}

async fn an_invalid_backfill_state_does_not_stop_the_drain() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &create_table_sql(10)).await;
    for text in ["{", r#"{"version":2}"#] {
        fixture.put_backfill(text).await;
        fixture.sql("update t set n = -n where id = 1").await;
        let report = fixture.tick().await;
        assert_eq!(
            (&report["changes"], &report["backfill"]),
            (&json!(1), &Value::Null),
            "{report}"
        );
        for event in [start_event(&["public.t"], 10), command_event("cancel")] {
            assert_invocation_fails(&fixture, event, "BackfillInvalid", &[".backfill", "delete it"]).await;
        }
    }
    fixture.drain().await;
}

async fn a_teardown_ends_a_pending_backfill() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &create_table_sql(100)).await;
    let event = json!({
        "action": "backfill", "wait": true, "tables": ["public.t"], "chunk_rows": 10,
        "where": slow_condition(60),
    });
    let first = invoke_within(&fixture, event, Duration::from_secs(3)).await;
    // It waits for a longer `Timeout` where the machine is slow.
    assert!(
        ["running", "waiting"].contains(&reported_state(&first)),
        "{first}"
    );
    fixture.invoke(json!({"action": "teardown"})).await.answer();
    assert_eq!(fixture.backfill_state().await, None);
}
