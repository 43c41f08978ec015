//! A slot follows the log even where nothing in it is ours, so that it never fills the server's disk; and what was not
//! committed, or not yet flushed, when the slot moved on is not lost.

use std::time::Duration;

use scenarios::gate::Side;
use scenarios::lab::{Lab, Plan, Plugin};
use scenarios::postgres::{Postgres, Settings};
use serde_json::{Value, json};

crate::scenarios![
    an_idle_slot_follows_what_others_write_within_one_tick,
    filtered_log_larger_than_a_window_is_passed_in_one_tick,
    a_backlog_larger_than_a_window_passes_in_one_tick,
    a_transaction_that_stays_open_over_many_ticks_is_not_lost,
    what_was_rolled_back_never_arrives,
    a_long_open_transaction_is_named,
    what_is_committed_while_a_window_is_under_way_is_not_passed_over,
    asynchronous_commit_loses_nothing,
];

/// Where the server's disk has the log.
async fn flush(lab: &Lab) -> String {
    lab.value("select pg_current_wal_flush_lsn()").await.unwrap()
}

/// Whether slot and checkpoint have reached `lsn`.
async fn has_reached(lab: &Lab, lsn: &str) -> bool {
    let checkpoint = lab.checkpoint().await.unwrap_or_default();
    let stored = checkpoint["commit_end"].as_str().unwrap_or("0/0").to_owned();
    let confirmed = lab.confirmed_flush().await;
    let sql = format!("select '{confirmed}'::pg_lsn >= '{lsn}' and '{stored}'::pg_lsn >= '{confirmed}'");
    lab.value(&sql).await.as_deref() == Some("t")
}

async fn an_idle_slot_follows_what_others_write_within_one_tick() {
    Plugin::each(|plugin| follows_others(Lab::plan(plugin))).await;
}

pub(crate) async fn follows_others(plan: Plan) {
    let lab = plan.without_slot().env("TABLES", "public.ours").build().await;
    lab.sql("create table ours (id int primary key); create table others (id int primary key, what text)")
        .await;
    lab.sql("create publication spillway for table ours").await;
    lab.create_slot().await;
    lab.tick().await;

    lab.sql("insert into others select i, 'x' from generate_series(1, 2000) i")
        .await;
    let elsewhere = format!("{}_elsewhere", lab.database);
    lab.postgres.create_database(&elsewhere).await;
    let client = lab.postgres.admin(&elsewhere).await;
    client
        .batch_execute("create table t as select i from generate_series(1, 2000) i")
        .await
        .unwrap();
    drop(client);
    lab.postgres.drop_database(&elsewhere).await;

    let written = flush(&lab).await;
    assert!(!has_reached(&lab, &written).await);
    let report = lab.tick().await;
    assert_eq!(
        (&report["events"], &report["stopped"]),
        (&json!(0), &json!("empty"))
    );
    assert!(has_reached(&lab, &written).await, "{report}");
    assert_eq!(lab.kinesis_gate.requests("PutRecords"), 0);

    lab.sql("insert into ours values (1)").await;
    lab.drain().await;
    assert_eq!(lab.compare(&["ours"]).await.changes().len(), 1);
}

async fn filtered_log_larger_than_a_window_is_passed_in_one_tick() {
    let lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    lab.sql("create table ours (id int primary key); create table others (what text)")
        .await;
    lab.sql("alter table others alter what set storage external; create publication spillway for table ours")
        .await;
    lab.create_slot().await;
    lab.sql("insert into ours values (1)").await;
    lab.sql("insert into others select repeat('x', 1000000) from generate_series(1, 150)")
        .await;
    let written = flush(&lab).await;
    let report = lab.tick().await;
    assert!(
        report["peeks"].as_u64() >= Some(2),
        "more than one window: {report}"
    );
    assert!(has_reached(&lab, &written).await, "{report}");
    lab.sql("insert into ours values (2)").await;
    lab.drain().await;
    assert_eq!(lab.compare(&["ours"]).await.changes().len(), 2);
}

async fn a_backlog_larger_than_a_window_passes_in_one_tick() {
    let lab = Lab::new(Plugin::Pgoutput).await;
    lab.sql("create table t (id int primary key, n int)").await;
    for n in 0..11 {
        let (from, to) = (n * 10_000, n * 10_000 + 9_999);
        lab.sql(&format!(
            "insert into t select i, {n} from generate_series({from}, {to}) i"
        ))
        .await;
    }
    lab.sql("update t set n = -1 where id % 1000 = 0").await;
    let written = flush(&lab).await;
    let report = lab.tick().await;
    assert!(
        report["peeks"].as_u64() >= Some(2),
        "more than one window: {report}"
    );
    assert!(has_reached(&lab, &written).await, "{report}");
    assert_eq!(lab.compare(&["t"]).await.changes().len(), 110_110);
}

async fn a_transaction_that_stays_open_over_many_ticks_is_not_lost() {
    Plugin::each(|plugin| async move {
        let lab = Lab::new(plugin).await;
        lab.sql("create table t (id int primary key, what text); create table noise (id int primary key)")
            .await;
        lab.tick().await;
        let open = lab.connect().await;
        open.batch_execute("begin; insert into t values (0, 'before all ticks')")
            .await
            .unwrap();
        for id in 1..=4 {
            lab.sql(&format!("insert into noise values ({id})")).await;
            // Writes the list of open transactions into the log, from which decoding restarts.
            lab.sql("checkpoint").await;
            let written = flush(&lab).await;
            lab.tick().await;
            assert!(
                has_reached(&lab, &written).await,
                "the open transaction holds nothing up"
            );
            let sql = format!(
                "savepoint s; insert into t values ({id}, 'between'); release s; savepoint s;
                               insert into t values (-{id}, 'undone'); rollback to s"
            );
            open.batch_execute(&sql).await.unwrap();
            // A tick with nothing but the open transaction's writes.
            lab.tick().await;
        }
        open.batch_execute("update t set what = 'at the end' where id = 0; commit")
            .await
            .unwrap();
        lab.drain().await;
        let delivery = lab.compare(&["t", "noise"]).await;
        assert_eq!(delivery.counts()["public.t"], 6);
        assert_eq!(delivery.duplicates(), 0);
    })
    .await;
}

async fn what_was_rolled_back_never_arrives() {
    Plugin::each(|plugin| async move {
        let lab = Lab::new(plugin).await;
        lab.sql("create table t (id int primary key)").await;
        let open = lab.connect().await;
        open.batch_execute("begin; insert into t values (1)")
            .await
            .unwrap();
        lab.tick().await;
        open.batch_execute("insert into t values (2); rollback")
            .await
            .unwrap();
        open.batch_execute(
            "begin; insert into t values (3); savepoint s; insert into t values (4); rollback to s; commit",
        )
        .await
        .unwrap();
        lab.drain().await;
        assert_eq!(lab.compare(&["t"]).await.changes().len(), 1);
    })
    .await;
}

/// On a server of its own: the oldest transaction is that of the whole server.
async fn a_long_open_transaction_is_named() {
    let postgres = Postgres::start(Settings::default()).await;
    let lab = Lab::plan(Plugin::Pgoutput).on(postgres).build().await;
    let named = lab.tick().await;
    assert_eq!(named["oldest_transaction"], Value::Null);

    // It pins the slot from another database too.
    let open = lab.postgres.admin("postgres").await;
    open.batch_execute("create table t (id int); begin; insert into t values (1)")
        .await
        .unwrap();
    let pid: i32 = open
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let report = lab.tick().await;
    assert_eq!(
        report["oldest_transaction"],
        json!({"pid": pid, "age_seconds": null})
    );

    // When it began is told to members of pg_monitor only, and what is younger than five seconds is not long.
    lab.sql("grant pg_monitor to repluser").await;
    scenarios::wait::until(
        "the transaction is five seconds old",
        Duration::from_secs(20),
        || async {
            let age = "select clock_timestamp() - xact_start > '5 s' from pg_stat_activity where pid =";
            lab.value(&format!("{age} {pid}")).await.as_deref() == Some("t")
        },
    )
    .await;
    let report = lab.tick().await;
    assert_eq!(report["oldest_transaction"]["pid"], pid);
    assert!(
        report["oldest_transaction"]["age_seconds"].as_i64() >= Some(5),
        "{report}"
    );

    open.batch_execute("rollback").await.unwrap();
    assert_eq!(lab.tick().await["oldest_transaction"], Value::Null);
}

async fn what_is_committed_while_a_window_is_under_way_is_not_passed_over() {
    Plugin::each(|plugin| async move {
        let lab = Lab::new(plugin).await;
        lab.sql("create table t (id int primary key)").await;
        lab.sql("insert into t values (1)").await;
        let mut held = lab.kinesis_gate.hold("PutRecords", Side::Request);
        let (outcome, ()) = tokio::join!(lab.invoke(json!({})), async {
            held.reached().await;
            lab.sql("insert into t values (2)").await;
            held.release();
        });
        outcome.answer();
        lab.drain().await;
        let delivery = lab.compare(&["t"]).await;
        assert_eq!((delivery.changes().len(), delivery.duplicates()), (2, 0));
    })
    .await;
}

/// On a server of its own, which flushes seldom: what is committed and not flushed must not be passed over. A marker flushes all
/// before it, so this is shown without them, too.
async fn asynchronous_commit_loses_nothing() {
    for markers in ["on", "off"] {
        commit_asynchronously(markers).await;
    }
}

async fn commit_asynchronously(markers: &str) {
    let conf = "wal_writer_delay = '10s'\nwal_writer_flush_after = 0\nautovacuum = off\n".to_owned();
    let postgres = Postgres::start(Settings {
        conf,
        ..Settings::default()
    })
    .await;
    let lab = Lab::plan(Plugin::Pgoutput)
        .on(postgres)
        .env("MARKERS", markers)
        .build()
        .await;
    lab.sql("create table t (id int primary key)").await;
    let hasty = lab.connect().await;
    hasty.batch_execute("set synchronous_commit = off").await.unwrap();
    let mut unflushed = 0;
    for id in 0..16 {
        hasty
            .batch_execute(&format!("insert into t values ({id})"))
            .await
            .unwrap();
        let behind = lab
            .value("select pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
            .await;
        unflushed += u32::from(behind.as_deref() == Some("t"));
        lab.tick().await;
        let confirmed = lab.confirmed_flush().await;
        let within = lab
            .value(&format!("select '{confirmed}' <= pg_current_wal_flush_lsn()"))
            .await;
        assert_eq!(within.as_deref(), Some("t"));
        if id % 4 == 3 {
            // A synchronous commit flushes all before it.
            lab.sql(&format!("insert into t values (1000 + {id})")).await;
        }
    }
    assert!(unflushed > 0, "no tick came between a commit and its flush");
    lab.drain().await;
    assert_eq!(lab.compare(&["t"]).await.changes().len(), 20);
}
