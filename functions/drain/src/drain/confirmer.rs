//! Confirms acknowledged positions: stores the checkpoint, then advances the slot.

use std::sync::Arc;
use std::time::Instant;

use super::ahead::AckAheadState;
use super::checkpointer::Checkpointer;
use super::markers::Markers;
use super::sender::Sender;
use super::settings::Settings;
use crate::base::budget::Budget;
use crate::base::lsn::Lsn;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::{AckAhead, AckPosition};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::{Slot, SlotError, StateStore, Stream};

/// Confirms the acknowledged position of one drain.
///
/// It keeps `confirmed_flush <= checkpoint <= acknowledged`.
pub(super) struct Confirmer<C> {
    /// The slot's name.
    slot: String,
    plugin: Plugin,
    budget: Budget,
    pub(super) checkpointer: Checkpointer<C>,
    pub(super) markers: Markers,
    pub(super) ahead: AckAheadState,
    /// The slot's `confirmed_flush_lsn`.
    pub(super) confirmed: Lsn,
    /// Last advance of the slot; at first the start of the drain.
    pub(super) confirmed_at: Instant,
    /// Whether the current window is not confirmed: a later one confirms what it sends.
    pub(super) is_deferred: bool,
    /// Position up to which such windows have sent every transaction.
    ///
    /// Zero before the first such window.
    pub(super) deferred: Lsn,
}

impl<C: StateStore> Confirmer<C> {
    /// A confirmer that has confirmed nothing yet.
    ///
    /// With `stores_ahead`, checkpoints also have what is acknowledged after their position.
    pub(super) fn new(
        settings: &Settings,
        start: &StartPosition,
        budget: Budget,
        checkpointer: Checkpointer<C>,
        stores_ahead: bool,
    ) -> Self {
        Confirmer {
            slot: settings.slot.clone(),
            plugin: settings.plugin,
            budget,
            markers: Markers::new(settings, checkpointer.marker(), start.expected.clone()),
            checkpointer,
            ahead: AckAheadState::new(stores_ahead),
            confirmed: start.confirmed,
            confirmed_at: Instant::now(),
            is_deferred: false,
            deferred: Lsn::ZERO,
        }
    }

    /// Position up to which every transaction is sent or confirmed.
    ///
    /// This drain has sent each transaction that is not confirmed.
    pub(super) fn sent(&self) -> Lsn {
        self.deferred.max(self.confirmed)
    }

    /// Whether a window has sent transactions that are not confirmed.
    pub(super) fn has_unconfirmed(&self) -> bool {
        self.deferred > self.confirmed
    }

    /// Ends a window up to `sent` that is not confirmed.
    pub(super) fn defer(&mut self, sent: Lsn) {
        self.deferred = sent;
    }

    /// Searches the log for the marker of stored acknowledged changes.
    ///
    /// Without the marker, these changes are sent again.
    ///
    /// A server that was restored from an older copy has other changes at the same positions. While a
    /// backfill is pending, a change may complete a row of its chunk, so each change is sent.
    pub(super) async fn prove_ahead<S: Slot>(
        &mut self,
        slot: &mut S,
        start: &StartPosition,
        stored: Option<AckAhead>,
    ) {
        let is_usable = self.ahead.is_stored && start.stored && !start.promoted;
        let Some(stored) = stored.filter(|_| is_usable) else {
            return;
        };
        let name = &self.slot;
        let marker = stored.marker();
        let is_in_log = self.markers.is_in_log(slot, self.plugin, marker, self.budget);
        match is_in_log.await {
            Ok(true) => {
                let (missing, before) = (stored.missing().len(), stored.before().commit_end);
                tracing::debug!(slot = name, missing, %before,
                    "changes that were acknowledged ahead are not sent again");
                self.ahead.known = Some(Arc::new(stored));
            }
            Ok(false) => {
                let number = marker.number;
                tracing::debug!(
                    slot = name,
                    number,
                    "changes ahead are sent again: the log lacks their marker"
                );
            }
            Err(error) => {
                tracing::debug!(slot = name, error = %error,
                    "changes ahead are sent again: no search for their marker");
            }
        }
    }

    /// Stores a position as the checkpoint, and waits for it.
    ///
    /// # Errors
    /// As [`Checkpointer::store`].
    pub(super) async fn store<S: Slot, K: Stream>(
        &mut self,
        slot: &mut S,
        sender: &Sender<K>,
        position: &AckPosition,
    ) -> Result<(), Error> {
        let deadline = self.budget.confirming_deadline();
        let ahead = self.ahead.to_store(sender, self.markers.last());
        self.checkpointer
            .store(position, ahead, deadline, async || slot.check_lock().await)
            .await
    }

    /// Stores the checkpoint, then advances the slot.
    ///
    /// Returns `false` if the slot was not advanced in time. The next invocation then reads these
    /// transactions again, and skips them by position.
    ///
    /// # Errors
    /// The checkpoint cannot be stored, or the slot cannot be advanced.
    pub(super) async fn confirm<S: Slot, K: Stream>(
        &mut self,
        slot: &mut S,
        sender: &Sender<K>,
    ) -> Result<bool, Error> {
        let position = sender.acknowledgements.position().clone();
        let acknowledged = position.commit_end;
        if acknowledged > self.confirmed {
            self.checkpointer
                .set_marker(self.markers.for_checkpoint(acknowledged));
        }
        self.store(slot, sender, &position).await?;
        if acknowledged <= self.confirmed {
            return Ok(true);
        }
        let stored = self.checkpointer.stored();
        assert!(
            stored.is_some_and(|stored| stored.commit_end >= acknowledged),
            "the slot advances only after the checkpoint is stored"
        );
        let deadline = self.budget.confirming_deadline();
        let time_left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(time_left, slot.advance(acknowledged, time_left)).await {
            Ok(Ok(())) => {
                self.confirmed = acknowledged;
                self.confirmed_at = Instant::now();
                Ok(true)
            }
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                tracing::warn!(slot = self.slot, to = %acknowledged, "the slot was not advanced in time");
                Ok(false)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Time of the next paced store; `None` if there is none.
    ///
    /// A window that is not confirmed may pass the last marker, so its positions are not stored.
    pub(super) fn store_due<K: Stream>(&self, sender: &Sender<K>) -> Option<Instant> {
        let position = sender.acknowledgements.position();
        let due = self.checkpointer.due(position, self.ahead.events(sender));
        due.filter(|_| !self.is_deferred)
    }

    /// Starts a checkpoint store, if this drainer still has the lock.
    ///
    /// # Errors
    /// The lock is lost, or the server cannot be asked.
    pub(super) async fn start_store<S: Slot, K: Stream>(
        &mut self,
        slot: &mut S,
        sender: &Sender<K>,
    ) -> Result<(), Error> {
        slot.check_lock().await?;
        let position = sender.acknowledgements.position();
        // A server that was restored from an older copy may have a marker before the position, and yet other
        // changes after it. So the checkpoint needs a marker at or after the position.
        if !self.checkpointer.has_marker_for(position.commit_end)
            && let marker @ Some(_) = self.markers.for_checkpoint(position.commit_end)
        {
            self.checkpointer.set_marker(marker);
        }
        let ahead = self.ahead.to_store(sender, self.markers.last());
        self.checkpointer
            .start(position, ahead, self.ahead.events(sender));
        Ok(())
    }
}
