//! Encoded events, and spare buffers of acknowledged events.

use super::Event;

/// Largest capacity of a buffer that is used again.
const MAX_BUFFER_BYTES: usize = 4 << 10;

/// Events that were encoded, in order.
///
/// An event has a buffer for its data and a buffer for its partition key. Acknowledged events return their
/// buffers, so that most new events allocate no memory.
#[derive(Debug, Default)]
pub struct EncodedEvents {
    /// The events.
    pub events: Vec<Event>,
    /// Acknowledged events, whose buffers are used again.
    spare: Vec<Event>,
}

impl EncodedEvents {
    /// Moves acknowledged events here, if no spare buffers are left.
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
    /// Whether its buffers are small enough to be used again.
    pub fn has_small_buffers(&self) -> bool {
        self.data.capacity() <= MAX_BUFFER_BYTES && self.partition_key.capacity() <= MAX_BUFFER_BYTES
    }
}
