//! The time of an invocation, which Lambda ends at its deadline.
//!
//! The reserve is the last part of this time. It is for the steps that follow the last read. Each step has
//! its own deadline, a fraction of the reserve before that of Lambda:
//!
//! | Fraction | Step that ends then |
//! | --- | --- |
//! | 1 | reading rows |
//! | 2/3 | waiting for the acknowledgements of the records in flight |
//! | 1/5 | storing the last checkpoint, and advancing the slot |
//! | 1/10 | reading the server's state for the report |
//! | 1/20 | the action: if it still runs, it is dropped |

use std::time::{Duration, Instant};

use crate::base::time::millis;

/// Longest wait for the server to cancel a statement.
///
/// The server may be unreachable, and events in flight must not wait for the cancellation.
pub(crate) const CANCEL_TIME: Duration = Duration::from_secs(1);

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
    /// The reserve is a tenth of this time, at least 1.5 seconds and at most 10. It is never more than half.
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

    /// The whole time of the invocation.
    pub fn lifetime(&self) -> Duration {
        self.deadline.saturating_duration_since(self.began)
    }

    /// The wall-clock time since the invocation began, in milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// The time at which reading stops.
    pub fn reading_deadline(&self) -> Instant {
        self.deadline - self.reserve
    }

    /// The time at which the wait for acknowledgements stops.
    ///
    /// Events that are not acknowledged by then are sent again by the next invocation.
    pub fn sending_deadline(&self) -> Instant {
        self.deadline - self.reserve * 2 / 3
    }

    /// The deadline for the last checkpoint and the slot's advance.
    pub fn confirming_deadline(&self) -> Instant {
        self.deadline - self.reserve / 5
    }

    /// The deadline for the report.
    ///
    /// If the state of the server was not read by then, the report lacks it.
    pub fn answering_deadline(&self) -> Instant {
        self.deadline - self.reserve / 10
    }

    /// The time at which an action that still runs is dropped.
    ///
    /// The rest of the time is for log lines, and for sending the answer to Lambda.
    pub fn end(&self) -> Instant {
        self.deadline - self.reserve / 20
    }

    /// The time that is left for reading.
    pub fn reading_time_left(&self, now: Instant) -> Duration {
        self.reading_deadline().saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_time_of_its_own_before_the_deadline() {
        for seconds in [1, 3, 6, 60, 300, 900] {
            let now = Instant::now();
            let budget = Budget::new(now, now + Duration::from_secs(seconds));
            let steps = [
                now,
                budget.reading_deadline(),
                budget.sending_deadline(),
                budget.confirming_deadline(),
                budget.answering_deadline(),
                budget.end(),
                now + budget.lifetime(),
            ];
            let least = Duration::from_millis(seconds.min(3) * 25);
            for step in steps.windows(2) {
                assert!(step[1] - step[0] >= least, "{seconds} s: {steps:?}");
            }
        }
    }
}
