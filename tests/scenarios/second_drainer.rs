//! One drainer per slot: another one says `busy`, which is no error and leaves no trace, and takes over as soon as the
//! first has gone, however it went.

use std::process::Stdio;

use scenarios::function::Outcome;
use scenarios::gate::Side;
use scenarios::lab::{DEADLINE, Lab, Plugin};
use scenarios::postgres::ADMIN;
use scenarios::wait;
use serde_json::{Value, json};

use crate::backlog;

crate::scenarios![
    a_second_drainer_is_busy_and_touches_nothing,
    a_drainer_that_was_killed_lets_the_next_one_in,
    a_slot_that_somebody_else_reads_is_busy,
    a_slot_that_is_being_drained_is_not_torn_down,
];

/// A backlog of one key, so that one request at a time is under way: when it is held, nothing else moves.
async fn lab() -> Lab {
    let lab = Lab::new(Plugin::Pgoutput).await;
    backlog::create(&lab).await;
    lab.drain().await;
    lab.sql("insert into t values (1, 0)").await;
    lab.sql("update t set n = n + 1").await;
    lab
}

/// All that a drainer could leave behind.
async fn traces(lab: &Lab) -> (Option<Value>, String, u64, u64) {
    let puts = lab.kinesis_gate.requests("PutRecords");
    (
        lab.checkpoint().await,
        lab.confirmed_flush().await,
        puts,
        lab.ssm_gate.requests("PutParameter"),
    )
}

async fn finish(lab: &Lab) {
    lab.drain().await;
    let delivery = lab.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(lab).await,
        "every event, and no other"
    );
}

async fn a_second_drainer_is_busy_and_touches_nothing() {
    let lab = lab().await;
    let second = lab.function.twin();
    let mut held = lab.kinesis_gate.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(lab.invoke(json!({})), async {
        held.reached().await;
        let before = traces(&lab).await;
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "busy", "{report}");
        assert_eq!(
            (&report["changes"], &report["records"]),
            (&json!(0), &json!(0)),
            "{report}"
        );
        assert_eq!(traces(&lab).await, before);
        held.release();
    });
    let first = first.answer();
    assert_eq!(first["stopped"], "empty", "{first}");
    let after = second.invoke(&json!({}), DEADLINE).await.answer();
    assert_eq!(after["stopped"], "empty", "the lock is free again: {after}");
    assert_eq!(lab.consume().await.duplicates(), 0);
    finish(&lab).await;
}

async fn a_drainer_that_was_killed_lets_the_next_one_in() {
    let lab = lab().await;
    let second = lab.function.twin();
    let mut held = lab.kinesis_gate.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(lab.invoke(json!({})), async {
        held.reached().await;
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "busy", "{report}");
        lab.function.kill9().await;
    });
    assert!(matches!(first, Outcome::Exited(_)), "{first:?}");
    wait::until("the next one is let in", DEADLINE, || async {
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        report["stopped"] == "empty" && report["changes"] != 0
    })
    .await;
    finish(&lab).await;
}

async fn a_slot_that_somebody_else_reads_is_busy() {
    let lab = lab().await;
    let (port, database, slot) = (lab.postgres.port(), &lab.database, &lab.slot);
    let to = format!("host=127.0.0.1 port={port} dbname={database} user={}", ADMIN.0);
    // It neither confirms what it reads nor connects again.
    let mut reader = tokio::process::Command::new(lab.postgres.clients().join("pg_recvlogical"))
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
        let (lab, active) = (&lab, &active);
        wait::until("pg_recvlogical comes or goes", DEADLINE, move || async move {
            lab.value(active).await.as_deref() == Some(wanted)
        })
    };
    is("t").await;
    let before = traces(&lab).await;
    let report = lab.tick().await;
    assert_eq!(report["stopped"], "busy", "{report}");
    assert_eq!(traces(&lab).await, before);
    reader
        .kill()
        .await
        .unwrap_or_else(|error| panic!("pg_recvlogical: {error}"));
    is("f").await;
    finish(&lab).await;
}

async fn a_slot_that_is_being_drained_is_not_torn_down() {
    let lab = lab().await;
    let second = lab.function.twin();
    let mut held = lab.kinesis_gate.hold("PutRecords", Side::Request);
    let (first, ()) = tokio::join!(lab.invoke(json!({})), async {
        held.reached().await;
        let before = traces(&lab).await;
        let (kind, message) = second
            .invoke(&json!({"action": "teardown"}), DEADLINE)
            .await
            .error();
        assert_eq!(kind, "Busy", "{message}");
        assert_eq!(traces(&lab).await, before);
        held.release();
    });
    assert_eq!(first.answer()["stopped"], "empty");
    finish(&lab).await;
}
