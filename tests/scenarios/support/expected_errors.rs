//! Checks of failing invocations.
//!
//! Each failure has its own `errorType`, and a message of one line with the remedy. It has no secret in any
//! output, and the slot does not move.

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::{Postgres, REPLUSER};
use serde_json::{Value, json};

/// Asserts that a tick fails with this `errorType`, as [`assert_invocation_fails`] does.
pub(crate) async fn assert_tick_fails(fixture: &Fixture, kind: &str, parts: &[&str]) {
    assert_invocation_fails(fixture, json!({}), kind, parts).await;
}

/// Asserts that an invocation fails with this `errorType`.
///
/// The message of the error must contain all of `parts`. The slot must not move.
pub(crate) async fn assert_invocation_fails(fixture: &Fixture, event: Value, kind: &str, parts: &[&str]) {
    let before = fixture.find_confirmed_flush().await;
    let (found, message) = fixture.invoke(event).await.error();
    assert_eq!(found, kind, "{message}");
    for part in parts {
        assert!(message.contains(part), "{kind} lacks {part:?}: {message}");
    }
    assert!(
        !message.contains('\n') && !message.contains("  ") && message.len() > 20,
        "the message is not one line: {message:?}"
    );
    assert!(
        !message.contains(REPLUSER.1),
        "the password is in the message: {message}"
    );
    assert_not_logged(fixture, REPLUSER.1).await;
    let after = fixture.find_confirmed_flush().await;
    assert_eq!(after, before, "{kind} moved the slot");
}

/// Line of postgresql.conf with which no logical slot can exist.
pub(crate) const REPLICA_WAL_LEVEL: &str = "wal_level = replica\n";

/// Asserts that `setup` names the setting on a server with [`REPLICA_WAL_LEVEL`].
///
/// It must not store a checkpoint.
pub(crate) async fn assert_wal_level_is_named(server: Postgres) {
    let fixture = Fixture::builder(Plugin::Wal2json)
        .without_slot()
        .on_server(server)
        .build()
        .await;
    let parts = ["rds.logical_replication", "wal_level"];
    let setup = json!({"action": "setup", "plugin": "wal2json"});
    assert_invocation_fails(&fixture, setup, "WalLevelNotLogical", &parts).await;
    assert_eq!(fixture.checkpoint().await, None, "setup stored a checkpoint");
}

/// Asserts that no log line of the function has `secret`.
///
/// It ends the sandbox, because only then the log is complete.
pub(crate) async fn assert_not_logged(fixture: &Fixture, secret: &str) {
    fixture.function.kill9().await;
    let line = fixture
        .function
        .log()
        .into_iter()
        .find(|line| line.contains(secret));
    assert_eq!(line, None, "a secret is in the log");
}
