//! The function is killed with -9 between every two steps of a drain: nothing is lost, keys stay in order, a position
//! always carries the same event, and the slot is never beyond the checkpoint.

use std::collections::HashMap;

use scenarios::aws::fault_proxy::{FaultSide, HeldRequest};
use scenarios::consumer::Delivery;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::{SlotPositions, commit_end, parse_lsn, wait_until_sessions_end};

crate::scenarios![
    a_kill_before_the_checkpoint_is_read_sends_nothing,
    a_kill_before_records_are_put_delays_them,
    a_kill_after_records_are_put_sends_them_again,
    a_kill_before_the_checkpoint_is_stored_sends_records_again,
    a_kill_between_checkpoint_and_advance_skips_sent_changes,
    a_kill_after_the_slot_advanced_changes_nothing,
    a_kill_before_the_first_checkpoint_restarts_from_the_slot,
];

/// A slot that was drained once, so that a checkpoint is stored, and has a backlog again.
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
        outcome = &mut invocation => panic!("it never came so far: {outcome:?}"),
        () = held.wait_until_held() => {}
    }
    fixture.function.kill9().await;
    let killed = invocation.await;
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(fixture).await;
}

/// What was found after the kill, and what the ticks after it did.
struct Recovery {
    /// The moment after the kill.
    marks: SlotPositions,
    /// Changes in the stream before and after it.
    changes: (usize, usize),
    /// Records that brought nothing new.
    duplicates: usize,
    /// Changes that the ticks skipped.
    skipped: u64,
}

/// Ticks to the end, and holds everything to the promise.
async fn recover(fixture: &Fixture) -> Recovery {
    let marks = SlotPositions::read(fixture).await;
    let before = Delivery::read(&fixture.kinesis, &fixture.stream).await;
    let reports = fixture.drain().await;
    let skipped = reports
        .iter()
        .filter_map(|report| report["skipped"].as_u64())
        .sum();
    SlotPositions::read(fixture).await;
    let after = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(
        after.changes().len(),
        backlog::events(fixture).await,
        "every event, and no other"
    );
    let covered = |delivery: &Delivery| {
        let mut arrivals: HashMap<String, usize> = HashMap::new();
        for it in delivery
            .arrivals
            .iter()
            .filter(|it| commit_end(&it.position) <= marks.checkpoint)
        {
            *arrivals.entry(it.position.clone()).or_default() += 1;
        }
        arrivals
    };
    assert_eq!(
        covered(&before),
        covered(&after),
        "what the checkpoint covers was sent, and is not sent again"
    );
    let changes = (before.changes().len(), after.changes().len());
    Recovery {
        marks,
        changes,
        duplicates: after.duplicates(),
        skipped,
    }
}

async fn a_kill_before_the_checkpoint_is_read_sends_nothing() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let marks = SlotPositions::read(&fixture).await;
    let mut held = fixture.ssm_proxy.hold("GetParameter", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.marks, marks);
    assert_eq!((recovery.duplicates, recovery.skipped), (0, 0));
}

async fn a_kill_before_records_are_put_delays_them() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let marks = SlotPositions::read(&fixture).await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.marks.confirmed, marks.confirmed, "not all had arrived");
    assert!(
        recovery.changes.0 < recovery.changes.1,
        "something was still to be put: {:?}",
        recovery.changes
    );
}

async fn a_kill_after_records_are_put_sends_them_again() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let marks = SlotPositions::read(&fixture).await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Answer);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(
        recovery.marks.confirmed, marks.confirmed,
        "nobody knew that they had arrived"
    );
    assert!(
        recovery.duplicates > 0,
        "what was put without an answer is put again"
    );
}

async fn a_kill_before_the_checkpoint_is_stored_sends_records_again() {
    let fixture = fixture(Plugin::Pgoutput).await;
    let marks = SlotPositions::read(&fixture).await;
    let mut held = fixture.ssm_proxy.hold("PutParameter", FaultSide::Request);
    kill_at(&fixture, &mut held).await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.marks, marks, "neither checkpoint nor slot had moved");
    assert!(recovery.duplicates > 0, "what no checkpoint covers is sent again");
    assert_eq!(recovery.skipped, 0);
}

async fn a_kill_between_checkpoint_and_advance_skips_sent_changes() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin).await;
        let marks = SlotPositions::read(&fixture).await;
        let mut held = fixture.ssm_proxy.hold("PutParameter", FaultSide::Answer);
        kill_at(&fixture, &mut held).await;
        let recovery = recover(&fixture).await;
        assert_eq!(
            recovery.marks.confirmed, marks.confirmed,
            "the slot had not moved"
        );
        assert!(recovery.marks.checkpoint > marks.checkpoint, "the checkpoint had");
        assert!(recovery.skipped > 0, "what is stored as sent is skipped");
    })
    .await;
}

async fn a_kill_after_the_slot_advanced_changes_nothing() {
    let mut fixture = fixture(Plugin::Pgoutput).await;
    let target = parse_lsn(
        &fixture
            .value("select pg_current_wal_flush_lsn()")
            .await
            .unwrap_or_default(),
    );
    // It stays when all is confirmed, so that it is killed before it answers.
    fixture.function.set("LINGER_SECONDS", "50").await;
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        scenarios::wait::until("the slot advances", DEADLINE, || async {
            parse_lsn(&fixture.confirmed_flush().await) >= target
        })
        .await;
        fixture.function.kill9().await;
    });
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(&fixture).await;
    fixture.function.unset("LINGER_SECONDS").await;
    let recovery = recover(&fixture).await;
    assert_eq!(recovery.changes.0, recovery.changes.1, "all had arrived");
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
