//! Input and outcome of a drain.

use std::sync::Mutex;

use super::backfill::BackfillRunner;
use super::report::Report;
use super::settings::Settings;
use super::window_sizing::WindowSizing;
use crate::base::budget::Budget;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::{AckAhead, Checkpoint};
use crate::encode::{Envelope, Event};
use crate::error::Error;

/// The ports of a drain, and the state that outlives it.
#[derive(Debug)]
pub struct DrainPorts<'a, S, K, C> {
    /// The slot, and the tables of its database.
    pub slot: &'a mut S,
    /// The stream.
    pub stream: K,
    /// The store of the checkpoint.
    pub checkpoint_store: C,
    /// The size of windows, as earlier invocations measured it.
    pub sizing: &'a Mutex<WindowSizing>,
    /// The pending backfill.
    pub backfill: Option<BackfillRunner<C>>,
}

/// The input of one drain.
#[derive(Debug)]
pub struct DrainTask<'a> {
    /// The settings of the drain.
    pub settings: &'a Settings,
    /// The form of the events.
    pub envelope: &'a Envelope,
    /// The start of the drain: positions, resume point and expected marker.
    pub start: &'a StartPosition,
    /// The checkpoint to store.
    ///
    /// The drain fills in its position, resume point, marker and acknowledged changes.
    pub checkpoint: Checkpoint,
    /// Acknowledged changes after the position of the stored checkpoint.
    ///
    /// `None` if none are stored, or if they are not usable with the present settings.
    pub ahead: Option<AckAhead>,
    /// Hash of the settings that decide which events a change has.
    pub settings_hash: String,
    /// The control event of an accepted gap, if any.
    ///
    /// The stream must acknowledge it before the first position is stored.
    pub first_event: Option<Event>,
    /// The invocation's time.
    pub budget: Budget,
}

/// The outcome of a drain.
#[derive(Debug)]
pub struct DrainOutcome {
    /// The report, also of a drain that failed.
    pub report: Report,
    /// The error that ended the drain, if any.
    pub result: Result<(), Error>,
}
