//! The forecast of a drain's records and requests. Nothing is sent.
//!
//! Events pass through the same lanes as in a drain. Each record is counted, and acknowledged immediately.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use super::shards::{SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND};
use super::{Aggregation, HashKey, Lanes, QueuedEvent, Record, RequestLimits, ShardMap};

/// Size of a put unit of a provisioned stream, in bytes.
const PUT_UNIT_BYTES: u64 = 25 << 10;

/// Billing unit of a record of an on-demand stream, in bytes.
///
/// The size of each record is rounded up to a multiple of it.
const ON_DEMAND_UNIT_BYTES: u64 = 1 << 10;

/// Price of a million put units, in US dollars.
///
/// It is the list price of us-east-1.
const USD_PER_MILLION_UNITS: f64 = 0.014;

/// Price of a GB written on demand, in US dollars.
///
/// A GB is 10^9 bytes. The price is the list price of us-east-1.
const USD_PER_GB: f64 = 0.08;

/// Most keys in the list of the hottest keys.
const MAX_HOTTEST_KEYS: usize = 10;

/// Most tables with figures of their own.
///
/// With `PARTITION_BY=transaction`, each transaction with a logical message counts as a table. Lambda refuses
/// an answer of more than 6 MB.
const MAX_FORECAST_TABLES: usize = 1_000;

/// Limits and options of a forecast.
#[derive(Debug, Clone, Copy)]
pub struct ForecastSettings {
    /// Most bytes of a record: data and partition key.
    pub record_bytes: usize,
    /// Most bytes of an aggregate.
    pub aggregate_bytes: usize,
    /// Most bytes of events that a drain keeps in memory.
    pub max_unacknowledged_bytes: usize,
    /// Whether the figures contain the texts of partition keys.
    ///
    /// If not, they contain hashes, because such a text has values of rows.
    pub names_keys: bool,
}

/// The forecast of the events that were added.
#[derive(Debug)]
pub struct Forecast {
    now: Instant,
    settings: ForecastSettings,
    /// The name of each stream, by its number.
    streams: Vec<String>,
    packings: [Packing; 2],
    tables: BTreeMap<String, TableTotals>,
    keys: HashMap<HashKey, KeyTotals>,
    oversize: u64,
    events: u64,
}

/// The records and requests of one packing.
#[derive(Debug)]
struct Packing {
    lanes: Lanes,
    requests: u64,
    records: u64,
    bytes: u64,
    /// Bytes with each record rounded up to [`ON_DEMAND_UNIT_BYTES`].
    on_demand_bytes: u64,
    put_units: u64,
    /// Records and bytes of each shard.
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

/// The figures of a forecast.
#[derive(Debug, Serialize)]
pub struct PlanFigures {
    /// The tables, most bytes first; at most 1,001.
    ///
    /// For logical messages, the name of the table is their partition key. With more than 1,000 tables, the
    /// last element has the sums of all others.
    pub tables: Vec<TableFigures>,
    /// The partition keys with the most events, at most 10.
    pub hottest_keys: Vec<KeyFigures>,
    /// The number of events that exceed a record of the stream.
    pub oversize: u64,
    /// Most bytes of a record: data and partition key.
    pub record_limit_bytes: usize,
    /// The figures if each event is a record of its own.
    pub none: PackingFigures,
    /// The figures with aggregates.
    pub kpl: PackingFigures,
}

/// The figures of one table.
#[derive(Debug, Serialize)]
pub struct TableFigures {
    /// Its name, `schema.table`; for logical messages their partition key.
    pub table: String,
    /// The number of events.
    pub events: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// The number of distinct partition keys.
    pub keys: usize,
    /// The bytes of the largest event.
    pub largest_bytes: usize,
    /// The number of events that exceed a record.
    pub oversize: u64,
}

/// The figures of one partition key.
#[derive(Debug, Serialize)]
pub struct KeyFigures {
    /// Its first 64 characters, or its hash.
    ///
    /// The hash is the first 16 hexadecimal digits of its SHA-256.
    pub key: String,
    /// The table of its first event.
    pub table: String,
    /// The number of events.
    pub events: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// Its share of all events, from 0 to 1.
    pub share: f64,
}

/// The figures of one packing.
#[derive(Debug, Serialize)]
pub struct PackingFigures {
    /// The number of records.
    pub records: u64,
    /// The number of PutRecords requests.
    ///
    /// Each request is answered before the next one.
    pub requests: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// The number of put units of 25 KB. A provisioned stream bills them.
    pub put_units: u64,
    /// The number of put units for a million such changes.
    pub put_units_per_million_changes: f64,
    /// The price of these put units, in US dollars.
    pub usd_per_million_changes_provisioned: f64,
    /// The on-demand price of a million such changes, in US dollars.
    ///
    /// Each record is rounded up to 1 KB.
    pub usd_per_million_changes_on_demand: f64,
    /// The shards, the busiest first.
    pub shards: Vec<ShardFigures>,
    /// Least seconds that the busiest shard needs to accept its records.
    ///
    /// If this is more than one second, the shard throttles a fast drain.
    pub seconds_at_capacity: f64,
}

/// The figures of one shard.
#[derive(Debug, Serialize)]
pub struct ShardFigures {
    /// The name of its stream.
    pub stream: String,
    /// Its name.
    pub shard: String,
    /// The number of records.
    pub records: u64,
    /// Bytes of data and partition keys.
    pub bytes: u64,
    /// Least seconds that the shard needs to accept its records.
    ///
    /// A shard accepts 1,000 records and 1 MiB a second.
    pub seconds: f64,
}

impl Forecast {
    /// An empty forecast for a stream. No time passes in it: each request is sent at `now`.
    pub fn new(now: Instant, stream: String, map: &ShardMap, settings: ForecastSettings) -> Self {
        let packing = |aggregation| Packing {
            lanes: Lanes::new(aggregation, map.clone()),
            requests: 0,
            records: 0,
            bytes: 0,
            on_demand_bytes: 0,
            put_units: 0,
            shards: vec![(0, 0); map.len()],
        };
        Forecast {
            now,
            settings,
            streams: vec![stream],
            packings: [
                packing(Aggregation::None),
                packing(Aggregation::Kpl {
                    bytes: settings.aggregate_bytes,
                }),
            ],
            tables: BTreeMap::new(),
            keys: HashMap::new(),
            oversize: 0,
            events: 0,
        }
    }

    /// Adds a stream. Its number is the number of earlier streams.
    pub fn add_stream(&mut self, stream: String, map: &ShardMap) {
        for packing in &mut self.packings {
            packing.lanes.add_stream(map.clone());
            packing.shards.extend(vec![(0, 0); map.len()]);
        }
        self.streams.push(stream);
    }

    /// The number of streams.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Adds an event.
    pub fn add(&mut self, queued: QueuedEvent, limits: RequestLimits) {
        self.count(&queued);
        let [none, kpl] = &mut self.packings;
        none.push(
            queued.clone(),
            self.now,
            limits,
            self.settings.max_unacknowledged_bytes,
        );
        kpl.push(queued, self.now, limits, self.settings.max_unacknowledged_bytes);
    }

    /// Counts an event for its table and its key.
    fn count(&mut self, queued: &QueuedEvent) {
        let (event, bytes) = (&queued.event, queued.event.bytes());
        let table = event.relation.as_ref().map(|relation| relation.table.unquoted());
        let table = table.unwrap_or_else(|| event.partition_key.clone());
        let hash_key = HashKey::of(&event.partition_key);
        let oversize = u64::from(event.size_problem(self.settings.record_bytes).is_some());
        self.oversize += oversize;
        self.events += 1;
        let key = self.keys.entry(hash_key).or_insert_with(|| KeyTotals {
            text: match self.settings.names_keys {
                true => event.partition_key.chars().take(64).collect(),
                false => event.key_hash().into(),
            },
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
        table.oversize += oversize;
        table.keys.insert(hash_key);
    }

    /// The figures of all events, which were encoded from `changes` changes.
    pub fn finish(self, changes: u64, limits: RequestLimits) -> PlanFigures {
        let [none, kpl] = self
            .packings
            .map(|packing| packing.finish(self.now, limits, changes, &self.streams));
        PlanFigures {
            tables: table_figures(self.tables),
            hottest_keys: hottest_keys(self.keys, self.events),
            oversize: self.oversize,
            record_limit_bytes: self.settings.record_bytes,
            none,
            kpl,
        }
    }
}

fn table_figures(tables: BTreeMap<String, TableTotals>) -> Vec<TableFigures> {
    let figures = tables.into_iter().map(|(table, totals)| TableFigures {
        table,
        events: totals.events,
        bytes: totals.bytes,
        keys: totals.keys.len(),
        largest_bytes: totals.largest,
        oversize: totals.oversize,
    });
    let mut figures: Vec<TableFigures> = figures.collect();
    figures.sort_by_key(|table| Reverse(table.bytes));
    let rest = figures.split_off(figures.len().min(MAX_FORECAST_TABLES));
    figures.extend((!rest.is_empty()).then(|| sum_of_tables(&rest)));
    figures
}

fn sum_of_tables(tables: &[TableFigures]) -> TableFigures {
    TableFigures {
        table: format!("{} others", tables.len()),
        events: tables.iter().map(|table| table.events).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        keys: tables.iter().map(|table| table.keys).sum(),
        largest_bytes: tables
            .iter()
            .map(|table| table.largest_bytes)
            .max()
            .unwrap_or_default(),
        oversize: tables.iter().map(|table| table.oversize).sum(),
    }
}

/// The keys with the most events. `events` is the number of all events.
fn hottest_keys(keys: HashMap<HashKey, KeyTotals>, events: u64) -> Vec<KeyFigures> {
    let mut keys: Vec<KeyTotals> = keys.into_values().collect();
    keys.sort_by(|a, b| b.events.cmp(&a.events).then_with(|| a.text.cmp(&b.text)));
    keys.truncate(MAX_HOTTEST_KEYS);
    let figures = keys.into_iter().map(|key| KeyFigures {
        key: key.text.into(),
        table: key.table.into(),
        events: key.events,
        bytes: key.bytes,
        share: rounded(key.events as f64 / events as f64),
    });
    figures.collect()
}

impl Packing {
    /// Queues an event, and sends the requests as a drain would.
    fn push(
        &mut self,
        event: QueuedEvent,
        now: Instant,
        limits: RequestLimits,
        max_unacknowledged_bytes: usize,
    ) {
        self.lanes.push(event);
        while self.lanes.has_full_request(limits, 1) {
            self.send(now, limits, true);
        }
        while self.lanes.memory() >= max_unacknowledged_bytes {
            self.send(now, limits, false);
        }
    }

    fn send(&mut self, now: Instant, limits: RequestLimits, full: bool) {
        let request = self.lanes.next_request(now, limits, full, |_| 1);
        self.requests += 1;
        for record in request {
            self.count(&record);
            self.lanes.raise_limit(record.shard());
            self.lanes.acknowledge(now, record);
        }
    }

    fn count(&mut self, record: &Record) {
        let bytes = record.bytes() as u64;
        self.records += 1;
        self.bytes += bytes;
        self.on_demand_bytes += bytes.next_multiple_of(ON_DEMAND_UNIT_BYTES);
        self.put_units += bytes.div_ceil(PUT_UNIT_BYTES);
        let (shard_records, shard_bytes) = &mut self.shards[record.shard()];
        *shard_records += 1;
        *shard_bytes += bytes;
    }

    fn finish(
        mut self,
        now: Instant,
        limits: RequestLimits,
        changes: u64,
        streams: &[String],
    ) -> PackingFigures {
        while !self.lanes.is_empty() {
            self.send(now, limits, false);
        }
        let shards = self.shard_figures(streams);
        let per_million = |amount: f64| rounded(amount * 1e6 / changes.max(1) as f64);
        PackingFigures {
            records: self.records,
            requests: self.requests,
            bytes: self.bytes,
            put_units: self.put_units,
            put_units_per_million_changes: per_million(self.put_units as f64),
            usd_per_million_changes_provisioned: per_million(
                self.put_units as f64 * USD_PER_MILLION_UNITS / 1e6,
            ),
            usd_per_million_changes_on_demand: per_million(self.on_demand_bytes as f64 * USD_PER_GB / 1e9),
            seconds_at_capacity: shards.first().map_or(0.0, |shard| shard.seconds),
            shards,
        }
    }

    fn shard_figures(&self, streams: &[String]) -> Vec<ShardFigures> {
        let shards = self.lanes.shards();
        let figures = self.shards.iter().enumerate().map(|(shard, (records, bytes))| {
            let seconds_by_records = *records as f64 / SHARD_RECORDS_PER_SECOND;
            let seconds_by_bytes = *bytes as f64 / SHARD_BYTES_PER_SECOND;
            ShardFigures {
                stream: streams[shards.stream(shard)].clone(),
                shard: shards.shard(shard).id.clone(),
                records: *records,
                bytes: *bytes,
                seconds: rounded(seconds_by_records.max(seconds_by_bytes)),
            }
        });
        let mut figures: Vec<ShardFigures> = figures.collect();
        figures.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        figures
    }
}

/// Rounds to six decimals. Further digits would be rounding errors.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}
