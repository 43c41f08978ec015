//! Whether the stream can go on where it stopped: what the server says of itself and of the slot, held against the
//! checkpoint. Pure; every answer but "go on" names both sides and the way out, and leaves the slot where it is.
//!
//! By construction `confirmed_flush <= checkpoint <= flush` holds: the slot moves after the checkpoint is stored, and only
//! what was flushed is ever read.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::checkpoint::{self, Checkpoint, ResumePoint};
use crate::lsn::Lsn;
use crate::marker::Marker;
use crate::plugin::Plugin;

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// As `server_version_num`: 150018 is 15.18.
    pub version: i32,
    /// See [`Checkpoint::system_identifier`].
    pub system_identifier: String,
    /// See [`Checkpoint::timeline`].
    pub timeline: u32,
    /// The database that we are connected to.
    pub database: String,
    /// `server_encoding`; text plugins write in it.
    pub encoding: String,
    /// Up to where the write-ahead log is on disk.
    pub flush: Lsn,
}

impl ServerInfo {
    /// The first checkpoint of a slot on this server: nothing is resumed, and no marker was written.
    pub fn first_checkpoint(&self, slot: &str, plugin: Plugin, commit_end: Lsn) -> Checkpoint {
        Checkpoint {
            version: checkpoint::VERSION,
            system_identifier: self.system_identifier.clone(),
            timeline: self.timeline,
            database: self.database.clone(),
            slot: slot.to_owned(),
            plugin: plugin.name().to_owned(),
            commit_end,
            progress: None,
            marker: None,
            updated_at: String::new(),
            others: Map::new(),
        }
    }
}

/// A row of `pg_replication_slots`. The columns differ between versions, so each that is not in all of them has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotState {
    /// Null for a physical slot.
    pub plugin: Option<String>,
    /// Null for a physical slot.
    pub database: Option<String>,
    /// Who reads it now.
    pub active_pid: Option<i32>,
    /// From where a peek decodes. Null when the slot was invalidated.
    pub restart_lsn: Option<Lsn>,
    /// What was confirmed. Null for a physical slot.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// From 13: `lost` when the log it needs is gone.
    pub wal_status: Option<String>,
    /// From 13, with `max_slot_wal_keep_size`: bytes until the slot may be lost.
    pub safe_wal_size: Option<i64>,
    /// From 17: why the server gave the slot up.
    pub invalidation_reason: Option<String>,
    /// From 16: whether it was invalidated on a standby.
    #[serde(default)]
    pub conflicting: Option<bool>,
    /// From 17: whether standbys keep a copy that is good after their promotion.
    #[serde(default)]
    pub failover: Option<bool>,
}

/// From where, and how, to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPosition {
    /// How to read the slot.
    pub plugin: Plugin,
    /// The slot's own position.
    pub confirmed: Lsn,
    /// Up to where the stream has everything: the checkpoint, or the slot's position when there is none.
    pub acknowledged: Lsn,
    /// Up to where transactions are surely the ones that were sent, so that they need not go again: the checkpoint. After a change
    /// of timeline the slot's own position, until a marker proves more.
    pub settled: Lsn,
    /// How much the stream has of the transaction behind `settled`.
    pub resume: Option<ResumePoint>,
    /// The marker that the slot has to give.
    pub expected: Option<Marker>,
    /// Whether the server is on another timeline than when the checkpoint was stored.
    pub promoted: bool,
    /// Whether a checkpoint was found.
    pub stored: bool,
}

/// Why the stream cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each means.
pub enum Discontinuity {
    #[error("there is no slot {slot}: run {{\"action\":\"setup\"}}")]
    NotSetUp { slot: String },
    #[error(
        "slot {slot} is gone, while the checkpoint says that it was drained to {checkpoint}: what was committed after that \
         may never be read. Create it again ({{\"action\":\"setup\"}}), then accept the gap with \
         {{\"action\":\"drain\",\"accept_gap\":\"<the new slot's confirmed_flush_lsn>\"}} and read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    SlotMissing { slot: String, checkpoint: Lsn },
    #[error(
        "slot {slot} is lost ({reason}): the server removed write-ahead log after {confirmed} that was not drained. Drop and \
         create the slot, accept the gap, read the tables again with {{\"action\":\"backfill\",\"repair\":true}}, and raise \
         max_slot_wal_keep_size"
    )]
    SlotLost {
        slot: String,
        reason: String,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot} belongs to database {actual}, and PGDATABASE is {expected}: set PGDATABASE={actual}, or SLOT_NAME to a slot of {expected}"
    )]
    WrongDatabase {
        slot: String,
        actual: String,
        expected: String,
    },
    #[error("slot {slot} is a physical slot: set SLOT_NAME to a logical one")]
    Physical { slot: String },
    #[error("slot {slot} uses the plugin {plugin}: Spillway reads pgoutput, wal2json and test_decoding")]
    PluginUnsupported { slot: String, plugin: String },
    #[error(
        "database {database} is encoded in {encoding}, which {plugin} writes as it is: use pgoutput, which converts to UTF-8"
    )]
    Encoding {
        database: String,
        encoding: String,
        plugin: Plugin,
    },
    #[error(
        "the checkpoint belongs to slot {slot} ({plugin}) of database {database}, and this is slot {this_slot} ({this_plugin}) of database \
         {this_database}: give every slot a CHECKPOINT_PARAMETER of its own, or accept the gap if the slot was made anew"
    )]
    CheckpointMismatch {
        slot: String,
        plugin: String,
        database: String,
        this_slot: String,
        this_plugin: Plugin,
        this_database: String,
    },
    #[error(
        "slot {slot} is on the cluster {actual}, and the checkpoint at {checkpoint} was made on the cluster {expected}: this is another \
         database server, whose history is not the one in the stream. Correct PGHOST, or accept the gap at {confirmed} and read the \
         tables again with {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    SystemChanged {
        slot: String,
        actual: String,
        expected: String,
        checkpoint: Lsn,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot}: the server has written its log up to {flush} only, and the checkpoint is already at {checkpoint}: the server was set \
         back (restored, or failed over to a standby that lacked commits), and the stream holds changes that it no longer has. \
         To go on, accept the gap at {confirmed}, and bring the stream to what the tables are now with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    Divergence {
        slot: String,
        flush: Lsn,
        checkpoint: Lsn,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot} was confirmed to {confirmed}, beyond the checkpoint at {checkpoint}: somebody else read it or made it anew, \
         and the changes in between are not in the stream. Accept the gap with \
         {{\"action\":\"drain\",\"accept_gap\":\"{confirmed}\"}}, then read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    Gap {
        slot: String,
        confirmed: Lsn,
        checkpoint: Lsn,
    },
    #[error(
        "slot {slot} does not give marker {number}, which was laid at {marker}, after the checkpoint at {acknowledged}: the slot lost its \
         place in a failover, or the server lost what was committed then, and changes after {acknowledged} may never be read. Inspection \
         at the slot's confirmed_flush_lsn with {{\"action\":\"status\"}}, accept the gap there with \
         {{\"action\":\"drain\",\"accept_gap\":\"<lsn>\"}}, and read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    MarkerMissing {
        slot: String,
        number: u64,
        marker: Lsn,
        acknowledged: Lsn,
    },
    #[error(
        "accept_gap names {given}, and slot {slot} stands at {confirmed}: look again with {{\"action\":\"status\"}}, it may have moved"
    )]
    AcceptedElsewhere {
        slot: String,
        given: Lsn,
        confirmed: Lsn,
    },
}

impl Discontinuity {
    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            Discontinuity::NotSetUp { .. } | Discontinuity::SlotMissing { .. } => "SlotMissing",
            Discontinuity::SlotLost { .. } => "SlotLost",
            Discontinuity::WrongDatabase { .. } => "SlotWrongDatabase",
            Discontinuity::Physical { .. } | Discontinuity::Encoding { .. } => "SlotUnusable",
            Discontinuity::PluginUnsupported { .. } => "PluginUnsupported",
            Discontinuity::CheckpointMismatch { .. } => "CheckpointMismatch",
            Discontinuity::SystemChanged { .. } => "SystemChanged",
            Discontinuity::Divergence { .. } => "Divergence",
            Discontinuity::Gap { .. } => "Gap",
            Discontinuity::MarkerMissing { .. } => "MarkerMissing",
            Discontinuity::AcceptedElsewhere { .. } => "EventInvalid",
        }
    }
}

/// Reads a row of `pg_replication_slots` that the server gave as JSON.
///
/// # Errors
/// A column that is known has another form than in PostgreSQL 13 to 18.
pub fn slot_state(row: Value) -> Result<SlotState, serde_json::Error> {
    serde_json::from_value(row)
}

/// What can be read from the slot at all, before any checkpoint is looked at.
///
/// # Errors
/// The slot is lost, or not one that this function can read.
pub fn readable(slot: &str, server: &ServerInfo, state: &SlotState) -> Result<(Plugin, Lsn), Discontinuity> {
    let slot = slot.to_owned();
    let (Some(plugin), Some(database)) = (&state.plugin, &state.database) else {
        return Err(Discontinuity::Physical { slot });
    };
    if *database != server.database {
        return Err(Discontinuity::WrongDatabase {
            slot,
            actual: database.clone(),
            expected: server.database.clone(),
        });
    }
    let confirmed = state.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    let reason = match (
        &state.invalidation_reason,
        state.wal_status.as_deref(),
        state.conflicting,
    ) {
        (Some(reason), _, _) => Some(reason.clone()),
        (None, Some("lost"), _) => Some("its write-ahead log was removed".to_owned()),
        (None, _, Some(true)) => Some("it conflicted with recovery".to_owned()),
        _ if state.restart_lsn.is_none() || state.confirmed_flush_lsn.is_none() => {
            Some("it has no position".to_owned())
        }
        _ => None,
    };
    if let Some(reason) = reason {
        return Err(Discontinuity::SlotLost {
            slot,
            reason,
            confirmed,
        });
    }
    let plugin: Plugin = plugin.parse().map_err(|()| Discontinuity::PluginUnsupported {
        slot,
        plugin: plugin.clone(),
    })?;
    if plugin != Plugin::Pgoutput && server.encoding != "UTF8" && server.encoding != "SQL_ASCII" {
        let (database, encoding) = (server.database.clone(), server.encoding.clone());
        return Err(Discontinuity::Encoding {
            database,
            encoding,
            plugin,
        });
    }
    Ok((plugin, confirmed))
}

/// Whether, and from where, to go on.
///
/// # Errors
/// Each break of continuity is its own definite error; see [`Discontinuity`].
pub fn check(
    slot: &str,
    server: &ServerInfo,
    state: Option<&SlotState>,
    checkpoint: Option<&Checkpoint>,
    accept_gap: Option<Lsn>,
) -> Result<StartPosition, Discontinuity> {
    let name = || slot.to_owned();
    let state = match (state, checkpoint) {
        (Some(state), _) => state,
        (None, None) => return Err(Discontinuity::NotSetUp { slot: name() }),
        (None, Some(known)) => {
            return Err(Discontinuity::SlotMissing {
                slot: name(),
                checkpoint: known.commit_end,
            });
        }
    };
    let (plugin, confirmed) = readable(slot, server, state)?;
    let afresh = StartPosition {
        plugin,
        confirmed,
        acknowledged: confirmed,
        settled: confirmed,
        resume: None,
        expected: None,
        promoted: false,
        stored: false,
    };
    if let Some(given) = accept_gap {
        return match given == confirmed {
            true => Ok(afresh),
            false => Err(Discontinuity::AcceptedElsewhere {
                slot: name(),
                given,
                confirmed,
            }),
        };
    }
    let Some(known) = checkpoint else {
        return Ok(afresh);
    };
    if known.slot != slot || known.database != server.database || known.plugin != plugin.name() {
        return Err(Discontinuity::CheckpointMismatch {
            slot: known.slot.clone(),
            plugin: known.plugin.clone(),
            database: known.database.clone(),
            this_slot: name(),
            this_plugin: plugin,
            this_database: server.database.clone(),
        });
    }
    let checkpoint = known.commit_end;
    if known.system_identifier != server.system_identifier {
        let (actual, expected) = (server.system_identifier.clone(), known.system_identifier.clone());
        return Err(Discontinuity::SystemChanged {
            slot: name(),
            actual,
            expected,
            checkpoint,
            confirmed,
        });
    }
    if server.flush < checkpoint {
        return Err(Discontinuity::Divergence {
            slot: name(),
            flush: server.flush,
            checkpoint,
            confirmed,
        });
    }
    if confirmed > checkpoint {
        return Err(Discontinuity::Gap {
            slot: name(),
            confirmed,
            checkpoint,
        });
    }
    let promoted = known.timeline != server.timeline;
    // By construction it is not before what the slot confirmed.
    let expected = known.marker.clone().filter(|marker| marker.lsn >= confirmed);
    if let Some(marker) = expected.as_ref().filter(|marker| marker.lsn > server.flush) {
        return Err(Discontinuity::MarkerMissing {
            slot: name(),
            number: marker.number,
            marker: marker.lsn,
            acknowledged: checkpoint,
        });
    }
    Ok(StartPosition {
        plugin,
        confirmed,
        acknowledged: checkpoint,
        settled: if promoted { confirmed } else { checkpoint },
        resume: known.progress.clone().filter(|_| !promoted),
        expected,
        promoted,
        stored: true,
    })
}

#[cfg(test)]
mod tests;
