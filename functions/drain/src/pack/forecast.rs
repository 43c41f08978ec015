//! What a drain would send, without sending it: events pass through the same lanes as those of a drain, and
//! each record that comes out is counted and acknowledged at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use super::{Aggregation, HashKey, Lanes, QueuedEvent, Record, RequestLimits, ShardMap};

/// Payload that one put unit of a provisioned stream pays for, bytes.
const PUT_UNIT: u64 = 25 << 10;

/// To what a record of an on-demand stream is rounded up, bytes.
const ROUNDED: u64 = 1 << 10;

/// What a million put units cost, and a GB (10^9 bytes) written on demand: list prices of us-east-1, in US
/// dollars.
const USD_A_MILLION_UNITS: f64 = 0.014;
const USD_A_GB: f64 = 0.08;

/// What a shard takes in a second.
const SHARD_RECORDS: f64 = 1000.0;
const SHARD_BYTES: f64 = (1 << 20) as f64;

/// Keys that are named.
const HOTTEST: usize = 10;

/// The events so far.
#[derive(Debug)]
pub struct Forecast {
    now: Instant,
    record_bytes: usize,
    capacity: usize,
    ways: [Packing; 2],
    tables: BTreeMap<String, TableTotals>,
    keys: HashMap<HashKey, KeyTotals>,
    oversize: u64,
    events: u64,
}

/// One way of packing.
#[derive(Debug)]
struct Packing {
    lanes: Lanes,
    requests: u64,
    records: u64,
    bytes: u64,
    rounded: u64,
    put_units: u64,
    shards: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
struct TableTotals {
    events: u64,
    bytes: u64,
    largest: usize,
    oversize: u64,
    keys: HashSet<HashKey>,
}

#[derive(Debug)]
struct KeyTotals {
    text: Box<str>,
    table: Box<str>,
    events: u64,
    bytes: u64,
}

/// The forecast in figures.
#[derive(Debug, Serialize)]
pub struct PlanFigures {
    /// By table, most bytes first; logical messages are under their partition key.
    pub tables: Vec<TableFigures>,
    /// The partition keys with the most events, at most ten.
    pub hottest_keys: Vec<KeyFigures>,
    /// Events that no record of the stream can hold.
    pub oversize: u64,
    /// Most bytes of a record, data and partition key.
    pub record_limit_bytes: usize,
    /// With every event a record.
    pub none: PackingFigures,
    /// With aggregates.
    pub kpl: PackingFigures,
}

/// What comes of one table.
#[derive(Debug, Serialize)]
pub struct TableFigures {
    /// `schema.table`
    pub table: String,
    /// Events.
    pub events: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// Different partition keys.
    pub keys: usize,
    /// Bytes of the largest event.
    pub largest_bytes: usize,
    /// Events that no record can hold.
    pub oversize: u64,
}

/// What comes of one partition key.
#[derive(Debug, Serialize)]
pub struct KeyFigures {
    /// Its first 64 characters.
    pub key: String,
    /// The table of its first event.
    pub table: String,
    /// Events.
    pub events: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// Its share of all events, from 0 to 1.
    pub share: f64,
}

/// What one way of packing would send.
#[derive(Debug, Serialize)]
pub struct PackingFigures {
    /// Records.
    pub records: u64,
    /// PutRecords requests, when each is answered before the next.
    pub requests: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// Units of 25 KB, which a provisioned stream bills.
    pub put_units: u64,
    /// Put units of a million changes like these.
    pub put_units_per_million_changes: f64,
    /// What these cost, US dollars.
    pub usd_per_million_changes_provisioned: f64,
    /// What a million changes like these cost on demand, where each record is rounded up to 1 KB, US dollars.
    pub usd_per_million_changes_on_demand: f64,
    /// By shard, the busiest first.
    pub shards: Vec<ShardFigures>,
    /// What the busiest shard needs at least to take its share: beyond a second it throttles a drain.
    pub seconds_at_capacity: f64,
}

/// What would land in one shard.
#[derive(Debug, Serialize)]
pub struct ShardFigures {
    /// Its name.
    pub shard: String,
    /// Records.
    pub records: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// What it needs at least to take them, at 1,000 records and 1 MiB a second.
    pub seconds: f64,
}

impl Forecast {
    /// An empty one for a stream. `aggregate` is the most bytes of an aggregate, `capacity` the bytes that a
    /// drain would keep in flight.
    pub fn new(now: Instant, map: &ShardMap, record_bytes: usize, aggregate: usize, capacity: usize) -> Self {
        let way = |aggregation| Packing {
            lanes: Lanes::new(aggregation, map.clone()),
            requests: 0,
            records: 0,
            bytes: 0,
            rounded: 0,
            put_units: 0,
            shards: vec![(0, 0); map.len()],
        };
        Forecast {
            now,
            record_bytes,
            capacity,
            ways: [way(Aggregation::None), way(Aggregation::Kpl { bytes: aggregate })],
            tables: BTreeMap::new(),
            keys: HashMap::new(),
            oversize: 0,
            events: 0,
        }
    }

    /// Adds an event.
    pub fn add(&mut self, queued: QueuedEvent, limits: RequestLimits) {
        let (event, bytes) = (&queued.event, queued.bytes());
        let table = event.relation.as_ref().map(|relation| relation.table.unquoted());
        let table = table.unwrap_or_else(|| event.partition_key.clone());
        let place = HashKey::of(&event.partition_key);
        let too_large = u64::from(bytes > self.record_bytes);
        self.oversize += too_large;
        self.events += 1;
        let key = self.keys.entry(place).or_insert_with(|| KeyTotals {
            text: event.partition_key.chars().take(64).collect(),
            table: table.as_str().into(),
            events: 0,
            bytes: 0,
        });
        key.events += 1;
        key.bytes += bytes as u64;
        let table = self.tables.entry(table).or_default();
        table.events += 1;
        table.bytes += bytes as u64;
        table.largest = table.largest.max(bytes);
        table.oversize += too_large;
        table.keys.insert(place);
        let [one, other] = &mut self.ways;
        one.push(queued.clone(), self.now, limits, self.capacity);
        other.push(queued, self.now, limits, self.capacity);
    }

    /// The figures of all events, which were made of so many `changes`.
    pub fn finish(mut self, changes: u64, limits: RequestLimits) -> PlanFigures {
        let mut tables: Vec<TableFigures> = std::mem::take(&mut self.tables)
            .into_iter()
            .map(|(table, of)| TableFigures {
                table,
                events: of.events,
                bytes: of.bytes,
                keys: of.keys.len(),
                largest_bytes: of.largest,
                oversize: of.oversize,
            })
            .collect();
        tables.sort_by_key(|table| Reverse(table.bytes));
        let mut keys: Vec<KeyTotals> = self.keys.into_values().collect();
        keys.sort_by(|one, other| {
            other
                .events
                .cmp(&one.events)
                .then_with(|| one.text.cmp(&other.text))
        });
        keys.truncate(HOTTEST);
        let hottest_keys = keys.into_iter().map(|key| KeyFigures {
            key: key.text.into(),
            table: key.table.into(),
            events: key.events,
            bytes: key.bytes,
            share: rounded(key.events as f64 / self.events as f64),
        });
        let hottest_keys = hottest_keys.collect();
        let [none, kpl] = self.ways.map(|way| way.finish(self.now, limits, changes));
        PlanFigures {
            tables,
            hottest_keys,
            oversize: self.oversize,
            record_limit_bytes: self.record_bytes,
            none,
            kpl,
        }
    }
}

impl Packing {
    fn push(&mut self, event: QueuedEvent, now: Instant, limits: RequestLimits, capacity: usize) {
        self.lanes.push(event);
        while self.lanes.has_full_request(limits) {
            self.send(now, limits, true);
        }
        while self.lanes.memory() >= capacity {
            self.send(now, limits, false);
        }
    }

    fn send(&mut self, now: Instant, limits: RequestLimits, full: bool) {
        let request = self.lanes.next_request(now, limits, full);
        self.requests += 1;
        for record in request {
            self.count(&record);
            self.lanes.raise_share(record.shard());
            self.lanes.acknowledge(record);
        }
    }

    fn count(&mut self, record: &Record) {
        let bytes = record.bytes() as u64;
        self.records += 1;
        self.bytes += bytes;
        self.rounded += bytes.next_multiple_of(ROUNDED);
        self.put_units += bytes.div_ceil(PUT_UNIT);
        let (records, sum) = &mut self.shards[record.shard()];
        *records += 1;
        *sum += bytes;
    }

    fn finish(mut self, now: Instant, limits: RequestLimits, changes: u64) -> PackingFigures {
        while !self.lanes.is_empty() {
            self.send(now, limits, false);
        }
        let map = self.lanes.map();
        let shards = self
            .shards
            .iter()
            .enumerate()
            .map(|(number, (records, bytes))| ShardFigures {
                shard: map.shard(number).id.clone(),
                records: *records,
                bytes: *bytes,
                seconds: rounded((*records as f64 / SHARD_RECORDS).max(*bytes as f64 / SHARD_BYTES)),
            });
        let mut shards: Vec<ShardFigures> = shards.collect();
        shards.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        let million = |amount: f64| rounded(amount * 1e6 / changes.max(1) as f64);
        PackingFigures {
            records: self.records,
            requests: self.requests,
            bytes: self.bytes,
            put_units: self.put_units,
            put_units_per_million_changes: million(self.put_units as f64),
            usd_per_million_changes_provisioned: million(self.put_units as f64 * USD_A_MILLION_UNITS / 1e6),
            usd_per_million_changes_on_demand: million(self.rounded as f64 * USD_A_GB / 1e9),
            seconds_at_capacity: shards.first().map_or(0.0, |shard| shard.seconds),
            shards,
        }
    }
}

/// To six digits behind the point: more would only say how it was computed.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Event;
    use crate::lsn::Lsn;
    use crate::pack::Acknowledgements;
    use crate::position::Position;

    const LIMITS: RequestLimits = RequestLimits {
        records: 500,
        bytes: 10 << 20,
    };

    fn figures(events: impl IntoIterator<Item = (&'static str, usize)>) -> PlanFigures {
        let mut forecast = Forecast::new(Instant::now(), &ShardMap::even(2), 1 << 20, 256 << 10, 32 << 20);
        let mut ledger = Acknowledgements::new(Lsn(0).into());
        let mut count = 0;
        for (key, size) in events {
            count += 1;
            let position = Position {
                commit_end: Lsn(count),
                lsn: Lsn(count),
                index: 0,
            };
            let event = Event {
                position,
                partition_key: key.into(),
                barrier: false,
                relation: None,
                data: vec![b'x'; size - key.len()],
            };
            let transaction = ledger.begin();
            forecast.add(QueuedEvent { event, transaction }, LIMITS);
        }
        forecast.finish(count, LIMITS)
    }

    #[test]
    fn a_record_costs_whole_units_and_aggregates_share_them() {
        // MD5 puts "abc" into the upper half of the ring.
        let figures = figures([("abc", 25_600), ("abc", 25_601), ("abc", 100), ("abc", 100)]);
        let (none, kpl) = (&figures.none, &figures.kpl);
        assert_eq!(
            (none.records, none.requests, none.put_units),
            (4, 4, 1 + 2 + 1 + 1)
        );
        assert_eq!(none.put_units_per_million_changes, 1_250_000.0);
        assert_eq!(none.usd_per_million_changes_provisioned, 0.0175);
        // 25, 26, 1 and 1 KB.
        assert_eq!(
            none.usd_per_million_changes_on_demand,
            rounded(53.0 * 1024.0 * 0.08 / 1e9 * 1e6 / 4.0)
        );
        assert_eq!((kpl.records, kpl.requests, kpl.put_units), (1, 1, 3));
        assert_eq!(
            (
                &*none.shards[0].shard,
                none.shards[0].records,
                none.shards[1].records
            ),
            ("1 of 2", 4, 0)
        );
        assert_eq!(figures.hottest_keys[0].share, 1.0);
    }

    #[test]
    fn what_no_record_can_hold_is_counted() {
        let limit = 1 << 20;
        let figures = figures([("a", limit - 1), ("a", limit), ("b", limit + 1)]);
        assert_eq!(figures.oversize, 1);
        let of = |key: &str| figures.tables.iter().find(|table| table.table == key).unwrap();
        assert_eq!(
            (of("a").oversize, of("b").oversize, of("b").largest_bytes),
            (0, 1, limit + 1)
        );
    }

    #[test]
    fn a_shard_takes_a_thousand_records_a_second() {
        let figures = figures((0..3000).map(|_| ("abc", 200)));
        assert_eq!(figures.none.seconds_at_capacity, 3.0);
        assert_eq!(figures.none.requests, 3000, "one of a key at a time");
        assert!(figures.kpl.seconds_at_capacity < 0.6, "{:?}", figures.kpl);
    }
}
