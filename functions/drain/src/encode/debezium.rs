//! The envelope of Debezium's PostgreSQL connector, as its JSON converter writes it.
//!
//! The fields and their order are Debezium's. Spillway adds `source.position`. It also adds `source.omitted`
//! to an event from which columns, or parts of a message, were omitted for its size.
//!
//! Two settings change the form: an event may be the flat row (`unwrapped.rs`), and its schema may precede it
//! (`schema.rs`). With schemas, the event names its unchanged columns in `source.unchanged`. It has the text
//! of values that do not fit the schema in `source.texts`.

mod columns;
mod decimal;
mod flat_names;
mod interval;
mod schema;
mod schema_cache;
mod structures;
mod time;
mod type_schema;
mod unwrapped;
mod value;

pub use interval::IntervalMode;
pub use schema_cache::SchemaCache;
pub use structures::HstoreMode;
pub use time::TimeMode;
pub use value::{DebeziumModes, DecimalMode};

use std::sync::Arc;

use super::backfill_row::SnapshotPlace;
use super::omitted_columns::Image;
use super::progress::EventNumbers;
use super::value::{
    UNAVAILABLE_VALUE, write_base64, write_integer, write_message_content, write_message_prefix, write_names,
    write_string,
};
use super::{EventHead, RowEvent, RowOperation};
use crate::base::position::Position;
use crate::change::{Column, Datum, Message, Relation, Tuple};
use columns::{UnrepresentableValue, write_texts};

/// Debezium form for the events of one database.
#[derive(Debug, Clone)]
pub struct Debezium {
    /// `source.name`: distinguishes databases that share a stream.
    pub name: String,
    /// `source.db`.
    pub database: String,
    /// Forms of decimals, times, intervals and hstores.
    pub modes: DebeziumModes,
    /// Whether a tombstone follows each delete (`tombstones.on.delete`).
    ///
    /// A tombstone is a record without data that has the key of the delete.
    pub tombstones: bool,
    /// Whether an event contains its order in its transaction.
    ///
    /// Debezium's `provide.transaction.metadata`.
    pub transaction_metadata: bool,
    /// Whether an event is the flat row, as Debezium's `ExtractNewRecordState` writes it.
    pub unwrap: bool,
    /// Cache of the schemas that precede the events (`schemas.enable`).
    ///
    /// `None` without schemas.
    pub schemas: Option<SchemaCache>,
}

impl Debezium {
    /// The envelope with the default of each option.
    pub fn new(name: &str, database: &str) -> Self {
        Debezium {
            name: name.to_owned(),
            database: database.to_owned(),
            modes: DebeziumModes::default(),
            tombstones: false,
            transaction_metadata: false,
            unwrap: false,
            schemas: None,
        }
    }
}

impl Debezium {
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>) {
        let Some(schemas) = &self.schemas else {
            self.write_payload(out, row);
            return;
        };
        let start = out.len();
        let has_keys = row.has_whole_keys();
        self.write_schema(schemas, out, row.relation, has_keys);
        let is_key_written = self.write_payload(out, row);
        // A converter refuses an event that lacks a required value. So if a value of the key does not fit its
        // type, the event gets the schema with optional columns.
        if has_keys && !is_key_written {
            out.truncate(start);
            self.write_schema(schemas, out, row.relation, false);
            self.write_payload(out, row);
        }
        out.push(b'}');
    }

    /// Appends the event without its schema. Returns whether every key value fits its type.
    fn write_payload(&self, out: &mut Vec<u8>, row: &RowEvent<'_>) -> bool {
        match self.unwrap {
            true => self.write_unwrapped_row(out, row),
            false => self.write_enveloped_row(out, row),
        }
    }

    fn write_enveloped_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>) -> bool {
        let mut unfit = Vec::new();
        out.extend_from_slice(br#"{"before":"#);
        self.write_image(out, row, "before", Image::Old, &mut unfit);
        out.extend_from_slice(br#","after":"#);
        self.write_image(out, row, "after", Image::New, &mut unfit);
        out.extend_from_slice(br#","source":"#);
        let omitted: Vec<&str> = row.omitted_names().collect();
        self.write_source(out, &row.head, Some(row.relation), &omitted);
        if self.schemas.is_some() {
            // Removes the closing brace: these fields are the last ones of the block.
            out.pop();
            write_unchanged(out, "unchanged", row);
            write_texts(out, "texts", &unfit);
            out.push(b'}');
        }
        out.extend_from_slice(br#","transaction":"#);
        self.write_transaction(out, &row.head);
        write_end(out, letter(row.operation), row.head.now);
        !unfit.iter().any(UnrepresentableValue::is_of_key)
    }

    pub(super) fn encode_truncate(&self, head: &EventHead, relation: &Relation) -> Vec<u8> {
        let mut data = Vec::new();
        let schemas = self.schemas.is_some();
        match (self.unwrap, schemas) {
            (true, true) => self.write_truncate_schema(&mut data, relation),
            (false, true) => self.write_row_schema(&mut data, relation, true),
            (_, false) => {}
        }
        if self.unwrap {
            self.write_unwrapped_truncate(&mut data, head, relation);
        } else {
            data.extend_from_slice(br#"{"before":null,"after":null,"source":"#);
            self.write_source(&mut data, head, Some(relation), &[]);
            data.extend_from_slice(br#","transaction":"#);
            self.write_transaction(&mut data, head);
            write_end(&mut data, b't', head.now);
        }
        if schemas {
            data.push(b'}');
        }
        data
    }

    pub(super) fn encode_message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut data = Vec::new();
        let omitted: Vec<&str> = message.omitted.names().collect();
        if self.schemas.is_some() {
            self.write_message_schema(&mut data);
        }
        if self.unwrap {
            self.write_unwrapped_message(&mut data, head, message, &omitted);
        } else {
            data.extend_from_slice(br#"{"source":"#);
            self.write_source(&mut data, head, None, &omitted);
            data.extend_from_slice(br#","transaction":null,"message":{"prefix":"#);
            write_message_prefix(&mut data, message);
            data.extend_from_slice(br#","content":"#);
            self.write_content(&mut data, message);
            data.push(b'}');
            write_end(&mut data, b'm', head.now);
        }
        if self.schemas.is_some() {
            data.push(b'}');
        }
        data
    }

    /// Appends the content of a message. With schemas it is base64, even its placeholder.
    fn write_content(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        match message.omitted.content && self.schemas.is_some() {
            true => write_base64(out, UNAVAILABLE_VALUE.as_bytes()),
            false => write_message_content(out, message),
        }
    }

    /// Appends the schema of a table's rows, from the cache if possible.
    fn write_schema(
        &self,
        schemas: &SchemaCache,
        out: &mut Vec<u8>,
        relation: &Arc<Relation>,
        has_keys: bool,
    ) {
        schemas.append(out, relation, has_keys, |out| {
            self.write_row_schema(out, relation, has_keys);
        });
    }

    /// Appends the `source` block.
    ///
    /// A message has no relation. Its schema and table are empty.
    fn write_source(
        &self,
        out: &mut Vec<u8>,
        head: &EventHead,
        relation: Option<&Relation>,
        omitted: &[&str],
    ) {
        let position = head.numbers.position;
        let Position { commit_end, lsn, .. } = position;
        out.extend_from_slice(br#"{"version":""#);
        out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        out.extend_from_slice(br#"","connector":"postgresql","name":"#);
        write_string(out, &self.name);
        write_timestamps(out, head.transaction.commit_time.unwrap_or(0));
        out.extend_from_slice(br#","snapshot":""#);
        out.extend_from_slice(head.snapshot.map_or("false", SnapshotPlace::name).as_bytes());
        out.extend_from_slice(br#"","db":"#);
        write_string(out, &self.database);
        // Consumers order events by this pair. Debezium writes the end of the last commit and the LSN of the
        // change. Spillway writes the end of the change's own commit. The order is the same, and the value
        // does not depend on where reading began.
        out.extend_from_slice(br#","sequence":"[\""#);
        write_integer(out, commit_end.0);
        out.extend_from_slice(br#"\",\""#);
        let mut buffer = itoa::Buffer::new();
        let lsn_digits = buffer.format(lsn.0).as_bytes();
        out.extend_from_slice(lsn_digits);
        out.extend_from_slice(br#"\"]","schema":"#);
        write_string(out, relation.map_or("", |relation| &relation.table.schema));
        out.extend_from_slice(br#","table":"#);
        write_string(out, relation.map_or("", |relation| &relation.table.name));
        // A message outside any transaction has the id 0.
        out.extend_from_slice(br#","txId":"#);
        match head.transaction.xid {
            0 => out.extend_from_slice(b"null"),
            xid => write_integer(out, xid),
        }
        out.extend_from_slice(br#","lsn":"#);
        out.extend_from_slice(lsn_digits);
        out.extend_from_slice(br#","xmin":null,"position":""#);
        out.extend_from_slice(&position.text());
        out.push(b'"');
        if !omitted.is_empty() {
            out.extend_from_slice(br#","omitted":"#);
            write_names(out, omitted.iter().copied());
        }
        out.push(b'}');
    }

    /// Appends the event's order in its transaction.
    ///
    /// Appends `null` for a row of a backfill, and without `transaction_metadata`.
    fn write_transaction(&self, out: &mut Vec<u8>, head: &EventHead) {
        if !self.transaction_metadata || head.snapshot.is_some() {
            out.extend_from_slice(b"null");
            return;
        }
        out.push(b'{');
        write_order(out, head, "");
        out.push(b'}');
    }

    /// Appends an image as a JSON object of its known columns.
    ///
    /// Appends `null` if the event has no such image.
    fn write_image<'r>(
        &self,
        out: &mut Vec<u8>,
        row: &RowEvent<'r>,
        name: &'static str,
        image: Image,
        unfit: &mut Vec<UnrepresentableValue<'r>>,
    ) {
        if row.image(image).is_none() {
            out.extend_from_slice(b"null");
            return;
        }
        out.push(b'{');
        for (index, (column, datum)) in row.image_columns(image).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(out, &column.name);
            out.push(b':');
            if !self.write_datum(out, column, datum) {
                unfit.push(UnrepresentableValue::new(name, column, datum));
            }
        }
        out.push(b'}');
    }
}

/// Appends the event's order in its transaction: three fields, each with `prefix` before its name.
///
/// The first field, `id`, is `<transaction id>:<LSN of the change>`, as Debezium documents it.
fn write_order(out: &mut Vec<u8>, head: &EventHead, prefix: &str) {
    let EventNumbers {
        position,
        transaction_order,
        table_order,
    } = head.numbers;
    let write_name = |out: &mut Vec<u8>, name: &[u8]| {
        out.push(b'"');
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(name);
    };
    write_name(out, br#"id":""#);
    write_integer(out, head.transaction.xid);
    out.push(b':');
    write_integer(out, position.lsn.0);
    out.extend_from_slice(br#"","#);
    write_name(out, br#"total_order":"#);
    write_integer(out, transaction_order);
    out.push(b',');
    write_name(out, br#"data_collection_order":"#);
    write_integer(out, table_order);
}

/// Debezium's letter of a row's operation.
fn letter(operation: RowOperation) -> u8 {
    match operation {
        RowOperation::Insert => b'c',
        RowOperation::Read => b'r',
        RowOperation::Update { .. } => b'u',
        RowOperation::Delete => b'd',
    }
}

/// Appends `,"<name>":[…]` with the columns whose values the new row lacks.
///
/// Appends nothing if it has all values.
fn write_unchanged(out: &mut Vec<u8>, name: &str, row: &RowEvent<'_>) {
    let mut names = row.unchanged_names().peekable();
    if names.peek().is_some() {
        write_field_name(out, name);
        write_names(out, names);
    }
}

/// Appends `,"<name>":`. The name needs no escapes.
fn write_field_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `,"ts_ms":…,"ts_us":…,"ts_ns":…`.
///
/// 64 bits can hold nanoseconds until the year 2262. Later times have the largest number.
fn write_timestamps(out: &mut Vec<u8>, micros: i64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(micros).as_bytes();
    // Usual times differ in three digits, and formatting a number takes longer than copying it.
    let is_usual = (1000..=i64::MAX / 1000).contains(&micros);
    out.extend_from_slice(br#","ts_ms":"#);
    match is_usual {
        true => out.extend_from_slice(&digits[..digits.len() - 3]),
        false => write_integer(out, micros.div_euclid(1000)),
    }
    out.extend_from_slice(br#","ts_us":"#);
    out.extend_from_slice(digits);
    out.extend_from_slice(br#","ts_ns":"#);
    match is_usual {
        true => {
            out.extend_from_slice(digits);
            out.extend_from_slice(b"000");
        }
        false => write_integer(out, micros.saturating_mul(1000)),
    }
}

/// Appends the operation and the time of reading, and closes the event.
fn write_end(out: &mut Vec<u8>, op: u8, now: i64) {
    out.extend_from_slice(br#","op":""#);
    out.push(op);
    out.push(b'"');
    write_timestamps(out, now);
    out.push(b'}');
}

/// Appends the serialized key, `{"id":1}`.
///
/// The modes do not apply to the key. Otherwise a change of the modes would move rows to other lanes.
pub(super) fn write_key(key: &mut Vec<u8>, relation: &Relation, tuple: &Tuple<'_>) {
    write_columns(key, relation, tuple, |column| column.key);
}

/// Appends the included columns as [`write_key`] does.
pub(super) fn write_columns(
    key: &mut Vec<u8>,
    relation: &Relation,
    tuple: &Tuple<'_>,
    is_included: impl Fn(&Column) -> bool,
) {
    let columns = relation.columns.iter().zip(tuple);
    for (column, datum) in columns.filter(|(column, _)| is_included(column)) {
        key.push(if key.is_empty() { b'{' } else { b',' });
        write_string(key, &column.name);
        key.push(b':');
        match datum {
            Datum::Text(text) => {
                DebeziumModes::default().write_value(key, &column.kind, text);
            }
            _ => key.extend_from_slice(b"null"),
        }
    }
    key.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_milliseconds_microseconds_and_nanoseconds() {
        let largest = i64::MAX / 1000;
        for micros in [
            i64::MIN,
            -1,
            0,
            999,
            1000,
            1_700_000_000_123_456,
            largest,
            largest + 1,
            i64::MAX,
        ] {
            let mut out = Vec::new();
            write_timestamps(&mut out, micros);
            let expected = format!(
                r#","ts_ms":{},"ts_us":{micros},"ts_ns":{}"#,
                micros.div_euclid(1000),
                micros.saturating_mul(1000)
            );
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
