//! Consumer that keeps hashes instead of values.
//!
//! It rebuilds a table of millions of rows while the records arrive. It applies events in the order of their
//! arrival. Within one key, positions have to ascend. It reads Debezium's envelope, and one table.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use serde_json::Value;
use tokio_postgres::Client;

use super::kcl;
use super::result::{Counter, PlayVerdict};
use crate::aws::hash_range::HashRange;
use crate::consumer::column_value::ColumnValue;
use crate::consumer::event::{Envelope, Event, Row, UNAVAILABLE, timeless};
use crate::consumer::oracle;
use crate::consumer::position::{PositionParts, position_parts};

/// Hash of a value that no event had.
const UNKNOWN: u64 = 0;
/// Most columns of a table outside of its key.
const MAX_COLUMNS: usize = 3;
/// Violations of one kind that are reported.
const MAX_CASES: usize = 5;

/// Table that a consumer rebuilds.
#[derive(Debug, Clone)]
pub(super) struct ConsumedTable {
    pub(super) name: &'static str,
    pub(super) key_columns: Vec<&'static str>,
    /// Columns outside of the key.
    pub(super) columns: &'static [&'static str],
    /// Number of leading `columns` that a repeated event always has.
    ///
    /// An event that is sent again may lack a large value that its change did not touch, or may have a newer
    /// one. `None`: the whole event is the same, but for the times of its creation.
    pub(super) stable_columns: Option<usize>,
}

/// Hashes of a row's values, in the order of the table's columns. The rest is 0.
type Hashes = [u64; MAX_COLUMNS];
/// Hash of the event of each position.
pub(super) type EventHashes = HashMap<PositionParts, u64>;

/// First two parts of a position. The delete and the create of one key change share them.
type WalRecord = (u64, u64);

/// Last known state of a key.
#[derive(Debug, Clone, Copy)]
struct RowState {
    position: PositionParts,
    is_alive: bool,
    values: ValueHashes,
}

/// Hashes of a row's values.
#[derive(Debug, Clone, Copy)]
struct ValueHashes {
    hashes: Hashes,
    /// Key change that created the row. Its unknown values are those of the row with the old key.
    key_change: Option<WalRecord>,
}

impl ValueHashes {
    /// Replaces unknown values by those of `other`.
    fn fill(&mut self, other: &Self) {
        for (value, known) in self.hashes.iter_mut().zip(other.hashes) {
            if *value == UNKNOWN {
                *value = known;
            }
        }
    }
}

/// Rows of one table, as their events arrived.
#[derive(Debug)]
pub(super) struct CompactConsumer {
    table: ConsumedTable,
    rows: HashMap<u64, RowState>,
    events: EventHashes,
    /// Values of deleted rows. After a key change, the row with the new key may need them, and may arrive
    /// first.
    deleted: HashMap<WalRecord, ValueHashes>,
    reads: u64,
    duplicates: u64,
    dropped: u64,
    violations: Vec<String>,
}

impl CompactConsumer {
    /// Consumer without events.
    pub(super) fn new(table: ConsumedTable) -> Self {
        Self {
            table,
            rows: HashMap::new(),
            events: HashMap::new(),
            deleted: HashMap::new(),
            reads: 0,
            duplicates: 0,
            dropped: 0,
            violations: Vec::new(),
        }
    }

    /// Takes the consumer out of a mutex, and leaves one without events.
    pub(super) fn take(&mut self) -> Self {
        let empty = Self::new(self.table.clone());
        std::mem::replace(self, empty)
    }

    /// Hash of the event of each position.
    pub(super) fn events(&self) -> &EventHashes {
        &self.events
    }

    /// Applies a record of a shard with this hash range.
    pub(super) fn take_record(&mut self, range: HashRange, partition_key: &str, data: &[u8]) {
        match kcl::deliver(range, partition_key, data, |key, data| self.take_event(key, data)) {
            Ok(dropped) => self.dropped += dropped as u64,
            Err(error) => self.add_violation(error.to_string()),
        }
    }

    fn take_event(&mut self, partition_key: &str, data: &[u8]) {
        match Event::parse(data) {
            Ok(event) if event.source.table.is_some() => self.apply(partition_key, &event, data),
            // Messages and control events are no rows. Where every event is expected, an unexpected one is
            // noticed.
            Ok(event) if self.table.stable_columns.is_none() => {
                let position = checked_position(&event);
                self.is_first(&event, position, hash_of_event(partition_key, data));
            }
            Ok(_) => {}
            Err(reason) => self.add_violation(format!("{partition_key} has no event: {reason}")),
        }
    }

    fn add_violation(&mut self, what: String) {
        if self.violations.len() < MAX_CASES {
            self.violations.push(what);
        }
    }

    fn apply(&mut self, partition_key: &str, event: &Event, data: &[u8]) {
        let position = checked_position(event);
        let row = match event.op.as_str() {
            "d" => event.before.as_ref(),
            _ => event.after.as_ref(),
        };
        let Some(row) = row else {
            return self.add_violation(format!("{} without a row", event.op));
        };
        let key = self.key_of(row);
        let hashes = self.hashes_of(event, row);
        let content = match self.table.stable_columns {
            Some(stable) => hash(&(&event.op, key, &hashes[..stable])),
            None => hash_of_event(partition_key, data),
        };
        if !self.is_first(event, position, content) {
            return;
        }
        self.reads += u64::from(event.op == "r");
        let old = self.rows.get(&key).copied();
        if let Some(old) = old.filter(|old| old.position > position) {
            return self.add_violation(format!(
                "out of order: {} {} arrived after {:x?}",
                event.op, event.source.position, old.position
            ));
        }
        let old = old.filter(|old| old.is_alive).map(|old| old.values);
        let state = RowState {
            position,
            is_alive: event.op != "d",
            values: self.new_values(event, (position.0, position.1), hashes, old),
        };
        self.rows.insert(key, state);
    }

    fn hashes_of(&self, event: &Event, row: &Row) -> Hashes {
        let mut hashes = [UNKNOWN; MAX_COLUMNS];
        // The row of a delete has the old values, if any.
        if event.op != "d" {
            for (hash, column) in hashes.iter_mut().zip(self.table.columns) {
                *hash = row.get(*column).map_or(UNKNOWN, hash_of_value);
            }
        }
        hashes
    }

    /// Whether the position arrives for the first time. Otherwise the event has to be the same as the first.
    fn is_first(&mut self, event: &Event, position: PositionParts, content: u64) -> bool {
        match self.events.entry(position) {
            Entry::Vacant(first) => {
                first.insert(content);
                true
            }
            Entry::Occupied(first) => {
                let is_same = *first.get() == content;
                self.duplicates += 1;
                if !is_same {
                    let position = &event.source.position;
                    self.add_violation(format!("{position} is not always the same event"));
                }
                false
            }
        }
    }

    /// Values of a row after `event`. `old` are the values of the living row that had its key.
    fn new_values(
        &mut self,
        event: &Event,
        record: WalRecord,
        hashes: Hashes,
        old: Option<ValueHashes>,
    ) -> ValueHashes {
        let mut values = ValueHashes {
            hashes,
            key_change: None,
        };
        match (event.op.as_str(), old) {
            ("d", Some(old)) => {
                self.deleted.insert(record, old);
            }
            ("u", Some(old)) => {
                values.fill(&old);
                values.key_change = old.key_change;
            }
            ("c", _) => values.key_change = Some(record),
            _ => {}
        }
        values
    }

    fn key_of(&self, row: &Row) -> u64 {
        let value = |name: &&str| row.get(*name).unwrap_or(&Value::Null);
        let values = self.table.key_columns.iter().map(value);
        let values: Vec<ColumnValue> = values.map(|value| ColumnValue::of(value, false)).collect();
        hash(&values)
    }

    /// Hashes of a row, completed from the rows with its former keys.
    fn completed(&self, mut values: ValueHashes) -> Hashes {
        while values.hashes[..self.table.columns.len()].contains(&UNKNOWN)
            && let Some(deleted) = values.key_change.and_then(|record| self.deleted.get(&record))
        {
            values.fill(deleted);
            values.key_change = deleted
                .key_change
                .filter(|record| Some(*record) != values.key_change);
        }
        values.hashes
    }

    /// Compares the rows with those of PostgreSQL.
    pub(super) async fn compare(mut self, client: &Client) -> PlayVerdict {
        let mut comparison = RowComparison::default();
        oracle::scan(client, self.table.name, Envelope::Debezium, |row| {
            comparison.compare_row(&self, row);
        })
        .await;
        let alive = self.rows.values().filter(|state| state.is_alive).count() as u64;
        if alive > comparison.matched {
            let surplus = alive - comparison.matched;
            comparison.differences += surplus;
            comparison
                .cases
                .push(format!("{surplus} rows are only in the stream"));
        }
        self.violations.extend(comparison.cases);
        let mut verdict = PlayVerdict {
            violations: self.violations,
            ..PlayVerdict::default()
        };
        for (counter, count) in [
            (Counter::Rows, comparison.rows),
            (Counter::Reads, self.reads),
            (Counter::Duplicates, self.duplicates),
            (Counter::Dropped, self.dropped),
            (Counter::Differences, comparison.differences),
        ] {
            verdict.counts.add(counter, count);
        }
        verdict
    }
}

/// Result of the comparison of PostgreSQL's rows with the consumer's.
#[derive(Debug, Default)]
struct RowComparison {
    /// Number of PostgreSQL's rows.
    rows: u64,
    /// Number of those that the consumer has, too.
    matched: u64,
    differences: u64,
    /// The first differences.
    cases: Vec<String>,
}

impl RowComparison {
    /// Compares a row of PostgreSQL with that of the consumer.
    fn compare_row(&mut self, consumer: &CompactConsumer, row: &[(&str, ColumnValue)]) {
        self.rows += 1;
        let value_of = |name: &str| {
            let found = row.iter().find(|(column, _)| *column == name);
            found.map(|(_, value)| value)
        };
        let table = &consumer.table;
        let key: Vec<&ColumnValue> = table
            .key_columns
            .iter()
            .filter_map(|name| value_of(name))
            .collect();
        let state = consumer.rows.get(&hash(&key));
        let Some(state) = state.filter(|state| state.is_alive) else {
            return self.add_difference(&key, "is not in the stream");
        };
        self.matched += 1;
        for (name, ours) in table.columns.iter().zip(consumer.completed(state.values)) {
            if ours != value_of(name).map_or(UNKNOWN, hash) {
                let value = if ours == UNKNOWN {
                    "no value"
                } else {
                    "another value"
                };
                let position = state.position;
                let what = format!("{name}: the stream has {value}, as of {position:x?}");
                self.add_difference(&key, &what);
            }
        }
    }

    fn add_difference(&mut self, key: &[&ColumnValue], what: &str) {
        self.differences += 1;
        if self.cases.len() < MAX_CASES {
            self.cases.push(format!("{key:?} {what}"));
        }
    }
}

/// Parts of a position.
///
/// The form of the position was checked when its event was parsed.
fn checked_position(event: &Event) -> PositionParts {
    position_parts(&event.source.position).expect("an event has a position")
}

/// Hash of an event's partition key and content.
///
/// The content lacks the times of its creation.
fn hash_of_event(partition_key: &str, data: &[u8]) -> u64 {
    hash(&(partition_key, timeless(data).map(|event| event.to_string())))
}

fn hash_of_value(value: &Value) -> u64 {
    match value.as_str() {
        Some(UNAVAILABLE) => UNKNOWN,
        _ => hash(&ColumnValue::of(value, false)),
    }
}

fn hash(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish().max(UNKNOWN + 1)
}
