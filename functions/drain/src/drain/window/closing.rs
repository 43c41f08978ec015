//! End of a window: the last acknowledgements, the chunk, and the confirmation.

use super::WindowRunner;
use super::open_peek::ReadOutcome;
use crate::base::lsn::Lsn;
use crate::base::window::Window;
use crate::drain::confirmer::AdvanceOutcome;
use crate::error::Error;
use crate::ports::{Slot, SlotError, StateStore, Stream, TableSource};

/// Outcome of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::drain) enum WindowOutcome {
    /// Every row up to the LSN bound was read.
    ///
    /// Each event is acknowledged, or the next window confirms it: see [`WindowRunner::overlap`].
    Whole,
    /// Reading ended before the LSN bound.
    ///
    /// The row bound was reached, or an unconfirmed window sent a section of a large transaction. For the
    /// events, the same holds as for `Whole`.
    Partial,
    /// The server exceeded the window's time.
    TooSlow,
    /// A transaction could not be resumed. The next window reads it from its beginning.
    ReadAgain,
    /// The time is over, or the slot was not advanced in time.
    OutOfTime,
}

/// The end of a window's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct WindowEnd {
    pub(super) window: Window,
    pub(super) read: ReadOutcome,
    /// Whether a transaction is left to a later window.
    pub(super) has_left_out: bool,
    /// The readable position when the window was opened.
    pub(super) readable: Lsn,
}

impl WindowEnd {
    /// Whether every transaction up to the LSN bound was read.
    ///
    /// A transaction that was left out ends after the bound, but its commit record may begin before it. The
    /// server does not send such a transaction again after the slot has advanced to the bound.
    pub(super) fn reached_bound(self) -> bool {
        self.read == ReadOutcome::Whole && !self.has_left_out
    }
}

impl<S: Slot + TableSource, K: Stream, C: StateStore> WindowRunner<'_, S, K, C> {
    /// Waits for the window's acknowledgements, then confirms the acknowledged position.
    ///
    /// There are four exceptions. If all events of an unconfirmed window are acknowledged, a later window
    /// confirms them. If the next window overlaps this one, that window confirms its last events: see
    /// [`WindowRunner::overlap`]. After a discontinuity, nothing is confirmed. If unconfirmed windows passed
    /// the last marker, nothing is confirmed either: see [`super::Confirmer::confirm`].
    ///
    /// After any other failure, the position is confirmed, too: the next window then does not send these
    /// events again. `failure` is the error that ended reading.
    pub(super) async fn close(
        &mut self,
        end: WindowEnd,
        failure: Option<Error>,
    ) -> Result<WindowOutcome, Error> {
        let WindowEnd { window, read, .. } = end;
        let mut failure = failure;
        if end.reached_bound() && failure.is_none() {
            failure = self.overdue_marker(window);
        }
        if end.reached_bound() && failure.is_none() {
            self.sender.acknowledgements.complete_window(window.upto);
        }
        if failure.is_none() {
            match self.overlap(end).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let (sent, is_all_sent) = self.send_rest().await;
        let mut failure = match (failure, sent.err()) {
            // After `NotResumed`, the drain would open another window. But sending has definitely failed.
            (Some(Error::NotResumed { .. }), sending @ Some(_)) => sending,
            (failure, sending) => failure.or(sending),
        };
        // Reading stopped inside of a transaction. A later window reads it again from the end of its last
        // acknowledged section. After a lack of space, the same drain reads it again, in a smaller window.
        let continues = matches!(failure, None | Some(Error::Slot(SlotError::OutOfSpace { .. })));
        if is_all_sent && continues && !read.is_complete() {
            self.sender.acknowledgements.discard_unfinished();
        }
        // After a discontinuity, neither the checkpoint nor the slot may advance.
        if let Some(error) = failure.take_if(|error| error.is_discontinuity()) {
            return Err(error);
        }
        self.check_resumed(failure.as_ref()).await?;
        let is_sent = is_all_sent && failure.is_none();
        if is_sent && self.confirmer.is_unconfirmed() && read != ReadOutcome::Stopped {
            return Ok(self.leave_unconfirmed(read));
        }
        let closed = self.close_chunk(is_sent && read.is_complete()).await;
        // The slot advances even if the cursor was not stored. The error is returned after that, and the next
        // invocation reads the chunk again.
        let advanced = self.confirmer.confirm(self.slot, &self.sender).await;
        let advanced = match closed {
            Ok(()) => advanced,
            Err(error) => advanced.and(Err(error)),
        };
        if let Some(failure) = failure {
            return self.close_failed(failure, advanced);
        }
        let is_confirmed = advanced? == AdvanceOutcome::InTime && is_all_sent;
        Ok(match read {
            ReadOutcome::Whole if is_confirmed => WindowOutcome::Whole,
            ReadOutcome::RowBoundReached if is_confirmed => WindowOutcome::Partial,
            ReadOutcome::TooSlow if is_confirmed => WindowOutcome::TooSlow,
            _ => WindowOutcome::OutOfTime,
        })
    }

    /// Fails if a transaction was not resumed because the server lost it.
    ///
    /// # Errors
    /// As [`super::Markers::check_first_to_return`].
    async fn check_resumed(&mut self, failure: Option<&Error>) -> Result<(), Error> {
        let (markers, acknowledged) = (&self.confirmer.markers, self.start.acknowledged);
        match failure {
            Some(Error::NotResumed { .. }) => {
                markers
                    .check_first_to_return(self.slot, acknowledged, self.budget)
                    .await
            }
            _ => Ok(()),
        }
    }

    /// Ends an unconfirmed window whose events were acknowledged.
    ///
    /// A window whose reading ended before its LSN bound is not confirmed either. Otherwise the slot could
    /// pass the last marker before a window has checked it, and no later window could check it.
    fn leave_unconfirmed(&mut self, read: ReadOutcome) -> WindowOutcome {
        let sent = self.sender.acknowledgements.position().commit_end;
        self.confirmer.set_queued_upto(sent);
        match read {
            ReadOutcome::RowBoundReached | ReadOutcome::SectionSent => WindowOutcome::Partial,
            ReadOutcome::TooSlow => WindowOutcome::TooSlow,
            ReadOutcome::Whole | ReadOutcome::Stopped => WindowOutcome::Whole,
        }
    }

    /// Ends a window that failed.
    ///
    /// A transaction that could not be resumed is read again from its beginning.
    fn close_failed(
        &mut self,
        failure: Error,
        advanced: Result<AdvanceOutcome, Error>,
    ) -> Result<WindowOutcome, Error> {
        if let Error::NotResumed { .. } = &failure {
            advanced?;
            tracing::warn!(
                slot = self.settings.slot,
                error_type = failure.name(),
                "{}",
                failure.chain()
            );
            self.sender.acknowledgements.restart_transaction();
            // The server returned other rows than before. So what was acknowledged ahead is sent again.
            let position = self.sender.acknowledgements.position().clone();
            self.confirmer.restart(position);
            return Ok(WindowOutcome::ReadAgain);
        }
        if let Err(error) = advanced {
            self.warn_of_unconfirmed(&error);
        }
        Err(failure)
    }

    /// Logs an error that prevented the confirmation after another failure.
    pub(in crate::drain) fn warn_of_unconfirmed(&self, error: &Error) {
        tracing::warn!(
            slot = self.settings.slot,
            error = %error.chain(),
            "acknowledged changes were not confirmed"
        );
    }

    /// The error if the expected marker is missing.
    ///
    /// The window was read to its LSN bound.
    fn overdue_marker(&self, window: Window) -> Option<Error> {
        let markers = &self.confirmer.markers;
        let overdue = markers.overdue_at(window.upto)?;
        Some(markers.missing(overdue, self.start.acknowledged))
    }

    /// Closes the chunk of the backfill at the end of a window.
    async fn close_chunk(&mut self, is_acknowledged: bool) -> Result<(), Error> {
        let acknowledged = self.sender.acknowledgements.acknowledged();
        match &mut self.backfill {
            Some(backfill) => {
                let closed = backfill.close_chunk(self.slot, is_acknowledged, acknowledged, self.budget);
                closed.await
            }
            None => Ok(()),
        }
    }
}
