//! Positions of a slot and its checkpoint.
//!
//! An inequality between them always holds.

use scenarios::consumer::position::position_parts;
use scenarios::fixture::{DEADLINE, Fixture};
use scenarios::postgres::lsn::parse_lsn;
use scenarios::postgres::sql_text::copy_slot_sql;
use serde_json::Value;

/// Number of an LSN.
///
/// # Panics
/// The text is not an LSN.
pub(crate) fn expect_lsn(text: &str) -> u64 {
    parse_lsn(text).unwrap_or_else(|| panic!("{text:?} is not an LSN"))
}

/// End of the commit record in the position of an event.
pub(crate) fn commit_end(position: &str) -> u64 {
    let parts = position_parts(position);
    let (commit_end, ..) = parts.unwrap_or_else(|| panic!("{position:?} is not a position"));
    commit_end
}

/// Confirmed position of a slot, and position of its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotPositions {
    /// `confirmed_flush_lsn` of the slot.
    pub(crate) confirmed: u64,
    /// `commit_end` of the checkpoint.
    pub(crate) checkpoint: u64,
}

impl SlotPositions {
    /// Reads both positions.
    ///
    /// # Panics
    /// There is no checkpoint, or the slot is beyond it.
    pub(crate) async fn read(fixture: &Fixture) -> Self {
        // In this order, because both only grow during a drain.
        let confirmed = expect_lsn(&fixture.confirmed_flush().await);
        let checkpoint = fixture.checkpoint().await.expect("a checkpoint is stored");
        let checkpoint = expect_lsn(checkpoint["commit_end"].as_str().unwrap_or_default());
        assert!(
            confirmed <= checkpoint,
            "the slot ({confirmed:X}) is beyond the checkpoint ({checkpoint:X})"
        );
        Self {
            confirmed,
            checkpoint,
        }
    }
}

/// Copies the slot, so that [`set_slot_back`] can restore its position.
pub(crate) async fn save_slot(fixture: &Fixture) {
    fixture.copy_slot(&saved_slot(fixture)).await;
}

/// Replaces the slot by the copy of [`save_slot`], as after a crash.
pub(crate) async fn set_slot_back(fixture: &Fixture) {
    fixture.drop_slot().await;
    let restore = copy_slot_sql(&saved_slot(fixture), &fixture.slot);
    fixture.sql(&restore).await;
}

/// Name of the copy of [`save_slot`].
fn saved_slot(fixture: &Fixture) -> String {
    format!("{}_before", fixture.slot)
}

/// Waits until the server has no session of the function.
///
/// The server notices the death of a killed process only after a moment.
pub(crate) async fn wait_until_sessions_end(fixture: &Fixture) {
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name = 'spillway {}'",
        fixture.slot
    );
    scenarios::wait::until("the sessions of the killed function end", DEADLINE, || async {
        fixture.value(&sql).await.as_deref() == Some("0")
    })
    .await;
}

/// The stored checkpoint.
///
/// # Panics
/// There is none.
pub(crate) async fn stored_checkpoint(fixture: &Fixture) -> Value {
    fixture.checkpoint().await.expect("a checkpoint is stored")
}

/// `commit_end` of the stored checkpoint.
///
/// # Panics
/// There is no checkpoint.
pub(crate) async fn checkpoint_lsn(fixture: &Fixture) -> String {
    stored_checkpoint(fixture).await["commit_end"]
        .as_str()
        .expect("an LSN is text")
        .to_owned()
}
