//! What a tick finds when it starts: every break of continuity is its own error, which names both sides, and leaves
//! the slot where it is.

use scenarios::function::Outcome;
use scenarios::lab::{Lab, Plan, Plugin};
use scenarios::postgres::{Postgres, Settings};
use serde_json::{Value, json};

use crate::backlog;
use crate::marks::Marks;
use crate::refusal::tick_fails;

crate::scenarios![
    a_slot_that_was_never_made_is_missing,
    a_slot_that_is_gone_is_missing_and_the_error_says_since_when,
    a_slot_whose_log_was_removed_is_lost,
    a_slot_of_another_database_is_refused,
    a_physical_slot_is_refused,
    a_checkpoint_of_another_server_is_refused,
    a_server_that_was_set_back_has_diverged,
    a_checkpoint_of_another_slot_is_refused,
    a_checkpoint_that_cannot_be_read_is_refused,
    a_publication_that_is_missing_is_named,
    without_a_checkpoint_the_slots_own_position_is_the_start,
    unknown_fields_of_the_checkpoint_are_kept,
];

/// A slot that was drained once, and has a backlog again.
pub(crate) async fn lab() -> Lab {
    drained_once(Lab::new(Plugin::Pgoutput).await).await
}

async fn drained_once(lab: Lab) -> Lab {
    backlog::create(&lab).await;
    backlog::write(&lab, 1, 40, 20).await;
    lab.drain().await;
    backlog::write(&lab, 2, 40, 20).await;
    lab
}

/// The checkpoint, which is there.
pub(crate) async fn checkpoint(lab: &Lab) -> Value {
    lab.checkpoint().await.expect("a checkpoint is stored")
}

/// `commit_end` of the checkpoint.
pub(crate) async fn stored(lab: &Lab) -> String {
    checkpoint(lab).await["commit_end"]
        .as_str()
        .expect("an LSN is text")
        .to_owned()
}

/// Stores a checkpoint that differs in one field, and the error it leads to. Then the right one again, and all is well.
async fn doctored(lab: &Lab, field: &str, value: Value, kind: &str, parts: &[&str]) {
    let good = checkpoint(lab).await;
    let mut bad = good.clone();
    bad[field] = value;
    lab.put_checkpoint(&bad).await;
    tick_fails(lab, kind, parts).await;
    assert_eq!(checkpoint(lab).await, bad, "the checkpoint stays as it was found");
    lab.put_checkpoint(&good).await;
}

async fn finish(lab: &Lab) {
    lab.drain().await;
    Marks::of(lab).await;
    let delivery = lab.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(lab).await,
        "every event, and no other"
    );
}

async fn a_slot_that_was_never_made_is_missing() {
    let lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    tick_fails(&lab, "SlotMissing", &[&lab.slot, r#"{"action":"setup"}"#]).await;
    assert_eq!(lab.checkpoint().await, None);
}

async fn a_slot_that_is_gone_is_missing_and_the_error_says_since_when() {
    let lab = lab().await;
    let known = stored(&lab).await;
    lab.sql(&format!("select pg_drop_replication_slot('{}')", lab.slot))
        .await;
    tick_fails(&lab, "SlotMissing", &[&lab.slot, &known, "accept_gap"]).await;
    assert_eq!(stored(&lab).await, known);
}

async fn a_slot_whose_log_was_removed_is_lost() {
    lost(None).await;
}

/// On a server of its own of this version, which keeps little.
pub(crate) async fn lost(version: Option<u32>) {
    let settings = Settings {
        version,
        conf: "max_slot_wal_keep_size = '1MB'\n".to_owned(),
        ..Settings::default()
    };
    let lab = Lab::plan(Plugin::Pgoutput)
        .on(Postgres::start(settings).await)
        .build()
        .await;
    lab.sql("create table t (id int primary key)").await;
    lab.drain().await;
    let confirmed = lab.confirmed_flush().await;
    for id in 1..4 {
        lab.sql(&format!("insert into t values ({id})")).await;
        lab.sql("select pg_switch_wal()").await;
    }
    lab.sql("checkpoint").await;
    tick_fails(
        &lab,
        "SlotLost",
        &[&lab.slot, &confirmed, "max_slot_wal_keep_size"],
    )
    .await;
    assert_eq!(lab.confirmed_flush().await, confirmed);
}

async fn a_slot_of_another_database_is_refused() {
    let mut lab = lab().await;
    let other = format!("{}_other", lab.database);
    lab.postgres.create_database(&other).await;
    lab.function.set("PGDATABASE", &other).await;
    tick_fails(
        &lab,
        "SlotWrongDatabase",
        &[&lab.slot, &lab.database, &other, "PGDATABASE"],
    )
    .await;
    lab.function.set("PGDATABASE", &lab.database).await;
    lab.postgres.drop_database(&other).await;
    finish(&lab).await;
}

async fn a_physical_slot_is_refused() {
    let lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    lab.sql(&format!(
        "select pg_create_physical_replication_slot('{}', true)",
        lab.slot
    ))
    .await;
    let outcome = lab.invoke(json!({})).await;
    // It belongs to no database, so nobody else would drop it.
    lab.sql(&format!("select pg_drop_replication_slot('{}')", lab.slot))
        .await;
    let Outcome::Error { kind, message } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(kind, "SlotUnusable", "{message}");
    assert!(
        message.contains(&lab.slot) && message.contains("physical") && message.contains("SLOT_NAME"),
        "{message}"
    );
}

async fn a_checkpoint_of_another_server_is_refused() {
    let lab = lab().await;
    let known = checkpoint(&lab).await;
    let ours = known["system_identifier"].as_str().unwrap_or_default();
    let parts = [
        ours,
        "7000000000000000001",
        &stored(&lab).await,
        &lab.confirmed_flush().await,
    ];
    doctored(
        &lab,
        "system_identifier",
        json!("7000000000000000001"),
        "SystemChanged",
        &parts,
    )
    .await;
    finish(&lab).await;
}

async fn a_server_that_was_set_back_has_diverged() {
    let lab = lab().await;
    let parts = ["FF/10", &lab.confirmed_flush().await, "accept the gap"];
    doctored(&lab, "commit_end", json!("FF/10"), "Divergence", &parts).await;
    finish(&lab).await;
}

async fn a_checkpoint_of_another_slot_is_refused() {
    let lab = lab().await;
    let parts = [&lab.slot, "another", "CHECKPOINT_PARAMETER"];
    for field in ["slot", "database", "plugin"] {
        doctored(&lab, field, json!("another"), "CheckpointMismatch", &parts).await;
    }
    finish(&lab).await;
}

async fn a_checkpoint_that_cannot_be_read_is_refused() {
    let lab = lab().await;
    let good = checkpoint(&lab).await;
    for garbage in ["soon", "{}", "[1]", r#"{"version":1,"commit_end":"0/16B3748"}"#] {
        lab.ssm.put(&lab.parameter, garbage).await;
        tick_fails(&lab, "CheckpointInvalid", &[&lab.parameter]).await;
        assert_eq!(
            lab.ssm.get(&lab.parameter).await.as_deref(),
            Some(garbage),
            "it stays as it was found"
        );
    }
    lab.put_checkpoint(&good).await;
    doctored(
        &lab,
        "version",
        json!(2),
        "CheckpointInvalid",
        &[&lab.parameter, "version 2", "version 1"],
    )
    .await;
    doctored(
        &lab,
        "commit_end",
        json!("16B3748"),
        "CheckpointInvalid",
        &[&lab.parameter],
    )
    .await;
    finish(&lab).await;
}

async fn a_publication_that_is_missing_is_named() {
    publication_missing(Lab::plan(Plugin::Pgoutput)).await;
}

pub(crate) async fn publication_missing(plan: Plan) {
    let mut lab = drained_once(plan.build().await).await;
    lab.function.set("PUBLICATIONS", "spillway,not there").await;
    tick_fails(
        &lab,
        "PublicationMissing",
        &["not there", &lab.database, "PUBLICATIONS"],
    )
    .await;
    lab.function.unset("PUBLICATIONS").await;
    finish(&lab).await;
}

async fn without_a_checkpoint_the_slots_own_position_is_the_start() {
    let lab = lab().await;
    let before = lab.consume().await.changes().len();
    lab.ssm.delete(&lab.parameter).await;
    let slot = lab.confirmed_flush().await;
    let report = lab.tick().await;
    assert_eq!(report["from"], json!(slot), "{report}");
    assert_eq!(report["skipped"], 0, "{report}");
    // Only then all of its log was read.
    lab.function.kill9().await;
    let told = lab
        .function
        .log()
        .iter()
        .any(|line| line.contains("no checkpoint") && line.contains(&slot));
    assert!(
        told,
        "it says that it starts from {slot}: {:#?}",
        lab.function.log()
    );
    assert_eq!(json!(stored(&lab).await), report["to"]);
    finish(&lab).await;
    assert!(lab.consume().await.changes().len() > before);
}

async fn unknown_fields_of_the_checkpoint_are_kept() {
    let lab = lab().await;
    let mut known = checkpoint(&lab).await;
    known["colour"] = json!({"of": ["tomorrow", 1]});
    lab.put_checkpoint(&known).await;
    finish(&lab).await;
    let after = checkpoint(&lab).await;
    assert_eq!(after["colour"], known["colour"]);
    assert_ne!(after["commit_end"], known["commit_end"], "it was stored anew");
}
