//! Continuity check: whether the stream can continue where it stopped.
//!
//! The check compares the server and the slot with the checkpoint. It changes nothing, and its errors state
//! what the operator must do. Without a discontinuity, `confirmed_flush <= checkpoint <= flush`: the slot
//! advances only after the checkpoint is stored, and only flushed log is read.

pub mod checkpoint;
mod error;
mod loss;
pub mod marker;

use serde::Deserialize;
use serde_json::Map;

pub use error::ContinuityError;
pub use loss::SlotLoss;

use crate::base::lsn::Lsn;
use crate::plugin::Plugin;
use checkpoint::{Checkpoint, ResumePoint};
use marker::Marker;

/// State of the server, from its own functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `server_version_num`: 150018 is 15.18.
    pub version: i32,
    /// See [`Checkpoint::system_identifier`].
    pub system_identifier: String,
    /// See [`Checkpoint::timeline`].
    pub timeline: u32,
    /// The database of the connection.
    pub database: String,
    /// See [`Checkpoint::database_oid`].
    pub database_oid: u32,
    /// `server_encoding`; text plugins write in it.
    pub encoding: String,
    /// The flush position: the end of the write-ahead log on disk.
    pub flush: Lsn,
}

impl ServerInfo {
    /// The first checkpoint of a slot, without resume point and marker.
    pub fn first_checkpoint(&self, slot: &str, plugin: Plugin, commit_end: Lsn) -> Checkpoint {
        Checkpoint {
            version: checkpoint::VERSION,
            system_identifier: self.system_identifier.clone(),
            timeline: self.timeline,
            database: self.database.clone(),
            database_oid: Some(self.database_oid),
            slot: slot.to_owned(),
            plugin: plugin.name().to_owned(),
            commit_end,
            resume: None,
            marker: None,
            ack_ahead: None,
            updated_at: String::new(),
            others: Map::new(),
        }
    }
}

/// A row of `pg_replication_slots`.
///
/// Versions of PostgreSQL have different columns. A missing column is read as `None` or `false`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotState {
    /// Null for a physical slot.
    pub plugin: Option<String>,
    /// Null for a physical slot.
    pub database: Option<String>,
    /// The process that reads the slot now.
    pub active_pid: Option<i32>,
    /// The LSN from which a peek decodes. Null if the server removed log that the slot needs.
    pub restart_lsn: Option<Lsn>,
    /// The slot's confirmed position. Null for a physical slot.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `lost` if the slot is lost. Up to version 15, removed log is the only cause.
    pub wal_status: Option<String>,
    /// Bytes of log until the slot may be lost. Null without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// The reason why the server invalidated the slot. Exists from version 17.
    pub invalidation_reason: Option<String>,
    /// Whether the slot was invalidated. Exists from version 16.
    ///
    /// From version 17, it is true only for a standby's causes: `rows_removed`, `wal_level_insufficient`.
    #[serde(default)]
    pub conflicting: Option<bool>,
    /// Whether standbys may synchronize the slot. Exists from version 17.
    #[serde(default)]
    pub failover: Option<bool>,
    /// Whether the slot is temporary.
    ///
    /// The server drops a temporary slot at the end of the session that created it.
    #[serde(default)]
    pub temporary: bool,
    /// Whether the slot sends a prepared transaction before its commit.
    #[serde(default)]
    pub two_phase: bool,
}

impl SlotState {
    /// Whether the creation of the slot has not finished yet.
    ///
    /// The server sets the slot's position only after all running write transactions have ended.
    fn is_being_created(&self) -> bool {
        let is_intact = self.invalidation_reason.is_none() && self.wal_status.as_deref() != Some("lost");
        is_intact && self.confirmed_flush_lsn.is_none()
    }
}

/// Start of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPosition {
    /// The slot's plugin.
    pub plugin: Plugin,
    /// The slot's own position.
    pub confirmed: Lsn,
    /// The acknowledged position: the checkpoint's, or the slot's own position if `has_checkpoint` is false.
    pub acknowledged: Lsn,
    /// The settled position: transactions up to it are proved to be in the stream, and are skipped.
    ///
    /// It equals the acknowledged position. After a change of timeline, it is the slot's own position. The
    /// drain then searches for the expected marker. If the slot returns it, the drain uses a later settled
    /// position.
    pub settled: Lsn,
    /// The resume point of the first transaction after `settled`.
    ///
    /// It exists if a row of that transaction is acknowledged. It also exists, with 0 rows, if an earlier
    /// drain stored only the end of that transaction. It is `None` if `is_promoted` is true or
    /// `has_checkpoint` is false.
    pub resume: Option<ResumePoint>,
    /// The marker that the slot must return, if any.
    pub expected: Option<Marker>,
    /// Whether the server's timeline differs from the checkpoint's. False if `has_checkpoint` is false.
    pub is_promoted: bool,
    /// Whether the drain continues at a stored checkpoint.
    ///
    /// It is false without a checkpoint, and with an accepted gap.
    pub has_checkpoint: bool,
}

/// Plugin and position of a slot that Spillway can read.
///
/// The checkpoint is not considered.
///
/// # Errors
/// The slot is lost or still being created, belongs to another database, or is of a kind that Spillway
/// cannot read.
pub fn readable_slot(
    slot: &str,
    server: &ServerInfo,
    state: &SlotState,
) -> Result<(Plugin, Lsn), ContinuityError> {
    let slot = slot.to_owned();
    let (Some(plugin), Some(database)) = (&state.plugin, &state.database) else {
        return Err(ContinuityError::Physical { slot });
    };
    if *database != server.database {
        return Err(ContinuityError::WrongDatabase {
            slot,
            actual: database.clone(),
            expected: server.database.clone(),
        });
    }
    if state.temporary {
        return Err(ContinuityError::Temporary { slot });
    }
    let confirmed = state.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    if let Some(pid) = state.active_pid.filter(|_| state.is_being_created()) {
        return Err(ContinuityError::BeingCreated { slot, pid });
    }
    if let Some(loss) = SlotLoss::of(state) {
        return Err(ContinuityError::SlotLost {
            slot,
            loss,
            confirmed,
        });
    }
    let plugin: Plugin = plugin.parse().map_err(|()| ContinuityError::PluginUnsupported {
        slot: slot.clone(),
        plugin: plugin.clone(),
    })?;
    if state.two_phase {
        return Err(ContinuityError::TwoPhase { slot });
    }
    if !plugin.converts_encoding() && server.encoding != "UTF8" && server.encoding != "SQL_ASCII" {
        return Err(ContinuityError::Encoding {
            database: server.database.clone(),
            encoding: server.encoding.clone(),
            plugin,
        });
    }
    Ok((plugin, confirmed))
}

/// The start of a drain.
///
/// With `accept_gap`, the operator accepts a discontinuity. The value must be the slot's position, and the
/// drain starts there.
///
/// # Errors
/// There is no slot, Spillway cannot read it, there is a discontinuity, or `accept_gap` is not the slot's
/// position. Each case has its own error.
pub fn start_position(
    slot: &str,
    server: &ServerInfo,
    state: Option<&SlotState>,
    checkpoint: Option<&Checkpoint>,
    accept_gap: Option<Lsn>,
) -> Result<StartPosition, ContinuityError> {
    let Some(state) = state else {
        return Err(missing_slot(slot, checkpoint));
    };
    let (plugin, confirmed) = readable_slot(slot, server, state)?;
    let without_checkpoint = StartPosition {
        plugin,
        confirmed,
        acknowledged: confirmed,
        settled: confirmed,
        resume: None,
        expected: None,
        is_promoted: false,
        has_checkpoint: false,
    };
    match (accept_gap, checkpoint) {
        (Some(given), _) if given != confirmed => Err(ContinuityError::AcceptedElsewhere {
            slot: slot.to_owned(),
            given,
            confirmed,
        }),
        (Some(_), _) | (None, None) => Ok(without_checkpoint),
        (None, Some(stored)) => {
            check_owner(slot, server, plugin, stored)?;
            check_history(slot, server, confirmed, stored)?;
            continue_at(slot, server, without_checkpoint, stored)
        }
    }
}

fn missing_slot(slot: &str, checkpoint: Option<&Checkpoint>) -> ContinuityError {
    let slot = slot.to_owned();
    match checkpoint {
        None => ContinuityError::NotSetUp { slot },
        Some(stored) => ContinuityError::SlotMissing {
            slot,
            checkpoint: stored.commit_end,
        },
    }
}

/// Checks that the checkpoint belongs to this slot.
///
/// The slot's name, its plugin and its database must be the same.
fn check_owner(
    slot: &str,
    server: &ServerInfo,
    plugin: Plugin,
    stored: &Checkpoint,
) -> Result<(), ContinuityError> {
    if stored.slot == slot && stored.is_of_database(server) && stored.plugin == plugin.name() {
        return Ok(());
    }
    Err(ContinuityError::CheckpointMismatch {
        slot: stored.slot.clone(),
        plugin: stored.plugin.clone(),
        database: stored.database.clone(),
        this_slot: slot.to_owned(),
        this_plugin: plugin,
        this_database: server.database.clone(),
    })
}

/// Checks that the checkpoint belongs to this server's history.
///
/// The system identifiers must be equal, and `confirmed_flush <= checkpoint <= flush` must hold.
fn check_history(
    slot: &str,
    server: &ServerInfo,
    confirmed: Lsn,
    stored: &Checkpoint,
) -> Result<(), ContinuityError> {
    let (slot, checkpoint) = (slot.to_owned(), stored.commit_end);
    if stored.system_identifier != server.system_identifier {
        return Err(ContinuityError::SystemChanged {
            slot,
            actual: server.system_identifier.clone(),
            expected: stored.system_identifier.clone(),
            checkpoint,
            confirmed,
        });
    }
    if server.flush < checkpoint {
        return Err(ContinuityError::Divergence {
            slot,
            flush: server.flush,
            checkpoint,
            confirmed,
        });
    }
    if confirmed > checkpoint {
        return Err(ContinuityError::Gap {
            slot,
            confirmed,
            checkpoint,
        });
    }
    Ok(())
}

/// The start of a drain whose checkpoint belongs to the server's history.
///
/// The checkpoint may have a marker that is before the slot's position: no newer one was written.
fn continue_at(
    slot: &str,
    server: &ServerInfo,
    start: StartPosition,
    stored: &Checkpoint,
) -> Result<StartPosition, ContinuityError> {
    let (confirmed, checkpoint) = (start.confirmed, stored.commit_end);
    let is_promoted = stored.timeline != server.timeline;
    // A slot does not return a marker that is before its confirmed position. A checkpoint may have such a
    // marker if no newer one was written, for example with `MARKERS=off`. The drain does not expect it.
    let expected = stored.marker.clone().filter(|marker| marker.lsn >= confirmed);
    if let Some(marker) = expected.as_ref().filter(|marker| marker.lsn > server.flush) {
        return Err(ContinuityError::MarkerMissing {
            slot: slot.to_owned(),
            number: marker.number,
            marker: marker.lsn,
            acknowledged: checkpoint,
        });
    }
    Ok(StartPosition {
        acknowledged: checkpoint,
        settled: if is_promoted { confirmed } else { checkpoint },
        resume: stored.resume.clone().filter(|_| !is_promoted),
        expected,
        is_promoted,
        has_checkpoint: true,
        ..start
    })
}

#[cfg(test)]
mod tests;
