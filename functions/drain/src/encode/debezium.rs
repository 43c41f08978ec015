//! The envelope of Debezium's PostgreSQL connector, as its JSON converter writes it without schemas.
//!
//! The fields and their order are Debezium's. Two fields are added: `source.position`, and `source.omitted`
//! in an event that lost columns, or parts of a message, for its size.

mod decimal;
mod interval;
mod structures;
mod time;
mod value;

pub use interval::IntervalMode;
pub use structures::HstoreMode;
pub use time::TimeMode;
pub use value::{DebeziumModes, DecimalMode};

use super::progress::EventPlace;
use super::snapshot::SnapshotPlace;
use super::value::{write_integer, write_message, write_names, write_string};
use super::{EventHead, RowEvent, RowOperation};
use crate::change::{Column, Datum, Message, Relation, Tuple};
use crate::position::Position;

/// Value of a large column that an update did not change (Debezium's `unavailable.value.placeholder`).
pub(super) const UNAVAILABLE_VALUE: &str = "__debezium_unavailable_value";

/// Debezium form for the events of one database.
#[derive(Debug, Clone)]
pub struct Debezium {
    /// `source.name`: distinguishes databases that share a stream.
    pub name: String,
    /// `source.db`.
    pub database: String,
    /// Forms of decimals and times.
    pub modes: DebeziumModes,
    /// Whether a record without data follows each delete, with the same key (`tombstones.on.delete`).
    pub tombstones: bool,
    /// Whether an event carries its order in its transaction (`provide.transaction.metadata`).
    pub transaction_metadata: bool,
}

impl Debezium {
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>) {
        let (op, before, after) = match row.operation {
            RowOperation::Insert => (b'c', None, row.new),
            RowOperation::Read => (b'r', None, row.new),
            RowOperation::Update { .. } => (b'u', row.old, row.new),
            RowOperation::Delete => (b'd', row.old, None),
        };
        out.extend_from_slice(br#"{"before":"#);
        self.write_image(out, row, before);
        out.extend_from_slice(br#","after":"#);
        self.write_image(out, row, after);
        out.extend_from_slice(br#","source":"#);
        let omitted: Vec<&str> = row.omitted_names().collect();
        self.write_source(out, &row.head, Some(row.relation), &omitted);
        out.extend_from_slice(br#","transaction":"#);
        self.write_transaction(out, &row.head);
        write_end(out, op, row.head.now);
    }

    pub(super) fn encode_truncate(&self, head: &EventHead, relation: &Relation) -> Vec<u8> {
        let mut data = br#"{"before":null,"after":null,"source":"#.to_vec();
        self.write_source(&mut data, head, Some(relation), &[]);
        data.extend_from_slice(br#","transaction":"#);
        self.write_transaction(&mut data, head);
        write_end(&mut data, b't', head.now);
        data
    }

    pub(super) fn encode_message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut data = br#"{"source":"#.to_vec();
        let omitted: Vec<&str> = message.omitted.names().collect();
        self.write_source(&mut data, head, None, &omitted);
        data.extend_from_slice(br#","transaction":null,"message":"#);
        write_message(&mut data, message);
        write_end(&mut data, b'm', head.now);
        data
    }

    /// Appends the `source` block. A message has no relation; schema and table are then empty.
    fn write_source(
        &self,
        out: &mut Vec<u8>,
        head: &EventHead,
        relation: Option<&Relation>,
        omitted: &[&str],
    ) {
        let position = head.place.position;
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
        // Consumers order events by this pair. Debezium writes the end of the last commit and the change's
        // LSN. The end of the change's own commit orders events the same, and does not depend on where
        // reading began.
        out.extend_from_slice(br#","sequence":"[\""#);
        write_integer(out, commit_end.0);
        out.extend_from_slice(br#"\",\""#);
        write_integer(out, lsn.0);
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
        write_integer(out, lsn.0);
        out.extend_from_slice(br#","xmin":null,"position":""#);
        out.extend_from_slice(&position.text());
        out.push(b'"');
        if !omitted.is_empty() {
            out.extend_from_slice(br#","omitted":"#);
            write_names(out, omitted.iter().copied());
        }
        out.push(b'}');
    }

    /// Appends the event's order in its transaction; `null` for a row of a backfill.
    ///
    /// The id joins the transaction's id and the change's LSN, as Debezium documents it.
    fn write_transaction(&self, out: &mut Vec<u8>, head: &EventHead) {
        if !self.transaction_metadata || head.snapshot.is_some() {
            out.extend_from_slice(b"null");
            return;
        }
        let EventPlace {
            position,
            transaction_order,
            table_order,
        } = head.place;
        out.extend_from_slice(br#"{"id":""#);
        write_integer(out, head.transaction.xid);
        out.push(b':');
        write_integer(out, position.lsn.0);
        out.extend_from_slice(br#"","total_order":"#);
        write_integer(out, transaction_order);
        out.extend_from_slice(br#","data_collection_order":"#);
        write_integer(out, table_order);
        out.push(b'}');
    }

    /// Appends an image as a JSON object of its known columns; `null` without an image.
    fn write_image(&self, out: &mut Vec<u8>, row: &RowEvent<'_>, tuple: Option<&Tuple<'_>>) {
        let Some(tuple) = tuple else {
            out.extend_from_slice(b"null");
            return;
        };
        out.push(b'{');
        for (index, (column, datum)) in row.image_columns(tuple).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(out, &column.name);
            out.push(b':');
            match datum {
                Datum::Text(text) => self.modes.write_value(out, &column.kind, text),
                Datum::Unchanged | Datum::Oversize { .. } => write_string(out, UNAVAILABLE_VALUE),
                Datum::Null | Datum::Absent => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}

/// Appends `,"ts_ms":…,"ts_us":…,"ts_ns":…`.
///
/// 64 bits hold nanoseconds until the year 2262; later times have the largest number.
fn write_timestamps(out: &mut Vec<u8>, micros: i64) {
    out.extend_from_slice(br#","ts_ms":"#);
    write_integer(out, micros.div_euclid(1000));
    out.extend_from_slice(br#","ts_us":"#);
    write_integer(out, micros);
    out.extend_from_slice(br#","ts_ns":"#);
    write_integer(out, micros.saturating_mul(1000));
}

/// Appends operation and time of reading, and closes the event.
fn write_end(out: &mut Vec<u8>, op: u8, now: i64) {
    out.extend_from_slice(br#","op":""#);
    out.push(op);
    out.push(b'"');
    write_timestamps(out, now);
    out.push(b'}');
}

/// Appends the serialized key, `{"id":1}`.
///
/// The modes do not apply to it: a change of the modes must not move rows to other lanes.
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
            Datum::Text(text) => DebeziumModes::default().write_value(key, &column.kind, text),
            _ => key.extend_from_slice(b"null"),
        }
    }
    key.push(b'}');
}
