//! Polling at the end of the log: pauses and unconfirmed windows.
//!
//! Each poll decodes the log from `restart_lsn`. So the polls may take only a share of one core of the
//! server.
//!
//! All functions of an account together may store about three SSM parameters a second. So a drain stores its
//! checkpoint about once a second. A window in between sends its events, but stays *unconfirmed*: it writes
//! no marker, stores no checkpoint and does not advance the slot. The next confirmed window reads the same
//! log again, and skips the events that were sent.
//!
//! If a window leaves log to read, there is no pause, and the next window is confirmed.

use std::time::{Duration, Instant};

/// Shortest pause between two polls.
const MIN_POLL_PAUSE: Duration = Duration::from_millis(20);

/// Upper limit of the pauses that double.
///
/// While polls find no new log, each pause is twice as long as the last one, up to this limit. A pause is
/// longer only if a poll takes much time.
const MAX_IDLE_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause.
///
/// A poll of 1.6 s with a share of 5 % needs this pause. A longer poll uses more than its share.
const MAX_POLL_PAUSE: Duration = Duration::from_secs(30);

/// Time since the slot's last advance after which a window is confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// Polling at the end of the log.
#[derive(Debug)]
pub(super) struct TipPolling {
    pacing: PollPacing,
    /// Latest end of the polling.
    until: Instant,
    /// Whether a pause followed the last poll.
    is_polling: bool,
}

impl TipPolling {
    /// State before the first poll. `until` is the latest end of the polling.
    ///
    /// The polls may take `share` of one core of the server, above 0 and at most 1.
    pub(super) fn new(share: f64, until: Instant) -> Self {
        TipPolling {
            pacing: PollPacing::new(share),
            until,
            is_polling: false,
        }
    }

    /// Whether the next window may stay unconfirmed.
    ///
    /// The slot was last advanced at `last_advance_at`.
    pub(super) fn may_leave_unconfirmed(&self, last_advance_at: Instant) -> bool {
        self.is_polling && Instant::now() < self.until && last_advance_at.elapsed() < CONFIRM_INTERVAL
    }

    /// Ends the polling for now, so that the next window is confirmed.
    ///
    /// For a drain that has more log to read.
    pub(super) fn confirm_next_window(&mut self) {
        self.is_polling = false;
    }

    /// Pauses before the next poll.
    ///
    /// `took` is the time of the last poll on the server. `found` is true if the poll found new log.
    ///
    /// Returns `true` after the pause. Returns `false` without a pause if it would end at or after
    /// `last_moment` or the end of the polling.
    pub(super) async fn pause(&mut self, took: Duration, found: bool, last_moment: Instant) -> bool {
        let pause = self.pacing.next(took, found);
        self.is_polling = Instant::now() + pause < self.until.min(last_moment);
        if self.is_polling {
            tokio::time::sleep(pause).await;
        }
        self.is_polling
    }
}

/// Pauses between the polls at the end of the log.
#[derive(Debug)]
struct PollPacing {
    /// Share of one server core, above 0 and at most 1.
    share: f64,
    /// Moving average of the time of a poll on the server.
    ///
    /// A new poll has a weight of a quarter.
    ///
    /// `None` before the first poll.
    poll_time: Option<Duration>,
    last_pause: Duration,
}

impl PollPacing {
    /// Pacing of polls that take `share` of one server core.
    ///
    /// `share` is above 0 and at most 1.
    fn new(share: f64) -> Self {
        PollPacing {
            share,
            poll_time: None,
            last_pause: MIN_POLL_PAUSE,
        }
    }

    /// The pause after a poll that took `took` on the server.
    ///
    /// `found` is true if the poll found new log. The pause keeps the poll within its share of the core. With
    /// new log, it lasts at least [`MIN_POLL_PAUSE`]. Without new log, it lasts at least twice as long as the
    /// last pause, or [`MAX_IDLE_PAUSE`] if that is less.
    fn next(&mut self, took: Duration, found: bool) -> Duration {
        let poll_time = self.poll_time.map_or(took, |known| known * 3 / 4 + took / 4);
        self.poll_time = Some(poll_time);
        let shared = poll_time.mul_f64((1.0 - self.share) / self.share);
        let shortest = match found {
            true => MIN_POLL_PAUSE,
            false => (self.last_pause * 2).min(MAX_IDLE_PAUSE),
        };
        self.last_pause = shared.clamp(shortest, MAX_POLL_PAUSE);
        self.last_pause
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
        // The last poll has a weight of one quarter.
        assert_eq!(pacing.next(MILLI * 50, true), MILLI * 380);
        assert_eq!(PollPacing::new(0.5).next(MILLI * 100, true), MILLI * 100);
        assert_eq!(pacing.next(Duration::from_secs(60), true), MAX_POLL_PAUSE);
    }

    #[test]
    fn polls_become_rare_while_nothing_is_written() {
        let mut pacing = PollPacing::new(0.05);
        let pauses: Vec<Duration> = (0..6).map(|_| pacing.next(MILLI, false)).collect();
        let millis = [40, 80, 160, 320, 500, 500];
        assert_eq!(pauses, millis.map(|millis| MILLI * millis));
        assert_eq!(pacing.next(MILLI, true), MIN_POLL_PAUSE);
    }
}
