//! Errors of the continuity check: the slot cannot be used, or cannot continue the stream.

use super::SlotLoss;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::plugin::Plugin;

/// Reason why the slot cannot be used, or cannot continue the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The message of each variant is its documentation.
pub enum ContinuityError {
    #[error("there is no slot {slot}: run {{\"action\":\"setup\"}}")]
    NotSetUp { slot: String },
    #[error(
        "slot {slot} does not exist, and the checkpoint says that it was drained to {checkpoint}: changes \
         that were committed after that may be lost. Create it again ({{\"action\":\"setup\"}}), then accept \
         the gap with {{\"action\":\"drain\",\"accept_gap\":\"<the new slot's confirmed_flush_lsn>\"}} and \
         read the tables again with {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    SlotMissing { slot: String, checkpoint: Lsn },
    #[error(
        "slot {slot} is lost ({loss}): the server cannot decode the changes after {confirmed} that were not \
         drained. Drop the slot, create it again, accept the gap, and read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}{advice}",
        advice = .loss.advice()
    )]
    SlotLost {
        slot: String,
        loss: SlotLoss,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot} belongs to database {actual}, and PGDATABASE is {expected}: set PGDATABASE={actual}, or \
         SLOT_NAME to a slot of {expected}"
    )]
    WrongDatabase {
        slot: String,
        actual: String,
        expected: String,
    },
    #[error(
        "slot {slot} has no position yet: server process {pid} is creating it, and waits for transactions \
         that are writing. A later tick continues"
    )]
    BeingCreated { slot: String, pid: i32 },
    #[error("slot {slot} is a physical slot: set SLOT_NAME to a logical one")]
    Physical { slot: String },
    #[error(
        "slot {slot} is a temporary slot, which ends with the session that created it: set SLOT_NAME to \
         another slot"
    )]
    Temporary { slot: String },
    #[error(
        "slot {slot} was created with two_phase=true: it sends prepared transactions before they are \
         committed, and they may still be rolled back. Drop it with select \
         pg_drop_replication_slot('{slot}'), and create it again with {{\"action\":\"setup\"}}; if it was \
         drained before, accept the gap and read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    TwoPhase { slot: String },
    #[error(
        "setup names the plugin {given}, and slot {slot} uses {plugin}, which cannot be changed: send setup \
         without plugin, or drop the slot first"
    )]
    OtherPlugin {
        slot: String,
        given: Plugin,
        plugin: Plugin,
    },
    #[error("slot {slot} uses the plugin {plugin}: Spillway reads only {}", Plugin::NAMES)]
    PluginUnsupported { slot: String, plugin: String },
    #[error(
        "database {database} is encoded in {encoding}, and {plugin} does not convert it: use pgoutput, which \
         converts to UTF-8"
    )]
    Encoding {
        database: String,
        encoding: String,
        plugin: Plugin,
    },
    #[error(
        "the checkpoint belongs to slot {slot} ({plugin}) of database {database}, and this is slot \
         {this_slot} ({this_plugin}) of database {this_database}. If two slots use this parameter, set \
         another CHECKPOINT_PARAMETER for each. Accept the gap if the slot or its database was created \
         again, or if the database was renamed and an older Spillway stored the checkpoint"
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
        "slot {slot} is on the cluster {actual}, and the checkpoint at {checkpoint} was made on the cluster \
         {expected}: this is another database server, and its history is not the one in the stream. If \
         PGHOST is wrong, correct it. If another stack uses the same checkpoint parameter, set another \
         CHECKPOINT_PARAMETER. Otherwise accept the gap at {confirmed}, and read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    SystemChanged {
        slot: String,
        actual: String,
        expected: String,
        checkpoint: Lsn,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot}: the server's log ends at {flush}, and the checkpoint is already at {checkpoint}. The \
         server was set back (restored, or failed over to a standby that lacked commits), and the stream \
         contains changes that the server no longer has. To continue, accept the gap at {confirmed}, and \
         repair the stream with {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    Divergence {
        slot: String,
        flush: Lsn,
        checkpoint: Lsn,
        confirmed: Lsn,
    },
    #[error(
        "slot {slot} was confirmed to {confirmed}, beyond the checkpoint at {checkpoint}: another program \
         read it, or it was created again. The changes in between are not in the stream. Accept the gap with \
         {{\"action\":\"drain\",\"accept_gap\":\"{confirmed}\"}}, then read the tables again with \
         {{\"action\":\"backfill\",\"repair\":true}}"
    )]
    Gap {
        slot: String,
        confirmed: Lsn,
        checkpoint: Lsn,
    },
    #[error(
        "slot {slot} does not send marker {number}, which was written at {marker} (the checkpoint is at \
         {acknowledged}): the slot lost its position in a failover, or the server lost commits. Changes \
         after {acknowledged} may be lost. Read the slot's confirmed_flush_lsn with \
         {{\"action\":\"status\"}}, accept the gap there with \
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
        "accept_gap names {given}, and slot {slot} is at {confirmed}: it may have advanced. Read its \
         confirmed_flush_lsn again with {{\"action\":\"status\"}}"
    )]
    AcceptedElsewhere {
        slot: String,
        given: Lsn,
        confirmed: Lsn,
    },
}

impl ContinuityError {
    /// Kind of the error: transient if the next tick may succeed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // A session is still creating the slot.
            ContinuityError::BeingCreated { .. } => ErrorKind::Transient,
            ContinuityError::NotSetUp { .. }
            | ContinuityError::SlotMissing { .. }
            | ContinuityError::SlotLost { .. }
            | ContinuityError::WrongDatabase { .. }
            | ContinuityError::Physical { .. }
            | ContinuityError::Temporary { .. }
            | ContinuityError::TwoPhase { .. }
            | ContinuityError::OtherPlugin { .. }
            | ContinuityError::PluginUnsupported { .. }
            | ContinuityError::Encoding { .. }
            | ContinuityError::CheckpointMismatch { .. }
            | ContinuityError::SystemChanged { .. }
            | ContinuityError::Divergence { .. }
            | ContinuityError::Gap { .. }
            | ContinuityError::MarkerMissing { .. }
            | ContinuityError::AcceptedElsewhere { .. } => ErrorKind::Definite,
        }
    }

    /// Whether the error is a discontinuity: the slot does not continue where the stream ended.
    ///
    /// The causes of the other errors are a missing setup, an unusable slot, a wrong setting and a wrong
    /// event.
    pub fn is_discontinuity(&self) -> bool {
        matches!(
            self,
            ContinuityError::SlotMissing { .. }
                | ContinuityError::SlotLost { .. }
                | ContinuityError::CheckpointMismatch { .. }
                | ContinuityError::SystemChanged { .. }
                | ContinuityError::Divergence { .. }
                | ContinuityError::Gap { .. }
                | ContinuityError::MarkerMissing { .. }
        )
    }

    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        match self {
            ContinuityError::NotSetUp { .. } => "NotSetUp",
            ContinuityError::SlotMissing { .. } => "SlotMissing",
            ContinuityError::SlotLost { .. } => "SlotLost",
            ContinuityError::WrongDatabase { .. } => "SlotWrongDatabase",
            ContinuityError::BeingCreated { .. } => "Busy",
            ContinuityError::Physical { .. }
            | ContinuityError::Temporary { .. }
            | ContinuityError::Encoding { .. } => "SlotUnusable",
            ContinuityError::TwoPhase { .. } => "SlotTwoPhase",
            ContinuityError::PluginUnsupported { .. } => "PluginUnsupported",
            ContinuityError::CheckpointMismatch { .. } => "CheckpointMismatch",
            ContinuityError::SystemChanged { .. } => "SystemChanged",
            ContinuityError::Divergence { .. } => "Divergence",
            ContinuityError::Gap { .. } => "Gap",
            ContinuityError::MarkerMissing { .. } => "MarkerMissing",
            ContinuityError::AcceptedElsewhere { .. } | ContinuityError::OtherPlugin { .. } => "EventInvalid",
        }
    }
}
