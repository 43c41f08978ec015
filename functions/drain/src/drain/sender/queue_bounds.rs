//! Bounds of the waiting events, and the time that they need.

use std::time::{Duration, Instant};

use super::throughput::{RequestTime, Throughput};
use crate::pack::{Acknowledgements, Aggregation, Lanes};

/// Bytes of events that may always wait in the lanes.
///
/// Without this minimum, a low throughput would stop all reading.
const MIN_QUEUED_BYTES: usize = 256 << 10;

/// Records of one lane that may always wait.
const MIN_LANE_RECORDS: usize = 10;

/// Bounds of the waiting events, from the answers so far.
#[derive(Debug)]
pub(super) struct QueueBounds {
    /// Time by which every event must be acknowledged.
    deadline: Instant,
    /// Maximum bytes that may wait, those in flight included.
    max_bytes: usize,
    throughput: Throughput,
    request_time: RequestTime,
    /// Most bytes of memory of all lanes, at present.
    lane_bytes: usize,
    /// Most records of one lane, at present.
    lane_records: usize,
    /// Whether the longest lane is not too long for its shard.
    ///
    /// Its shard accepts it in half of the remaining time.
    longest_lane_fits: bool,
}

impl QueueBounds {
    /// Bounds before the first answer.
    pub(super) fn new(max_bytes: usize, deadline: Instant) -> Self {
        QueueBounds {
            deadline,
            max_bytes,
            throughput: Throughput::default(),
            request_time: RequestTime::default(),
            lane_bytes: max_bytes,
            lane_records: usize::MAX,
            longest_lane_fits: true,
        }
    }

    /// Starts the measurement: a request is in flight.
    pub(super) fn start_request(&mut self) {
        self.throughput.start();
    }

    /// Adds the duration of a request, and its acknowledged bytes.
    ///
    /// `is_busy` is true if another request is in flight.
    pub(super) fn end_request(&mut self, took: Duration, acknowledged: usize, is_busy: bool) {
        self.request_time.add(took);
        self.throughput.add(acknowledged, is_busy);
    }

    /// Updates the bounds: see [`QueueBounds::has_room`].
    ///
    /// Near the deadline, the bounds become smaller. The first two keep a minimum:
    ///
    /// - `lane_bytes`: what the streams are expected to accept in half of the remaining time
    /// - `lane_records`: the records that one lane can send in the remaining time
    /// - `longest_lane_fits`: whether its shard accepts the longest lane in half of the remaining time
    ///
    /// The next invocation reads the rest again.
    pub(super) fn update(&mut self, now: Instant, lanes: &Lanes) {
        let time_left = self.deadline.saturating_duration_since(now);
        let accepted = self.throughput.bytes_within(time_left / 2);
        let accepted = accepted.unwrap_or(usize::MAX).max(MIN_QUEUED_BYTES);
        self.lane_bytes = accepted.min(self.max_bytes);
        self.lane_records = self.request_time.records_within(time_left).max(MIN_LANE_RECORDS);
        self.longest_lane_fits = lanes.records_of_longest_lane() < MIN_LANE_RECORDS
            || lanes.can_send_longest_lane_within(now, time_left / 2);
    }

    /// Whether more events may be read, by the bounds of [`QueueBounds::update`].
    ///
    /// Transactions that wait for an earlier one count, too. They need memory even without events.
    pub(super) fn has_room(&self, lanes: &Lanes, acknowledgements: &Acknowledgements) -> bool {
        let memory = lanes.memory();
        memory < self.lane_bytes
            && memory + acknowledgements.memory() < self.max_bytes
            && lanes.records_of_longest_lane() < self.lane_records
            && self.longest_lane_fits
    }

    /// Whether more than three quarters of the memory are in use.
    pub(super) fn is_memory_short(&self, lanes: &Lanes) -> bool {
        lanes.memory() > self.max_bytes / 4 * 3
    }

    /// Time in which the queued events are expected to be acknowledged.
    pub(super) fn remaining_time(&self, lanes: &Lanes, aggregation: Aggregation) -> Duration {
        let longest_lane = match aggregation {
            Aggregation::None => self.request_time.time_for(lanes.records_of_longest_lane()),
            Aggregation::Kpl { .. } => Duration::ZERO,
        };
        let quota = lanes.shards().bytes_per_second();
        let time = self.throughput.time_for(lanes.memory(), quota);
        time.max(longest_lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::PositionSequence;
    use crate::encode::Event;
    use crate::pack::{MAIN_STREAM, QueuedEvent, ShardMap};

    /// A request takes 100 ms. A lane waits as long for a free one, so it sends 15 records in 3 s.
    #[test]
    fn no_more_is_read_than_one_lane_can_send_before_the_deadline() {
        let now = Instant::now();
        let mut bounds = QueueBounds::new(1 << 20, now + Duration::from_secs(3));
        bounds.end_request(Duration::from_millis(100), 1_000, false);
        let mut lanes = Lanes::new(Aggregation::None, ShardMap::even(1));
        let mut acknowledgements = Acknowledgements::new(Lsn(0).into());
        let mut positions = PositionSequence::new(Lsn(9));
        let mut read = 0;
        while read < 100 {
            bounds.update(now, &lanes);
            if !bounds.has_room(&lanes, &acknowledgements) {
                break;
            }
            read += 1;
            lanes.push(QueuedEvent {
                event: Event {
                    position: positions.next(Lsn(1)),
                    partition_key: "hot".to_owned(),
                    barrier: false,
                    relation: None,
                    data: vec![0; 10],
                    missing_bytes: 0,
                    row_hash: None,
                },
                span: acknowledgements.begin(),
                change_positions: 1,
                stream: MAIN_STREAM,
            });
        }
        assert_eq!(read, 15);
    }
}
