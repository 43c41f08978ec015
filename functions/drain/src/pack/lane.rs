//! One lane: its waiting events.

use std::collections::VecDeque;

use super::record::{Aggregation, QueuedEvent};

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
    /// Number of records for the waiting events. With aggregation, it is an estimate.
    pub(super) fn records(&self, aggregation: Aggregation) -> usize {
        match aggregation {
            Aggregation::None => self.waiting.len(),
            Aggregation::Kpl { bytes } => self.bytes.div_ceil(bytes),
        }
    }
}
