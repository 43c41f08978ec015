//! Bounds of the waiting events, and the time that they need.

use std::time::{Duration, Instant};

use super::Sender;
use crate::pack::Aggregation;
use crate::ports::Stream;

/// Bytes of events that may always wait in the lanes.
///
/// Without this minimum, a low throughput would stop all reading.
const MIN_QUEUED_BYTES: usize = 256 << 10;

/// Records of one lane that may always wait.
const MIN_LANE_RECORDS: usize = 10;

/// Bounds of the events that wait in the lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueBounds {
    /// Bytes of memory of all lanes.
    bytes: usize,
    /// Records of one lane.
    lane_records: usize,
    /// Whether the longest lane has no more than its shard accepts.
    longest_lane_fits: bool,
}

impl QueueBounds {
    /// Bounds before the first measurement.
    pub(super) fn new(bytes: usize) -> Self {
        QueueBounds {
            bytes,
            lane_records: usize::MAX,
            longest_lane_fits: true,
        }
    }
}

impl<K: Stream> Sender<K> {
    /// Updates the bounds of the waiting events: see [`Sender::has_room`].
    ///
    /// Near the deadline, the bounds shrink, each to its minimum at least:
    ///
    /// - `bytes`: what the streams are expected to accept in half of the remaining time
    /// - `lane_records`: the records that one lane can send in the remaining time
    /// - `longest_lane_fits`: whether its shard accepts the longest lane in half of the remaining time
    ///
    /// The next invocation reads the rest again.
    pub(in crate::drain) fn update_bounds(&mut self, now: Instant) {
        let time_left = self.deadline.saturating_duration_since(now);
        let accepted = self.throughput.bytes_within(time_left / 2);
        self.bounds = QueueBounds {
            bytes: accepted
                .unwrap_or(usize::MAX)
                .max(MIN_QUEUED_BYTES)
                .min(self.max_unacknowledged_bytes),
            lane_records: self.lane_time.records_within(time_left).max(MIN_LANE_RECORDS),
            longest_lane_fits: self.lanes.records_of_longest_lane() < MIN_LANE_RECORDS
                || self.lanes.is_longest_lane_sent_within(now, time_left / 2),
        };
    }

    /// Whether more events may be read, by the bounds of [`Sender::update_bounds`].
    ///
    /// Transactions that wait for an earlier one count, too. They need memory even without events.
    pub(in crate::drain) fn has_room(&self) -> bool {
        let memory = self.lanes.memory();
        memory < self.bounds.bytes
            && memory + self.acknowledgements.memory() < self.max_unacknowledged_bytes
            && self.lanes.records_of_longest_lane() < self.bounds.lane_records
            && self.bounds.longest_lane_fits
    }

    /// Time in which the queued events are expected to be acknowledged.
    pub(in crate::drain) fn remaining_time(&self) -> Duration {
        let longest_lane = match self.aggregation {
            Aggregation::None => self.lane_time.time_for(self.lanes.records_of_longest_lane()),
            Aggregation::Kpl { .. } => Duration::ZERO,
        };
        let quota = self.lanes.shards().bytes_per_second();
        let time = self.throughput.time_for(self.lanes.memory(), quota);
        time.max(longest_lane)
    }
}
