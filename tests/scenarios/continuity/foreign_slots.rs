//! Slots that other programs made: unsuitable ones are refused by name.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::expected_errors::{assert_invocation_fails, assert_tick_fails};
use crate::support::versions::with_each_plugin;

crate::scenarios![
    a_temporary_slot_is_refused,
    teardown_keeps_a_physical_slot,
    setup_refuses_a_plugin_that_the_slot_does_not_have,
];

crate::version_scenarios![a_slot_that_decodes_prepared_transactions_is_refused];

/// The actions that need a usable slot: drain, plan, setup and backfill.
fn actions_that_need_the_slot() -> [Value; 4] {
    [
        json!({}),
        json!({"action": "plan"}),
        json!({"action": "setup"}),
        json!({"action": "backfill", "wait": true, "tables": ["public.t"]}),
    ]
}

async fn a_slot_that_decodes_prepared_transactions_is_refused(version: u32) {
    with_each_plugin(version, two_phase).await;
}

async fn two_phase(builder: FixtureBuilder) {
    let fixture = builder.without_slot().build().await;
    fixture
        .sql("create table t (id int primary key); create publication spillway for all tables")
        .await;
    let slot = &fixture.slot;
    let create = format!(
        "select pg_create_logical_replication_slot('{slot}', '{}', false, true)",
        fixture.plugin.name()
    );
    fixture.sql(&create).await;
    fixture.sql("insert into t values (1)").await;
    for action in actions_that_need_the_slot() {
        let parts = [slot.as_str(), "two_phase", "pg_drop_replication_slot"];
        assert_invocation_fails(&fixture, action, "SlotTwoPhase", &parts).await;
    }
    assert!(fixture.problems().await.to_string().contains("two_phase"));
    assert_eq!(fixture.checkpoint().await, None);
    // The advice: another slot of the same name.
    fixture.drop_slot().await;
    let setup = json!({"action": "setup", "plugin": fixture.plugin.name()});
    fixture.invoke(setup).await.answer();
    fixture.sql("insert into t values (2)").await;
    fixture.drain().await;
    assert_eq!(fixture.consume().await.changes().len(), 1);
}

async fn a_temporary_slot_is_refused() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).without_slot().build().await;
        let owner = fixture.connect().await;
        let sql = format!(
            "select pg_create_logical_replication_slot('{}', '{}', true)",
            fixture.slot,
            plugin.name()
        );
        owner.batch_execute(&sql).await.unwrap();
        let parts = [fixture.slot.as_str(), "temporary", "SLOT_NAME"];
        for action in actions_that_need_the_slot() {
            assert_invocation_fails(&fixture, action, "SlotUnusable", &parts).await;
        }
        assert!(fixture.problems().await.to_string().contains("temporary"));
        let teardown = json!({"action": "teardown"});
        assert_invocation_fails(&fixture, teardown, "SlotUnusable", &parts).await;
    })
    .await;
}

async fn teardown_keeps_a_physical_slot() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    let slot = &fixture.slot;
    let sql = format!("select pg_create_physical_replication_slot('{slot}')");
    fixture.sql(&sql).await;
    let outcome = fixture.invoke(json!({"action": "teardown"})).await;
    // A physical slot has no database, so its drop is not part of the cleanup. It fails if the slot is gone.
    fixture.drop_slot().await;
    let (kind, message) = outcome.error();
    assert_eq!(kind, "SlotUnusable", "{message}");
}

async fn setup_refuses_a_plugin_that_the_slot_does_not_have() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        for other in Plugin::ALL {
            let setup = json!({"action": "setup", "plugin": other.name()});
            if other == plugin {
                continue;
            }
            let parts = [fixture.slot.as_str(), plugin.name(), other.name()];
            assert_invocation_fails(&fixture, setup, "EventInvalid", &parts).await;
            assert_eq!(fixture.checkpoint().await, None, "setup stored a checkpoint");
        }
        for setup in [
            json!({"action": "setup", "plugin": plugin.name()}),
            json!({"action": "setup"}),
        ] {
            let report = fixture.invoke(setup).await.answer();
            assert_eq!(report["plugin"], plugin.name(), "{report}");
        }
        fixture
            .sql(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
                  where database = current_database()",
            )
            .await;
        assert_tick_fails(&fixture, "SlotMissing", &[&fixture.slot]).await;
    })
    .await;
}
