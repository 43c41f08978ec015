//! A consumer of the stream.
//!
//! It reads all shards from the beginning, as KCL does, and checks three things. A position always has the
//! same event and the same partition key. Within a partition key, the positions ascend in the order of first
//! arrival. A partition key is the key of its row.

pub mod column_value;
pub mod event;
pub mod example;
pub mod kcl;
pub mod oracle;
pub mod position;
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

/// An event of the stream: a plain record, or one of an aggregate.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Partition key.
    pub partition_key: String,
    /// Position of the event.
    pub position: String,
    /// The event in its envelope.
    pub data: Vec<u8>,
}

impl Arrival {
    /// The parsed event. Only data that can be parsed becomes an arrival.
    pub fn event(&self) -> Event {
        Event::parse(&self.data).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The event as plain JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// All events of a stream.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// Events; those of one key are in the order of arrival.
    ///
    /// Shards follow one after the other, a shard before its children.
    pub arrivals: Vec<Arrival>,
    /// Definitions of tables, each with the number of `arrivals` before it. Its position is that of the next
    /// change.
    pub definitions: Vec<(usize, Arrival)>,
    /// Partition keys of records without data.
    ///
    /// Each has the number of `arrivals` before it.
    pub tombstones: Vec<(usize, String)>,
    /// Records of aggregates that KCL drops: the hash key of one of them is not in the range of the shard.
    pub dropped: usize,
    /// Number of records in the stream.
    pub records: usize,
    /// Number of aggregates among them.
    pub aggregates: usize,
    /// Records that are not events: for each, the partition key and the reason.
    pub not_events: Vec<String>,
}

impl Delivery {
    /// Reads `stream` from its beginning to its end.
    pub async fn read(kinesis: &Kinesis, stream: &str) -> Self {
        let mut read = Self::default();
        read.add_stream(kinesis, stream).await;
        read
    }

    /// Reads another stream from its beginning to its end. Its events follow those of the streams before.
    pub async fn add_stream(&mut self, kinesis: &Kinesis, stream: &str) {
        for shard in kinesis.shards(stream).await {
            let range = shard
                .hash_key_range()
                .and_then(|range| HashRange::parse(range.starting_hash_key(), range.ending_hash_key()))
                .unwrap_or_else(|| panic!("{} has no range of hash keys", shard.shard_id()));
            let each = |key: &str, data: &[u8]| self.add_record(range, key, data);
            kinesis.read_shard(stream, shard.shard_id(), each).await;
        }
    }

    /// Reads all records of a fake Kinesis.
    pub fn from_fake(fake_kinesis: &FakeKinesis) -> Self {
        let mut read = Self::default();
        fake_kinesis.read(|range, key, data| read.add_record(range, key, data));
        read
    }

    /// Adds a record of a shard with this range.
    fn add_record(&mut self, range: HashRange, partition_key: &str, data: &[u8]) {
        self.records += 1;
        match aggregate::split(data) {
            Ok(None) => self.add_event(partition_key, data),
            Ok(Some(records)) => {
                self.aggregates += 1;
                if records.iter().all(|record| range.contains(record.hash())) {
                    for record in records {
                        self.add_event(record.partition_key, record.data);
                    }
                } else {
                    self.dropped += records.len();
                }
            }
            Err(error) => self.not_events.push(format!("{partition_key}: {error}")),
        }
    }

    /// Adds the next event, or the next tombstone, of a stream.
    pub fn add_event(&mut self, partition_key: &str, data: &[u8]) {
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
            Err(reason) => self.not_events.push(format!("{partition_key}: {reason}")),
        }
    }

    /// First arrival of each position, in the order of positions.
    ///
    /// These are the changes in commit order, and the backfilled rows.
    pub fn changes(&self) -> Vec<&Arrival> {
        let mut first: BTreeMap<&str, &Arrival> = BTreeMap::new();
        for arrival in &self.arrivals {
            first.entry(&arrival.position).or_insert(arrival);
        }
        first.into_values().collect()
    }

    /// Changes of one table as plain JSON, in position order.
    ///
    /// `table` is `schema.table`, unquoted.
    pub fn of_table(&self, table: &str) -> Vec<Value> {
        let changes = self.changes().into_iter();
        changes
            .filter(|it| it.event().table().as_deref() == Some(table))
            .map(Arrival::json)
            .collect()
    }

    /// Number of events whose position had arrived before.
    pub fn duplicates(&self) -> usize {
        self.arrivals.len() - self.changes().len()
    }

    /// Number of changes by table (`schema.table`). Messages are counted under their operation.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for change in self.changes() {
            let event = change.event();
            *counts.entry(event.table().unwrap_or(event.op)).or_default() += 1;
        }
        counts
    }

    /// Tables that a consumer rebuilds from the stream.
    pub fn rebuild(&self) -> RebuiltTables {
        RebuiltTables::from(self)
    }

    /// Violations of the promise, at most twenty.
    pub fn violations(&self) -> Vec<String> {
        let mut violations: Vec<String> = self
            .not_events
            .iter()
            .take(5)
            .map(|it| format!("not an event: {it}"))
            .collect();
        let has_reads = LazyCell::new(|| self.arrivals.iter().any(|it| it.event().op == "r"));
        let mut first: HashMap<&str, &Arrival> = HashMap::new();
        let mut last_of_key: HashMap<&str, &str> = HashMap::new();
        let mut report = |what: String| {
            if violations.len() < 20 {
                violations.push(what);
            }
        };
        for arrival in &self.arrivals {
            let (key, position) = (arrival.partition_key.as_str(), arrival.position.as_str());
            if let Some(earlier) = first.get(position) {
                if earlier.partition_key != key {
                    report(format!(
                        "{position} arrived with the keys {} and {key}",
                        earlier.partition_key
                    ));
                }
                if !is_same(earlier, arrival, &has_reads) {
                    report(format!(
                        "{position} has different events: {} and {}",
                        String::from_utf8_lossy(&earlier.data),
                        String::from_utf8_lossy(&arrival.data)
                    ));
                }
                continue;
            }
            first.insert(position, arrival);
            if let Some(last) = last_of_key.insert(key, position).filter(|last| *last > position) {
                report(format!(
                    "out of order: {key} had {last}, and {position} first arrived after it"
                ));
            }
            if let Some(reason) = wrong_partition_key(arrival) {
                report(reason);
            }
        }
        violations
    }

    /// # Panics
    /// The delivery breaks the promise.
    pub fn assert_promise(&self) {
        let violations = self.violations();
        assert!(
            violations.is_empty(),
            "the delivery breaks the promise:\n{}",
            violations.join("\n")
        );
    }
}

/// Reports a partition key that is not the key of its event.
///
/// A partition key that is not JSON is not checked: it is hashed, or names the table. Other envelopes than
/// Debezium's are not checked either.
fn wrong_partition_key(arrival: &Arrival) -> Option<String> {
    let key: crate::consumer::event::Row = serde_json::from_str(&arrival.partition_key).ok()?;
    let event = arrival.event();
    // Other envelopes write values in the form of the source, and keys in the form of Debezium.
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
            "{} has the wrong partition key {}",
            arrival.position, arrival.partition_key
        )
    })
}

/// Whether a duplicate is the same event.
///
/// During a backfill they may differ in one thing: a large unchanged value. One event may contain it, because
/// the function read the row. The other may not.
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
