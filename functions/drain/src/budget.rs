//! The time of an invocation, which Lambda ends at its deadline.
//!
//! A reserve before the deadline is for the acknowledgements of the records in flight, the last checkpoint
//! and the slot.

use std::time::{Duration, Instant};

/// The time budget of an invocation.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    began: Instant,
    deadline: Instant,
    reserve: Duration,
}

impl Budget {
    /// The budget from `now` to `deadline`.
    ///
    /// The reserve is a tenth of this time, at least 1.5 seconds and at most 10, but never more than half. A
    /// third of it is for acknowledgements, the rest for the last checkpoint and the slot.
    pub fn new(now: Instant, deadline: Instant) -> Self {
        let total = deadline.saturating_duration_since(now);
        let reserve = (total / 10)
            .clamp(Duration::from_millis(1500), Duration::from_secs(10))
            .min(total / 2);
        Budget {
            began: now,
            deadline,
            reserve,
        }
    }

    /// The wall-clock time since the invocation began, in milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time at which reading stops.
    pub fn reading_deadline(&self) -> Instant {
        self.deadline - self.reserve
    }

    /// The time at which the wait for acknowledgements stops.
    ///
    /// The next invocation sends again what is not acknowledged by then.
    pub fn sending_deadline(&self) -> Instant {
        self.deadline - self.reserve * 2 / 3
    }

    /// The time by which the last checkpoint must be stored and the slot advanced.
    pub fn confirming_deadline(&self) -> Instant {
        self.deadline - self.reserve / 10
    }

    /// The time that is left for reading.
    pub fn reading_time_left(&self, now: Instant) -> Duration {
        self.reading_deadline().saturating_duration_since(now)
    }
}
