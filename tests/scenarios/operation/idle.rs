//! A slot advances although its own tables have no changes.
//!
//! Otherwise the log of other tables and databases fills the disk. The slot may advance while a transaction
//! is open, or before a commit is on disk. Its changes still arrive.

use std::time::Duration;

use scenarios::aws::fault_proxy::FaultSide;
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::PostgresSettings;
use serde_json::{Value, json};

use crate::support::versions::with_each_plugin;

crate::scenarios![
    an_idle_slot_passes_other_writes_within_one_tick,
    filtered_log_larger_than_a_window_is_passed_in_one_tick,
    a_backlog_larger_than_a_window_passes_in_one_tick,
    a_transaction_that_stays_open_over_many_ticks_is_not_lost,
    rolled_back_changes_never_arrive,
    a_long_open_transaction_is_named,
    a_commit_during_a_window_is_not_skipped,
    an_asynchronous_commit_is_not_lost,
];

crate::version_scenarios![an_idle_slot_passes_other_writes];

/// End of the log that is flushed to disk.
async fn flush_lsn(fixture: &Fixture) -> String {
    fixture.value("select pg_current_wal_flush_lsn()").await.unwrap()
}

/// Whether slot and checkpoint have reached `lsn`.
async fn has_reached(fixture: &Fixture, lsn: &str) -> bool {
    let checkpoint = fixture.checkpoint().await.unwrap_or_default();
    let stored = checkpoint["commit_end"].as_str().unwrap_or("0/0").to_owned();
    let confirmed = fixture.confirmed_flush().await;
    let sql = format!("select '{confirmed}'::pg_lsn >= '{lsn}' and '{stored}'::pg_lsn >= '{confirmed}'");
    fixture.value(&sql).await.as_deref() == Some("t")
}

async fn an_idle_slot_passes_other_writes_within_one_tick() {
    Plugin::each(|plugin| assert_passes_other_writes(Fixture::builder(plugin))).await;
}

async fn assert_passes_other_writes(builder: FixtureBuilder) {
    let fixture = builder.without_slot().env("TABLES", "public.ours").build().await;
    fixture
        .sql("create table ours (id int primary key); create table others (id int primary key, what text)")
        .await;
    fixture.sql("create publication spillway for table ours").await;
    fixture.create_slot().await;
    fixture.tick().await;

    fixture
        .sql("insert into others select i, 'x' from generate_series(1, 2000) i")
        .await;
    let elsewhere = format!("{}_elsewhere", fixture.database);
    fixture.postgres.create_database(&elsewhere).await;
    let client = fixture.postgres.admin(&elsewhere).await;
    client
        .batch_execute("create table t as select i from generate_series(1, 2000) i")
        .await
        .unwrap();
    drop(client);
    fixture.postgres.drop_database(&elsewhere).await;

    let written = flush_lsn(&fixture).await;
    assert!(!has_reached(&fixture, &written).await);
    let report = fixture.tick().await;
    assert_eq!(
        (&report["events"], &report["stopped"]),
        (&json!(0), &json!("empty"))
    );
    assert!(has_reached(&fixture, &written).await, "{report}");
    assert_eq!(fixture.kinesis_proxy.requests("PutRecords"), 0);

    fixture.sql("insert into ours values (1)").await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["ours"]).await.changes().len(), 1);
}

async fn filtered_log_larger_than_a_window_is_passed_in_one_tick() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture
        .sql("create table ours (id int primary key); create table others (what text)")
        .await;
    fixture
        .sql("alter table others alter what set storage external; create publication spillway for table ours")
        .await;
    fixture.create_slot().await;
    fixture.sql("insert into ours values (1)").await;
    fixture
        .sql("insert into others select repeat('x', 1000000) from generate_series(1, 150)")
        .await;
    let written = flush_lsn(&fixture).await;
    let report = fixture.tick().await;
    assert!(
        report["peeks"].as_u64() >= Some(2),
        "the tick read only one window: {report}"
    );
    assert!(has_reached(&fixture, &written).await, "{report}");
    fixture.sql("insert into ours values (2)").await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["ours"]).await.changes().len(), 2);
}

async fn a_backlog_larger_than_a_window_passes_in_one_tick() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql("create table t (id int primary key, n int)").await;
    for n in 0..11 {
        let (from, to) = (n * 10_000, n * 10_000 + 9_999);
        fixture
            .sql(&format!(
                "insert into t select i, {n} from generate_series({from}, {to}) i"
            ))
            .await;
    }
    fixture.sql("update t set n = -1 where id % 1000 = 0").await;
    let written = flush_lsn(&fixture).await;
    // A busy machine may need longer than the usual deadline.
    let deadline = 4 * DEADLINE;
    let report = fixture.function.invoke(&json!({}), deadline).await.answer();
    assert!(
        report["peeks"].as_u64() >= Some(2),
        "the tick read only one window: {report}"
    );
    assert!(has_reached(&fixture, &written).await, "{report}");
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 110_110);
}

async fn a_transaction_that_stays_open_over_many_ticks_is_not_lost() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int primary key, what text); create table noise (id int primary key)")
            .await;
        fixture.tick().await;
        let open = fixture.connect().await;
        open.batch_execute("begin; insert into t values (0, 'before all ticks')")
            .await
            .unwrap();
        for id in 1..=4 {
            fixture.sql(&format!("insert into noise values ({id})")).await;
            // PostgreSQL logs the open transactions at a `CHECKPOINT`. Decoding can start at that log record.
            fixture.sql("checkpoint").await;
            let written = flush_lsn(&fixture).await;
            fixture.tick().await;
            assert!(
                has_reached(&fixture, &written).await,
                "the open transaction holds the slot back"
            );
            let sql = format!(
                "savepoint s; insert into t values ({id}, 'between'); release s; savepoint s;
                               insert into t values (-{id}, 'undone'); rollback to s"
            );
            open.batch_execute(&sql).await.unwrap();
            // Besides markers, this tick reads only writes of the open transaction.
            fixture.tick().await;
        }
        open.batch_execute("update t set what = 'at the end' where id = 0; commit")
            .await
            .unwrap();
        fixture.drain().await;
        let delivery = fixture.compare(&["t", "noise"]).await;
        assert_eq!(delivery.counts()["public.t"], 6);
        assert_eq!(delivery.duplicates(), 0);
    })
    .await;
}

async fn rolled_back_changes_never_arrive() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture.sql("create table t (id int primary key)").await;
        let open = fixture.connect().await;
        open.batch_execute("begin; insert into t values (1)")
            .await
            .unwrap();
        fixture.tick().await;
        open.batch_execute("insert into t values (2); rollback")
            .await
            .unwrap();
        open.batch_execute(
            "begin; insert into t values (3); savepoint s; insert into t values (4); rollback to s; commit",
        )
        .await
        .unwrap();
        fixture.drain().await;
        assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
    })
    .await;
}

/// The transaction that a tick names.
///
/// On a busy machine, a tick may have no time to ask for it.
async fn wait_for_oldest_transaction(fixture: &Fixture) -> Value {
    scenarios::wait::until_some("a tick names a transaction", DEADLINE, || async {
        let oldest = fixture.tick().await["oldest_transaction"].clone();
        (!oldest.is_null()).then_some(oldest)
    })
    .await
}

/// The report names the oldest transaction.
///
/// The server is not shared, because the oldest transaction is that of the whole server.
async fn a_long_open_transaction_is_named() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(PostgresSettings::default())
        .build()
        .await;
    let named = fixture.tick().await;
    assert_eq!(named["oldest_transaction"], Value::Null);

    // A transaction in another database also keeps the server from removing log.
    let open = fixture.postgres.admin("postgres").await;
    open.batch_execute("create table t (id int); begin; insert into t values (1)")
        .await
        .unwrap();
    let pid: i32 = open
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get("pg_backend_pid");
    let oldest = wait_for_oldest_transaction(&fixture).await;
    assert_eq!(oldest, json!({"pid": pid, "age_seconds": null}));

    // Only members of pg_monitor see the age. With an age, a transaction under five
    // seconds is not reported.
    fixture.sql("grant pg_monitor to repluser").await;
    scenarios::wait::until(
        "the transaction is five seconds old",
        Duration::from_secs(20),
        || async {
            let age = "select clock_timestamp() - xact_start > '5 s' from pg_stat_activity where pid =";
            fixture.value(&format!("{age} {pid}")).await.as_deref() == Some("t")
        },
    )
    .await;
    let oldest = wait_for_oldest_transaction(&fixture).await;
    assert_eq!(oldest["pid"], pid);
    assert!(oldest["age_seconds"].as_i64() >= Some(5), "{oldest}");

    open.batch_execute("rollback").await.unwrap();
    assert_eq!(fixture.tick().await["oldest_transaction"], Value::Null);
}

async fn a_commit_during_a_window_is_not_skipped() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture.sql("create table t (id int primary key)").await;
        fixture.sql("insert into t values (1)").await;
        let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
        let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
            held.wait_until_held().await;
            fixture.sql("insert into t values (2)").await;
            held.release();
        });
        outcome.answer();
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!((delivery.changes().len(), delivery.duplicates()), (2, 0));
    })
    .await;
}

/// An asynchronous commit arrives, with and without markers.
///
/// The server is not shared, and flushes seldom. A marker flushes all earlier log, and would hide the
/// problem. So the scenario also runs without markers.
async fn an_asynchronous_commit_is_not_lost() {
    for markers in ["on", "off"] {
        assert_asynchronous_commit_arrives(markers).await;
    }
}

async fn assert_asynchronous_commit_arrives(markers: &str) {
    let conf = "wal_writer_delay = '10s'\nwal_writer_flush_after = 0\nautovacuum = off\n";
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(PostgresSettings::with_conf(conf))
        .env("MARKERS", markers)
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    let asynchronous = fixture.connect().await;
    asynchronous
        .batch_execute("set synchronous_commit = off")
        .await
        .unwrap();
    let mut unflushed = 0;
    for id in 0..16 {
        asynchronous
            .batch_execute(&format!("insert into t values ({id})"))
            .await
            .unwrap();
        let has_unflushed = fixture
            .value("select pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
            .await;
        unflushed += u32::from(has_unflushed.as_deref() == Some("t"));
        fixture.tick().await;
        let confirmed = fixture.confirmed_flush().await;
        let within = fixture
            .value(&format!("select '{confirmed}' <= pg_current_wal_flush_lsn()"))
            .await;
        assert_eq!(within.as_deref(), Some("t"));
        if id % 4 == 3 {
            // A synchronous commit flushes all earlier log.
            fixture.sql(&format!("insert into t values (1000 + {id})")).await;
        }
    }
    assert!(unflushed > 0, "no tick ran between a commit and its flush");
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 20);
}

async fn an_idle_slot_passes_other_writes(version: u32) {
    with_each_plugin(version, assert_passes_other_writes).await;
}
