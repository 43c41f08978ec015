//! The envelope of AWS DMS with Kinesis as its target, `json-unformatted`, with transaction and control details and the schema and table
//! in the partition key. The fields are DMS's; what is added to `metadata` is `position`, `snapshot`, `unchanged` and `omitted`.
//!
//! What DMS writes is here known from the user guide ("Using Amazon Kinesis Data Streams as a target", "Using a PostgreSQL database as a
//! source") and from messages that others captured and published with their parsers; where neither tells, it is said below.
//!
//! - Nulls are left out, as by default. A large value that an update did not touch must therefore not be left out: it is Debezium's marker,
//!   and `unchanged` lists it. DMS itself would read the value from the table, where it may be another by now.
//! - Each message ends with a new line, by which Firehose's files in S3 can be told apart into messages.
//! - `before-image` holds the old key of a row that moved to another one. Of a row without a key it holds the whole old row, if the replica
//!   identity is that: nothing else says which row it was.
//! - `prev-transaction-id` and `prev-transaction-record-id` are not written: they depend on where reading began, and the same change would
//!   be two different events.
//! - What a backfill reads is a `load`, and like DMS's it tells of no transaction: no ids, no `commit-timestamp`; nor does the definition
//!   before it. The first and the last one of a table say so in `snapshot`.
//! - A control record carries the position of the change it precedes: positions must be compared among data records.

use std::io::Write as _;

use super::definitions::{Announcement, Definitions};
use super::key::PartitionBy;
use super::value::{
    ascii, base64, date_and_clock, date_and_clock_in_utc, hex, is_json_number, names, string, truth,
};
use super::{EventHead, RowEvent, RowOperation, SnapshotPlace, UNAVAILABLE};
use crate::change::{Column, Datum, Message, Relation, Tuple, Type};
use crate::lsn::Lsn;
use crate::time::iso_micros;

/// Ends `metadata` and the message.
const END: &[u8] = b"}}\n";

/// Writes events as DMS does.
#[derive(Debug, Clone, Default)]
pub struct Dms {
    /// The definitions of tables that were announced.
    pub definitions: Definitions,
}

impl Dms {
    pub(super) fn row(&self, row: &RowEvent<'_>, partition_by: PartitionBy) -> Vec<u8> {
        let (operation, data) = match row.action {
            RowOperation::Insert => ("insert", row.new),
            RowOperation::Read => ("load", row.new),
            RowOperation::Update { .. } => ("update", row.new),
            RowOperation::Delete => ("delete", row.old),
        };
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"data":"#);
        image(&mut out, row, data, |_| true);
        let keyed = row.relation.has_key();
        match (row.action, row.old) {
            (RowOperation::Update { moved: true }, old @ Some(_)) => {
                out.extend_from_slice(br#","before-image":"#);
                image(&mut out, row, old, |column| column.key);
            }
            (RowOperation::Update { .. }, old @ Some(_)) if !keyed => {
                out.extend_from_slice(br#","before-image":"#);
                image(&mut out, row, old, |_| true);
            }
            _ => {}
        }
        let by = match partition_by {
            PartitionBy::Key if keyed => "primary-key",
            PartitionBy::Key | PartitionBy::Table => "schema-table",
            PartitionBy::Transaction => "transaction-id",
        };
        metadata(&mut out, &row.head, "data", operation, by, Some(row.relation));
        if let Some(snapshot @ (SnapshotPlace::First | SnapshotPlace::Last)) = row.head.snapshot {
            let _ = write!(out, r#","snapshot":"{}""#, snapshot.name());
        }
        for (name, mut columns) in [
            ("unchanged", row.unchanged().collect::<Vec<_>>()),
            ("omitted", row.omitted_names().collect()),
        ] {
            if !columns.is_empty() {
                let _ = write!(out, r#","{name}":"#);
                names(&mut out, columns.drain(..));
            }
        }
        out.extend_from_slice(END);
        out
    }

    /// What is to be said of a row's table before it, and whether that is news of a table that was announced before.
    ///
    /// A first definition is `create-table`, though the table may be old: DMS begins with it, too, and consumers learn the key from it.
    /// A new one is `change-columns`, which DMS names among its operations for tables; that it holds the whole definition is ours.
    pub(super) fn definition(
        &self,
        row: &RowEvent<'_>,
        partition_by: PartitionBy,
    ) -> Option<(bool, Vec<u8>)> {
        let announcement = self.definitions.announce(row.relation, row.head.place.position)?;
        let (changed, operation) = match announcement {
            Announcement::First => (false, "create-table"),
            Announcement::Changed => (true, "change-columns"),
        };
        let mut out = br#"{"control":{"table-def":{"columns":{"#.to_vec();
        for (at, column) in row.relation.columns.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(&mut out, &column.name);
            out.push(b':');
            definition(&mut out, column);
        }
        out.push(b'}');
        if row.relation.has_key() {
            out.extend_from_slice(br#","primary-key":"#);
            let key = row.relation.columns.iter().filter(|column| column.key);
            names(&mut out, key.map(|column| column.name.as_str()));
        }
        out.extend_from_slice(b"}}");
        let by = match partition_by {
            PartitionBy::Key if !changed && row.relation.has_key() => "primary-key",
            other => of_table(other),
        };
        metadata(&mut out, &row.head, "control", operation, by, Some(row.relation));
        out.extend_from_slice(END);
        Some((changed, out))
    }

    /// A control record `truncate-table`. DMS documents none for it, and to say nothing would keep rows that are gone.
    pub(super) fn truncate(
        &self,
        head: &EventHead,
        relation: &Relation,
        partition_by: PartitionBy,
    ) -> Vec<u8> {
        let mut out = br#"{"control":{}"#.to_vec();
        let by = of_table(partition_by);
        metadata(&mut out, head, "control", "truncate-table", by, Some(relation));
        out.extend_from_slice(END);
        out
    }

    /// A control record `logical-message`, which DMS does not have.
    pub(super) fn message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut out = br#"{"control":{"message":{"prefix":"#.to_vec();
        string(&mut out, &message.prefix);
        out.extend_from_slice(br#","content":"#);
        base64(&mut out, &message.content);
        out.extend_from_slice(b"}}");
        metadata(&mut out, head, "control", "logical-message", "prefix", None);
        out.extend_from_slice(END);
        out
    }
}

fn of_table(partition_by: PartitionBy) -> &'static str {
    match partition_by {
        PartitionBy::Key | PartitionBy::Table => "schema-table",
        PartitionBy::Transaction => "transaction-id",
    }
}

/// `,"metadata":{…`, to be closed.
fn metadata(
    out: &mut Vec<u8>,
    head: &EventHead,
    record_type: &str,
    operation: &str,
    partition_key_type: &str,
    relation: Option<&Relation>,
) {
    let _ = write!(
        out,
        r#","metadata":{{"timestamp":"{}","record-type":"{record_type}","operation":"{operation}","partition-key-type":"{partition_key_type}","schema-name":"#,
        iso_micros(head.now)
    );
    string(out, relation.map_or("", |relation| &relation.table.schema));
    out.extend_from_slice(br#","table-name":"#);
    string(out, relation.map_or("", |relation| &relation.table.name));
    let (place, transaction) = (head.place, head.transaction);
    let of_transaction = head.snapshot.is_none();
    if of_transaction && place.of_transaction > 0 {
        let _ = write!(
            out,
            r#","transaction-id":{},"transaction-record-id":{}"#,
            transaction.xid, place.of_transaction
        );
    }
    if of_transaction && let Some(time) = transaction.commit_time {
        let _ = write!(out, r#","commit-timestamp":"{}""#, iso_micros(time));
    }
    let halves = |lsn: Lsn| format!("{:08X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
    let position = place.position;
    let _ = write!(
        out,
        r#","stream-position":"{}.{}.{}","position":"{position}""#,
        halves(position.commit_end),
        place.of_transaction,
        halves(position.lsn)
    );
}

/// The columns of a row that are wanted and not null, as a JSON object.
fn image(out: &mut Vec<u8>, row: &RowEvent<'_>, tuple: Option<&Tuple<'_>>, wanted: impl Fn(&Column) -> bool) {
    out.push(b'{');
    let mut first = true;
    for (column, datum) in tuple.into_iter().flat_map(|tuple| row.image(tuple)) {
        if matches!(datum, Datum::Null | Datum::Absent) || !wanted(column) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        string(out, &column.name);
        out.push(b':');
        match datum {
            Datum::Text(text) => value(out, &column.kind, text),
            _ => string(out, UNAVAILABLE),
        }
    }
    out.push(b'}');
}

/// Appends a value as DMS writes it.
///
/// A boolean is text, since DMS takes it for a `varchar(5)` unless told otherwise (`MapBooleanAsBoolean`); json and arrays are text, bytea
/// is hexadecimal without a mark, points in time are ISO 8601 in UTC. A numeric keeps all its digits, which DMS rounds.
pub(super) fn value(out: &mut Vec<u8>, kind: &Type, text: &str) {
    let written = match kind {
        Type::Bool => truth(text).map(|value| ascii(out, &[if value { "true" } else { "false" }])),
        Type::Integer | Type::Float | Type::Numeric(_) => {
            is_json_number(text).then(|| out.extend_from_slice(text.as_bytes()))
        }
        Type::Bytea => hex(text).map(|digits| ascii(out, &[digits])),
        Type::Timestamp(_) => date_and_clock(text).map(|(date, clock)| ascii(out, &[date, "T", clock, "Z"])),
        Type::TimestampTz => {
            date_and_clock_in_utc(text).map(|(date, clock)| ascii(out, &[date, "T", clock, "Z"]))
        }
        Type::Date | Type::Time(_) | Type::TimeTz | Type::Array(_) | Type::Text => None,
    };
    if written.is_none() {
        string(out, text);
    }
}

/// A column's definition. `INT32`, `STRING` and `TIMESTAMP` were seen in messages of DMS, the others are the user guide's general types.
/// Whether a column may be null is not told by the log: a key may not.
fn definition(out: &mut Vec<u8>, column: &Column) {
    let kind = match (&column.kind, &*column.type_name) {
        (_, "smallint") => "INT16",
        (_, "integer") => "INT32",
        (Type::Integer, _) => "INT64",
        (_, "real") => "REAL4",
        (Type::Float, _) => "REAL8",
        (Type::Numeric(_), _) => "NUMERIC",
        (Type::Bytea, _) => "BYTES",
        (Type::Date, _) => "DATE",
        (Type::Time(_), _) => "TIME",
        (Type::Timestamp(_) | Type::TimestampTz, _) => "TIMESTAMP",
        (Type::Bool | Type::TimeTz | Type::Array(_) | Type::Text, _) => "STRING",
    };
    let _ = write!(out, r#"{{"type":"{kind}""#);
    let modifier = column
        .type_name
        .strip_suffix(')')
        .and_then(|name| name.split_once('('));
    // What is no number is no modifier.
    let number = |text: &str| text.parse::<i32>().ok();
    match (modifier, &column.kind) {
        (_, Type::Bool) => out.extend_from_slice(br#","length":5"#),
        (Some(("character varying" | "character", modifier)), _) => {
            if let Some(length) = number(modifier) {
                let _ = write!(out, r#","length":{length}"#);
            }
        }
        (Some((_, modifier)), Type::Numeric(Some(scale))) => {
            if let Some(precision) = modifier.split(',').next().and_then(number) {
                let _ = write!(out, r#","precision":{precision},"scale":{scale}"#);
            }
        }
        _ => {}
    }
    let _ = write!(out, r#","nullable":{}}}"#, !column.key);
}

/// `public.foo.42`: schema, table and the values of the key, as DMS joins them with `PartitionIncludeSchemaTable`. What stands between
/// the values of a key of several columns is not documented; that two keys may share a lane does no harm.
pub(super) fn key(relation: &Relation, tuple: &Tuple<'_>) -> String {
    let mut key = relation.table.unquoted();
    let columns = relation.columns.iter().zip(tuple);
    for (_, datum) in columns.filter(|(column, _)| column.key) {
        key.push('.');
        if let Datum::Text(text) = datum {
            key.push_str(text);
        }
    }
    key
}
