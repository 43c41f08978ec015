//! Polling at the end of the log: the pauses, and the windows that are confirmed.
//!
//! Each poll decodes the log from `restart_lsn`. So the polls may take only a share of one core of the
//! server.
//!
//! All functions of an account together may store about three SSM parameters a second. So a drain stores its
//! checkpoint about once a second. The windows in between send their events, but are not confirmed. Such a
//! window writes no marker, stores no checkpoint and does not advance the slot. The next confirmed window
//! reads the same log again, and skips the events that were sent.

use std::time::{Duration, Instant};

use super::Drain;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::ports::{PeekRow, PeekRows, Slot, StateStore, Stream, TableSource, WalPositions};
use crate::window_sizing::Window;

/// Shortest pause between two polls.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause while nothing is written.
const IDLE_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause.
///
/// With a share of 5 %, a poll of more than 1.6 s would need a longer pause. It takes more than its share.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Time between two windows that are confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// Polling at the end of the log, and its unconfirmed windows.
#[derive(Debug)]
pub(super) struct TipPolling {
    pacing: PollPacing,
    /// Start of the polling; `None` while the drain does not poll.
    since: Option<Instant>,
    /// Last advance of the slot; at first the start of the drain.
    pub(super) confirmed_at: Instant,
    /// Position up to which unconfirmed windows have sent every transaction.
    ///
    /// Zero before the first such window.
    pub(super) sent: Lsn,
    /// Whether the current window is not confirmed.
    pub(super) is_unconfirmed: bool,
}

impl TipPolling {
    /// State before the first poll; `began` is the start of the drain.
    ///
    /// The polls take `share` of one core of the server, above 0 and at most 1.
    pub(super) fn new(share: f64, began: Instant) -> Self {
        TipPolling {
            pacing: PollPacing::new(share),
            since: None,
            confirmed_at: began,
            sent: Lsn::ZERO,
            is_unconfirmed: false,
        }
    }
}

/// Pauses between the polls at the end of the log.
#[derive(Debug)]
struct PollPacing {
    /// Share of one server core, above 0 and at most 1.
    share: f64,
    /// Time that a poll takes on the server. Later polls count more.
    poll: Option<Duration>,
    /// The last pause.
    pause: Duration,
}

impl PollPacing {
    /// Polls that take `share` of one server core.
    ///
    /// `share` is above 0 and at most 1.
    fn new(share: f64) -> Self {
        PollPacing {
            share,
            poll: None,
            pause: SHORTEST_PAUSE,
        }
    }

    /// The pause after a poll that took `took` on the server. `found` is whether it found new log.
    ///
    /// While nothing is written, the pauses double up to half a second.
    fn next(&mut self, took: Duration, found: bool) -> Duration {
        let poll = self.poll.map_or(took, |known| known * 3 / 4 + took / 4);
        self.poll = Some(poll);
        let shared = poll.mul_f64((1.0 - self.share) / self.share);
        let shortest = match found {
            true => SHORTEST_PAUSE,
            false => (self.pause * 2).min(IDLE_PAUSE),
        };
        self.pause = shared.clamp(shortest, LONGEST_PAUSE);
        self.pause
    }
}

impl<S: Slot + TableSource, K: Stream, C: StateStore> Drain<'_, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    /// Whether the next window is not confirmed.
    ///
    /// A backfill confirms each window, since its cursor is stored with it. A resumed transaction needs a
    /// window of its own.
    pub(super) fn leaves_unconfirmed(&self, began: Instant) -> bool {
        let is_at_tip = self.tip.since.is_some() && began.elapsed() < self.settings.linger;
        let is_plain = self.backfill.is_none()
            && self.search.is_none()
            && self.markers.expected.is_none()
            && self.sender.acknowledgements.position().resume.is_none();
        is_at_tip && is_plain && self.tip.confirmed_at.elapsed() < CONFIRM_INTERVAL
    }

    /// Positions of the log, and the next window without a marker.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(super) async fn unconfirmed_window(&mut self) -> Result<(WalPositions, Window), Error> {
        let positions = self.slot.wal_positions().await?;
        let sizing = *self.sizing();
        let window = sizing.next_window(self.confirmed, positions.readable, positions.restart);
        Ok((positions, window))
    }

    /// Position up to which every transaction is sent or confirmed.
    ///
    /// This drain has sent each transaction that is not confirmed.
    pub(super) fn sent(&self) -> Lsn {
        self.tip.sent.max(self.confirmed)
    }

    /// Confirms the transactions that unconfirmed windows have sent.
    ///
    /// # Errors
    /// The checkpoint cannot be stored, or the slot cannot be advanced.
    pub(super) async fn confirm_sent(&mut self) -> Result<(), Error> {
        match self.tip.sent > self.confirmed {
            true => self.confirm().await.map(drop),
            false => Ok(()),
        }
    }

    /// Waits at the end of the log for new changes. Returns whether to open another window.
    ///
    /// `began` is the start of the drain. `opened` and `positions` are the start and the positions of the
    /// last window. `found` is whether there was new log.
    pub(super) async fn linger(
        &mut self,
        began: Instant,
        opened: Instant,
        positions: WalPositions,
        found: bool,
    ) -> Result<bool, Error> {
        let polled = opened
            .elapsed()
            .saturating_sub(std::mem::take(&mut self.last_window.sending));
        let pause = self.tip.pacing.next(polled, found);
        let stay = began + self.settings.linger;
        if Instant::now() + pause < stay.min(self.budget.reading_deadline() - super::WINDOW_MIN_TIME) {
            self.tip.since.get_or_insert(opened);
            tokio::time::sleep(pause).await;
            // On a busy machine the pause may last longer. The end of the log was reached even so.
            return Ok(self.budget.reading_time_left(Instant::now()) >= super::WINDOW_MIN_TIME);
        }
        // From now on every window is confirmed, and the next one confirms what was sent before.
        self.tip.since = None;
        if self.tip.sent > self.confirmed {
            return Ok(self.budget.reading_time_left(Instant::now()) >= super::WINDOW_MIN_TIME);
        }
        // The positions were read a moment ago, and there was nothing to read.
        if !found {
            return Ok(false);
        }
        // Another peek is worthwhile if the new log is more than a twentieth of the log that it decodes
        // again.
        let decoded_again = positions.flush.bytes_since(positions.restart) / 20;
        let positions = self.slot.wal_positions().await?;
        self.report_lag(positions);
        let unread = positions.readable.bytes_since(self.confirmed);
        Ok(unread > super::TIP_BYTES.max(decoded_again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn polls_take_their_share_of_a_core() {
        let mut pacing = PollPacing::new(0.05);
        assert_eq!(pacing.next(MILLI * 10, true), MILLI * 190);
        // One slow poll counts for a quarter.
        assert_eq!(pacing.next(MILLI * 50, true), MILLI * 380);
        assert_eq!(PollPacing::new(0.5).next(MILLI * 100, true), MILLI * 100);
        assert_eq!(pacing.next(Duration::from_secs(60), true), LONGEST_PAUSE);
    }

    #[test]
    fn polls_become_rare_while_nothing_is_written() {
        let mut pacing = PollPacing::new(0.05);
        let pauses: Vec<Duration> = (0..6).map(|_| pacing.next(MILLI, false)).collect();
        let millis = [40, 80, 160, 320, 500, 500];
        assert_eq!(pauses, millis.map(|millis| MILLI * millis));
        assert_eq!(pacing.next(MILLI, true), SHORTEST_PAUSE);
    }
}
