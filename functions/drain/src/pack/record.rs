//! What travels: an event and the transaction it counts for, and the record that holds one event or many.

use std::borrow::Cow;

use super::TransactionId;
use super::aggregate::{AggregateSize, aggregate};
use super::shards::HashKey;
use crate::encode::Event;

/// How events become records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// A record is an event. A lane is a partition key.
    None,
    /// A record is an aggregate of the Kinesis Producer Library, or an event where there is only one. A lane is a shard.
    Kpl {
        /// Most bytes of an aggregate, its partition key included. An event that is larger goes alone.
        bytes: usize,
    },
}

impl Aggregation {
    /// As the environment calls it.
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::None => "none",
            Aggregation::Kpl { .. } => "kpl",
        }
    }
}

/// What one request may hold.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Records.
    pub records: usize,
    /// Bytes of data and partition keys together. One record that is larger goes alone.
    pub bytes: usize,
}

/// An event on its way, and the transaction it counts for.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedEvent {
    /// What is sent.
    pub event: Event,
    /// Whom its acknowledgement belongs to.
    pub transaction: TransactionId,
}

impl QueuedEvent {
    /// Bytes that count against a request when it goes alone.
    pub fn bytes(&self) -> usize {
        self.event.data.len() + self.event.partition_key.len()
    }

    /// Bytes that it occupies here, about: its data, its key, and its structures' and queue's share.
    pub(super) fn memory(&self) -> usize {
        self.event.data.capacity() + self.event.partition_key.capacity() + 360
    }
}

/// One record: events of one lane, in order.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// Never empty.
    events: Vec<QueuedEvent>,
    pub(super) lane: HashKey,
    /// The number of the shard that it should land in.
    shard: usize,
    /// Bytes of data and partition key.
    bytes: usize,
}

impl Record {
    /// Makes one of the first of `waiting`, as many as it may hold; `None` when there are none.
    pub(super) fn of(
        waiting: &mut std::collections::VecDeque<QueuedEvent>,
        lane: HashKey,
        shard: usize,
        aggregation: Aggregation,
    ) -> Option<Self> {
        let first = waiting.front()?;
        let (mut count, mut bytes) = (1, first.bytes());
        // A barrier is alone on the road anyway.
        if let Aggregation::Kpl { bytes: most } = aggregation {
            let outside = first.event.partition_key.len();
            let mut size = AggregateSize::default();
            size.add(&first.event.partition_key, &first.event.data);
            for event in waiting.iter().skip(1) {
                let with = outside + size.add(&event.event.partition_key, &event.event.data);
                if with > most {
                    break;
                }
                (count, bytes) = (count + 1, with);
            }
        }
        let events = waiting.drain(..count).collect();
        Some(Record {
            events,
            lane,
            shard,
            bytes,
        })
    }

    /// The events, oldest first; at least one.
    pub fn events(&self) -> &[QueuedEvent] {
        &self.events
    }

    pub(super) fn into_events(self) -> Vec<QueuedEvent> {
        self.events
    }

    /// The number of the shard that it should land in.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Bytes that count against a request: data and partition key.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What decides the shard: the first event's, and all of an aggregate lie in one shard.
    pub fn partition_key(&self) -> &str {
        self.events.first().map_or("", |event| &event.event.partition_key)
    }

    /// Whether it holds more than one event, so that a reader must take it apart.
    pub fn is_aggregate(&self) -> bool {
        self.events.len() > 1
    }

    /// The data, written now where it is an aggregate.
    pub fn data(&self) -> Cow<'_, [u8]> {
        match &self.events[..] {
            [only] => Cow::Borrowed(&only.event.data),
            many => {
                Cow::Owned(aggregate(many.iter().map(|event| {
                    (event.event.partition_key.as_str(), event.event.data.as_slice())
                })))
            }
        }
    }
}
