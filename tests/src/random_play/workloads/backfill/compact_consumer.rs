//! Consumer that keeps hashes instead of values, so that it rebuilds a table of millions of rows while it arrives.
//!
//! It applies events in the order of their arrival, and drops an event that is not newer than the last of its key. It
//! reads Debezium's envelope, and one table.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use serde_json::Value;
use tokio_postgres::Client;

use crate::event::{Event, Form, Row, UNAVAILABLE};
use crate::hash_range::HashRange;
use crate::oracle;
use crate::random_play::kcl;
use crate::random_play::result::{Counter, Verdict};
use crate::value::ColumnValue;

/// Columns outside of the key. Those that are never stored out of line are first.
const COLUMNS: [&str; 3] = ["n", "small", "body"];
/// Number of columns that are never stored out of line.
const INLINE_COLUMNS: usize = 2;
/// Hash of a value that no event had.
const UNKNOWN: u64 = 0;
/// Violations of one kind that are reported.
const MOST_CASES: usize = 5;

/// Parts of a position: end of the commit, LSN, index.
type PositionParts = (u64, u64, u32);
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
    hashes: [u64; COLUMNS.len()],
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
#[derive(Debug, Default)]
pub(super) struct CompactConsumer {
    key_columns: Vec<&'static str>,
    rows: HashMap<u64, RowState>,
    /// Hash of the event of each position.
    events: HashMap<PositionParts, u64>,
    /// Values of deleted rows. After a key change, the row with the new key may need them, and may arrive first.
    deleted: HashMap<WalRecord, ValueHashes>,
    reads: u64,
    duplicates: u64,
    violations: Vec<String>,
}

impl CompactConsumer {
    /// Consumer of a table with these key columns.
    pub(super) fn of_key(key_columns: Vec<&'static str>) -> Self {
        Self {
            key_columns,
            ..Self::default()
        }
    }

    /// Applies a record of a shard with this hash range.
    pub(super) fn take_record(&mut self, range: HashRange, partition_key: &str, data: &[u8]) {
        if let Err(error) = kcl::deliver(range, partition_key, data, |_, data| self.take_event(data)) {
            self.add_violation(error.to_string());
        }
    }

    fn take_event(&mut self, data: &[u8]) {
        match Event::parse(data) {
            Ok(event) if event.source.table.is_some() => self.apply(&event),
            Ok(_) => {}
            Err(reason) => self.add_violation(format!("no event: {reason}")),
        }
    }

    fn add_violation(&mut self, what: String) {
        if self.violations.len() < MOST_CASES {
            self.violations.push(what);
        }
    }

    fn apply(&mut self, event: &Event) {
        let position = position_parts(&event.source.position);
        let is_delete = event.op == "d";
        let row = match is_delete {
            true => event.before.as_ref(),
            false => event.after.as_ref(),
        };
        let Some(row) = row else {
            return self.add_violation(format!("{} without a row", event.op));
        };
        let key = self.key_of(row);
        let hashes = match is_delete {
            true => [UNKNOWN; COLUMNS.len()],
            false => COLUMNS.map(|name| row.get(name).map_or(UNKNOWN, hash_of_value)),
        };
        if !self.is_first(event, position, key, &hashes[..INLINE_COLUMNS]) {
            return;
        }
        self.reads += u64::from(event.op == "r");
        let old = self.rows.get(&key).copied();
        if let Some(old) = old.filter(|old| old.position > position) {
            let (op, late) = (&event.op, &event.source.position);
            return self.add_violation(format!(
                "out of order: {op} {late} arrived after {:x?}",
                old.position
            ));
        }
        let old = old.filter(|old| old.is_alive).map(|old| old.values);
        let state = RowState {
            position,
            is_alive: !is_delete,
            values: self.new_values(event, (position.0, position.1), hashes, old),
        };
        self.rows.insert(key, state);
    }

    /// Whether the position arrives for the first time. Otherwise the event has to be the same as the first.
    ///
    /// The comparison leaves out the large value. An event that is sent again may lack it, because the change did not
    /// touch it, or may have a newer one.
    fn is_first(&mut self, event: &Event, position: PositionParts, key: u64, inline: &[u64]) -> bool {
        let content = hash(&(&event.op, key, inline));
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
        hashes: [u64; COLUMNS.len()],
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
        let values = self.key_columns.iter().map(value);
        let values: Vec<ColumnValue> = values.map(|value| ColumnValue::of(value, false)).collect();
        hash(&values)
    }

    /// Hashes of a row, completed from the rows with its former keys.
    fn completed(&self, mut values: ValueHashes) -> [u64; COLUMNS.len()] {
        while values.hashes.contains(&UNKNOWN)
            && let Some(deleted) = values.key_change.and_then(|record| self.deleted.get(&record))
        {
            values.fill(deleted);
            values.key_change = deleted
                .key_change
                .filter(|record| Some(*record) != values.key_change);
        }
        values.hashes
    }

    /// Compares the rows with those of PostgreSQL's `table`.
    pub(super) async fn compare(mut self, client: &Client, table: &str) -> Verdict {
        let (mut rows, mut matched, mut differences) = (0, 0, 0);
        let mut cases = Vec::new();
        oracle::scan(client, table, Form::Debezium, |cells| {
            rows += 1;
            let cell = |name: &str| {
                let found = cells.iter().find(|(column, _)| *column == name);
                found.map(|(_, cell)| cell)
            };
            let key: Vec<&ColumnValue> = self.key_columns.iter().filter_map(|name| cell(name)).collect();
            let mut add_difference = |what: String| {
                differences += 1;
                if cases.len() < MOST_CASES {
                    cases.push(format!("{key:?} {what}"));
                }
            };
            let Some(state) = self.rows.get(&hash(&key)).filter(|state| state.is_alive) else {
                return add_difference("is not in the stream".to_owned());
            };
            matched += 1;
            for (name, ours) in COLUMNS.iter().zip(self.completed(state.values)) {
                if ours != cell(name).map_or(UNKNOWN, hash) {
                    let value = if ours == UNKNOWN {
                        "no value"
                    } else {
                        "another value"
                    };
                    add_difference(format!(
                        "{name}: the stream has {value}, as of {:x?}",
                        state.position
                    ));
                }
            }
        })
        .await;
        let alive = self.rows.values().filter(|state| state.is_alive).count() as u64;
        if alive > matched {
            differences += alive - matched;
            cases.push(format!("{} rows are only in the stream", alive - matched));
        }
        self.violations.extend(cases);
        let mut verdict = Verdict {
            violations: self.violations,
            ..Verdict::default()
        };
        for (counter, count) in [
            (Counter::Rows, rows),
            (Counter::Reads, self.reads),
            (Counter::Duplicates, self.duplicates),
            (Counter::Differences, differences),
        ] {
            verdict.counts.add(counter, count);
        }
        verdict
    }
}

/// Parts of a position, whose form was checked when its event was parsed.
fn position_parts(text: &str) -> PositionParts {
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(&text[range], 16).unwrap_or_default();
    (part(0..16), part(17..33), part(34..42) as u32)
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
