//! The time that is left to an invocation. Lambda kills at its deadline; a reserve before it belongs to bringing home
//! what is under way.

use std::time::{Duration, Instant};

/// An invocation's time.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    began: Instant,
    deadline: Instant,
    reserve: Duration,
}

impl Budget {
    /// Time until `deadline`. The reserve is a tenth of what there is now, at least one and a half seconds and at most ten, and
    /// never more than half: a third of it for acknowledgements, the rest for the last checkpoint and the slot.
    pub fn new(now: Instant, deadline: Instant) -> Self {
        let whole = deadline.saturating_duration_since(now);
        let reserve = (whole / 10)
            .clamp(Duration::from_millis(1500), Duration::from_secs(10))
            .min(whole / 2);
        Budget {
            began: now,
            deadline,
            reserve,
        }
    }

    /// Wall-clock time since the invocation began, milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When reading stops.
    pub fn reading_deadline(&self) -> Instant {
        self.deadline - self.reserve
    }

    /// When waiting for acknowledgements stops; what has none by then is sent again by the next invocation.
    pub fn sending_deadline(&self) -> Instant {
        self.deadline - self.reserve * 2 / 3
    }

    /// When the last checkpoint must be stored and the slot advanced.
    pub fn confirming_deadline(&self) -> Instant {
        self.deadline - self.reserve / 10
    }

    /// Time left for reading.
    pub fn reading_time_left(&self, now: Instant) -> Duration {
        self.reading_deadline().saturating_duration_since(now)
    }
}
