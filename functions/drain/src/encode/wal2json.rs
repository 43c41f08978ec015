//! The envelope of wal2json's format version 2: one JSON object per change.
//!
//! It is the output of wal2json 2.5 with transaction ids, timestamps, LSNs, types with modifiers, base types
//! of domains, and primary keys. Spillway's own fields are last: `position`, and in some events `snapshot`,
//! `unchanged` and `omitted`.
//!
//! The intended differences from wal2json are the same with every output plugin of the slot:
//! - NaN and infinities are strings; wal2json writes them as null.
//! - An unchanged large value is absent, as in wal2json, but `unchanged` names its column. If the old row has
//!   the value, `columns` contains it.
//! - A domain is replaced by its base type, also a domain over a domain and in arrays. Its values have the
//!   form of the base type. wal2json writes them as text.
//! - The name of a type is always valid JSON. wal2json does not escape the quotes of an identifier.
//! - A row that a backfill read has the action `I` and the field `snapshot`. The field states whether the row
//!   is the first, the last or another row of its table. Its values are those of Debezium.
//! - Content of a message that is not valid UTF-8 is base64, and the field `encoding` has the value `base64`.

use std::io::Write as _;

use super::omitted_columns::Image;
use super::value::{
    hex_digits, parse_bool, write_ascii, write_base64, write_names, write_number, write_string,
};
use super::{EventHead, RowEvent, RowOperation};
use crate::base::time::iso_micros;
use crate::catalog::without_quotes;
use crate::change::{Datum, Message, Relation, ValueType};

/// wal2json form.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wal2json;

impl Wal2json {
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>) {
        let action = match row.operation {
            RowOperation::Insert | RowOperation::Read => 'I',
            RowOperation::Update { .. } => 'U',
            RowOperation::Delete => 'D',
        };
        write_start(out, action, &row.head);
        write_table(out, row.relation);
        if row.new.is_some() {
            out.extend_from_slice(br#","columns":"#);
            write_columns(out, row, Image::New, false);
        }
        if matches!(row.operation, RowOperation::Update { .. } | RowOperation::Delete) {
            out.extend_from_slice(br#","identity":"#);
            match row.old {
                Some(_) => write_columns(out, row, Image::Old, false),
                // Without an old row the key did not change, so the new row has it.
                None => write_columns(out, row, Image::New, true),
            }
        }
        write_primary_key(out, row.relation);
        let unchanged: Vec<&str> = row.unchanged_names().collect();
        let omitted: Vec<&str> = row.omitted_names().collect();
        write_end(out, &row.head, &unchanged, &omitted);
    }

    pub(super) fn encode_truncate(&self, head: &EventHead, relation: &Relation) -> Vec<u8> {
        let mut out = Vec::new();
        write_start(&mut out, 'T', head);
        write_table(&mut out, relation);
        write_end(&mut out, head, &[], &[]);
        out
    }

    pub(super) fn encode_message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        write_start(&mut out, 'M', head);
        let transactional = head.numbers.transaction_order > 0;
        let _ = write!(out, r#","transactional":{transactional}"#);
        if !message.omitted.prefix {
            out.extend_from_slice(br#","prefix":"#);
            write_string(&mut out, &message.prefix);
        }
        if !message.omitted.content {
            write_content(&mut out, &message.content);
        }
        let omitted: Vec<&str> = message.omitted.names().collect();
        write_end(&mut out, head, &[], &omitted);
        out
    }
}

/// Appends the content of a message.
fn write_content(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(br#","content":"#);
    match std::str::from_utf8(content) {
        Ok(content) => write_string(out, content),
        Err(_) => {
            write_base64(out, content);
            out.extend_from_slice(br#","encoding":"base64""#);
        }
    }
}

/// Appends the first fields of every object: action, transaction, time and LSN.
fn write_start(out: &mut Vec<u8>, action: char, head: &EventHead) {
    let _ = write!(out, r#"{{"action":"{action}","xid":"#);
    let lsn = head.numbers.position.lsn;
    let _ = match head.numbers.transaction_order {
        0 => write!(out, "null"),
        _ => write!(out, "{}", head.transaction.xid),
    };
    let _ = match head.transaction.commit_time {
        Some(time) => write!(out, r#","timestamp":"{}""#, format_timestamp(time)),
        None => write!(out, r#","timestamp":null"#),
    };
    let _ = write!(out, r#","lsn":"{lsn}""#);
}

/// Time as PostgreSQL prints a `timestamptz` in UTC.
///
/// The fraction has no zeros at its end.
fn format_timestamp(micros: i64) -> String {
    let text = iso_micros(micros).replace('T', " ");
    let text = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{}+00", text.trim_end_matches('.'))
}

fn write_table(out: &mut Vec<u8>, relation: &Relation) {
    out.extend_from_slice(br#","schema":"#);
    write_string(out, &relation.table.schema);
    out.extend_from_slice(br#","table":"#);
    write_string(out, &relation.table.name);
}

fn write_primary_key(out: &mut Vec<u8>, relation: &Relation) {
    out.extend_from_slice(br#","pk":["#);
    for (index, (name, type_name)) in relation.primary_key.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        write_name_and_type(out, name, type_name);
        out.push(b'}');
    }
    out.push(b']');
}

/// Appends Spillway's fields and closes the object.
fn write_end(out: &mut Vec<u8>, head: &EventHead, unchanged: &[&str], omitted: &[&str]) {
    let _ = write!(out, r#","position":"{}""#, head.numbers.position);
    if let Some(snapshot) = head.snapshot {
        let _ = write!(out, r#","snapshot":"{}""#, snapshot.name());
    }
    for (field, columns) in [("unchanged", unchanged), ("omitted", omitted)] {
        if !columns.is_empty() {
            let _ = write!(out, r#","{field}":"#);
            write_names(out, columns.iter().copied());
        }
    }
    out.push(b'}');
}

/// Appends an image as a list of names, types and values.
///
/// With `key_only`, the list has only the columns of the key.
fn write_columns(out: &mut Vec<u8>, row: &RowEvent<'_>, image: Image, key_only: bool) {
    out.push(b'[');
    let mut is_first = true;
    for (column, datum) in row.image_columns(image) {
        if *datum == Datum::Unchanged || (key_only && !column.key) {
            continue;
        }
        out.extend_from_slice(if std::mem::take(&mut is_first) {
            b"{"
        } else {
            b",{"
        });
        write_name_and_type(out, &column.name, &column.type_name);
        out.extend_from_slice(br#","value":"#);
        match datum {
            Datum::Text(text) => write_value(out, &column.kind, text),
            _ => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn write_name_and_type(out: &mut Vec<u8>, name: &str, type_name: &str) {
    out.extend_from_slice(br#""name":"#);
    write_string(out, name);
    out.extend_from_slice(br#","type":"#);
    // wal2json adds no quotes to a quoted name of one part: the quotes of the name become those of the JSON
    // string. So the string has the name without quotes.
    write_string(out, without_quotes(type_name).unwrap_or(type_name));
}

/// Appends a value as wal2json writes it.
pub(super) fn write_value(out: &mut Vec<u8>, kind: &ValueType, text: &str) {
    let written = match kind {
        ValueType::Bool => {
            parse_bool(text).map(|value| out.extend_from_slice(if value { b"true" } else { b"false" }))
        }
        ValueType::Integer | ValueType::Float | ValueType::Numeric(_) => write_number(out, text),
        ValueType::Bytea => hex_digits(text).map(|digits| write_ascii(out, &[digits])),
        _ => None,
    };
    if written.is_none() {
        write_string(out, text);
    }
}
