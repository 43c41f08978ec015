//! One lane: the events that wait in it.

use std::collections::VecDeque;

use super::record::{Aggregation, QueuedEvent};

/// A queue of events that are sent in order.
///
/// A lane exists while it has events that wait or are in flight. Its states are:
/// - In flight: it has a record in flight.
/// - Delayed: its last record failed. [`Lanes`](super::Lanes) lists it until the delay ends.
/// - Ready: the pacing of its shard lists the lane, even while the shard pauses.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<QueuedEvent>,
    /// Bytes of all waiting events.
    pub(super) bytes: usize,
    /// Consecutive failures.
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
