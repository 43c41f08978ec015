//! The wait while other sessions or a standby block a backfill.

use std::time::{Duration, Instant};

/// Longest wait at the end of the log.
///
/// Overlapping transactions may block the backfill all day, one after the other. Within this time, a moment
/// without such a transaction is likely.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Longest time of consecutive attempts without a window between them.
///
/// A window does not end the blocking transaction, and each window costs a peek.
const MAX_ROUND: Duration = Duration::from_secs(5);

/// Shortest pause between two attempts to read a chunk.
const MIN_CHUNK_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two attempts to read a chunk.
const MAX_CHUNK_PAUSE: Duration = Duration::from_secs(1);

/// The time that an invocation waits for a blocked backfill.
#[derive(Debug)]
pub(in crate::drain) struct BackfillWait {
    /// Start of the wait; `None` while the backfill is not blocked.
    since: Option<Instant>,
    longest: Duration,
}

impl BackfillWait {
    /// A wait that has not begun. It lasts at most half of `reading_time`.
    pub(in crate::drain) fn new(reading_time: Duration) -> Self {
        BackfillWait {
            since: None,
            longest: MAX_WAIT.min(reading_time / 2),
        }
    }

    /// Pause before the next attempt; `None` if the wait is over.
    ///
    /// The wait begins with the first call.
    pub(in crate::drain) fn next_pause(&mut self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        (waited < self.longest).then(|| (waited / 10).clamp(MIN_CHUNK_PAUSE, MAX_CHUNK_PAUSE))
    }

    /// Whether the drain reads a window before the next attempt.
    ///
    /// `round` is the time since the first attempt after the last window.
    pub(in crate::drain) fn needs_window(round: Duration) -> bool {
        round >= MAX_ROUND
    }

    /// Whether the wait has not begun, or has lasted long enough.
    pub(in crate::drain) fn is_over(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.longest)
    }

    /// Ends the wait: the backfill is not blocked any more.
    pub(in crate::drain) fn end(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_wait_until_it_is_over() {
        let mut wait = BackfillWait::new(Duration::from_secs(40));
        let began = Instant::now();
        assert!(wait.is_over(began));
        let after = |seconds| began + Duration::from_secs(seconds);
        let pauses = [0, 3, 15, 20, 30].map(|seconds| wait.next_pause(after(seconds)));
        let millis = [Some(100), Some(300), Some(1_000), None, None];
        assert_eq!(pauses, millis.map(|it| it.map(Duration::from_millis)));
        assert!(!wait.is_over(after(19)) && wait.is_over(after(20)));
        wait.end();
        assert_eq!(wait.next_pause(after(30)), Some(MIN_CHUNK_PAUSE));
        assert!(!wait.is_over(after(49)));
    }
}
