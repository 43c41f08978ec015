//! Acknowledged changes after the acknowledged position.
//!
//! One slow lane holds the acknowledged position back, while the stream acknowledges later changes of the
//! other lanes. If the drain ends then, the next drain would send these changes again. So the checkpoint
//! stores them, and the next drain skips them if the log contains their marker.

use std::sync::Arc;

use super::markers::Markers;
use super::sender::Sender;
use crate::base::budget::Budget;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::AckAhead;
use crate::continuity::marker::Marker;
use crate::ports::{Slot, Stream};

/// The acknowledged changes that a drain skips, and whether it stores others.
#[derive(Debug)]
pub(super) struct AckAheadState {
    /// Changes of earlier drains that are acknowledged after the acknowledged position.
    ///
    /// `None` if none are stored, or if the log was not proved to contain their marker.
    pub(super) known: Option<Arc<AckAhead>>,
    /// Whether checkpoints store the acknowledged changes after their position.
    is_stored: bool,
}

impl AckAheadState {
    /// State without known changes. With `is_stored`, checkpoints store later ones.
    pub(super) fn new(is_stored: bool) -> Self {
        AckAheadState {
            known: None,
            is_stored,
        }
    }

    /// Searches the log for the marker of the stored changes.
    ///
    /// Without the marker, these changes are sent again: a server that was restored from an older copy has
    /// other changes at the same positions. While a backfill is pending, they are sent again, too. The
    /// chunk must see each change: it drops the old row, or takes a large value from it.
    pub(super) async fn prove<S: Slot>(
        &mut self,
        stored: Option<AckAhead>,
        slot: &mut S,
        start: &StartPosition,
        markers: &Markers,
        budget: Budget,
    ) {
        let is_usable = self.is_stored && start.stored && !start.promoted;
        let Some(stored) = stored.filter(|_| is_usable) else {
            return;
        };
        let name = markers.slot_name();
        let marker = stored.marker();
        match markers.is_in_log(slot, marker, budget).await {
            Ok(true) => {
                let (missing, bound) = (stored.missing().len(), stored.bound().commit_end);
                tracing::debug!(slot = name, missing, %bound,
                    "changes that were acknowledged ahead are not sent again");
                self.known = Some(Arc::new(stored));
            }
            Ok(false) => {
                let number = marker.number;
                tracing::debug!(
                    slot = name,
                    number,
                    "changes that were acknowledged ahead are sent again: the log lacks their marker"
                );
            }
            Err(error) => {
                tracing::debug!(slot = name, error = %error,
                    "changes that were acknowledged ahead are sent again: the search for the marker failed");
            }
        }
    }

    /// Number of acknowledged events after the acknowledged position.
    ///
    /// It counts only events whose acknowledgement a checkpoint can remember.
    pub(super) fn event_count<K: Stream>(&self, sender: &Sender<K>) -> u64 {
        let acknowledgements = &sender.acknowledgements;
        match self.is_stored && acknowledgements.position().resume.is_none() {
            true => acknowledgements.acknowledged_ahead(),
            false => 0,
        }
    }

    /// Acknowledged changes after the acknowledged position, for a checkpoint.
    ///
    /// Returns `None` if there are no such changes, or if they cannot be stated.
    /// The same holds if the position has a resume point: the checkpoint then stores no acknowledged changes.
    pub(super) fn for_checkpoint<K: Stream>(
        &self,
        sender: &Sender<K>,
        last_marker: Option<&Marker>,
    ) -> Option<AckAhead> {
        let position = sender.acknowledgements.position();
        let has_some = self.event_count(sender) > 0 || self.known.is_some();
        // Without a marker, only an earlier set can be stored again.
        let has_marker = last_marker.is_some() || self.known.is_some();
        if !self.is_stored || position.resume.is_some() || !has_some || !has_marker {
            return None;
        }
        let outstanding = sender.outstanding()?;
        outstanding.ack_ahead(position.commit_end, self.known.as_deref(), last_marker)
    }
}
