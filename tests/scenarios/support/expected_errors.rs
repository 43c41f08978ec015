//! What every failing invocation has to keep to: its own `errorType`, one line that names what to change, no secret
//! anywhere, and a slot that stays where it is.

use scenarios::fixture::Fixture;
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

/// A tick that fails so.
pub(crate) async fn assert_tick_fails(fixture: &Fixture, kind: &str, parts: &[&str]) {
    assert_invocation_fails(fixture, json!({}), kind, parts).await;
}

/// An invocation that fails with this `errorType`, in one line that has all of `parts`.
pub(crate) async fn assert_invocation_fails(fixture: &Fixture, event: Value, kind: &str, parts: &[&str]) {
    let before = position(fixture).await;
    let (found, message) = fixture.invoke(event).await.error();
    assert_eq!(found, kind, "{message}");
    for part in parts {
        assert!(message.contains(part), "{kind} does not say {part:?}: {message}");
    }
    assert!(
        !message.contains('\n') && !message.contains("  ") && message.len() > 20,
        "one line: {message:?}"
    );
    assert!(
        !message.contains(REPLUSER.1),
        "the password is in the message: {message}"
    );
    assert_not_logged(fixture, REPLUSER.1).await;
    assert_eq!(position(fixture).await, before, "{kind} moved the slot");
}

/// Nothing that the function ever logged has `secret` in it. Ends its sandbox: only then all of its log was read.
pub(crate) async fn assert_not_logged(fixture: &Fixture, secret: &str) {
    fixture.function.kill9().await;
    let told = fixture
        .function
        .log()
        .into_iter()
        .find(|line| line.contains(secret));
    assert_eq!(told, None, "a secret is in the log");
}

async fn position(fixture: &Fixture) -> Option<String> {
    let slot = &fixture.slot;
    fixture
        .value(&format!(
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await
}
