//! Overlap of two windows.
//!
//! The server decodes the next window while the last events of the current window are sent.
//!
//! The server decodes a whole window before it sends the first row. Without the overlap, the shards of a
//! slow stream would be idle during that time. So the drain confirms the acknowledged events of the current
//! window, and the next window begins at their end. The server returns the transactions of the other events
//! again. The reader skips them.

use std::time::Duration;

use super::WindowRunner;
use super::closing::{WindowEnd, WindowOutcome};
use super::open_peek::ReadOutcome;
use crate::base::lsn::Lsn;
use crate::error::Error;
use crate::ports::{Slot, StateStore, Stream, TableSource};

/// Minimum remaining sending time for an overlap.
///
/// With less time, it is cheaper to wait. An overlap costs an advance of the slot, and the server decodes the
/// transactions of the queued events again.
const MIN_REMAINING_TIME: Duration = Duration::from_millis(200);

impl<S: Slot + TableSource, K: Stream, C: StateStore> WindowRunner<'_, S, K, C> {
    /// Ends a window before all its events are acknowledged.
    ///
    /// It does so only if that saves time. At most half of the window's log is then read again. Returns
    /// `None` if the drain must wait for the events of the window.
    ///
    /// # Errors
    /// The stream failed definitely, the lock is lost, or the slot cannot be advanced.
    pub(super) async fn overlap(&mut self, end: WindowEnd) -> Result<Option<WindowOutcome>, Error> {
        let read_upto = match end.read {
            ReadOutcome::Whole => end.window.upto,
            _ => self.sender.acknowledgements.last_end(),
        };
        if !self.may_overlap(end, read_upto) {
            return Ok(None);
        }
        let log_bytes = read_upto.bytes_since(self.confirmer.confirmed());
        self.send_until(|runner| runner.is_worth_an_overlap(read_upto, log_bytes))
            .await
            .0?;
        if !self.is_worth_an_overlap(read_upto, log_bytes) {
            return Ok(None);
        }
        self.confirm_meanwhile().await?;
        if read_upto.bytes_since(self.confirmer.confirmed()) > log_bytes / 2 {
            return Ok(None);
        }
        tracing::debug!(
            slot = self.settings.slot,
            confirmed = %self.confirmer.confirmed(),
            %read_upto,
            "the next window begins before all events are acknowledged"
        );
        self.confirmer.set_queued_upto(read_upto);
        Ok(Some(match end.read {
            ReadOutcome::Whole => WindowOutcome::Whole,
            _ => WindowOutcome::Partial,
        }))
    }

    /// Whether the next window may overlap this one.
    ///
    /// It then begins before all events of this one are acknowledged. `read_upto` is the position up to which
    /// this window has read every transaction.
    fn may_overlap(&self, end: WindowEnd, read_upto: Lsn) -> bool {
        let WindowEnd { window, readable, .. } = end;
        let must_wait = match end.read {
            ReadOutcome::Whole => window.upto == readable || self.confirmer.markers.ends_at(window),
            ReadOutcome::RowBoundReached => false,
            ReadOutcome::TooSlow | ReadOutcome::SectionSent | ReadOutcome::Stopped => true,
        };
        // A backfill excludes an overlap, because the end of a chunk is confirmed with its window. So does a
        // window without a new transaction: the next window could read the same rows again.
        !must_wait
            && !end.has_left_out
            && self.backfill.is_none()
            && !self.confirmer.is_unconfirmed()
            && read_upto > self.confirmer.confirmed_or_queued()
    }

    /// Whether the next window should begin now.
    ///
    /// This window has read every transaction up to `read_upto`. `log_bytes` is the log from the slot's
    /// position to there.
    fn is_worth_an_overlap(&self, read_upto: Lsn, log_bytes: u64) -> bool {
        let position = self.sender.acknowledgements.position();
        position.resume.is_none()
            && read_upto.bytes_since(position.commit_end) <= log_bytes / 2
            && self.sender.remaining_time() >= MIN_REMAINING_TIME
    }

    /// Stores the checkpoint and advances the slot. Sends the queued events meanwhile.
    async fn confirm_meanwhile(&mut self) -> Result<(), Error> {
        // A store that is already running has an earlier position. Only one store may run.
        let stored = self.confirmer.wait_for_store();
        self.sender.send_while(stored, &mut self.report).await?;
        self.confirmer.start_store(self.slot, &self.sender).await?;
        let stored = self.confirmer.wait_for_store();
        self.sender.send_while(stored, &mut self.report).await?;
        let acknowledged = self.sender.acknowledgements.acknowledged();
        let advancing = self.confirmer.advance_to_stored(self.slot, acknowledged);
        self.sender
            .send_while(advancing, &mut self.report)
            .await?
            .map(drop)
    }
}
