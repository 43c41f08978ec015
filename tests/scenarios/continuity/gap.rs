//! The drain stops at a gap until an operator accepts it.
//!
//! A gap exists after another reader advanced the slot, or after the slot was recreated. The drain stops with
//! an error. It continues when an operator accepts the gap with the position of the slot. A control event in
//! the stream reports the gap to consumers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::backlog::{self, fixture_with_backlog};
use crate::support::expected_errors::{assert_invocation_fails, assert_tick_fails};
use crate::support::gap::{accept_gap, advance_slot, gap_events};
use crate::support::positions::{SlotPositions, checkpoint_lsn};

crate::scenarios![
    a_slot_advanced_by_another_reader_has_a_gap,
    a_recreated_slot_has_a_gap,
    only_the_position_of_the_slot_can_be_accepted,
    an_accepted_gap_sends_a_control_event_and_the_drain_continues,
    an_accepted_gap_replaces_an_invalid_checkpoint,
];

async fn a_slot_advanced_by_another_reader_has_a_gap() {
    let fixture = fixture_with_backlog().await;
    let (checkpoint, confirmed) = (checkpoint_lsn(&fixture).await, advance_slot(&fixture).await);
    for _ in 0..2 {
        let remedy = format!(r#"{{"action":"drain","accept_gap":"{confirmed}"}}"#);
        assert_tick_fails(
            &fixture,
            "Gap",
            &[&fixture.slot, &checkpoint, &confirmed, &remedy],
        )
        .await;
    }
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
}

async fn a_recreated_slot_has_a_gap() {
    let fixture = fixture_with_backlog().await;
    let checkpoint = checkpoint_lsn(&fixture).await;
    fixture.drop_slot().await;
    fixture.create_slot().await;
    let confirmed = fixture.confirmed_flush().await;
    assert_tick_fails(&fixture, "Gap", &[&fixture.slot, &checkpoint, &confirmed]).await;
    // Setup has nothing to create, and reports the gap as a problem.
    let report = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(report["created"], json!([]), "{report}");
    assert!(report["problems"].to_string().contains(&confirmed), "{report}");
    assert_tick_fails(&fixture, "Gap", &[&confirmed]).await;
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
}

async fn only_the_position_of_the_slot_can_be_accepted() {
    let fixture = fixture_with_backlog().await;
    let (checkpoint, confirmed) = (checkpoint_lsn(&fixture).await, advance_slot(&fixture).await);
    for wrong in [checkpoint.as_str(), "FF/10"] {
        assert_invocation_fails(
            &fixture,
            accept_gap(wrong),
            "EventInvalid",
            &[wrong, &confirmed, "status"],
        )
        .await;
    }
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
    assert_eq!(gap_events(&fixture.consume().await), Vec::<Value>::new());
    assert_tick_fails(&fixture, "Gap", &[&confirmed]).await;
}

async fn an_accepted_gap_sends_a_control_event_and_the_drain_continues() {
    let fixture = fixture_with_backlog().await;
    let (checkpoint, confirmed) = (checkpoint_lsn(&fixture).await, advance_slot(&fixture).await);
    fixture.sql("insert into t values (1000000, 1)").await;
    let report = fixture.invoke(accept_gap(&confirmed)).await.answer();
    assert_eq!(report["stopped"], "empty", "{report}");
    fixture.sql("insert into t values (1000001, 1)").await;
    fixture.drain().await;
    SlotPositions::read(&fixture).await;

    let delivery = fixture.consume().await;
    let control = gap_events(&delivery);
    assert_eq!(control.len(), 1, "{control:?}");
    let content = control[0]["message"]["content"]
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok());
    let content: Value = content
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    assert_eq!(
        [
            &content["checkpoint"],
            &content["accepted"],
            &content["source_name"],
        ],
        [&json!(checkpoint), &json!(confirmed), &json!(fixture.slot)],
        "{content}"
    );
    let ids: Vec<Value> = delivery
        .of_table(backlog::TABLE)
        .iter()
        .map(|it| it["after"]["id"].clone())
        .collect();
    assert_eq!(ids[ids.len() - 2..], [json!(1_000_000), json!(1_000_001)]);
    // The position of the control event is before the changes after the gap.
    let position = |event: &Value| {
        event["source"]["position"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let first_after = delivery
        .of_table(backlog::TABLE)
        .iter()
        .rev()
        .nth(1)
        .map(position);
    assert!(Some(position(&control[0])) < first_after, "{control:?}");
}

async fn an_accepted_gap_replaces_an_invalid_checkpoint() {
    let fixture = fixture_with_backlog().await;
    fixture.ssm.put(&fixture.parameter, "soon");
    assert_tick_fails(&fixture, "CheckpointInvalid", &[&fixture.parameter]).await;
    let confirmed = fixture.confirmed_flush().await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    fixture.drain().await;
    SlotPositions::read(&fixture).await;
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(gap_events(&delivery).len(), 1);
    assert_eq!(
        delivery.changes().len(),
        backlog::events(&fixture).await + 1,
        "the stream has other events than the log and the control event"
    );
}
