//! `SKIPPED_OPERATIONS` leaves operations out, and everything else stays as it is.

use scenarios::fixture::{Fixture, Plugin};
use serde_json::json;

use crate::support::backfill::{
    ChunkLock, fixture_with_tables, invoke_ok, read_events, start_event_with_lock, tick_until_finished,
};
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::keys::{assert_id_steps, assert_steps, execute_and_drain};

crate::scenarios![
    each_operation_can_be_left_out,
    a_transaction_without_sent_changes_is_confirmed,
    a_key_change_is_skipped_as_an_update,
    a_backfill_sends_a_row_whose_change_is_left_out,
    an_unknown_operation_is_refused,
];

async fn each_operation_can_be_left_out() {
    Plugin::each(|plugin| async move {
        let mut fixture = Fixture::new(plugin).await;
        fixture.sql("create table t (id int primary key, n int)").await;
        let mut expected = Vec::new();
        for (skipped, ops) in [
            ("c", "udt"),
            ("u", "cdt"),
            ("d", "cut"),
            ("t", "cud"),
            ("t,d,u,c", ""),
        ] {
            fixture.function.set("SKIPPED_OPERATIONS", skipped).await;
            execute_and_drain(
                &fixture,
                &[
                    "insert into t values (1, 1)",
                    "update t set n = 2",
                    "delete from t",
                    "truncate t",
                ],
            )
            .await;
            expected.extend(ops.chars().map(|op| {
                let key = if op == 't' { "public.t" } else { r#"{"id":1}"# };
                (op.to_string(), key)
            }));
        }
        let delivery = fixture.consume().await;
        let expected: Vec<(&str, &str)> = expected.iter().map(|(op, key)| (op.as_str(), *key)).collect();
        assert_steps(&delivery, &expected);
    })
    .await;
}

async fn a_transaction_without_sent_changes_is_confirmed() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("SKIPPED_OPERATIONS", "c,t")
            .build()
            .await;
        fixture.sql("create table t (id int primary key, n int)").await;
        fixture
            .sql("insert into t select i, 0 from generate_series(1, 500) i")
            .await;
        // This position is inside of the transaction, before its end.
        let inside = "truncate t; select pg_current_wal_insert_lsn()";
        let inside = fixture.value(inside).await.unwrap();
        fixture.drain().await;
        let confirmed = fixture.confirmed_flush().await;
        let passed = format!("select '{confirmed}'::pg_lsn > '{inside}'::pg_lsn");
        assert_eq!(fixture.value(&passed).await.as_deref(), Some("t"));
        // The insert is not sent. The update and the message of the same transaction are.
        fixture
            .sql(
                "insert into t values (1, 0); update t set n = 1;
                 select pg_logical_emit_message(true, 'app', 'hello')",
            )
            .await;
        let report = fixture.tick().await;
        // Each plugin sends messages.
        assert_eq!(
            (&report["changes"], &report["transactions"]),
            (&json!(2), &json!(1)),
            "{report}"
        );
        let delivery = fixture.consume().await;
        let ops: Vec<String> = delivery.changes().iter().map(|it| it.event().op).collect();
        assert_eq!(ops, ["u", "m"]);
        assert_eq!(delivery.duplicates(), 0);
    })
    .await;
}

async fn a_key_change_is_skipped_as_an_update() {
    Plugin::each(|plugin| async move {
        let mut fixture = Fixture::builder(plugin)
            .env("SKIPPED_OPERATIONS", "d")
            .build()
            .await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key)",
                "insert into t values (1), (2)",
                "update t set id = 3 where id = 1; delete from t where id = 2",
            ],
        )
        .await;
        assert_id_steps(&fixture.consume().await, "c1 c2 d1 c3");
        fixture.function.set("SKIPPED_OPERATIONS", "u").await;
        execute_and_drain(&fixture, &["update t set id = 4 where id = 3", "delete from t"]).await;
        assert_id_steps(&fixture.consume().await, "c1 c2 d1 c3 d4");
    })
    .await;
}

/// Backfill of rows whose changes are not sent.
///
/// The event of the backfill is the only event of such a row.
async fn a_backfill_sends_a_row_whose_change_is_left_out() {
    Plugin::each(|plugin| async move {
        let builder = Fixture::builder(plugin).env("SKIPPED_OPERATIONS", "u,d");
        let sql = "create table t (id int primary key, n int);
                   insert into t select i, 0 from generate_series(1, 4) i";
        let fixture = fixture_with_tables(builder, sql).await;
        fixture.sql(ChunkLock::SQL).await;
        let lock = ChunkLock::at_row(&fixture, 4).await;
        let changes = fixture.sql("update t set n = 1 where id = 1; delete from t where id = 2");
        let event = start_event_with_lock("public.t", 10);
        let (first, ()) = tokio::join!(invoke_ok(&fixture, event), lock.release_after(&fixture, changes));
        tick_until_finished(&fixture, first).await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let rows = (1..=4).map(|id| json!({"id": id, "n": 0}));
        let read = read_events(&delivery, "public.t");
        let read: Vec<_> = read.iter().map(|event| event["after"].clone()).collect();
        assert_eq!(read, rows.collect::<Vec<_>>());
        assert_eq!(delivery.counts()["public.t"], 4);
    })
    .await;
}

async fn an_unknown_operation_is_refused() {
    let mut fixture = Fixture::new(Plugin::Pgoutput).await;
    for text in ["r", "delete", "c,none"] {
        fixture.function.set("SKIPPED_OPERATIONS", text).await;
        let parts = ["SKIPPED_OPERATIONS", text, "c, u, d and t"];
        assert_invocation_fails(&fixture, json!({}), "ConfigInvalid", &parts).await;
    }
}
