//! One drainer per slot: another one says `busy`, which is no error and leaves no trace, and takes over as soon as the
//! first has gone, however it went.

use std::process::Stdio;

use scenarios::fault_proxy::Side;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::function::Outcome;
use scenarios::postgres::ADMIN;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backlog;

crate::scenarios![
    a_second_drainer_is_busy_and_touches_nothing,
    a_drainer_that_was_killed_lets_the_next_one_in,
    a_slot_that_somebody_else_reads_is_busy,
    a_slot_that_is_being_drained_is_not_torn_down,
];

/// A backlog of one key, so that one request at a time is under way: when it is held, nothing else moves.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    fixture.sql("insert into t values (1, 0)").await;
    fixture.sql("update t set n = n + 1").await;
    fixture
}

/// All that a drainer could leave behind.
async fn traces(fixture: &Fixture) -> (Option<Value>, String, u64, u64) {
    let puts = fixture.kinesis_proxy.requests("PutRecords");
    (
        fixture.checkpoint().await,
        fixture.confirmed_flush().await,
        puts,
        fixture.ssm_proxy.requests("PutParameter"),
    )
}

async fn finish(fixture: &Fixture) {
    fixture.drain().await;
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(fixture).await,
        "every event, and no other"
    );
}

async fn a_second_drainer_is_busy_and_touches_nothing() {
    let fixture = fixture().await;
    let second = fixture.function.twin();
    let mut held = fixture.kinesis_proxy.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.reached().await;
        let before = traces(&fixture).await;
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "busy", "{report}");
        assert_eq!(
            (&report["changes"], &report["records"]),
            (&json!(0), &json!(0)),
            "{report}"
        );
        assert_eq!(traces(&fixture).await, before);
        held.release();
    });
    let first = first.answer();
    assert_eq!(first["stopped"], "empty", "{first}");
    let after = second.invoke(&json!({}), DEADLINE).await.answer();
    assert_eq!(after["stopped"], "empty", "the lock is free again: {after}");
    assert_eq!(fixture.consume().await.duplicates(), 0);
    finish(&fixture).await;
}

async fn a_drainer_that_was_killed_lets_the_next_one_in() {
    let fixture = fixture().await;
    let second = fixture.function.twin();
    let mut held = fixture.kinesis_proxy.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.reached().await;
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "busy", "{report}");
        fixture.function.kill9().await;
    });
    assert!(matches!(first, Outcome::Exited(_)), "{first:?}");
    wait::until("the next one is let in", DEADLINE, || async {
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        report["stopped"] == "empty" && report["changes"] != 0
    })
    .await;
    finish(&fixture).await;
}

async fn a_slot_that_somebody_else_reads_is_busy() {
    let fixture = fixture().await;
    let (port, database, slot) = (fixture.postgres.port(), &fixture.database, &fixture.slot);
    let to = format!("host=127.0.0.1 port={port} dbname={database} user={}", ADMIN.0);
    // It neither confirms what it reads nor connects again.
    let mut reader = tokio::process::Command::new(fixture.postgres.clients().join("pg_recvlogical"))
        .args([
            "--dbname",
            &to,
            "--slot",
            slot,
            "--start",
            "--file",
            "/dev/null",
            "--no-loop",
        ])
        .args([
            "--status-interval",
            "0",
            "--option",
            "proto_version=1",
            "--option",
            "publication_names=spillway",
        ])
        .env("PGPASSWORD", ADMIN.1)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("pg_recvlogical: {error}"));
    let active = format!("select active from pg_replication_slots where slot_name = '{slot}'");
    let is = |wanted: &'static str| {
        let (fixture, active) = (&fixture, &active);
        wait::until("pg_recvlogical comes or goes", DEADLINE, move || async move {
            fixture.value(active).await.as_deref() == Some(wanted)
        })
    };
    is("t").await;
    let before = traces(&fixture).await;
    let report = fixture.tick().await;
    assert_eq!(report["stopped"], "busy", "{report}");
    assert_eq!(traces(&fixture).await, before);
    reader
        .kill()
        .await
        .unwrap_or_else(|error| panic!("pg_recvlogical: {error}"));
    is("f").await;
    finish(&fixture).await;
}

async fn a_slot_that_is_being_drained_is_not_torn_down() {
    let fixture = fixture().await;
    let second = fixture.function.twin();
    let mut held = fixture.kinesis_proxy.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.reached().await;
        let before = traces(&fixture).await;
        let (kind, message) = second
            .invoke(&json!({"action": "teardown"}), DEADLINE)
            .await
            .error();
        assert_eq!(kind, "Busy", "{message}");
        assert_eq!(traces(&fixture).await, before);
        held.release();
    });
    assert_eq!(first.answer()["stopped"], "empty");
    finish(&fixture).await;
}
