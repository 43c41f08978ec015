//! Tables rebuilt from a stream, in two ways that must agree: in the order of positions, each position once; and in
//! the order of arrival, dropping what is not newer than the last that was applied to the same key. A row that a backfill read is a
//! change like the others: what the key has from its position on, unless something newer is known.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::consumer::Delivery;
use crate::consumer::event::{Envelope, Event, Row, UNAVAILABLE};

/// All tables of a stream, by `schema.table`.
#[derive(Debug, Clone, Default)]
pub struct RebuiltTables {
    /// The tables.
    pub tables: BTreeMap<String, RebuiltTable>,
    /// Where the two ways disagree.
    pub disagreements: Vec<String>,
    /// The envelope that the events had.
    pub envelope: Envelope,
    /// The tables that a repair has read again, and since which position.
    repaired: BTreeMap<String, String>,
}

/// One table.
#[derive(Debug, Clone, Default)]
pub struct RebuiltTable {
    /// Rows with a key, by partition key; deleted ones are kept for their position.
    pub keyed: HashMap<String, KeyState>,
    /// Rows without one.
    pub keyless: Vec<Row>,
    /// Changes of keyless rows that no earlier event had brought.
    pub unmatched: usize,
    /// The last truncate.
    truncated: String,
    /// The last change of a keyless row.
    keyless_position: String,
}

/// The last that is known of a key.
#[derive(Debug, Clone)]
pub struct KeyState {
    /// The row, or what a delete told of it.
    pub row: Row,
    /// Whether it is there.
    pub alive: bool,
    /// The change that made it so.
    pub position: String,
}

impl RebuiltTable {
    /// The rows it holds, in no order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        let keyed = self
            .keyed
            .values()
            .filter(|kept| kept.alive)
            .map(|kept| &kept.row);
        keyed.chain(&self.keyless)
    }

    /// How many rows the table holds.
    pub fn len(&self) -> usize {
        self.keyed.values().filter(|kept| kept.alive).count() + self.keyless.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&Delivery> for RebuiltTables {
    fn from(delivery: &Delivery) -> Self {
        let mut by_position = RebuiltTables::default();
        // A key change deletes under the old key, and the new row may leave out what did not change: the row that was
        // just deleted has it.
        let mut moved: Option<(String, Row)> = None;
        for change in delivery.changes() {
            let event = change.event();
            by_position.apply(&change.partition_key, event, Some(&mut moved));
        }
        by_position.forget_what_vanished();
        let mut by_arrival = RebuiltTables::default();
        for arrival in &delivery.arrivals {
            by_arrival.apply(&arrival.partition_key, arrival.event(), None);
        }
        by_arrival.forget_what_vanished();
        by_position.disagreements = by_position.against(&by_arrival);
        by_position
    }
}

impl RebuiltTables {
    /// `moved` keeps the row that left its key last, for the one that it becomes. By arrival there is none: the old key's shard may have
    /// been read to elsewhere.
    fn apply(&mut self, key: &str, event: Event, mut moved: Option<&mut Option<(String, Row)>>) {
        if let Some(control) = event.control() {
            return self.note_repair(&control);
        }
        let Some(name) = event.table() else { return };
        self.envelope = event.envelope;
        // One event that says of two keys what are otherwise two: the row goes from the old one.
        if let Some(old) = event.moved_from.clone().filter(|old| old != key && key != name) {
            let gone = Event {
                op: "d".to_owned(),
                after: None,
                moved_from: None,
                ..event.clone()
            };
            self.apply(&old, gone, moved.as_deref_mut());
        }
        let position = event.source.position;
        let table = self.tables.entry(name.clone()).or_default();
        if position <= table.truncated {
            return;
        }
        if event.op == "t" {
            for kept in table.keyed.values_mut().filter(|kept| kept.position < position) {
                kept.alive = false;
                kept.position.clone_from(&position);
            }
            table.keyless.clear();
            table.truncated = position;
        } else if key == name {
            if position > table.keyless_position {
                table.keyless_position = position;
                table.apply_keyless(event.before, event.after);
            }
        } else {
            let old = table.keyed.get(key);
            if old.is_some_and(|old| position <= old.position) {
                return;
            }
            let alive = event.op != "d";
            let record = position
                .rsplit_once('.')
                .map_or("", |(record, _)| record)
                .to_owned();
            let old_row = old.filter(|old| old.alive).map(|old| &old.row);
            // A row that comes to this key is not the one that was there. By arrival that may still be seen, when the truncate that
            // took it away lies in another shard.
            let same_row = old_row
                .filter(|_| event.op == "u" && event.moved_from.as_deref().is_none_or(|from| from == key));
            let row = match event.after {
                Some(mut row) if alive => {
                    let moved = moved.and_then(Option::take);
                    let moved = moved.filter(|(of, _)| *of == record).map(|(_, row)| row);
                    fill(&mut row, [event.before.as_ref(), same_row, moved.as_ref()]);
                    row
                }
                _ => {
                    if let Some(moved) = moved {
                        *moved = old_row.map(|row| (record, row.clone()));
                    }
                    event.before.unwrap_or_default()
                }
            };
            table
                .keyed
                .insert(key.to_owned(), KeyState { row, alive, position });
        }
    }

    /// Notes what the event at the end of a repair says; other control events say nothing of rows.
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

    /// Takes away the rows that a repair would have read were they still there. At the very end, when all shards have been read:
    /// what comes after a repair is newer than it, so that it is no matter when.
    fn forget_what_vanished(&mut self) {
        for (name, since) in &self.repaired {
            let kept = self
                .tables
                .get_mut(name)
                .into_iter()
                .flat_map(|table| table.keyed.values_mut());
            for vanished in kept.filter(|kept| kept.position < *since) {
                vanished.alive = false;
            }
        }
    }

    fn against(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, table) in &self.tables {
            let Some(others) = other.tables.get(name) else {
                found.push(format!("{name} is missing"));
                continue;
            };
            if table.keyless.len() != others.keyless.len() || table.len() != others.len() {
                found.push(format!("{name}: {} rows and {}", table.len(), others.len()));
            }
            for (key, kept) in &table.keyed {
                // A truncate that arrived before the rows, from another shard, leaves nothing of them.
                let same = match others.keyed.get(key) {
                    Some(its) => its.alive == kept.alive && (!kept.alive || agree(kept, its)),
                    None => !kept.alive,
                };
                if !same {
                    found.push(format!(
                        "{name} {key}: {kept:?} by position, {:?} by arrival",
                        others.keyed.get(key)
                    ));
                }
            }
        }
        found.truncate(20);
        found
    }
}

/// By arrival alone a moved row cannot be completed: such a column proves nothing.
fn agree(by_position: &KeyState, by_arrival: &KeyState) -> bool {
    by_arrival
        .row
        .iter()
        .all(|(column, value)| is_unavailable(value) || by_position.row.get(column) == Some(value))
}

fn is_unavailable(value: &Value) -> bool {
    value.as_str() == Some(UNAVAILABLE)
}

/// Fills unavailable columns from the first of the rows that has them.
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
    fn apply_keyless(&mut self, before: Option<Row>, after: Option<Row>) {
        if let Some(before) = &before {
            match self.keyless.iter().position(|row| row == before) {
                Some(index) => {
                    self.keyless.swap_remove(index);
                }
                None => self.unmatched += 1,
            }
        }
        if let Some(mut after) = after {
            fill(&mut after, [before.as_ref(), None, None]);
            self.keyless.push(after);
        }
    }
}
