//! Acknowledged changes after the acknowledged position.
//!
//! One slow lane holds the acknowledged position back, while the stream acknowledges later changes of the
//! other lanes. If the drain ends then, the next drain would send these changes again. So the checkpoint
//! stores them, and the next drain skips them if the log contains their marker.

use std::sync::Arc;

use super::Drain;
use crate::checkpoint::AckAhead;
use crate::ports::{PeekRow, PeekRows, Slot, StateStore, Stream, TableSource};

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
    /// A record without changes. With `is_stored`, checkpoints store later ones.
    pub(super) fn new(is_stored: bool) -> Self {
        AckAheadState {
            known: None,
            is_stored,
        }
    }
}

impl<S: Slot + TableSource, K: Stream, C: StateStore> Drain<'_, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    /// Searches the log for the marker of stored acknowledged changes.
    ///
    /// Without the marker, these changes are sent again.
    ///
    /// A server that was restored from an older copy has other changes at the same positions. While a
    /// backfill is pending, a change may complete a row of its chunk, so each change is sent.
    pub(super) async fn prove_ahead(&mut self, stored: Option<AckAhead>) {
        let is_usable = self.ahead.is_stored && self.start.stored && !self.start.promoted;
        let Some(stored) = stored.filter(|_| is_usable) else {
            return;
        };
        let slot = &self.settings.slot;
        let marker = stored.marker();
        let is_in_log = self
            .markers
            .is_in_log(self.slot, self.settings.plugin, marker, self.budget);
        match is_in_log.await {
            Ok(true) => {
                let (missing, before) = (stored.missing().len(), stored.before().commit_end);
                tracing::debug!(slot, missing, %before, "changes that were acknowledged ahead are not sent again");
                self.ahead.known = Some(Arc::new(stored));
            }
            Ok(false) => {
                let number = marker.number;
                tracing::debug!(
                    slot,
                    number,
                    "changes ahead are sent again: the log lacks their marker"
                );
            }
            Err(error) => {
                tracing::debug!(slot, error = %error, "changes ahead are sent again: no search for their marker");
            }
        }
    }

    /// Number of acknowledged events after the acknowledged position.
    ///
    /// It counts only events whose acknowledgement a checkpoint can remember.
    pub(super) fn events_ahead(&self) -> u64 {
        let acknowledgements = &self.sender.acknowledgements;
        match self.ahead.is_stored && acknowledgements.position().resume.is_none() {
            true => acknowledgements.acknowledged_ahead(),
            false => 0,
        }
    }

    /// Acknowledged changes after the acknowledged position.
    ///
    /// Returns `None` if there are none, or if they cannot be stated. The same holds if the position has a
    /// resume point: the checkpoint then stores no acknowledged changes.
    pub(super) fn ack_ahead(&self) -> Option<AckAhead> {
        let position = self.sender.acknowledgements.position();
        let has_some = self.events_ahead() > 0 || self.ahead.known.is_some();
        if !self.ahead.is_stored || position.resume.is_some() || !has_some {
            return None;
        }
        let outstanding = self.sender.outstanding()?;
        outstanding.ack_ahead(
            position.commit_end,
            self.ahead.known.as_deref(),
            self.markers.last(),
        )
    }
}
