//! The action `teardown` drops what `setup` created, and nothing of another stack.

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::json;

use crate::support::versions::pgoutput;

crate::scenarios![
    teardown_drops_slot_and_checkpoint_and_may_be_repeated,
    teardown_keeps_the_checkpoint_of_another_slot,
];

crate::version_scenarios![teardown_drops_the_objects_of_setup];

async fn teardown_drops_slot_and_checkpoint_and_may_be_repeated() {
    assert_teardown(Fixture::builder(Plugin::Pgoutput)).await;
}

async fn assert_teardown(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    fixture.drain().await;
    let report = fixture.invoke(json!({"action": "teardown"})).await.answer();
    let dropped = [
        format!("slot {}", fixture.slot),
        format!("checkpoint {}", fixture.parameter),
        format!("list of tables {}.tables", fixture.parameter),
    ];
    assert_eq!(report["dropped"], json!(dropped), "{report}");
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        fixture.slot
    );
    assert_eq!(fixture.value(&slots).await.as_deref(), Some("0"));
    assert_eq!(fixture.checkpoint().await, None);
    let again = fixture.invoke(json!({"action": "teardown"})).await.answer();
    assert_eq!(again["dropped"], json!([]), "nothing is left to drop: {again}");
    let tick = fixture.invoke(json!({})).await.answer();
    assert_eq!(tick["stopped"], "not_set_up", "{tick}");
}

async fn teardown_keeps_the_checkpoint_of_another_slot() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.drain().await;
    let own = fixture.checkpoint().await.expect("a drain stores a checkpoint");
    for (field, value) in [
        ("system_identifier", json!("7")),
        ("database_oid", json!(1)),
        ("slot", json!("x")),
    ] {
        let mut other = own.clone();
        other[field] = value;
        fixture.put_checkpoint(&other).await;
        let report = fixture.invoke(json!({"action": "teardown"})).await.answer();
        let kept = report["kept"].to_string();
        assert!(kept.contains(&fixture.parameter), "{field}: {report}");
        assert_eq!(fixture.checkpoint().await, Some(other), "{field}");
    }
    // A newer version may have written it for another slot.
    let mut newer = own.clone();
    newer["version"] = json!(2);
    fixture.put_checkpoint(&newer).await;
    let report = fixture.invoke(json!({"action": "teardown"})).await.answer();
    assert!(
        report["kept"].to_string().contains("format version 2"),
        "{report}"
    );
    assert_eq!(fixture.checkpoint().await, Some(newer));
    // Without the document, nobody knows whose it is.
    fixture
        .ssm_proxy
        .inject("GetParameter", Fault::refuse("AccessDeniedException", "no"));
    let (kind, message) = fixture.invoke(json!({"action": "teardown"})).await.error();
    assert_eq!(kind, "CheckpointDenied", "{message}");
    fixture.ssm_proxy.clear();
    fixture.ssm_proxy.inject("GetParameter", Fault::internal());
    let (kind, message) = fixture.invoke(json!({"action": "teardown"})).await.error();
    assert_eq!(kind, "CheckpointUnavailable", "{message}");
    fixture.ssm_proxy.clear();
    assert!(fixture.checkpoint().await.is_some());
}

async fn teardown_drops_the_objects_of_setup(version: u32) {
    assert_teardown(pgoutput(version)).await;
}
