//! Queued events, and records of one event or several.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::SpanId;
use super::aggregate::{AggregateSize, AggregatedEvent, aggregate};
use super::outstanding::OutstandingEvent;
use super::shards::HashKey;
use crate::encode::Event;

/// Identity of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneKey {
    /// The number of its stream.
    pub(super) stream: usize,
    /// The hash key of its partition key.
    ///
    /// With aggregation, it is the first hash key of its shard.
    pub(super) hash_key: HashKey,
}

/// Packing of events into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// Each record is one event. A lane is a partition key.
    None,
    /// Each record is a KPL aggregate, or a single event.
    ///
    /// The KPL is the Kinesis Producer Library. A lane is a shard.
    Kpl {
        /// Most bytes of an aggregate, including its partition key.
        ///
        /// A larger event is a record of its own.
        bytes: usize,
    },
}

impl Aggregation {
    /// Its value of the variable `AGGREGATION`.
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::None => "none",
            Aggregation::Kpl { .. } => "kpl",
        }
    }
}

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Most records.
    pub records: usize,
    /// Most bytes of data and partition keys. A larger record is a request of its own.
    pub bytes: usize,
}

/// Approximate memory of an event besides its data and key, in bytes.
///
/// It is the memory of the event's structures, and of its share of the queue.
const STRUCT_BYTES: usize = 360;

/// An event to send, with its span.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedEvent {
    /// The event.
    pub event: Event,
    /// Its transaction, or the section of its transaction.
    pub span: SpanId,
    /// The number of positions of its change's events, usually 1.
    ///
    /// A definition and a tombstone have the position of their row's event.
    pub change_positions: u32,
    /// The number of its stream.
    ///
    /// It is [`MAIN_STREAM`](super::MAIN_STREAM) until the stream of its table is known.
    pub stream: usize,
}

impl QueuedEvent {
    /// Bytes of its data and its partition key.
    ///
    /// These are the bytes of its record, if the event is a record of its own.
    pub fn bytes(&self) -> usize {
        self.event.data.len() + self.event.partition_key.len()
    }

    /// Its position, for the list of events that are not acknowledged.
    pub fn outstanding(&self) -> OutstandingEvent {
        OutstandingEvent {
            position: self.event.position,
            change_positions: self.change_positions,
        }
    }

    /// Its approximate memory in bytes.
    pub(super) fn memory(&self) -> usize {
        self.event.data.capacity() + self.event.partition_key.capacity() + STRUCT_BYTES
    }
}

/// One record: events of one lane, in order.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// Never empty.
    events: Vec<QueuedEvent>,
    pub(super) lane: LaneKey,
    /// The number of its shard.
    shard: usize,
    /// Bytes of data and partition key.
    bytes: usize,
    /// Index of each event's partition key among the keys of the aggregate.
    ///
    /// It is empty without aggregation.
    key_indexes: Vec<u32>,
}

impl Record {
    /// Removes the first events from `waiting`, and makes a record of them.
    ///
    /// The record has one event, or as many as fit into an aggregate. Returns `None` if the queue is empty.
    pub(super) fn from_queue(
        waiting: &mut VecDeque<QueuedEvent>,
        lane: LaneKey,
        shard: usize,
        aggregation: Aggregation,
    ) -> Option<Self> {
        let first = waiting.front()?;
        let (mut count, mut bytes) = (1, first.bytes());
        let mut key_indexes = Vec::new();
        // A barrier is never part of an aggregate: it is always the only event in its queue.
        if let Aggregation::Kpl { bytes: most } = aggregation {
            let key_bytes = first.event.partition_key.len();
            let mut size = AggregateSize::default();
            key_indexes.push(size.add(&first.event.partition_key, &first.event.data).0);
            for event in waiting.iter().skip(1) {
                let (key_index, size) = size.add(&event.event.partition_key, &event.event.data);
                let next_bytes = key_bytes + size;
                if next_bytes > most {
                    break;
                }
                (count, bytes) = (count + 1, next_bytes);
                key_indexes.push(key_index);
            }
        }
        let events = match waiting.len() {
            // The queue becomes the list of events, without an allocation.
            1 => Vec::from(std::mem::take(waiting)),
            _ => waiting.drain(..count).collect(),
        };
        Some(Record {
            events,
            lane,
            shard,
            bytes,
            key_indexes,
        })
    }

    /// The events, oldest first; at least one.
    pub fn events(&self) -> &[QueuedEvent] {
        &self.events
    }

    pub(super) fn into_events(self) -> Vec<QueuedEvent> {
        self.events
    }

    /// The number of its stream.
    pub fn stream(&self) -> usize {
        self.lane.stream
    }

    /// The number of its shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// The bytes that count towards a request: data and partition key.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its partition key, which is that of the first event.
    ///
    /// All partition keys of an aggregate belong to one shard.
    pub fn partition_key(&self) -> &str {
        self.events.first().map_or("", |event| &event.event.partition_key)
    }

    /// Whether it holds more than one event.
    ///
    /// A consumer must de-aggregate such a record.
    pub fn is_aggregate(&self) -> bool {
        self.events.len() > 1
    }

    /// Its data. Each call writes the data of an aggregate again.
    pub fn data(&self) -> Cow<'_, [u8]> {
        match &self.events[..] {
            [only] => Cow::Borrowed(&only.event.data),
            events => {
                let indexed = events.iter().zip(&self.key_indexes);
                let indexed = indexed.map(|(event, key_index)| AggregatedEvent {
                    key_index: *key_index,
                    partition_key: &event.event.partition_key,
                    data: &event.event.data,
                });
                let bytes = self.bytes - self.partition_key().len();
                Cow::Owned(aggregate(indexed, bytes))
            }
        }
    }
}
