//! Throughput of the stream: as a whole, and from one lane.

use std::time::{Duration, Instant};

/// Least measured time before the throughput is used.
const MEASURED_TIME: Duration = Duration::from_millis(100);

/// Time to which the quota of a shard applies.
const QUOTA_TIME: Duration = Duration::from_secs(1);

/// Throughput of the stream, in bytes of memory.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    bytes: usize,
    /// Time during which a request was in flight.
    busy: Duration,
    busy_since: Option<Instant>,
}

impl Throughput {
    /// Starts the measured time, since a request is in flight.
    pub(super) fn start(&mut self) {
        self.busy_since.get_or_insert_with(Instant::now);
    }

    /// Adds acknowledged bytes. `is_busy` is true if another request is in flight.
    pub(super) fn add(&mut self, bytes: usize, is_busy: bool) {
        let now = Instant::now();
        self.bytes += bytes;
        self.busy += self.busy_since.map_or(Duration::ZERO, |since| now - since);
        self.busy_since = is_busy.then_some(now);
    }

    /// Time in which the stream is expected to accept `bytes`.
    ///
    /// `quota` is in bytes per second. In the first second, a stream accepts its quota at any speed. So until
    /// then, the measured throughput counts at most as the quota.
    pub(super) fn time_for(&self, bytes: usize, quota: f64) -> Duration {
        let measured = self.bytes_within(QUOTA_TIME).map(|bytes| bytes.max(1) as f64);
        let rate = match measured {
            Some(measured) if self.busy >= QUOTA_TIME => measured,
            Some(measured) => measured.min(quota),
            None => quota,
        };
        Duration::from_secs_f64(bytes as f64 / rate)
    }

    /// Bytes that the stream is expected to accept within `time`.
    ///
    /// Returns `None` before the first measurement.
    pub(super) fn bytes_within(&self, time: Duration) -> Option<usize> {
        let is_measured = self.busy >= MEASURED_TIME && self.bytes > 0;
        is_measured.then(|| (self.bytes as f64 * time.as_secs_f64() / self.busy.as_secs_f64()) as usize)
    }
}

/// Average time of a request, for the records of a lane.
///
/// `None` before the first answer. [`RequestTime::records_within`] adds the wait for a free request.
#[derive(Debug, Default)]
pub(super) struct RequestTime(Option<Duration>);

impl RequestTime {
    /// Adds the time of one request. Later requests have more weight.
    pub(super) fn add(&mut self, request: Duration) {
        self.0 = Some(match self.0 {
            Some(known) => known * 7 / 8 + request / 8,
            None => request,
        });
    }

    /// Time in which a lane's `records` are expected to be acknowledged.
    ///
    /// Zero before the first answer.
    pub(super) fn time_for(&self, records: usize) -> Duration {
        self.0.map_or(Duration::ZERO, |request| {
            request.saturating_mul(u32::try_from(records).unwrap_or(u32::MAX))
        })
    }

    /// Records of one lane that are expected to be acknowledged within `time`.
    ///
    /// A lane's next record waits for a free request about as long as for its answer.
    pub(super) fn records_within(&self, time: Duration) -> usize {
        self.0.map_or(usize::MAX, |request| {
            let each = (request * 2).max(Duration::from_micros(100));
            usize::try_from(time.as_micros() / each.as_micros()).unwrap_or(usize::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A throughput of `bytes` within `millis` milliseconds.
    fn measured(bytes: usize, millis: u64) -> Throughput {
        Throughput {
            bytes,
            busy: Duration::from_millis(millis),
            busy_since: None,
        }
    }

    #[test]
    fn a_throughput_of_less_than_a_second_counts_at_most_as_the_quota() {
        let time = |throughput: Throughput| throughput.time_for(3_000, 1_000.0).as_secs_f64();
        assert_eq!(time(Throughput::default()), 3.0);
        assert_eq!(time(measured(6_000, 200)), 3.0);
        assert_eq!(time(measured(100, 200)), 6.0);
        assert_eq!(time(measured(6_000, 1_000)), 0.5);
    }

    #[test]
    fn a_lane_needs_a_request_for_each_record() {
        let mut lane = RequestTime::default();
        assert_eq!(lane.time_for(100), Duration::ZERO);
        lane.add(Duration::from_millis(5));
        assert_eq!(lane.time_for(100), Duration::from_millis(500));
    }
}
