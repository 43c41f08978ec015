//! The action `teardown`: drops the slot, and deletes the stored documents.
//!
//! It may be run again.

use serde_json::{Value, json};

use super::app::App;
use crate::base::budget::Budget;
use crate::base::stored_document::InvalidDocument;
use crate::continuity::checkpoint::Checkpoint;
use crate::continuity::{self, ContinuityError, ServerInfo, SlotState};
use crate::error::Error;
use crate::ports::StateStoreError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::provisioning;
use crate::postgres::server::{self, Inspection};

/// Drops the slot, and deletes the stored documents.
///
/// Without the slot, the server may remove its log. If the checkpoint belongs to another slot, all documents
/// stay. Publications stay, too: they cost nothing, and other programs may use them.
///
/// # Errors
/// Another drainer still has the lock at the deadline, or a request to PostgreSQL or SSM failed. Or another
/// program uses the slot: it is physical, temporary, or of another database.
pub(crate) async fn run(app: &App, connector: &Connector, budget: Budget) -> Result<Value, Error> {
    // Fails on a standby.
    let (session, _) = app.inspect(connector).await?;
    let deadline = budget.reading_deadline();
    server::lock_or_busy(connector, &session, &app.config.slot, deadline).await?;
    let Inspection { server, slot } = server::inspect(connector, &session, &app.config.slot).await?;
    let mut dropped = Vec::new();
    if let Some(state) = slot {
        drop_slot(app, connector, &session, &server, &state).await?;
        dropped.push(format!("slot {}", app.config.slot));
    }
    if let Some(reason) = reason_to_keep(app, &server).await? {
        let kept = format!(
            "checkpoint {} {reason}, and the other parameters",
            app.checkpoint.name
        );
        return Ok(
            json!({"action": "teardown", "slot": app.config.slot, "dropped": dropped, "kept": [kept]}),
        );
    }
    if app.checkpoint.delete().await? {
        dropped.push(format!("checkpoint {}", app.checkpoint.name));
    }
    for (what, parameter) in [("backfill", &app.backfill), ("list of tables", &app.sent_tables)] {
        match parameter.delete().await {
            Ok(true) => dropped.push(format!("{what} {}", parameter.name)),
            Ok(false) => {}
            // The role of an older stack lacks the permission, and such a stack has no such parameter.
            Err(StateStoreError::Denied { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"action": "teardown", "slot": app.config.slot, "dropped": dropped}))
}

/// Why the stored documents must stay; `None` if they may be deleted.
///
/// The text follows the name of the checkpoint.
///
/// # Errors
/// The checkpoint cannot be loaded, so its slot is unknown.
async fn reason_to_keep(app: &App, server: &ServerInfo) -> Result<Option<String>, Error> {
    let stored = match app.checkpoint.load().await {
        Ok(stored) => stored,
        Err(StateStoreError::Invalid { source, .. }) => {
            return Ok(match source {
                // No drain can use such a checkpoint.
                InvalidDocument::Unreadable { .. } => None,
                // A newer Spillway wrote it, perhaps for another slot.
                InvalidDocument::Version { found, .. } => Some(format!("of format version {found}")),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let foreign = stored.filter(|stored| !is_of(stored, server, &app.config.slot));
    Ok(foreign.map(|stored| {
        format!(
            "of slot {} in database {} of cluster {}",
            stored.slot, stored.database, stored.system_identifier
        )
    }))
}

/// Whether a checkpoint belongs to this slot. Another stack may use the same parameter.
fn is_of(stored: &Checkpoint, server: &ServerInfo, slot: &str) -> bool {
    stored.system_identifier == server.system_identifier
        && stored.is_of_database(server)
        && stored.slot == slot
}

async fn drop_slot(
    app: &App,
    connector: &Connector,
    session: &Session,
    server: &ServerInfo,
    state: &SlotState,
) -> Result<(), Error> {
    let slot = &app.config.slot;
    // Spillway creates no such slot, so another program uses it. Every other slot may be dropped, even if it
    // cannot be drained.
    if let Err(
        foreign @ (ContinuityError::WrongDatabase { .. }
        | ContinuityError::Physical { .. }
        | ContinuityError::Temporary { .. }),
    ) = continuity::readable_slot(slot, server, state)
    {
        return Err(foreign.into());
    }
    provisioning::drop_slot(connector, session, slot).await?;
    Ok(())
}
