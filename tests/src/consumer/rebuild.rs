//! Tables that a consumer rebuilds from a stream.
//!
//! They are rebuilt in two ways that must agree. The first applies each position once, in the order of
//! positions. The second applies events in the order of arrival, and drops an event that is not newer than
//! the last of its key.
//!
//! A row of a backfill is a change like others: the state of its key from its position on, unless a newer one
//! is known.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::consumer::Delivery;
use crate::consumer::event::{Envelope, Event, Row, UNAVAILABLE};

/// All tables of a stream, by `schema.table`.
#[derive(Debug, Clone, Default)]
pub struct RebuiltTables {
    /// Tables by `schema.table`.
    pub tables: BTreeMap<String, RebuiltTable>,
    /// Differences between the two ways.
    pub disagreements: Vec<String>,
    /// Envelope of the events.
    pub envelope: Envelope,
    /// Tables that a repair read again.
    ///
    /// The value is the position since which the rows were read.
    repaired: BTreeMap<String, String>,
}

/// A rebuilt table.
#[derive(Debug, Clone, Default)]
pub struct RebuiltTable {
    /// Rows with a key, by partition key. Deleted rows stay for their position.
    pub keyed: HashMap<String, KeyState>,
    /// Rows without a key, by the positions of their events.
    pub keyless: BTreeMap<String, Row>,
    /// Number of changes of keyless rows that no earlier event had.
    pub unmatched: usize,
    /// Position of the last truncate.
    truncated: String,
    /// Positions of the changes of keyless rows.
    keyless_positions: HashSet<String>,
    /// Whether some keyless rows have a partition key with a suffix.
    ///
    /// Such rows arrive in any order.
    is_spread: bool,
}

/// Last known state of a key.
#[derive(Debug, Clone)]
pub struct KeyState {
    /// The row, or the old row of a delete.
    pub row: Row,
    /// Whether the row exists.
    pub alive: bool,
    /// Position of the last change.
    pub position: String,
}

impl RebuiltTable {
    /// Existing rows in any order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        let keyed = self
            .keyed
            .values()
            .filter(|state| state.alive)
            .map(|state| &state.row);
        keyed.chain(self.keyless.values())
    }

    /// Number of existing rows.
    pub fn len(&self) -> usize {
        self.keyed.values().filter(|state| state.alive).count() + self.keyless.len()
    }

    /// Whether no row exists.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&Delivery> for RebuiltTables {
    fn from(delivery: &Delivery) -> Self {
        let mut by_position = RebuiltTables::default();
        // A key change deletes the old key. The new row may omit unchanged values; the deleted row has them.
        let mut moved: Option<(String, Row)> = None;
        for change in delivery.changes() {
            let event = change.event();
            by_position.apply(&change.partition_key, event, Some(&mut moved));
        }
        by_position.remove_vanished_rows();
        let mut by_arrival = RebuiltTables::default();
        for arrival in &delivery.arrivals {
            by_arrival.apply(&arrival.partition_key, arrival.event(), None);
        }
        by_arrival.remove_vanished_rows();
        by_position.disagreements = by_position.differences(&by_arrival);
        by_position
    }
}

impl RebuiltTables {
    /// Adds an existing row that another consumer rebuilt.
    ///
    /// A row without a key has no `key`.
    pub fn add_row(&mut self, table: &str, key: Option<&str>, row: Row) {
        let table = self.tables.entry(table.to_owned()).or_default();
        match key {
            Some(key) => {
                let state = KeyState {
                    row,
                    alive: true,
                    position: String::new(),
                };
                table.keyed.insert(key.to_owned(), state);
            }
            None => {
                let number = format!("{:08}", table.keyless.len());
                table.keyless.insert(number, row);
            }
        }
    }

    /// Applies an event to its table.
    ///
    /// `moved` is the row that lost its key last, for the row that it becomes. In the order of arrival it is
    /// `None`: the shard of the old key may have been read to another point.
    fn apply(&mut self, key: &str, event: Event, mut moved: Option<&mut Option<(String, Row)>>) {
        if let Some(control) = event.control() {
            return self.note_repair(&control);
        }
        let Some(name) = event.table() else { return };
        self.envelope = event.envelope;
        // This event changes two keys: it also deletes the row under its old key.
        if let Some(old) = event.moved_from.clone().filter(|old| old != key && key != name) {
            let gone = Event {
                op: "d".to_owned(),
                after: None,
                moved_from: None,
                ..event.clone()
            };
            self.apply(&old, gone, moved.as_deref_mut());
        }
        let table = self.tables.entry(name.clone()).or_default();
        if event.source.position <= table.truncated {
            return;
        }
        if event.op == "t" {
            table.truncate(event.source.position);
        } else if key == name || event.is_spread_key(key) {
            table.is_spread |= key != name;
            table.apply_keyless(event);
        } else {
            table.apply_keyed(key, event, moved);
        }
    }

    /// ColumnNotes the tables of an event at the end of a repair. Other control events do not concern rows.
    fn note_repair(&mut self, control: &Value) {
        let (Some(since), "repaired") = (
            control["since"].as_str(),
            control["control"].as_str().unwrap_or_default(),
        ) else {
            return;
        };
        for table in control["tables"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            let known = self.repaired.entry(table.to_owned()).or_default();
            if since > known.as_str() {
                since.clone_into(known);
            }
        }
    }

    /// Removes the rows that a repair did not read.
    ///
    /// They no longer exist in PostgreSQL. This happens after all shards were read. Changes after the repair
    /// are newer, so the time does not matter.
    fn remove_vanished_rows(&mut self) {
        for (name, since) in &self.repaired {
            let state = self
                .tables
                .get_mut(name)
                .into_iter()
                .flat_map(|table| table.keyed.values_mut());
            for vanished in state.filter(|state| state.position < *since) {
                vanished.alive = false;
            }
        }
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, table) in &self.tables {
            let Some(others) = other.tables.get(name) else {
                found.push(format!("{name} is missing"));
                continue;
            };
            // A change of a row that arrives in another shard than its insert may be read before it.
            let is_comparable = !table.is_spread || table.keyless_positions.len() == table.keyless.len();
            if is_comparable && table.len() != others.len() {
                found.push(format!("{name}: {} rows and {}", table.len(), others.len()));
            }
            for (key, state) in &table.keyed {
                // When the truncate arrives before the rows, from another shard, they are never applied.
                let same = match others.keyed.get(key) {
                    Some(its) => its.alive == state.alive && (!state.alive || agree(state, its)),
                    None => !state.alive,
                };
                if !same {
                    found.push(format!(
                        "{name} {key}: {state:?} by position, {:?} by arrival",
                        others.keyed.get(key)
                    ));
                }
            }
        }
        found.truncate(20);
        found
    }
}

/// Whether both rows agree. In the order of arrival a moved row stays incomplete; such a column is ignored.
fn agree(by_position: &KeyState, by_arrival: &KeyState) -> bool {
    by_arrival
        .row
        .iter()
        .all(|(column, value)| is_unavailable(value) || by_position.row.get(column) == Some(value))
}

fn is_unavailable(value: &Value) -> bool {
    value.as_str() == Some(UNAVAILABLE)
}

/// Fills unavailable columns from the first row that has them.
fn fill(row: &mut Row, from: [Option<&Row>; 3]) {
    for (column, value) in row.iter_mut().filter(|(_, value)| is_unavailable(value)) {
        let rows = from.iter().flatten();
        if let Some(known) = rows
            .filter_map(|row| row.get(column))
            .find(|known| !is_unavailable(known))
        {
            *value = known.clone();
        }
    }
}

impl RebuiltTable {
    /// Deletes all rows that are older than this position.
    fn truncate(&mut self, position: String) {
        for state in self.keyed.values_mut().filter(|state| state.position < position) {
            state.alive = false;
            state.position.clone_from(&position);
        }
        self.keyless = self.keyless.split_off(&position);
        self.truncated = position;
    }

    fn apply_keyless(&mut self, event: Event) {
        let position = event.source.position;
        if !self.keyless_positions.insert(position.clone()) {
            return;
        }
        if let Some(before) = &event.before {
            let found = self.keyless.iter().find(|(_, row)| *row == before);
            match found.map(|(position, _)| position.clone()) {
                Some(position) => {
                    self.keyless.remove(&position);
                }
                None => self.unmatched += 1,
            }
        }
        if let Some(mut after) = event.after {
            fill(&mut after, [event.before.as_ref(), None, None]);
            self.keyless.insert(position, after);
        }
    }

    fn apply_keyed(&mut self, key: &str, event: Event, moved: Option<&mut Option<(String, Row)>>) {
        let position = event.source.position;
        let old = self.keyed.get(key);
        if old.is_some_and(|old| position <= old.position) {
            return;
        }
        let alive = event.op != "d";
        let record = position.rsplit_once('.').map_or("", |(record, _)| record);
        let old_row = old.filter(|old| old.alive).map(|old| &old.row);
        // A row that moves to this key is not the row that was there. In the order of arrival that one may
        // still exist, when the truncate that removed it is in another shard.
        let same_row =
            old_row.filter(|_| event.op == "u" && event.moved_from.as_deref().is_none_or(|from| from == key));
        let row = match event.after {
            Some(mut row) if alive => {
                let moved = moved.and_then(Option::take);
                let moved = moved.filter(|(of, _)| of == record).map(|(_, row)| row);
                fill(&mut row, [event.before.as_ref(), same_row, moved.as_ref()]);
                row
            }
            _ => {
                if let Some(moved) = moved {
                    *moved = old_row.map(|row| (record.to_owned(), row.clone()));
                }
                event.before.unwrap_or_default()
            }
        };
        self.keyed
            .insert(key.to_owned(), KeyState { row, alive, position });
    }
}
