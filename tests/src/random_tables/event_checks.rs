//! Checks of one event against the recorded change.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::consumer::event::{Envelope, Row, UNAVAILABLE};
use crate::fixture::Plugin;

use super::alignment::ParsedArrival;
use super::recorded_table::{RecordedChange, RecordedColumn, RecordedTable, RowTexts};
use super::result::Failure;
use super::values;

/// Longest text of a value that is always stored inline.
///
/// PostgreSQL stores such a value inside the row in these tables.
const MAX_INLINE: usize = 20;

/// The change of an event, and facts for the comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventContext<'t> {
    pub(super) plugin: Plugin,
    pub(super) change: &'t RecordedChange,
    /// Relation that the event names.
    pub(super) event_table: &'t RecordedTable,
    /// Whether the table was not altered between the write and the drain.
    pub(super) undisturbed: bool,
    /// See [`Recording::all_log_old_key`].
    pub(super) all_log_old_key: bool,
    /// See [`Recording::is_insert_only`].
    pub(super) is_insert_only: bool,
    /// Whether nothing states that the key has more columns: see [`FinishedRound::may_lack_generated`].
    pub(super) may_lack_generated: bool,
}

/// Values that distinguish a row from other rows of its table.
#[derive(Debug, Clone)]
pub(super) struct RowIdentity {
    /// Texts of the values by column.
    values: BTreeMap<String, String>,
    /// The partition, if the values only distinguish rows of the same partition.
    leaf: Option<i64>,
}

impl RowIdentity {
    /// Whether these are certainly two rows.
    ///
    /// The key of a partition may have been one of the whole table before. So one of them may lack the
    /// partition.
    pub(super) fn is_other_row(&self, other: &Self) -> bool {
        let leaves = self.leaf.zip(other.leaf);
        self.values != other.values || leaves.is_some_and(|(one, other)| one != other)
    }

    /// Whether a value contains a period.
    pub(super) fn has_period(&self) -> bool {
        self.values.values().any(|text| text.contains('.'))
    }
}

/// The text, with the long strings in quotes shortened.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 48;
    let (mut out, mut length, mut escaped, mut inside) = (String::new(), 0, false, false);
    for letter in text.chars() {
        let ends = letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        length = if ends { 0 } else { length + 1 };
        inside ^= ends;
        if !inside || length < MOST {
            out.push(letter);
        } else if length == MOST {
            out.push('…');
        }
    }
    out
}

/// Whether the partition key is the table's, not the row's.
pub(super) fn is_table_key(event: &ParsedArrival) -> bool {
    let key = &*event.partition_key;
    event.event.table().as_deref() == Some(key) || event.event.is_spread_key(key)
}

/// Columns of an event's key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyColumns {
    /// Names in alphabetical order.
    Known(Vec<String>),
    /// A long key: the event has its hash only.
    Hashed,
    /// Key in DMS form that matches no unique key of the table.
    Unknown,
}

/// Whether two lists have the same names.
fn is_same_set(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|name| other.contains(name))
}

/// Whether these are the values of the columns, with periods between them.
fn is_joined(values: &str, columns: &[&String], row: &RowTexts) -> bool {
    let Some((first, rest)) = columns.split_first() else {
        return values.is_empty();
    };
    let Some(Some(text)) = row.get(*first) else {
        return false;
    };
    let long = match text.as_str() {
        "t" => "true",
        "f" => "false",
        text => text.strip_prefix("\\x").unwrap_or(text),
    };
    [text, long]
        .iter()
        .any(|text| match (values.strip_prefix(text), rest) {
            (Some(""), []) => true,
            (Some(more), [_, ..]) => more
                .strip_prefix('.')
                .is_some_and(|more| is_joined(more, rest, row)),
            _ => false,
        })
}

impl EventContext<'_> {
    /// Failure of this event.
    pub(super) fn failure(&self, kind: &str, event: &ParsedArrival, column: &str) -> Failure {
        let (change, plugin) = (self.change, self.plugin.name());
        let altered = if self.undisturbed {
            ""
        } else {
            ", table altered since"
        };
        Failure {
            kind: format!("{plugin}: {kind}{altered}"),
            detail: shortened(&format!(
                "column {column:?}\n  event {} with the key {}\n  recording {} old {:?}\n        new {:?}\n  \
                 table {}\n  events are named {:?} with the key {:?}",
                event.text,
                event.partition_key,
                change.op,
                change.old,
                change.new,
                change.table.describe(),
                self.event_table.name,
                self.event_table.key,
            )),
        }
    }

    /// Compares the events of the change with it.
    pub(super) fn check(&self, events: &[&ParsedArrival]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for event in events {
            self.check_event(event, &mut failures);
        }
        self.check_split(events, &mut failures);
        failures
    }

    /// Compares one event with the change.
    fn check_event(&self, event: &ParsedArrival, failures: &mut Vec<Failure>) {
        let (old, new) = (self.change.old.as_ref(), self.change.new.as_ref());
        if let Some(after) = &event.event.after {
            match new {
                Some(new) => self.check_after(event, after, new, failures),
                None => failures.push(self.failure("a row after a delete", event, "")),
            }
        }
        if let Some(before) = &event.event.before {
            match old {
                Some(old) => self.check_before(event, before, old, failures),
                None => failures.push(self.failure("an old row of an insert", event, "")),
            }
        }
        let row = if event.event.op == "d" { old } else { new };
        if let Some(row) = row {
            self.check_key(event, row, failures);
        }
    }

    fn check_after(&self, event: &ParsedArrival, after: &Row, new: &RowTexts, failures: &mut Vec<Failure>) {
        for (name, value) in after {
            // An update of wal2json may lack a column. The plugin does not send whether the column existed.
            let is_newer = self.plugin == Plugin::Wal2json
                && !self.undisturbed
                && self.change.op == 'u'
                && !new.contains_key(name);
            let is_unchanged = is_newer || self.may_be_unchanged(name);
            if !(value == UNAVAILABLE && is_unchanged) {
                self.check_value(event, name, value, new, failures);
            }
        }
        for column in &self.change.table.columns {
            let text = new.get(&column.name).and_then(Option::as_ref);
            let may_lack = !self.is_sent(column)
                || (event.event.envelope == Envelope::Dms
                    && text.is_none_or(|text| self.is_blind(column, text)))
                // A null may come from a virtual column.
                || (self.plugin == Plugin::TestDecoding && !self.undisturbed && text.is_none())
                // Spillway takes the columns that an update of wal2json lacks from the catalog.
                || (self.plugin == Plugin::Wal2json
                    && !self.undisturbed
                    && self.may_be_unchanged(&column.name));
            if !may_lack && !after.contains_key(&column.name) {
                failures.push(self.failure("a column is absent", event, &column.name));
            }
        }
    }

    fn check_before(&self, event: &ParsedArrival, before: &Row, old: &RowTexts, failures: &mut Vec<Failure>) {
        let table = &self.change.table;
        // pgoutput maps the columns of a partition to those of its root. The server then sends null for
        // defaults that are not stored in the row.
        let is_lost = |column: &RecordedColumn| column.late && self.event_table.relation != table.relation;
        for (name, value) in before {
            let is_null_of_default = value.is_null() && table.column(name).is_some_and(is_lost);
            if !is_null_of_default && !self.is_unnoticed_key(event, name, value) {
                self.check_value(event, name, value, old, failures);
            }
        }
        if event.event.op != "d" || !self.undisturbed {
            return;
        }
        for column in &table.columns {
            let is_named = table.identity == "f" || table.identity_key.contains(&column.name);
            let text = old.get(&column.name).and_then(Option::as_ref);
            let is_null = text.is_none_or(|text| self.is_blind(column, text));
            // DMS omits nulls, and test_decoding omits them in old rows. In the old row of a partition, a
            // null may replace a value that the partition did not log.
            let leaves_nulls = event.event.envelope == Envelope::Dms
                || self.plugin == Plugin::TestDecoding
                || self.event_table.relation != table.relation;
            let may_lack = (is_null && leaves_nulls) || is_lost(column) || !self.is_sent(column);
            if is_named && !may_lack && !before.contains_key(&column.name) {
                failures.push(self.failure("a column of the old row is absent", event, &column.name));
            }
        }
    }

    /// Whether an old row's value is that of the new row.
    ///
    /// The reason is that the change of the key is not noticed. docs/events.md: with test_decoding, the
    /// replica identity was `nothing` and was set since.
    fn is_unnoticed_key(&self, event: &ParsedArrival, name: &str, value: &Value) -> bool {
        let is_possible =
            self.plugin == Plugin::TestDecoding && !self.undisturbed && self.change.table.identity == "n";
        let new = self.change.new.as_ref();
        let Some(new) =
            new.filter(|_| is_possible && self.event_table.key.iter().any(|column| column == name))
        else {
            return false;
        };
        let mut differences = Vec::new();
        self.check_value(event, name, value, new, &mut differences);
        differences.is_empty()
    }

    fn check_value(
        &self,
        event: &ParsedArrival,
        name: &str,
        value: &Value,
        row: &RowTexts,
        failures: &mut Vec<Failure>,
    ) {
        let (Some(text), Some(column)) = (row.get(name), self.change.table.column(name)) else {
            return failures.push(self.failure("a column that the table does not have", event, name));
        };
        let kind = match (value, text) {
            (Value::Null, None) => return,
            (Value::Null, Some(text)) if self.is_blind(column, text) => return,
            (Value::Null, Some(_)) => "a false null",
            (_, None) => "a value in place of null",
            (Value::String(value), Some(text)) if value == UNAVAILABLE && text != value => {
                "a value is unavailable that changed"
            }
            (value, Some(text)) if values::is_same(value, text, column) => return,
            _ => "another value",
        };
        let kind = match kind {
            "another value" => format!(
                "{kind} ({})",
                column.type_name.rsplit('.').next().unwrap_or_default()
            ),
            _ => kind.to_owned(),
        };
        failures.push(self.failure(&kind, event, name));
    }

    /// Compares the partition key with the key of the row.
    fn check_key(&self, event: &ParsedArrival, row: &RowTexts, failures: &mut Vec<Failure>) {
        let key = &self.event_table.key;
        if is_table_key(event) {
            if self.undisturbed && !key.is_empty() && self.has_known_key() {
                failures.push(self.failure("the key is absent", event, ""));
            }
            let is_insert = ["c", "r"].contains(&&*event.event.op);
            if event.event.is_spread_key(&event.partition_key) && !(is_insert && self.is_insert_only) {
                failures.push(self.failure("a row that needs an order is spread", event, ""));
            }
            return;
        }
        let is_valid = match self.key_columns(event) {
            KeyColumns::Hashed => return,
            KeyColumns::Unknown => false,
            KeyColumns::Known(columns) => self.is_valid_key(&columns),
        };
        if !is_valid {
            let kind = if key.is_empty() {
                "a key of a table without a key"
            } else {
                "not the columns of the key"
            };
            return failures.push(self.failure(kind, event, ""));
        }
        let parsed: Row = serde_json::from_str(&event.partition_key).unwrap_or_default();
        for (name, value) in &parsed {
            let column = self.change.table.column(name);
            let text = row.get(name).and_then(Option::as_ref);
            let is_true = column
                .zip(text)
                .is_some_and(|(column, text)| values::is_same(value, text, column));
            if !is_true {
                failures.push(self.failure("a false value in a key", event, name));
            }
        }
    }

    /// Whether these columns were a key at the write.
    ///
    /// The key is that of the table or of the row's partition. After an `alter table`, every unique key is
    /// valid.
    fn is_valid_key(&self, columns: &[String]) -> bool {
        let others = [&self.event_table.unique_keys, &self.change.table.unique_keys];
        let others = others.into_iter().flatten().filter(|_| !self.undisturbed);
        let keys = others.chain([&self.event_table.key, &self.change.table.key]);
        keys.into_iter()
            .any(|key| !key.is_empty() && is_same_set(key, columns))
            || self.is_reduced_key(columns)
    }

    /// Whether these are the sent columns of the primary key.
    ///
    /// Other columns of the primary key are not sent. docs/events.md, "Rows without a key": this is the one
    /// case in which a key lacks a column.
    pub(super) fn is_reduced_key(&self, columns: &[String]) -> bool {
        let reduced = self.reduced_key();
        reduced.is_some_and(|reduced| is_same_set(&reduced, columns))
    }

    fn reduced_key(&self) -> Option<Vec<String>> {
        let is_sent = |name: &&String| {
            let column = self.change.table.column(name);
            column.is_some_and(|column| self.is_sent(column))
        };
        let reduced: Vec<String> = self.event_table.key.iter().filter(is_sent).cloned().collect();
        let is_primary = self.event_table.identity == "d" && self.change.table.identity == "d";
        let is_reduced = !reduced.is_empty() && reduced.len() < self.event_table.key.len();
        (self.may_lack_generated && is_primary && is_reduced).then_some(reduced)
    }

    /// Values that distinguish a row from the other rows of its table.
    pub(super) fn row_identity(&self, columns: &[String], row: &RowTexts) -> RowIdentity {
        let is_unique = |table: &RecordedTable| {
            let mut keys = [&table.key].into_iter().chain(&table.unique_keys);
            keys.any(|key| is_same_set(key, columns))
        };
        let columns = match is_unique(self.event_table) || is_unique(&self.change.table) {
            true => columns,
            false => &self.event_table.key,
        };
        let texts = columns
            .iter()
            .map(|name| (name.clone(), format!("{:?}", row.get(name).cloned().flatten())));
        RowIdentity {
            values: texts.collect(),
            leaf: (!is_unique(self.event_table)).then_some(self.change.table.relation),
        }
    }

    /// Columns of the key that an event has.
    pub(super) fn key_columns(&self, event: &ParsedArrival) -> KeyColumns {
        if let Ok(parsed) = serde_json::from_str::<Row>(&event.partition_key) {
            let mut names: Vec<String> = parsed.keys().cloned().collect();
            names.sort();
            return KeyColumns::Known(names);
        }
        let key = &event.partition_key;
        if key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return KeyColumns::Hashed;
        }
        let row = match event.event.op.as_str() {
            "d" => &self.change.old,
            _ => &self.change.new,
        };
        let prefix = event.event.table().unwrap_or_default() + ".";
        let (Some(row), Some(values)) = (row, key.strip_prefix(&prefix)) else {
            return KeyColumns::Unknown;
        };
        let leaf = &self.change.table;
        let keys = [&self.event_table.key, &leaf.key]
            .into_iter()
            .chain(&self.event_table.unique_keys);
        let reduced = self.reduced_key();
        for unique in keys.chain(&leaf.unique_keys).chain(&reduced) {
            let columns = self.event_table.columns.iter().map(|column| &column.name);
            let columns: Vec<&String> = columns.filter(|name| unique.contains(name)).collect();
            if columns.len() == unique.len() && is_joined(values, &columns, row) {
                let mut names = unique.clone();
                names.sort();
                return KeyColumns::Known(names);
            }
        }
        KeyColumns::Unknown
    }

    /// Checks that a key change is a delete and a create.
    ///
    /// This holds in Debezium's form, if the log contains the old key.
    fn check_split(&self, events: &[&ParsedArrival], failures: &mut Vec<Failure>) {
        let (Some(old), Some(new), [first, ..]) = (&self.change.old, &self.change.new, events) else {
            return;
        };
        let key = match self.key_columns(first) {
            KeyColumns::Known(names) if !is_table_key(first) => names,
            _ => self.event_table.key.clone(),
        };
        let is_moved = key.iter().any(|name| old.get(name) != new.get(name));
        let is_split = events.len() == 2;
        if is_split && !is_moved && self.undisturbed {
            failures.push(self.failure("a split without a changed key", first, ""));
        }
        let can_split = first.event.envelope == Envelope::Debezium && !is_table_key(first);
        if is_moved && !is_split && can_split && self.logs_old_key() {
            failures.push(self.failure("a changed key without a delete", first, ""));
        }
    }

    /// Whether the plugin sends all columns of the key, also for deletes.
    fn has_known_key(&self) -> bool {
        let columns = self
            .event_table
            .key
            .iter()
            .map(|name| self.change.table.column(name));
        let all = columns
            .into_iter()
            .all(|column| column.is_some_and(|column| self.is_sent(column)));
        all && self.all_log_old_key
    }

    /// Whether the log contains the old key.
    fn logs_old_key(&self) -> bool {
        self.change.table.logs_old_key(&self.event_table.key)
    }

    /// Whether the plugin sends a column.
    fn is_sent(&self, column: &RecordedColumn) -> bool {
        match (&*column.generated, self.plugin) {
            ("v", _) => false,
            ("s", Plugin::Pgoutput) => {
                let publication = self.change.table.publication.as_ref();
                publication.is_some_and(|publication| publication.generated)
            }
            _ => true,
        }
    }

    /// Whether the log may lack this value of an update.
    ///
    /// An update may not log a value that it did not change.
    fn may_be_unchanged(&self, name: &str) -> bool {
        let (Some(old), Some(new)) = (&self.change.old, &self.change.new) else {
            return false;
        };
        let text = new.get(name).and_then(Option::as_ref);
        text.is_some_and(|text| text.len() > MAX_INLINE) && old.get(name) == new.get(name)
    }

    /// Whether wal2json writes null for this value: before 2.6, it does so for NaN and infinity.
    fn is_blind(&self, column: &RecordedColumn, text: &str) -> bool {
        self.plugin == Plugin::Wal2json
            && ["float4", "float8", "numeric"].contains(&&*column.base)
            && ["NaN", "Infinity", "-Infinity"].contains(&text)
    }
}
