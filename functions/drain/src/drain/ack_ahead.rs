//! Acknowledged changes after the acknowledged position.
//!
//! A slow lane delays the acknowledged position, while the stream acknowledges later changes of other lanes.
//! If the drain ends then, the next drain would send these later changes again. So the checkpoint stores a
//! bound, and the changes before it that are not acknowledged. The next drain skips all other changes before
//! the bound, if the log contains the stored marker.

use std::sync::Arc;

use super::markers::Markers;
use super::sender::Sender;
use crate::base::budget::Budget;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::AckAhead;
use crate::continuity::marker::Marker;
use crate::error::Error;
use crate::ports::{Slot, Stream};

/// The acknowledged changes that a drain skips, and those that it stores.
#[derive(Debug)]
pub(super) struct AckAheadState {
    /// Acknowledged changes of earlier drains, after the acknowledged position.
    ///
    /// `None` if none are stored, or if they are sent again: see [`AckAheadState::use_if_marker_found`].
    pub(super) known: Option<Arc<AckAhead>>,
    /// Whether checkpoints store the acknowledged changes after their position.
    stores_ahead: bool,
}

impl AckAheadState {
    /// State without known changes.
    ///
    /// With `stores_ahead`, checkpoints store the changes that this drain acknowledges ahead.
    pub(super) fn new(stores_ahead: bool) -> Self {
        AckAheadState {
            known: None,
            stores_ahead,
        }
    }

    /// Uses the stored changes if the log contains their marker.
    ///
    /// They are then not sent again. They are sent again after a promotion, if the search fails, and while a
    /// backfill is pending. Each change must be applied to a pending chunk, which then drops its older row.
    ///
    /// # Errors
    /// The log lacks the marker: the stream has changes that the server no longer has.
    pub(super) async fn use_if_marker_found<S: Slot>(
        &mut self,
        stored: Option<AckAhead>,
        slot: &mut S,
        start: &StartPosition,
        markers: &Markers,
        budget: Budget,
    ) -> Result<(), Error> {
        let is_usable = self.stores_ahead && start.has_checkpoint && !start.is_promoted;
        let Some(stored) = stored.filter(|_| is_usable) else {
            return Ok(());
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
            Ok(false) => return Err(markers.missing(marker, start.acknowledged)),
            Err(error) => {
                tracing::debug!(slot = name, error = %error,
                    "changes that were acknowledged ahead are sent again: the search for the marker failed");
            }
        }
        Ok(())
    }

    /// Number of acknowledged events after the acknowledged position.
    ///
    /// It is 0 if no checkpoint can store them: without `stores_ahead`, or if the position has a resume
    /// point.
    pub(super) fn event_count<K: Stream>(&self, sender: &Sender<K>) -> u64 {
        let acknowledgements = &sender.acknowledgements;
        match self.stores_ahead && acknowledgements.position().resume.is_none() {
            true => acknowledgements.acknowledged_ahead(),
            false => 0,
        }
    }

    /// Acknowledged changes after the acknowledged position, for a checkpoint.
    ///
    /// Returns `None` if there are no such changes, if they cannot be determined, or if the position has a
    /// resume point.
    pub(super) fn for_checkpoint<K: Stream>(
        &self,
        sender: &Sender<K>,
        last_marker: Option<&Marker>,
    ) -> Option<AckAhead> {
        let position = sender.acknowledgements.position();
        let has_some = self.event_count(sender) > 0 || self.known.is_some();
        // The changes are stored with a marker: the last one, or that of the known changes.
        let has_marker = last_marker.is_some() || self.known.is_some();
        if !self.stores_ahead || position.resume.is_some() || !has_some || !has_marker {
            return None;
        }
        let outstanding = sender.outstanding()?;
        outstanding.ack_ahead(position.commit_end, self.known.as_deref(), last_marker)
    }
}
