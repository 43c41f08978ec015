//! A consumer that keeps little: of each row its last position, and of each value a hash. So a table of millions of rows is rebuilt and
//! compared beside everything else. It reads Debezium's envelope, and one table.
//!
//! It applies what arrives in the order of arrival, as a consumer does, and drops what is not newer than the last of its key.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use serde_json::Value;
use tokio_postgres::Client;

use crate::aws::aggregate;
use crate::aws::hash_range::HashRange;
use crate::consumer::column_value::ColumnValue;
use crate::consumer::event::{Envelope, Event, Row, UNAVAILABLE};
use crate::consumer::oracle;

/// The columns of a row that are not its key.
const VALUES: [&str; 3] = ["n", "small", "body"];
/// Those that are never stored apart come first.
const SMALL: usize = 2;
/// In place of the hash of a value that no event has told.
const UNKNOWN: u64 = 0;
/// Cases that are told.
const MOST_CASES: usize = 5;

/// End of the commit, LSN, index.
type Position = (u64, u64, u32);
/// The first two of a position: the delete and the create of one row that moved have the same.
type Record = (u64, u64);

/// The last that is known of a key.
#[derive(Debug, Clone, Copy)]
struct Kept {
    position: Position,
    alive: bool,
    values: Values,
}

/// Hashes of a row's values.
#[derive(Debug, Clone, Copy)]
struct Values {
    hashes: [u64; VALUES.len()],
    /// The change by which the row came from another key: what is unknown is what that row had.
    moved: Option<Record>,
}

/// What arrived so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    key: Vec<&'static str>,
    rows: HashMap<u64, Kept>,
    /// What each position brought.
    seen: HashMap<Position, u64>,
    /// What rows were when they were deleted, for the keys that they moved to. The shard of the new key may come first.
    left: HashMap<Record, Values>,
    /// Events that a backfill read.
    pub(super) reads: u64,
    /// Events that arrived although they had arrived before.
    pub(super) duplicates: u64,
    /// What may never happen, the first few times.
    pub(super) broken: Vec<String>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Rows of PostgreSQL.
    pub(super) rows: u64,
    /// Rows and values that are not the same.
    pub(super) differences: u64,
    /// The first few of them.
    pub(super) told: Vec<String>,
}

impl Ledger {
    /// Of a table with this key.
    pub(super) fn of(key: impl Iterator<Item = &'static str>) -> Self {
        Self {
            key: key.collect(),
            ..Self::default()
        }
    }

    /// Takes a record of a shard with this range.
    pub(super) fn take(&mut self, range: HashRange, data: &[u8]) {
        match aggregate::split(data) {
            Ok(None) => self.add_event(data),
            // The KCL drops all of an aggregate of which one part lies in the wrong shard.
            Ok(Some(records)) if records.iter().all(|record| range.contains(record.hash())) => {
                for record in records {
                    self.add_event(record.data);
                }
            }
            Ok(Some(_)) => {}
            Err(error) => self.tell(error.to_string()),
        }
    }

    fn add_event(&mut self, data: &[u8]) {
        match Event::parse(data) {
            Ok(event) if event.source.table.is_some() => self.apply(&event),
            Ok(_) => {}
            Err(reason) => self.tell(format!("no event: {reason}")),
        }
    }

    fn tell(&mut self, what: String) {
        if self.broken.len() < MOST_CASES {
            self.broken.push(what);
        }
    }

    fn apply(&mut self, event: &Event) {
        let position = position(&event.source.position);
        let row = match event.op.as_str() {
            "d" => event.before.as_ref(),
            _ => event.after.as_ref(),
        };
        let Some(row) = row else {
            return self.tell(format!("{} without a row", event.op));
        };
        let key = self.key_of(row);
        let mut hashes = VALUES.map(|name| row.get(name).map_or(UNKNOWN, hash_of));
        if event.op == "d" {
            hashes = [UNKNOWN; VALUES.len()];
        }
        // Sent again, a change need not tell a large value that it left alone, or tells a newer one.
        let told = hash(&(&event.op, key, &hashes[..SMALL]));
        match self.seen.entry(position) {
            Entry::Vacant(first) => first.insert(told),
            Entry::Occupied(before) => {
                self.duplicates += 1;
                if *before.get() != told {
                    self.tell(format!("{} is not always the same event", event.source.position));
                }
                return;
            }
        };
        self.reads += u64::from(event.op == "r");
        let old = self.rows.get(&key).copied();
        if let Some(old) = old.filter(|old| old.position > position) {
            let (op, late) = (&event.op, &event.source.position);
            return self.tell(format!(
                "out of order: {op} {late} came after {:x?}",
                old.position
            ));
        }
        let old_values = old.filter(|old| old.alive).map(|old| old.values);
        let record = (position.0, position.1);
        let mut values = Values { hashes, moved: None };
        match event.op.as_str() {
            "d" => drop(old_values.map(|old| self.left.insert(record, old))),
            "u" => {
                if let Some(old) = old_values {
                    for (value, old) in values.hashes.iter_mut().zip(old.hashes) {
                        if *value == UNKNOWN {
                            *value = old;
                        }
                    }
                    values.moved = old.moved;
                }
            }
            "c" => values.moved = Some(record),
            _ => {}
        }
        let alive = event.op != "d";
        let kept = Kept {
            position,
            alive,
            values,
        };
        self.rows.insert(key, kept);
    }

    fn key_of(&self, row: &Row) -> u64 {
        let cells: Vec<ColumnValue> = self
            .key
            .iter()
            .map(|name| {
                row.get(*name)
                    .map_or(ColumnValue::Null, |value| ColumnValue::of(value, false))
            })
            .collect();
        hash(&cells)
    }

    /// The hashes of a row, with what is known of it from the key that it had before.
    fn resolved(&self, mut values: Values) -> [u64; VALUES.len()] {
        let mut hashes = values.hashes;
        while hashes.contains(&UNKNOWN)
            && let Some(left) = values.moved.and_then(|record| self.left.get(&record))
        {
            for (value, left) in hashes.iter_mut().zip(left.hashes) {
                if *value == UNKNOWN {
                    *value = left;
                }
            }
            values.moved = left.moved.filter(|record| Some(*record) != values.moved);
        }
        hashes
    }

    /// Holds it against what PostgreSQL has in `table`.
    pub(super) async fn compare(&self, client: &Client, table: &str) -> Compared {
        let mut compared = Compared::default();
        let mut matched = 0_u64;
        oracle::scan(client, table, Envelope::Debezium, |cells| {
            compared.rows += 1;
            let cell = |name: &str| {
                cells
                    .iter()
                    .find(|(column, _)| *column == name)
                    .map(|(_, cell)| cell)
            };
            let key: Vec<&ColumnValue> = self.key.iter().filter_map(|name| cell(name)).collect();
            let mut differs = |what: String| {
                compared.differences += 1;
                if compared.told.len() < MOST_CASES {
                    compared.told.push(format!("{key:?} {what}"));
                }
            };
            let Some(kept) = self.rows.get(&hash(&key)).filter(|kept| kept.alive) else {
                return differs("is not in the stream".to_owned());
            };
            matched += 1;
            let ours = self.resolved(kept.values);
            for (name, ours) in VALUES.iter().zip(ours) {
                let theirs = cell(name).map_or(UNKNOWN, hash);
                if ours != theirs {
                    let known = if ours == UNKNOWN { "unknown" } else { "another" };
                    differs(format!(
                        "{name}: the value of the stream is {known}, as of {:x?}",
                        kept.position
                    ));
                }
            }
        })
        .await;
        let alive = self.rows.values().filter(|kept| kept.alive).count() as u64;
        if alive > matched {
            compared.differences += alive - matched;
            compared
                .told
                .push(format!("{} rows are only in the stream", alive - matched));
        }
        compared
    }
}

fn position(text: &str) -> Position {
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(&text[range], 16).unwrap_or_default();
    // It was looked at when the event was parsed.
    (part(0..16), part(17..33), part(34..42) as u32)
}

fn hash_of(value: &Value) -> u64 {
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
