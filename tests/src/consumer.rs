//! A consumer of the stream: reads it from its beginning, over all shards, as KCL does; drops what it has seen before, and
//! holds the delivery to the promise.
//!
//! The promise, as a consumer can see it: every position always carries the same event, and within one partition key
//! the positions ascend in the order of their first arrival.

pub mod column_value;
pub mod event;
pub mod oracle;
pub mod rebuild;
pub mod third_party;

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::aws::aggregate;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::hash_range::HashRange;
use crate::aws::kinesis::Kinesis;
use crate::consumer::event::{Envelope, Event, UNAVAILABLE, timeless};
use crate::consumer::rebuild::RebuiltTables;

/// One event as it was read: a record, or a part of an aggregate.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its partition key.
    pub partition_key: String,
    /// The position of its event.
    pub position: String,
    /// Its data: one event.
    pub data: Vec<u8>,
}

impl Arrival {
    /// Its event. It was parsed once before, so it can be again.
    pub fn event(&self) -> Event {
        Event::parse(&self.data).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Its event as plain JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// All that a stream holds.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// The events, shard after shard, each in the order of the shard, and a shard before those that it was split or merged
    /// into: events of one key in the order in which they arrived.
    pub arrivals: Vec<Arrival>,
    /// Definitions of tables: they carry the position of what they precede. With how many of `arrivals` came before each.
    pub definitions: Vec<(usize, Arrival)>,
    /// Partition keys of records without data. With how many of `arrivals` came before each.
    pub tombstones: Vec<(usize, String)>,
    /// Records of aggregates of which one lay in a shard where it does not belong, and that the KCL therefore drops.
    pub dropped: usize,
    /// Records of the stream.
    pub records: usize,
    /// Those of them that were aggregates.
    pub aggregates: usize,
    /// Records that are no events, and why.
    pub foreign: Vec<String>,
}

impl Delivery {
    /// Reads `stream` from its beginning to its end.
    pub async fn read(kinesis: &Kinesis, stream: &str) -> Self {
        let mut read = Self::default();
        for shard in kinesis.shards(stream).await {
            let range = shard
                .hash_key_range()
                .and_then(|range| HashRange::parse(range.starting_hash_key(), range.ending_hash_key()))
                .unwrap_or_else(|| panic!("{} has no range of hash keys", shard.shard_id()));
            let each = |key: &str, data: &[u8]| read.take(range, key, data);
            kinesis.read_shard(stream, shard.shard_id(), each).await;
        }
        read
    }

    /// Reads all that arrived at `double`.
    pub fn from_fake(fake_kinesis: &FakeKinesis) -> Self {
        let mut read = Self::default();
        fake_kinesis.read(|range, key, data| read.take(range, key, data));
        read
    }

    /// Takes a record of a shard with this range.
    fn take(&mut self, range: HashRange, partition_key: &str, data: &[u8]) {
        self.records += 1;
        match aggregate::split(data) {
            Ok(None) => self.take_event(partition_key, data),
            Ok(Some(records)) => {
                self.aggregates += 1;
                if records.iter().all(|record| range.contains(record.hash())) {
                    for record in records {
                        self.take_event(record.partition_key, record.data);
                    }
                } else {
                    self.dropped += records.len();
                }
            }
            Err(error) => self.foreign.push(format!("{partition_key}: {error}")),
        }
    }

    /// Adds what was read next: one event, or a tombstone.
    pub fn take_event(&mut self, partition_key: &str, data: &[u8]) {
        if data.is_empty() {
            let before = self.arrivals.len();
            return self.tombstones.push((before, partition_key.to_owned()));
        }
        match Event::parse(data) {
            Ok(event) => {
                let arrival = Arrival {
                    partition_key: partition_key.to_owned(),
                    position: event.source.position,
                    data: data.to_vec(),
                };
                match event.op.as_str() {
                    "definition" => self.definitions.push((self.arrivals.len(), arrival)),
                    _ => self.arrivals.push(arrival),
                }
            }
            Err(reason) => self.foreign.push(format!("{partition_key}: {reason}")),
        }
    }

    /// The first arrival of each position, in the order of positions: the changes as they were committed.
    pub fn changes(&self) -> Vec<&Arrival> {
        let mut first: BTreeMap<&str, &Arrival> = BTreeMap::new();
        for arrival in &self.arrivals {
            first.entry(&arrival.position).or_insert(arrival);
        }
        first.into_values().collect()
    }

    /// The changes of one table (`schema.table`, unquoted) as plain JSON, in the order of positions.
    pub fn of_table(&self, table: &str) -> Vec<Value> {
        let changes = self.changes().into_iter();
        changes
            .filter(|it| it.event().table().as_deref() == Some(table))
            .map(Arrival::json)
            .collect()
    }

    /// How many events brought nothing new.
    pub fn duplicates(&self) -> usize {
        self.arrivals.len() - self.changes().len()
    }

    /// How many changes each table has (`schema.table`; messages are under their operation).
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for change in self.changes() {
            let event = change.event();
            *counts.entry(event.table().unwrap_or(event.op)).or_default() += 1;
        }
        counts
    }

    /// The tables as a consumer keeps them. Also says where two ways of applying the same records disagree.
    pub fn rebuild(&self) -> RebuiltTables {
        RebuiltTables::from(self)
    }

    /// Where the delivery breaks the promise: at most the first few cases of each kind.
    pub fn broken(&self) -> Vec<String> {
        let mut broken: Vec<String> = self
            .foreign
            .iter()
            .take(5)
            .map(|it| format!("no event: {it}"))
            .collect();
        let has_reads = LazyCell::new(|| self.arrivals.iter().any(|it| it.event().op == "r"));
        let mut first: HashMap<&str, &Arrival> = HashMap::new();
        let mut last_of_key: HashMap<&str, &str> = HashMap::new();
        let mut report = |what: String| {
            if broken.len() < 20 {
                broken.push(what);
            }
        };
        for arrival in &self.arrivals {
            let (key, position) = (arrival.partition_key.as_str(), arrival.position.as_str());
            if let Some(earlier) = first.get(position) {
                if earlier.partition_key != key {
                    report(format!(
                        "{position} came with the keys {} and {key}",
                        earlier.partition_key
                    ));
                }
                if !is_same(earlier, arrival, &has_reads) {
                    report(format!(
                        "{position} is not always the same event: {} and {}",
                        String::from_utf8_lossy(&earlier.data),
                        String::from_utf8_lossy(&arrival.data)
                    ));
                }
                continue;
            }
            first.insert(position, arrival);
            if let Some(last) = last_of_key.insert(key, position).filter(|last| *last > position) {
                report(format!(
                    "out of order: {key} had {last} and then, for the first time, {position}"
                ));
            }
            if let Some(reason) = misplaced(arrival) {
                report(reason);
            }
        }
        broken
    }

    /// # Panics
    /// The delivery breaks the promise.
    pub fn assert_promise(&self) {
        let broken = self.broken();
        assert!(broken.is_empty(), "the promise is broken:\n{}", broken.join("\n"));
    }
}

/// Why a partition key is not that of its event. One that is no JSON object is hashed, or names the table.
fn misplaced(arrival: &Arrival) -> Option<String> {
    let key: crate::consumer::event::Row = serde_json::from_str(&arrival.partition_key).ok()?;
    let event = arrival.event();
    // The others write values as the source has them, and the key as Debezium does.
    if event.envelope != Envelope::Debezium {
        return None;
    }
    let row = if event.op == "d" {
        event.before
    } else {
        event.after
    }?;
    let wrong = key.iter().any(|(column, value)| row.get(column) != Some(value));
    wrong.then(|| {
        format!(
            "{} lies under the key {}",
            arrival.position, arrival.partition_key
        )
    })
}

/// Whether an event that came again is the same. Beside a backfill, a large value that the change left alone may be told the one time, from
/// what was read, and not the other.
fn is_same(one: &Arrival, other: &Arrival, has_reads: &LazyCell<bool, impl FnOnce() -> bool>) -> bool {
    fn agree(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Object(one), Value::Object(other)) => {
                let same = |(name, value)| other.get(name).is_some_and(|its| agree(value, its));
                one.len() == other.len() && one.iter().all(same)
            }
            (Value::String(one), Value::String(other)) => {
                one == other || one == UNAVAILABLE || other == UNAVAILABLE
            }
            (one, other) => one == other,
        }
    }
    match (timeless(&one.data), timeless(&other.data)) {
        (Some(one), Some(other)) => one == other || (**has_reads && agree(&one, &other)),
        (one, other) => one == other,
    }
}
