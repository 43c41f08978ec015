//! Throughput of the stream: as a whole, and from one lane.

use std::time::{Duration, Instant};

/// Least measured time before the throughput is used.
const MEASURED_TIME: Duration = Duration::from_millis(100);

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
/// `None` before the first answer. [`LaneTime::records_within`] adds the wait for a free request.
#[derive(Debug, Default)]
pub(super) struct LaneTime(Option<Duration>);

impl LaneTime {
    /// Adds the time of one request. Later requests have more weight.
    pub(super) fn add(&mut self, request: Duration) {
        self.0 = Some(match self.0 {
            Some(known) => known * 7 / 8 + request / 8,
            None => request,
        });
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
