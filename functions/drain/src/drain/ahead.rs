//! Acknowledged changes after the acknowledged position.
//!
//! One slow lane holds the acknowledged position back, while the stream acknowledges later changes of the
//! other lanes. If the drain ends then, the next drain would send these changes again. So the checkpoint
//! stores them, and the next drain skips them if the log contains their marker.

use std::sync::Arc;

use super::sender::Sender;
use crate::continuity::checkpoint::AckAhead;
use crate::continuity::marker::Marker;
use crate::ports::Stream;

/// The acknowledged changes that a drain skips, and whether it stores others.
#[derive(Debug)]
pub(super) struct AckAheadState {
    /// Changes of earlier drains that are acknowledged after the acknowledged position.
    ///
    /// `None` if none are stored, or if the log was not proved to contain their marker.
    pub(super) known: Option<Arc<AckAhead>>,
    /// Whether checkpoints store the acknowledged changes after their position.
    pub(super) is_stored: bool,
}

impl AckAheadState {
    /// A record without changes. With `is_stored`, checkpoints store later ones.
    pub(super) fn new(is_stored: bool) -> Self {
        AckAheadState {
            known: None,
            is_stored,
        }
    }

    /// Number of acknowledged events after the acknowledged position.
    ///
    /// It counts only events whose acknowledgement a checkpoint can remember.
    pub(super) fn events<K: Stream>(&self, sender: &Sender<K>) -> u64 {
        let acknowledgements = &sender.acknowledgements;
        match self.is_stored && acknowledgements.position().resume.is_none() {
            true => acknowledgements.acknowledged_ahead(),
            false => 0,
        }
    }

    /// Acknowledged changes after the acknowledged position, for a checkpoint.
    ///
    /// `last` is the last marker. Returns `None` if there are no such changes, or if they cannot be stated.
    /// The same holds if the position has a resume point: the checkpoint then stores no acknowledged changes.
    pub(super) fn to_store<K: Stream>(&self, sender: &Sender<K>, last: Option<&Marker>) -> Option<AckAhead> {
        let position = sender.acknowledgements.position();
        let has_some = self.events(sender) > 0 || self.known.is_some();
        if !self.is_stored || position.resume.is_some() || !has_some {
            return None;
        }
        let outstanding = sender.outstanding()?;
        outstanding.ack_ahead(position.commit_end, self.known.as_deref(), last)
    }
}
