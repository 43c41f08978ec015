//! Encoded events, and spare buffers of acknowledged events.

use super::Event;

/// Largest capacity of a buffer that is used again.
const MAX_BUFFER_BYTES: usize = 4 << 10;

/// Most bytes of the spare events of one list.
///
/// The answers for several thousand events may arrive together. Their buffers are used again by the events
/// after them, so the buffers and the queued events need no more memory than the most queued events before.
const MAX_SPARE_BYTES: usize = 8 << 20;

/// Largest capacity of a new buffer. A larger event grows its buffer.
const MAX_NEW_BYTES: usize = 2 << 10;

/// Events that were encoded, in order.
///
/// An event has a buffer for its data and a buffer for its partition key. Acknowledged events return their
/// buffers, so that most new events allocate no memory.
#[derive(Debug, Default)]
pub struct EncodedEvents {
    /// The events.
    pub events: Vec<Event>,
    /// Buffers for the next events.
    spare: SpareEvents,
    /// Capacity of a new buffer: a little more than the last event needed.
    usual_bytes: usize,
}

impl EncodedEvents {
    /// Moves acknowledged events here, if no spare buffers are left.
    pub fn refill_spare(&mut self, former: &mut SpareEvents) {
        if self.spare.events.is_empty() {
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
            return (Vec::with_capacity(self.usual_bytes), String::with_capacity(32));
        };
        data.clear();
        partition_key.clear();
        (data, partition_key)
    }

    /// Appends an event.
    pub fn push(&mut self, event: Event) {
        if !event.data.is_empty() {
            self.usual_bytes = event.data.len().next_multiple_of(64).min(MAX_NEW_BYTES);
        }
        self.events.push(event);
    }
}

/// Acknowledged events, whose buffers are used again.
#[derive(Debug, Default)]
pub struct SpareEvents {
    events: Vec<Event>,
    /// Their memory.
    bytes: usize,
}

impl SpareEvents {
    /// Adds an acknowledged event.
    ///
    /// Drops it if its buffers are large, or if there are enough buffers.
    pub fn add(&mut self, event: Event) {
        let is_small =
            event.data.capacity() <= MAX_BUFFER_BYTES && event.partition_key.capacity() <= MAX_BUFFER_BYTES;
        let bytes = memory(&event);
        if is_small && self.bytes + bytes <= MAX_SPARE_BYTES {
            self.bytes += bytes;
            self.events.push(event);
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop()?;
        self.bytes -= memory(&event);
        Some(event)
    }
}

/// Bytes of an event and its buffers.
fn memory(event: &Event) -> usize {
    size_of::<Event>() + event.data.capacity() + event.partition_key.capacity()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::Position;

    fn event(bytes: usize) -> Event {
        Event {
            position: Position {
                commit_end: Lsn(2),
                lsn: Lsn(1),
                index: 0,
            },
            partition_key: String::new(),
            barrier: false,
            relation: None,
            data: vec![0; bytes],
            missing_bytes: 0,
            row_hash: None,
        }
    }

    #[test]
    fn spare_buffers_are_bounded_in_size_and_in_total() {
        let mut spare = SpareEvents::default();
        spare.add(event(MAX_BUFFER_BYTES + 1));
        assert!(spare.pop().is_none());
        let most = MAX_SPARE_BYTES / memory(&event(MAX_BUFFER_BYTES));
        for _ in 0..=most {
            spare.add(event(MAX_BUFFER_BYTES));
        }
        assert_eq!(spare.events.len(), most);
        while spare.pop().is_some() {}
        assert_eq!(spare.bytes, 0);
    }

    #[test]
    fn a_new_buffer_has_room_for_an_event_like_the_last() {
        let mut encoded = EncodedEvents::default();
        encoded.push(event(650));
        encoded.push(event(0));
        assert_eq!(encoded.buffers().0.capacity(), 704);
        encoded.push(event(1 << 20));
        assert_eq!(encoded.buffers().0.capacity(), MAX_NEW_BYTES);
    }
}
