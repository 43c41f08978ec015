//! Checks at the start of a tick: each break of continuity has its own error.
//!
//! The error names both positions, and the slot does not move.

use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::PostgresSettings;
use serde_json::{Value, json};

use crate::support::backlog::{self, drain_and_refill, fixture_with_backlog};
use crate::support::expected_errors::{assert_invocation_fails, assert_tick_fails};
use crate::support::positions::{SlotPositions, checkpoint_lsn, stored_checkpoint};
use crate::support::versions::pgoutput;

crate::scenarios![
    a_slot_that_never_existed_is_missing,
    a_dropped_slot_is_missing_and_the_error_names_its_last_position,
    a_slot_without_its_log_is_lost,
    a_slot_of_another_database_is_refused,
    a_physical_slot_is_refused,
    a_checkpoint_of_another_server_is_refused,
    a_restored_server_has_diverged,
    a_checkpoint_of_another_slot_is_refused,
    an_invalid_checkpoint_is_refused,
    a_drain_names_a_missing_publication,
    a_drain_without_a_checkpoint_starts_at_the_slot,
    unknown_fields_of_the_checkpoint_are_kept,
    a_renamed_database_continues,
    a_role_that_may_not_connect_is_a_definite_error,
];

crate::version_scenarios![a_missing_publication_is_named, a_slot_without_log_is_lost];

crate::version_scenarios![since 18: an_idle_slot_that_is_lost_is_not_a_matter_of_size];

/// Asserts the error for a changed field of the checkpoint.
///
/// The field has another value. The checkpoint is restored afterwards.
async fn assert_field_is_refused(fixture: &Fixture, field: &str, value: Value, kind: &str, parts: &[&str]) {
    let good = stored_checkpoint(fixture).await;
    let mut bad = good.clone();
    bad[field] = value;
    fixture.put_checkpoint(&bad).await;
    assert_tick_fails(fixture, kind, parts).await;
    assert_eq!(
        stored_checkpoint(fixture).await,
        bad,
        "the tick changed the checkpoint"
    );
    fixture.put_checkpoint(&good).await;
}

async fn finish(fixture: &Fixture) {
    fixture.drain().await;
    SlotPositions::read(fixture).await;
    backlog::compare(fixture).await;
}

async fn a_slot_that_never_existed_is_missing() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    let tick = fixture.invoke(json!({})).await.answer();
    assert_eq!(
        (&tick["stopped"], &tick["errorType"]),
        (&json!("not_set_up"), &json!("NotSetUp")),
        "{tick}"
    );
    let message = tick["errorMessage"].as_str().unwrap_or_default();
    assert!(
        message.contains(&fixture.slot) && message.contains(r#"{"action":"setup"}"#),
        "{message}"
    );
    let plan = json!({"action": "plan"});
    assert_invocation_fails(
        &fixture,
        plan,
        "NotSetUp",
        &[&fixture.slot, r#"{"action":"setup"}"#],
    )
    .await;
    assert_eq!(fixture.checkpoint().await, None);
}

async fn a_dropped_slot_is_missing_and_the_error_names_its_last_position() {
    let fixture = fixture_with_backlog().await;
    let known = checkpoint_lsn(&fixture).await;
    fixture.drop_slot().await;
    assert_tick_fails(&fixture, "SlotMissing", &[&fixture.slot, &known, "accept_gap"]).await;
    assert_eq!(checkpoint_lsn(&fixture).await, known);
}

async fn a_slot_without_its_log_is_lost() {
    assert_slot_lost(None).await;
}

/// A slot whose log was removed is lost.
///
/// The server is of this version and not shared, and retains little log.
async fn assert_slot_lost(version: Option<u32>) {
    let settings = PostgresSettings {
        version,
        conf: "max_slot_wal_keep_size = '1MB'\n".to_owned(),
        ..PostgresSettings::default()
    };
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(settings)
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    fixture.drain().await;
    let confirmed = fixture.confirmed_flush().await;
    for id in 1..4 {
        fixture.sql(&format!("insert into t values ({id})")).await;
        fixture.sql("select pg_switch_wal()").await;
    }
    fixture.sql("checkpoint").await;
    assert_tick_fails(
        &fixture,
        "SlotLost",
        &[&fixture.slot, &confirmed, "max_slot_wal_keep_size"],
    )
    .await;
    assert_eq!(fixture.confirmed_flush().await, confirmed);
}

async fn a_slot_of_another_database_is_refused() {
    let mut fixture = fixture_with_backlog().await;
    let other = format!("{}_other", fixture.database);
    fixture.postgres.create_database(&other).await;
    fixture.function.set("PGDATABASE", &other).await;
    assert_tick_fails(
        &fixture,
        "SlotWrongDatabase",
        &[&fixture.slot, &fixture.database, &other, "PGDATABASE"],
    )
    .await;
    fixture.function.set("PGDATABASE", &fixture.database).await;
    fixture.postgres.drop_database(&other).await;
    finish(&fixture).await;
}

async fn a_physical_slot_is_refused() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture
        .sql(&format!(
            "select pg_create_physical_replication_slot('{}', true)",
            fixture.slot
        ))
        .await;
    let outcome = fixture.invoke(json!({})).await;
    // A physical slot has no database, so its drop is not part of the cleanup.
    fixture.drop_slot().await;
    let Outcome::Error { kind, message } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(kind, "SlotUnusable", "{message}");
    assert!(
        message.contains(&fixture.slot) && message.contains("physical") && message.contains("SLOT_NAME"),
        "{message}"
    );
}

async fn a_checkpoint_of_another_server_is_refused() {
    let fixture = fixture_with_backlog().await;
    let known = stored_checkpoint(&fixture).await;
    let ours = known["system_identifier"].as_str().unwrap_or_default();
    let parts = [
        ours,
        "7000000000000000001",
        &checkpoint_lsn(&fixture).await,
        &fixture.confirmed_flush().await,
    ];
    assert_field_is_refused(
        &fixture,
        "system_identifier",
        json!("7000000000000000001"),
        "SystemChanged",
        &parts,
    )
    .await;
    finish(&fixture).await;
}

async fn a_restored_server_has_diverged() {
    let fixture = fixture_with_backlog().await;
    let parts = ["FF/10", &fixture.confirmed_flush().await, "accept the gap"];
    assert_field_is_refused(&fixture, "commit_end", json!("FF/10"), "Divergence", &parts).await;
    finish(&fixture).await;
}

async fn a_checkpoint_of_another_slot_is_refused() {
    let fixture = fixture_with_backlog().await;
    let parts = [&fixture.slot, "another", "CHECKPOINT_PARAMETER"];
    for field in ["slot", "plugin"] {
        assert_field_is_refused(&fixture, field, json!("another"), "CheckpointMismatch", &parts).await;
    }
    // A database of another name is the same one only if it has the same OID.
    let good = stored_checkpoint(&fixture).await;
    for oid in [json!(1), Value::Null] {
        let mut other = good.clone();
        other["database_oid"] = oid;
        fixture.put_checkpoint(&other).await;
        assert_field_is_refused(
            &fixture,
            "database",
            json!("another"),
            "CheckpointMismatch",
            &parts,
        )
        .await;
    }
    fixture.put_checkpoint(&good).await;
    finish(&fixture).await;
}

async fn an_invalid_checkpoint_is_refused() {
    let fixture = fixture_with_backlog().await;
    let good = stored_checkpoint(&fixture).await;
    for garbage in ["soon", "{}", "[1]", r#"{"version":1,"commit_end":"0/16B3748"}"#] {
        fixture.ssm.put(&fixture.parameter, garbage);
        assert_tick_fails(&fixture, "CheckpointInvalid", &[&fixture.parameter]).await;
        assert_eq!(
            fixture.ssm.get(&fixture.parameter).as_deref(),
            Some(garbage),
            "the tick changed the checkpoint"
        );
    }
    fixture.put_checkpoint(&good).await;
    assert_field_is_refused(
        &fixture,
        "version",
        json!(2),
        "CheckpointInvalid",
        &[&fixture.parameter, "version 2", "version 1"],
    )
    .await;
    assert_field_is_refused(
        &fixture,
        "commit_end",
        json!("16B3748"),
        "CheckpointInvalid",
        &[&fixture.parameter],
    )
    .await;
    finish(&fixture).await;
}

async fn a_drain_names_a_missing_publication() {
    assert_publication_missing(Fixture::builder(Plugin::Pgoutput)).await;
}

async fn assert_publication_missing(builder: FixtureBuilder) {
    let mut fixture = drain_and_refill(builder.build().await).await;
    fixture.function.set("PUBLICATIONS", "spillway,not there").await;
    assert_tick_fails(
        &fixture,
        "PublicationMissing",
        &["not there", &fixture.database, "PUBLICATIONS"],
    )
    .await;
    fixture.function.unset("PUBLICATIONS").await;
    finish(&fixture).await;
}

async fn a_drain_without_a_checkpoint_starts_at_the_slot() {
    let fixture = fixture_with_backlog().await;
    let before = fixture.consume().await.changes().len();
    fixture.ssm.delete(&fixture.parameter);
    let slot = fixture.confirmed_flush().await;
    let report = fixture.tick().await;
    assert_eq!(report["from"], json!(slot), "{report}");
    assert_eq!(report["skipped"], 0, "{report}");
    // The log is complete only after the process has ended.
    fixture.function.kill9().await;
    let is_logged = fixture
        .function
        .log()
        .iter()
        .any(|line| line.contains("no checkpoint") && line.contains(&slot));
    assert!(
        is_logged,
        "no log line has the start {slot}: {:#?}",
        fixture.function.log()
    );
    assert_eq!(json!(checkpoint_lsn(&fixture).await), report["to"]);
    finish(&fixture).await;
    assert!(fixture.consume().await.changes().len() > before);
}

async fn a_renamed_database_continues() {
    let mut fixture = fixture_with_backlog().await;
    fixture.function.kill9().await;
    let renamed = format!("{}_renamed", fixture.database);
    let admin = fixture.postgres.admin("postgres").await;
    let rename = async |from: &str, to: &str| {
        // The sessions of the scenario are in the database.
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
        let sql = format!("alter database \"{from}\" rename to \"{to}\"");
        scenarios::wait::until("the database is renamed", DEADLINE, || async {
            admin.query(end, &[&from]).await.unwrap();
            admin.batch_execute(&sql).await.is_ok()
        })
        .await;
    };
    rename(&fixture.database, &renamed).await;
    fixture.function.set("PGDATABASE", &renamed).await;
    let report = fixture.tick().await;
    assert!(report["changes"].as_u64() > Some(0), "{report}");
    assert_eq!(stored_checkpoint(&fixture).await["database"], json!(renamed));
    rename(&renamed, &fixture.database.clone()).await;
    let database = fixture.database.clone();
    fixture.function.set("PGDATABASE", &database).await;
    finish(&fixture).await;
}

/// From version 18 on, the server invalidates slots that no session reads.
async fn an_idle_slot_that_is_lost_is_not_a_matter_of_size(version: u32) {
    let settings = PostgresSettings {
        version: Some(version),
        conf: "idle_replication_slot_timeout = '1s'\n".to_owned(),
        ..PostgresSettings::default()
    };
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(settings)
        .build()
        .await;
    fixture.sql("create table t (id int)").await;
    let slot = &fixture.slot;
    let reason = format!("select invalidation_reason from pg_replication_slots where slot_name = '{slot}'");
    scenarios::wait::until("the idle slot is invalidated", DEADLINE, || async {
        // The checkpointer looks for such slots.
        fixture.sql("insert into t values (1)").await;
        fixture.sql("checkpoint").await;
        fixture.value(&reason).await.is_some()
    })
    .await;
    let parts = [slot.as_str(), "idle_timeout", "idle_replication_slot_timeout"];
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "SlotLost", "{message}");
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("max_slot_wal_keep_size"), "{message}");
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(problems.contains("idle_replication_slot_timeout"), "{problems}");
}

async fn unknown_fields_of_the_checkpoint_are_kept() {
    let fixture = fixture_with_backlog().await;
    let mut known = stored_checkpoint(&fixture).await;
    known["colour"] = json!({"of": ["tomorrow", 1]});
    fixture.put_checkpoint(&known).await;
    finish(&fixture).await;
    let after = stored_checkpoint(&fixture).await;
    assert_eq!(after["colour"], known["colour"]);
    assert_ne!(
        after["commit_end"], known["commit_end"],
        "the checkpoint was not stored again"
    );
}

async fn a_missing_publication_is_named(version: u32) {
    assert_publication_missing(pgoutput(version)).await;
}

async fn a_slot_without_log_is_lost(version: u32) {
    assert_slot_lost(Some(version)).await;
}

/// The error is not transient: no later tick can connect until the privilege is granted.
async fn a_role_that_may_not_connect_is_a_definite_error() {
    let fixture = fixture_with_backlog().await;
    let database = &fixture.database;
    fixture
        .sql(&format!("revoke connect on database {database} from public"))
        .await;
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PostgresFailed", "{message}");
    assert!(message.contains(database), "{message}");
    let slot = format!(r#""slot":"{}""#, fixture.slot);
    let log = fixture.function.log();
    let failed = |field: &str| {
        let fields = [
            field,
            r#""error_type":"PostgresFailed""#,
            &slot,
            r#""action":"drain""#,
        ];
        log.iter().any(|line| fields.iter().all(|it| line.contains(it)))
    };
    assert!(failed(r#""kind":"Definite""#), "{log:#?}");
    assert!(failed(r#""Failures":1"#), "no summary line: {log:#?}");
    fixture
        .sql(&format!("grant connect on database {database} to public"))
        .await;
    finish(&fixture).await;
}
