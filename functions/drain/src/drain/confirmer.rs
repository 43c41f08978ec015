//! Confirms acknowledged positions: stores the checkpoint, then advances the slot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ack_ahead::AckAheadState;
use super::checkpointer::Checkpointer;
use super::markers::Markers;
use super::sender::Sender;
use crate::base::budget::Budget;
use crate::base::lsn::Lsn;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::{AckAhead, AckPosition};
use crate::error::Error;
use crate::pack::AcknowledgedCounts;
use crate::ports::{Slot, SlotError, StateStore, Stream};

/// Whether the slot was advanced within the time for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdvanceOutcome {
    /// The slot was advanced, or no advance was due.
    InTime,
    /// The server did not advance the slot in time.
    OutOfTime,
}

/// Confirms the acknowledged position of one drain.
///
/// The slot never passes the stored checkpoint, nor the acknowledged position.
pub(super) struct Confirmer<C> {
    budget: Budget,
    checkpointer: Checkpointer<C>,
    pub(super) markers: Markers,
    ahead: AckAheadState,
    /// The slot's `confirmed_flush_lsn`.
    confirmed: Lsn,
    /// When the slot was last advanced; at first the drain's start.
    last_advance_at: Instant,
    /// Total duration of the advances; [`Confirmer::take_advance_duration`] resets it.
    advance_duration: Duration,
    /// Whether the current window stays unconfirmed. A later window confirms its events.
    is_unconfirmed: bool,
    /// End of the log that unconfirmed or overlapped windows have queued.
    ///
    /// Zero before the first such window.
    queued_upto: Lsn,
}

impl<C: StateStore> Confirmer<C> {
    /// A confirmer that has confirmed nothing yet.
    ///
    /// With `stores_ahead`, checkpoints also have the acknowledged changes after their position.
    pub(super) fn new(
        checkpointer: Checkpointer<C>,
        markers: Markers,
        confirmed: Lsn,
        budget: Budget,
        stores_ahead: bool,
    ) -> Self {
        Confirmer {
            budget,
            checkpointer,
            markers,
            ahead: AckAheadState::new(stores_ahead),
            confirmed,
            last_advance_at: Instant::now(),
            advance_duration: Duration::ZERO,
            is_unconfirmed: false,
            queued_upto: Lsn::ZERO,
        }
    }

    /// The slot's `confirmed_flush_lsn`.
    pub(super) fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// When the slot was last advanced; at first the drain's start.
    pub(super) fn last_advance_at(&self) -> Instant {
        self.last_advance_at
    }

    /// Returns the total duration of the advances since the last call.
    pub(super) fn take_advance_duration(&mut self) -> Duration {
        std::mem::take(&mut self.advance_duration)
    }

    /// End of the log that unconfirmed or overlapped windows have queued.
    ///
    /// Zero before the first such window.
    pub(super) fn queued_upto(&self) -> Lsn {
        self.queued_upto
    }

    /// The later one of the slot's position and [`Confirmer::queued_upto`].
    pub(super) fn confirmed_or_queued(&self) -> Lsn {
        self.queued_upto.max(self.confirmed)
    }

    /// Whether earlier windows have queued transactions that are not confirmed.
    pub(super) fn has_unconfirmed_events(&self) -> bool {
        self.queued_upto > self.confirmed
    }

    /// Begins a window. With `is_unconfirmed`, a later window confirms its events.
    pub(super) fn begin_window(&mut self, is_unconfirmed: bool) {
        self.is_unconfirmed = is_unconfirmed;
    }

    /// Whether the current window, or else the last one, stays unconfirmed.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.is_unconfirmed
    }

    /// Records that each transaction up to `lsn` is queued.
    ///
    /// An unconfirmed or overlapped window has queued them.
    pub(super) fn set_queued_upto(&mut self, lsn: Lsn) {
        self.queued_upto = lsn;
    }

    /// Skips changes that were acknowledged ahead: see [`AckAheadState::use_if_marker_found`].
    pub(super) async fn use_ahead_if_marker_found<S: Slot>(
        &mut self,
        stored: Option<AckAhead>,
        slot: &mut S,
        start: &StartPosition,
    ) -> Result<(), Error> {
        let used = self
            .ahead
            .use_if_marker_found(stored, slot, start, &self.markers, self.budget);
        used.await
    }

    /// The changes that were acknowledged ahead and are not sent again.
    pub(super) fn known_ahead(&self) -> Option<Arc<AckAhead>> {
        self.ahead.known.clone()
    }

    /// Makes [`Confirmer::stored`] return an earlier position.
    ///
    /// See [`Checkpointer::set_back`].
    pub(super) fn set_back(&mut self, position: AckPosition) {
        self.checkpointer.set_back(position);
    }

    /// As [`Confirmer::set_back`], and forgets the changes that were acknowledged ahead.
    ///
    /// These changes are sent again. Later checkpoints store no such changes.
    pub(super) fn restart(&mut self, position: AckPosition) {
        self.ahead = AckAheadState::new(false);
        self.checkpointer.set_back(position);
    }

    /// The position of the stored checkpoint; `None` before the first one.
    ///
    /// After [`Confirmer::set_back`], it is the position that was set, until the next store.
    pub(super) fn stored(&self) -> Option<&AckPosition> {
        self.checkpointer.stored()
    }

    /// This drain's counts of acknowledged changes up to the stored position.
    pub(super) fn stored_counts(&self) -> AcknowledgedCounts {
        self.checkpointer.stored_counts()
    }

    /// Stops the paced stores: see [`Checkpointer::close`].
    pub(super) async fn close(&mut self) {
        self.checkpointer.close().await;
    }

    /// Whether a paced store is running.
    pub(super) fn is_storing(&self) -> bool {
        self.checkpointer.is_storing()
    }

    /// Waits for the running store: see [`Checkpointer::wait_for_store`].
    pub(super) async fn wait_for_store(&mut self) {
        self.checkpointer.wait_for_store().await;
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
        let counts = sender.acknowledgements.counts();
        let ahead = self.ahead.for_checkpoint(sender, self.markers.last());
        self.update_marker(position);
        let check_lock = async || slot.check_lock().await;
        let stored = self
            .checkpointer
            .store(position, counts, ahead, deadline, check_lock);
        stored.await
    }

    /// Stores the checkpoint, then advances the slot.
    ///
    /// If the slot was not advanced in time, the next invocation reads the same transactions again, and skips
    /// them by position.
    ///
    /// Does nothing if the acknowledged position is after the last marker, and no confirmed window has read
    /// the log up to there: no window has then checked that the slot returns this marker. Returns
    /// [`AdvanceOutcome::InTime`] then. A later window reads this log again.
    ///
    /// # Errors
    /// The checkpoint cannot be stored, or the slot cannot be advanced.
    pub(super) async fn confirm<S: Slot, K: Stream>(
        &mut self,
        slot: &mut S,
        sender: &Sender<K>,
    ) -> Result<AdvanceOutcome, Error> {
        let position = sender.acknowledgements.position().clone();
        let acknowledged = position.commit_end;
        let is_unchecked = self.is_unconfirmed || acknowledged <= self.queued_upto;
        if acknowledged > self.confirmed && is_unchecked && self.markers.is_passed_at(acknowledged) {
            return Ok(AdvanceOutcome::InTime);
        }
        if acknowledged > self.confirmed {
            self.checkpointer
                .set_marker(self.markers.for_checkpoint(acknowledged));
        }
        self.store(slot, sender, &position).await?;
        if acknowledged <= self.confirmed {
            return Ok(AdvanceOutcome::InTime);
        }
        let stored = self.checkpointer.stored();
        assert!(
            stored.is_some_and(|stored| stored.commit_end >= acknowledged),
            "the slot advances only after the checkpoint is stored"
        );
        self.advance(slot, acknowledged).await
    }

    /// Advances the slot to the stored position.
    ///
    /// If `acknowledged` is earlier, the slot advances to that position.
    ///
    /// # Errors
    /// The slot cannot be advanced.
    pub(super) async fn advance_to_stored<S: Slot>(
        &mut self,
        slot: &mut S,
        acknowledged: Lsn,
    ) -> Result<AdvanceOutcome, Error> {
        // The stored position may be later: a drain that must read the last marker again starts before it.
        let stored = self.checkpointer.stored();
        let to = stored.map_or(Lsn::ZERO, |stored| stored.commit_end.min(acknowledged));
        match to > self.confirmed {
            true => self.advance(slot, to).await,
            false => Ok(AdvanceOutcome::InTime),
        }
    }

    async fn advance<S: Slot>(&mut self, slot: &mut S, to: Lsn) -> Result<AdvanceOutcome, Error> {
        let deadline = self.budget.confirming_deadline();
        let began = Instant::now();
        let time_left = deadline.saturating_duration_since(began);
        let advanced = tokio::time::timeout(time_left, slot.advance(to, time_left)).await;
        self.advance_duration += began.elapsed();
        match advanced {
            Ok(Ok(())) => {
                self.confirmed = to;
                self.last_advance_at = Instant::now();
                Ok(AdvanceOutcome::InTime)
            }
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                let slot = self.markers.slot_name();
                tracing::warn!(slot, %to, "the slot was not advanced in time");
                Ok(AdvanceOutcome::OutOfTime)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Time of the next paced store; `None` if there is none.
    ///
    /// An unconfirmed window may end after the last marker. A checkpoint there would have an older marker,
    /// which does not protect the events of this window. So it is not stored.
    pub(super) fn store_due<K: Stream>(&self, sender: &Sender<K>) -> Option<Instant> {
        let position = sender.acknowledgements.position();
        let due = self.checkpointer.due(position, self.ahead.event_count(sender));
        due.filter(|_| !self.is_unconfirmed)
    }

    /// Starts a checkpoint store, if this drainer still has the lock.
    ///
    /// # Errors
    /// The lock is lost, or a query failed.
    pub(super) async fn start_store<S: Slot, K: Stream>(
        &mut self,
        slot: &mut S,
        sender: &Sender<K>,
    ) -> Result<(), Error> {
        slot.check_lock().await?;
        let position = sender.acknowledgements.position();
        let ahead = self.ahead.for_checkpoint(sender, self.markers.last());
        self.update_marker(position);
        let counts = sender.acknowledgements.counts();
        self.checkpointer
            .start(position, counts, ahead, self.ahead.event_count(sender));
        Ok(())
    }

    /// Selects the marker to store with a checkpoint at `position`.
    ///
    /// It is a marker at or after the position. Without such a marker, the stored one stays.
    ///
    /// The stream may have changes after the position: sections of an open transaction, and changes that were
    /// acknowledged ahead. A server that was restored from an older copy may lack these changes, and still
    /// have an earlier marker. The last marker is after all of them: while markers are written, a confirmed
    /// window ends at or before the last marker.
    fn update_marker(&mut self, position: &AckPosition) {
        if let marker @ Some(_) = self.markers.for_checkpoint(position.commit_end) {
            self.checkpointer.set_marker(marker);
        }
    }
}
