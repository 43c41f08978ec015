//! Encoded events, and the buffers of former events.

use super::Event;

/// Most bytes of a buffer that is kept.
const MOST_BUFFER_BYTES: usize = 4 << 10;

/// Events that were encoded, in order.
///
/// An event has a buffer for its data and one for its partition key. The buffers of acknowledged events are
/// used again, so that a row allocates no memory.
#[derive(Debug, Default)]
pub struct EncodedEvents {
    /// The events.
    pub events: Vec<Event>,
    /// Former events, for their buffers.
    spare: Vec<Event>,
}

impl EncodedEvents {
    /// Takes the former events for their buffers, unless some are left.
    pub fn refill_spare(&mut self, former: &mut Vec<Event>) {
        if self.spare.is_empty() {
            std::mem::swap(&mut self.spare, former);
        }
    }

    /// An empty buffer for data, and one for a partition key.
    pub(super) fn buffers(&mut self) -> (Vec<u8>, String) {
        let Some(Event {
            mut data,
            mut partition_key,
            ..
        }) = self.spare.pop()
        else {
            return (Vec::with_capacity(512), String::with_capacity(32));
        };
        data.clear();
        partition_key.clear();
        (data, partition_key)
    }
}

impl Event {
    /// Whether its buffers are small enough to be kept for another event.
    pub fn has_small_buffers(&self) -> bool {
        self.data.capacity() <= MOST_BUFFER_BYTES && self.partition_key.capacity() <= MOST_BUFFER_BYTES
    }
}
