//! SIGKILL of the function between every two steps of a drain.
//!
//! No change is lost, each key keeps its order, a position always has the same event, and the slot is never
//! beyond the checkpoint.

use std::collections::HashMap;

use scenarios::aws::fault_proxy::{FaultSide, HeldRequest};
use scenarios::consumer::Delivery;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::{SlotPositions, commit_end, expect_lsn, wait_until_sessions_end};
use crate::support::reports::reported_sum;

crate::scenarios![
    a_kill_before_the_checkpoint_is_read_sends_nothing,
    a_kill_before_records_are_put_delays_them,
    a_kill_after_records_are_put_sends_them_again,
    a_kill_before_the_checkpoint_is_stored_sends_records_again,
    a_kill_between_checkpoint_and_advance_skips_sent_changes,
    a_kill_after_the_slot_advanced_changes_nothing,
    a_kill_before_the_first_checkpoint_restarts_from_the_slot,
];

/// Fixture with a stored checkpoint and a new backlog.
async fn fixture(plugin: Plugin) -> Fixture {
    let fixture = Fixture::new(plugin).await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 1, 60, 20).await;
    fixture.drain().await;
    backlog::write(&fixture, 2, 400, 40).await;
    fixture
}

/// Invokes the function and kills it when the request is held.
async fn kill_at(fixture: &Fixture, held: &mut HeldRequest) {
    let invocation = fixture.invoke(json!({}));
    tokio::pin!(invocation);
    tokio::select! {
        outcome = &mut invocation => panic!("the invocation ended before the request: {outcome:?}"),
        () = held.wait_until_held() => {}
    }
    fixture.function.kill9().await;
    let killed = invocation.await;
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(fixture).await;
}

/// State after a kill, and work of the ticks after it.
struct Recovery {
    /// Positions right after the kill.
    positions: SlotPositions,
    /// Changes in the stream right after the kill and at the end.
    changes: (usize, usize),
    /// Duplicates in the stream.
    duplicates: usize,
    /// Changes that the ticks skipped.
    skipped: usize,
    /// Changes right after the kill that only the checkpoint covers.
    covered: usize,
}

/// Ticks until the slot is empty, and checks the promise.
async fn recover(fixture: &Fixture) -> Recovery {
    let positions = SlotPositions::read(fixture).await;
    let before = Delivery::read(&fixture.kinesis, &fixture.stream).await;
    let reports = fixture.drain().await;
    let skipped = reported_sum(&reports, "skipped");
    SlotPositions::read(fixture).await;
    let after = backlog::compare(fixture).await;
    let covered = |delivery: &Delivery| {
        let mut arrivals: HashMap<String, usize> = HashMap::new();
        for it in delivery
            .arrivals
            .iter()
            .filter(|it| commit_end(&it.position) <= positions.checkpoint)
        {
            *arrivals.entry(it.position.clone()).or_default() += 1;
        }
        arrivals
    };
    assert_eq!(
        covered(&before),
        covered(&after),
        "changes that the checkpoint covers were not sent exactly once"
    );
    let changes = (before.changes().len(), after.changes().len());
    let is_new = |position: &&String| commit_end(position) > positions.confirmed;
    let covered = covered(&before).keys().filter(is_new).count();
    Recovery {
        positions,
        changes,
        duplicates: after.duplicates(),
        skipped,
        covered,
    }
}

async fn a_kill_before_the_checkpoint_is_read_sends_nothing() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let positions = SlotPositions::read(&fixture).await;
    let mut held = fixture.ssm_proxy.hold("GetParameter", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.positions, positions);
    assert_eq!((recovery.duplicates, recovery.skipped), (0, 0));
}

async fn a_kill_before_records_are_put_delays_them() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let positions = SlotPositions::read(&fixture).await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(
        recovery.positions.confirmed, positions.confirmed,
        "the slot moved before all records arrived"
    );
    assert!(
        recovery.changes.0 < recovery.changes.1,
        "no record was left to put: {:?}",
        recovery.changes
    );
}

async fn a_kill_after_records_are_put_sends_them_again() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let positions = SlotPositions::read(&fixture).await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Answer);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(
        recovery.positions.confirmed, positions.confirmed,
        "the slot moved without an answer"
    );
    assert!(
        recovery.duplicates > 0,
        "records without an answer were not sent again"
    );
}

async fn a_kill_before_the_checkpoint_is_stored_sends_records_again() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let positions = SlotPositions::read(&fixture).await;
    let mut held = fixture.ssm_proxy.hold("PutParameter", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.positions, positions, "checkpoint or slot moved");
    assert!(
        recovery.duplicates > 0,
        "records beyond the checkpoint were not sent again"
    );
    assert_eq!(recovery.skipped, 0);
}

async fn a_kill_between_checkpoint_and_advance_skips_sent_changes() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin).await;
        let positions = SlotPositions::read(&fixture).await;
        let mut held = fixture.ssm_proxy.hold("PutParameter", FaultSide::Answer);
        kill_at(&fixture, &mut held).await;
        let recovery = recover(&fixture).await;
        assert_eq!(
            recovery.positions.confirmed, positions.confirmed,
            "the slot moved"
        );
        assert!(
            recovery.positions.checkpoint > positions.checkpoint,
            "the checkpoint did not move"
        );
        // On a busy machine, the first store may be that of a marker, before any change is acknowledged.
        let (skipped, covered) = (recovery.skipped, recovery.covered);
        assert_eq!(
            skipped > 0,
            covered > 0,
            "{skipped} of {covered} changes were skipped"
        );
    })
    .await;
}

async fn a_kill_after_the_slot_advanced_changes_nothing() {
    let mut fixture = fixture(Plugin::Pgoutput).await;
    let target = expect_lsn(
        &fixture
            .value("select pg_current_wal_flush_lsn()")
            .await
            .unwrap_or_default(),
    );
    // The function lingers after the last confirmation, so that it is killed before it answers.
    fixture.function.set("LINGER_SECONDS", "50").await;
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        scenarios::wait::until("the slot advances", DEADLINE, || async {
            expect_lsn(&fixture.confirmed_flush().await) >= target
        })
        .await;
        fixture.function.kill9().await;
    });
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(&fixture).await;
    fixture.function.unset("LINGER_SECONDS").await;
    let recovery = recover(&fixture).await;
    assert_eq!(
        recovery.changes.0, recovery.changes.1,
        "changes arrived after the kill"
    );
    assert_eq!((recovery.duplicates, recovery.skipped), (0, 0));
}

async fn a_kill_before_the_first_checkpoint_restarts_from_the_slot() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 3, 100, 20).await;
    let slot = fixture.confirmed_flush().await;
    let mut held = fixture.ssm_proxy.hold("PutParameter", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    assert_eq!(fixture.checkpoint().await, None);
    assert_eq!(fixture.confirmed_flush().await, slot);
    fixture.drain().await;
    SlotPositions::read(&fixture).await;
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(delivery.changes().len(), backlog::events(&fixture).await);
}
