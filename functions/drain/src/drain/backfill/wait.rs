//! The wait for a backfill that other sessions or a standby block.

use std::time::{Duration, Instant};

/// Longest wait for a blocked backfill at the end of the log.
///
/// See [`BackfillWait::new`].
const MOST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for a blocked backfill between two windows.
const WAIT_ROUND: Duration = Duration::from_secs(5);

/// Shortest and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The wait of one invocation.
#[derive(Debug)]
pub(in crate::drain) struct BackfillWait {
    /// Start of the wait; `None` while the backfill is not blocked.
    since: Option<Instant>,
    /// Start of the attempts since the last window.
    round: Instant,
    longest: Duration,
}

impl BackfillWait {
    /// No wait yet. `reading_time` is the time for reading when the invocation began.
    ///
    /// Transactions may overlap all day and block the backfill in turn. The longest wait is long enough that
    /// a gap between them is likely.
    pub(in crate::drain) fn new(reading_time: Duration) -> Self {
        BackfillWait {
            since: None,
            round: Instant::now(),
            longest: MOST_WAIT.min(reading_time / 2),
        }
    }

    /// Begins the attempts after a window.
    pub(in crate::drain) fn start_round(&mut self) {
        self.round = Instant::now();
    }

    /// Pause before the next attempt; `None` if the wait is over.
    pub(in crate::drain) fn next_pause(&mut self) -> Option<Duration> {
        let waited = self.since.get_or_insert(self.round).elapsed();
        (waited < self.longest).then(|| (waited / 10).clamp(PAUSES.0, PAUSES.1))
    }

    /// Whether a window comes before the next attempt.
    ///
    /// A window cannot end the transaction that blocks, and each window costs a peek. So windows are rare
    /// during the wait.
    pub(in crate::drain) fn is_round_over(&self) -> bool {
        self.round.elapsed() >= WAIT_ROUND
    }

    /// Whether the invocation does not wait, or has waited long enough.
    pub(in crate::drain) fn is_over(&self) -> bool {
        self.since.is_none_or(|since| since.elapsed() >= self.longest)
    }

    /// Ends the wait: the backfill is not blocked any more.
    pub(in crate::drain) fn end(&mut self) {
        self.since = None;
    }
}
