//! No change is lost after a kill of PostgreSQL with SIGKILL.
//!
//! The slot may be at an earlier position after the kill. Changes below the checkpoint are skipped. Ticks
//! during the crash fail with a transient error.

use std::time::Duration;

use scenarios::aws::fault_proxy::{Fault, FaultSide, HeldRequest};
use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::PostgresSettings;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::SlotPositions;
use crate::support::reports::reported_sum;

crate::scenarios![
    a_slot_moved_back_by_a_crash_skips_sent_changes,
    a_drain_continues_after_a_crash_during_a_put,
    a_drain_continues_after_a_crash_before_the_advance,
    a_drain_continues_after_a_crash_during_a_peek,
];

crate::version_scenarios![a_slot_moved_back_skips_sent_changes];

async fn fixture() -> Fixture {
    fixture_on_version(None).await
}

/// Fixture with a server of its own, of this version.
async fn fixture_on_version(version: Option<u32>) -> Fixture {
    let settings = PostgresSettings {
        version,
        ..PostgresSettings::default()
    };
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(settings)
        .build()
        .await;
    backlog::create(&fixture).await;
    fixture
}

/// Asserts that the log calls the error transient; returns its message.
async fn assert_transient(fixture: &Fixture, outcome: Outcome) -> String {
    let (kind, message) = outcome.error();
    assert!(
        ["PostgresFailed", "PostgresUnreachable"].contains(&kind.as_str()),
        "{kind}: {message}"
    );
    // The log is complete only after the process has ended.
    fixture.function.kill9().await;
    let transient = fixture.function.log().iter().any(|line| {
        line.contains(&format!(r#""error_type":"{kind}""#)) && line.contains(r#""kind":"Transient""#)
    });
    assert!(
        transient,
        "{kind} should be transient: {:#?}",
        fixture.function.log()
    );
    message
}

async fn finish(fixture: &Fixture) -> (usize, usize) {
    let reports = fixture.drain().await;
    SlotPositions::read(fixture).await;
    let delivery = backlog::compare(fixture).await;
    (reported_sum(&reports, "skipped"), delivery.duplicates())
}

async fn a_slot_moved_back_by_a_crash_skips_sent_changes() {
    assert_sent_changes_are_skipped(None).await;
}

async fn assert_sent_changes_are_skipped(version: Option<u32>) {
    let fixture = fixture_on_version(version).await;
    let mut moved_back = false;
    // The server saves the slot when it logs its running transactions, every 15 s. A crash right after that
    // moves nothing back, and another round is needed.
    for round in 1..=10 {
        backlog::write(&fixture, round, 300, 50).await;
        fixture.drain().await;
        let before = SlotPositions::read(&fixture).await;
        fixture.postgres.crash().await;
        let (kind, message) = fixture.failing_tick().await;
        assert_eq!(kind, "PostgresUnreachable", "{message}");
        fixture.postgres.restart().await;
        let after = SlotPositions::read(&fixture).await;
        assert_eq!(after.checkpoint, before.checkpoint);
        backlog::write(&fixture, 10 + round, 50, 50).await;
        let (skipped, duplicates) = finish(&fixture).await;
        assert_eq!(duplicates, 0, "changes below the checkpoint were sent again");
        moved_back = after.confirmed < before.confirmed;
        if moved_back {
            assert!(skipped > 0, "the slot moved from {before:?} to {after:?}");
            break;
        }
    }
    assert!(moved_back, "no crash moved the slot back: the test is void");
}

/// Kills the server while a request is held; returns the error message.
///
/// The request is released after the kill. The server is restarted at the end.
async fn crash_at(fixture: &Fixture, mut held: HeldRequest) -> String {
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.wait_until_held().await;
        fixture.postgres.crash().await;
        held.release();
    });
    let message = assert_transient(fixture, outcome).await;
    fixture.postgres.restart().await;
    message
}

async fn a_drain_continues_after_a_crash_during_a_put() {
    let fixture = fixture().await;
    backlog::write(&fixture, 3, 400, 40).await;
    crash_at(
        &fixture,
        fixture.kinesis_proxy.hold("PutRecords", FaultSide::Answer),
    )
    .await;
    finish(&fixture).await;
}

async fn a_drain_continues_after_a_crash_before_the_advance() {
    let fixture = fixture().await;
    // The next store is then the one after the records.
    fixture.drain().await;
    backlog::write(&fixture, 4, 400, 40).await;
    crash_at(
        &fixture,
        fixture.ssm_proxy.hold("PutParameter", FaultSide::Answer),
    )
    .await;
    let positions = SlotPositions::read(&fixture).await;
    assert!(positions.confirmed < positions.checkpoint, "{positions:?}");
    let (skipped, _) = finish(&fixture).await;
    assert!(skipped > 0, "changes below the checkpoint were not skipped");
}

async fn a_drain_continues_after_a_crash_during_a_peek() {
    let mut fixture = fixture().await;
    // The function reads 8 MiB at a time, and the stream is slow. Most of the 40 MB are still at the server.
    fixture
        .function
        .set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "64")
        .await;
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(500)));
    let rows = "do $$ begin for i in 1..40 loop insert into t select 100 * i + k, i, repeat('x', 25000)
                from generate_series(1, 40) k; commit; end loop; end $$";
    fixture.sql(rows).await;
    let message = crash_at(
        &fixture,
        fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request),
    )
    .await;
    // The function checks the lock about once a second, before it stores.
    let expected = ["reading a window", "checking the lock"];
    assert!(expected.iter().any(|what| message.contains(what)), "{message}");
    fixture.kinesis_proxy.clear();
    finish(&fixture).await;
}

async fn a_slot_moved_back_skips_sent_changes(version: u32) {
    assert_sent_changes_are_skipped(Some(version)).await;
}
