//! The input and the outcome of a drain.

use std::sync::Mutex;

use super::backfill::BackfillRunner;
use super::report::Report;
use super::settings::Settings;
use crate::budget::Budget;
use crate::checkpoint::{AckAhead, Checkpoint};
use crate::continuity::StartPosition;
use crate::encode::{Envelope, Event};
use crate::error::Error;
use crate::window_sizing::WindowSizing;

/// The ports of a drain, and what outlives it.
#[derive(Debug)]
pub struct DrainPorts<'a, S, K, C> {
    /// The slot, and the tables beside it.
    pub slot: &'a mut S,
    /// The stream.
    pub stream: K,
    /// The place of the checkpoint.
    pub checkpoints: C,
    /// How large windows may be, as earlier invocations measured.
    pub sizing: &'a Mutex<WindowSizing>,
    /// The pending backfill.
    pub backfill: Option<BackfillRunner<C>>,
}

/// One drain: where it starts, and what it writes.
#[derive(Debug)]
pub struct DrainTask<'a> {
    /// What the drain is configured to do.
    pub settings: &'a Settings,
    /// How events are written.
    pub envelope: &'a Envelope,
    /// Where the drain starts.
    pub start: &'a StartPosition,
    /// The checkpoint to store; the drain fills in its position.
    pub checkpoint: Checkpoint,
    /// What the stream has beyond the stored checkpoint.
    pub ahead: Option<AckAhead>,
    /// Hash of what decides which events a change has.
    pub rules: String,
    /// An event that must be acknowledged before everything else.
    pub first_event: Option<Event>,
    /// The invocation's time.
    pub budget: Budget,
}

/// The outcome of a drain.
#[derive(Debug)]
pub struct DrainOutcome {
    /// What it did, also until it failed.
    pub report: Report,
    /// Why it failed, if it did.
    pub result: Result<(), Error>,
}
