//! One lane: its waiting events.

use std::collections::VecDeque;

use super::record::{Aggregation, LaneKey, QueuedEvent, Record};

/// A queue of events that are sent in order.
///
/// A lane exists while it has events that wait or are in flight. It has one of three states:
/// - In flight: one record of the lane is in flight.
/// - Delayed: the last record of the lane failed. [`Lanes`](super::Lanes) lists the lane until the delay
///   ends.
/// - Ready: the lane may send. The pacing of its shard lists the lane, even while the shard pauses.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<QueuedEvent>,
    /// Bytes of all waiting events.
    pub(super) bytes: usize,
    /// Consecutive failures of its records.
    pub(super) failures: u32,
}

impl Lane {
    /// An empty lane. Most lanes never hold more than one event.
    pub(super) fn with_space_for_one() -> Self {
        Lane {
            waiting: VecDeque::with_capacity(1),
            ..Lane::default()
        }
    }

    /// Adds an event behind all others.
    pub(super) fn push(&mut self, event: QueuedEvent) {
        self.bytes += event.bytes();
        self.waiting.push_back(event);
    }

    /// Adds the events of a failed record before all others.
    pub(super) fn push_front(&mut self, events: Vec<QueuedEvent>) {
        for event in events.into_iter().rev() {
            self.bytes += event.bytes();
            self.waiting.push_front(event);
        }
    }

    /// The next record of this lane. Its events leave the queue.
    pub(super) fn next_record(
        &mut self,
        key: LaneKey,
        shard: usize,
        aggregation: Aggregation,
    ) -> Option<Record> {
        let record = Record::from_queue(&mut self.waiting, key, shard, aggregation)?;
        self.bytes -= record.events().iter().map(QueuedEvent::bytes).sum::<usize>();
        Some(record)
    }

    /// Most bytes of the next record.
    pub(super) fn max_record_bytes(&self, aggregation: Aggregation) -> usize {
        let first = self.waiting.front().map_or(0, QueuedEvent::bytes);
        match aggregation {
            Aggregation::None => first,
            Aggregation::Kpl { bytes } => first.max(bytes),
        }
    }

    /// Full aggregates of the waiting events; 0 without aggregation.
    pub(super) fn full_aggregates(&self, aggregation: Aggregation) -> usize {
        match aggregation {
            Aggregation::None => 0,
            Aggregation::Kpl { bytes } => self.bytes / bytes,
        }
    }

    /// Number of records for the waiting events. With aggregation, it is an estimate.
    pub(super) fn records(&self, aggregation: Aggregation) -> usize {
        match aggregation {
            Aggregation::None => self.waiting.len(),
            Aggregation::Kpl { bytes } => self.bytes.div_ceil(bytes),
        }
    }
}
