//! The envelope of AWS DMS with Kinesis as its target.
//!
//! It is the output of DMS with these settings: `json-unformatted`, transaction and control details, and
//! schema and table in the partition key. The fields are those of DMS. Spillway adds four fields to
//! `metadata`: `position`, `snapshot`, `unchanged` and `omitted`.
//!
//! Two sources describe the output of DMS. One is the user guide ("Using Amazon Kinesis Data Streams as a
//! target", "Using a PostgreSQL database as a source"). The other source is messages that third parties
//! captured and published with their parsers. The code marks each decision that neither source supports.
//!
//! - Nulls are left out, which is the default of DMS. So an unchanged large value cannot be left out. Its
//!   text is Debezium's placeholder, and `unchanged` names its column. DMS itself reads the value from the
//!   table, where it may have changed since.
//! - Each message ends with a newline, which separates the messages in the files that Firehose writes to S3.
//! - `before-image` has the old key of an update that changed the key. For a row without a key it has all
//!   columns of the old row that the log holds: nothing else identifies the row.
//! - `prev-transaction-id` and `prev-transaction-record-id` are not written. They depend on where reading
//!   began, so a change that is sent again could become a different event.
//! - A row that a backfill read is a `load` without `transaction-id`, `transaction-record-id` and
//!   `commit-timestamp`, as in DMS. The definition before it lacks them, too. `snapshot` marks the first and
//!   the last row of a table.
//! - A control record has the position of the change that it precedes. Consumers must therefore compare the
//!   positions of data records only.

use std::io::Write as _;

use postgres_types::Type as BuiltIn;

use super::backfill_row::SnapshotPlace;
use super::definitions::{Definitions, TableOperation};
use super::key::PartitionBy;
use super::omitted_columns::Image;
use super::value::UNAVAILABLE_VALUE;
use super::value::{
    hex_digits, parse_bool, split_timestamp, split_timestamptz, write_ascii, write_message, write_names,
    write_number, write_string,
};
use super::{EventHead, RowEvent, RowOperation};
use crate::base::lsn::Lsn;
use crate::base::time::iso_micros;
use crate::change::{Column, Datum, Message, MessageParts, Relation, Tuple, ValueType};

/// End of `metadata` and of the message.
const END: &[u8] = b"}}\n";

/// DMS form.
#[derive(Debug, Clone, Default)]
pub struct Dms {
    /// Announced table definitions.
    pub definitions: Definitions,
}

/// Fields of `metadata` that describe the record itself.
struct RecordKind {
    /// `data` or `control`.
    record_type: &'static str,
    operation: &'static str,
    partition_key_type: &'static str,
}

impl Dms {
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>, partition_by: PartitionBy) {
        let (operation, image) = match row.operation {
            RowOperation::Insert => ("insert", Image::New),
            RowOperation::Read => ("load", Image::New),
            RowOperation::Update { .. } => ("update", Image::New),
            RowOperation::Delete => ("delete", Image::Old),
        };
        out.extend_from_slice(br#"{"data":"#);
        write_image(out, row, image, |_| true);
        write_before_image(out, row);
        let kind = RecordKind {
            record_type: "data",
            operation,
            partition_key_type: row_key_type(partition_by, row),
        };
        write_metadata(out, &row.head, &kind, Some(row.relation));
        if let Some(snapshot @ (SnapshotPlace::First | SnapshotPlace::Last)) = row.head.snapshot {
            let _ = write!(out, r#","snapshot":"{}""#, snapshot.name());
        }
        let unchanged: Vec<&str> = row.unchanged_names().collect();
        let omitted: Vec<&str> = row.omitted_names().collect();
        for (field, columns) in [("unchanged", unchanged), ("omitted", omitted)] {
            if !columns.is_empty() {
                let _ = write!(out, r#","{field}":"#);
                write_names(out, columns.into_iter());
            }
        }
        out.extend_from_slice(END);
    }

    /// Control record that announces the table before a row.
    ///
    /// The flag is true if the definition changed. Returns `None` if no announcement is necessary.
    ///
    /// The first definition is a `create-table`, even if the table is old. DMS also starts with this record,
    /// and consumers read the key from it. A changed definition is a `change-columns`, which DMS lists among
    /// its operations on tables. Spillway decided that this record has the whole definition.
    pub(super) fn encode_definition(
        &self,
        row: &RowEvent<'_>,
        partition_by: PartitionBy,
    ) -> Option<(bool, Vec<u8>)> {
        let operation = self
            .definitions
            .announce(row.relation, row.head.numbers.position)?;
        let (changed, operation, partition_key_type) = match operation {
            TableOperation::CreateTable => (false, "create-table", row_key_type(partition_by, row)),
            TableOperation::ChangeColumns => (true, "change-columns", table_key_type(partition_by)),
        };
        let mut out = br#"{"control":{"table-def":"#.to_vec();
        write_definition(&mut out, row.relation);
        out.push(b'}');
        let kind = RecordKind {
            record_type: "control",
            operation,
            partition_key_type,
        };
        write_metadata(&mut out, &row.head, &kind, Some(row.relation));
        out.extend_from_slice(END);
        Some((changed, out))
    }

    /// Control record `truncate-table`.
    ///
    /// DMS documents no record for a truncate. Without this record, consumers would keep rows that no longer
    /// exist.
    pub(super) fn encode_truncate(
        &self,
        head: &EventHead,
        relation: &Relation,
        partition_by: PartitionBy,
    ) -> Vec<u8> {
        let mut out = br#"{"control":{}"#.to_vec();
        let kind = RecordKind {
            record_type: "control",
            operation: "truncate-table",
            partition_key_type: table_key_type(partition_by),
        };
        write_metadata(&mut out, head, &kind, Some(relation));
        out.extend_from_slice(END);
        out
    }

    /// Control record `logical-message`, which DMS does not have.
    pub(super) fn encode_message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut out = br#"{"control":{"message":"#.to_vec();
        write_message(&mut out, message);
        out.push(b'}');
        let kind = RecordKind {
            record_type: "control",
            operation: "logical-message",
            partition_key_type: "prefix",
        };
        write_metadata(&mut out, head, &kind, None);
        if message.omitted != MessageParts::default() {
            out.extend_from_slice(br#","omitted":"#);
            write_names(&mut out, message.omitted.names());
        }
        out.extend_from_slice(END);
        out
    }
}

/// `partition-key-type` of a row's record.
fn row_key_type(partition_by: PartitionBy, row: &RowEvent<'_>) -> &'static str {
    match partition_by {
        PartitionBy::Key if row.has_partition_key_columns() => "attribute-name",
        PartitionBy::Key if row.has_key() => "primary-key",
        _ => table_key_type(partition_by),
    }
}

/// `partition-key-type` of a record about a table.
fn table_key_type(partition_by: PartitionBy) -> &'static str {
    match partition_by {
        PartitionBy::Key | PartitionBy::Table => "schema-table",
        PartitionBy::Transaction => "transaction-id",
    }
}

/// Appends `,"metadata":{…` without the closing brace.
///
/// A message has no relation. Its schema and table are empty.
fn write_metadata(out: &mut Vec<u8>, head: &EventHead, kind: &RecordKind, relation: Option<&Relation>) {
    let RecordKind {
        record_type,
        operation,
        partition_key_type,
    } = kind;
    let _ = write!(
        out,
        concat!(
            r#","metadata":{{"timestamp":"{}","record-type":"{}","operation":"{}","#,
            r#""partition-key-type":"{}","schema-name":"#
        ),
        iso_micros(head.now),
        record_type,
        operation,
        partition_key_type
    );
    write_string(out, relation.map_or("", |relation| &relation.table.schema));
    out.extend_from_slice(br#","table-name":"#);
    write_string(out, relation.map_or("", |relation| &relation.table.name));
    let (numbers, transaction) = (head.numbers, head.transaction);
    let is_change = head.snapshot.is_none();
    if is_change && numbers.transaction_order > 0 {
        let _ = write!(
            out,
            r#","transaction-id":{},"transaction-record-id":{}"#,
            transaction.xid, numbers.transaction_order
        );
    }
    if is_change && let Some(time) = transaction.commit_time {
        let _ = write!(out, r#","commit-timestamp":"{}""#, iso_micros(time));
    }
    let position = numbers.position;
    let _ = write!(
        out,
        r#","stream-position":"{}.{}.{}","position":"{position}""#,
        format_lsn(position.commit_end),
        numbers.transaction_order,
        format_lsn(position.lsn)
    );
}

/// LSN as DMS writes it: two halves of eight hexadecimal digits.
fn format_lsn(lsn: Lsn) -> String {
    format!("{:08X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF)
}

/// Appends `before-image`, if the event has one.
fn write_before_image(out: &mut Vec<u8>, row: &RowEvent<'_>) {
    let RowOperation::Update { key_changed } = row.operation else {
        return;
    };
    let is_keyed = row.has_key();
    if row.old.is_none() || (is_keyed && !key_changed) {
        return;
    }
    out.extend_from_slice(br#","before-image":"#);
    write_image(out, row, Image::Old, |column| column.key || !is_keyed);
}

/// Appends an image as a JSON object.
///
/// The object has the known columns that are included and not null.
fn write_image(out: &mut Vec<u8>, row: &RowEvent<'_>, image: Image, is_included: impl Fn(&Column) -> bool) {
    out.push(b'{');
    let mut is_first = true;
    for (column, datum) in row.image_columns(image) {
        if matches!(datum, Datum::Null | Datum::Absent) || !is_included(column) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        write_string(out, &column.name);
        out.push(b':');
        match datum {
            Datum::Text(text) => write_value(out, &column.kind, text),
            _ => write_string(out, UNAVAILABLE_VALUE),
        }
    }
    out.push(b'}');
}

/// Appends a value as DMS writes it.
///
/// A boolean is text: DMS treats it as `varchar(5)` unless `MapBooleanAsBoolean` is set. Values of json and
/// arrays are text. bytea is hexadecimal without a prefix, and timestamps are ISO 8601 in UTC. DMS rounds a
/// numeric; Spillway writes all its digits.
pub(super) fn write_value(out: &mut Vec<u8>, kind: &ValueType, text: &str) {
    let written = match kind {
        ValueType::Bool => {
            parse_bool(text).map(|value| write_ascii(out, &[if value { "true" } else { "false" }]))
        }
        ValueType::Integer | ValueType::Float | ValueType::Numeric(_) => write_number(out, text),
        ValueType::Bytea => hex_digits(text).map(|digits| write_ascii(out, &[digits])),
        ValueType::Timestamp(_) => {
            split_timestamp(text).map(|(date, time)| write_ascii(out, &[date, "T", time, "Z"]))
        }
        ValueType::TimestampTz(_) => {
            split_timestamptz(text).map(|(date, time)| write_ascii(out, &[date, "T", time, "Z"]))
        }
        _ => None,
    };
    if written.is_none() {
        write_string(out, text);
    }
}

/// Appends a table's definition: its columns, and its key if it has one.
fn write_definition(out: &mut Vec<u8>, relation: &Relation) {
    out.extend_from_slice(br#"{"columns":{"#);
    for (index, column) in relation.columns.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, &column.name);
        out.push(b':');
        write_column_definition(out, column);
    }
    out.push(b'}');
    if relation.has_key() {
        out.extend_from_slice(br#","primary-key":"#);
        let key = relation.columns.iter().filter(|column| column.key);
        write_names(out, key.map(|column| column.name.as_str()));
    }
    out.push(b'}');
}

/// Appends a column's definition.
///
/// `INT32`, `STRING` and `TIMESTAMP` occur in captured messages of DMS. The other names are the data types of
/// the user guide. The log does not state which columns are `not null`, so all columns outside the key are
/// nullable.
fn write_column_definition(out: &mut Vec<u8>, column: &Column) {
    let _ = write!(out, r#"{{"type":"{}""#, dms_type(column));
    let modifier = column
        .type_name
        .strip_suffix(')')
        .and_then(|name| name.split_once('('))
        .map(|(_, modifier)| modifier);
    // A modifier that is not a number is left out.
    let number = |text: &str| text.parse::<i32>().ok();
    match (BuiltIn::from_oid(column.type_oid), &column.kind) {
        (_, ValueType::Bool) => out.extend_from_slice(br#","length":5"#),
        (Some(BuiltIn::VARCHAR | BuiltIn::BPCHAR), _) => {
            if let Some(length) = modifier.and_then(number) {
                let _ = write!(out, r#","length":{length}"#);
            }
        }
        (_, ValueType::Numeric(Some(scale))) => {
            let precision = modifier.and_then(|modifier| modifier.split(',').next());
            if let Some(precision) = precision.and_then(number) {
                let _ = write!(out, r#","precision":{precision},"scale":{scale}"#);
            }
        }
        _ => {}
    }
    let _ = write!(out, r#","nullable":{}}}"#, !column.key);
}

/// DMS's name of a column's type.
fn dms_type(column: &Column) -> &'static str {
    match (&column.kind, BuiltIn::from_oid(column.type_oid)) {
        (_, Some(BuiltIn::INT2)) => "INT16",
        (_, Some(BuiltIn::INT4)) => "INT32",
        (ValueType::Integer, _) => "INT64",
        (_, Some(BuiltIn::FLOAT4)) => "REAL4",
        (ValueType::Float, _) => "REAL8",
        (ValueType::Numeric(_), _) => "NUMERIC",
        (ValueType::Bytea, _) => "BYTES",
        (ValueType::Date, _) => "DATE",
        (ValueType::Time(_), _) => "TIME",
        (ValueType::Timestamp(_) | ValueType::TimestampTz(_), _) => "TIMESTAMP",
        _ => "STRING",
    }
}

/// Appends a row's key, `public.foo.42`, as DMS writes it with `PartitionIncludeSchemaTable`.
///
/// A period separates schema, table and key values. DMS does not document the separator between several key
/// values. Two keys with the same text share a lane, so their events stay in order.
pub(super) fn write_key(key: &mut Vec<u8>, relation: &Relation, tuple: &Tuple<'_>) {
    relation.table.write_unquoted(key);
    let columns = relation.columns.iter().zip(tuple);
    for (column, datum) in columns.filter(|(column, _)| column.key) {
        key.push(b'.');
        if let Datum::Text(text) = datum {
            // Some plugins write a boolean as `f`, others as `false`. A row has the same key with each
            // plugin.
            key.extend_from_slice(column.kind.server_text(text).as_bytes());
        }
    }
}
