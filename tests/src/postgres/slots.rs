//! Waits for the sessions of slots.

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::query::rows;
use crate::wait;

/// Limit for a wait, long enough for a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a session uses a slot.
pub async fn wait_until_used(client: &Client, slot: &str) {
    wait::until("a session uses the slot", LIMIT, || async {
        is_active(client, slot).await == Some(true)
    })
    .await;
}

/// Waits until no session uses a slot.
///
/// The session of a killed program ends a moment later. The server may still decode for an invocation whose
/// time is over.
pub async fn wait_until_free(client: &Client, slot: &str) {
    wait::until("no session uses the slot", LIMIT, || async {
        is_active(client, slot).await == Some(false)
    })
    .await;
}

/// Whether a session uses a slot; `None` when there is no slot.
async fn is_active(client: &Client, slot: &str) -> Option<bool> {
    let sql = "select active from pg_replication_slots where slot_name = $1";
    let found = rows(client, sql, &[&slot]).await;
    found.first().map(|row| row.get("active"))
}
