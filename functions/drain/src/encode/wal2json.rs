//! The envelope of wal2json's format version 2: one object for each change, as wal2json 2.5 writes it with transaction ids, timestamps,
//! LSNs, types with modifiers, domains as what they are made of, and primary keys. Behind its fields stand ours: `position`, and where
//! they are needed `snapshot`, `unchanged` and `omitted`.
//!
//! What differs on purpose, whichever plugin the slot has:
//! - NaN and infinities are strings; wal2json writes them as null.
//! - An unchanged large value is absent, as in wal2json, but named in `unchanged`; one that the old row tells stands in `columns`.
//! - A domain is what it is made of at any depth, in arrays too, and its values are written so; wal2json writes them as text.
//! - The name of a type is always valid JSON, also where wal2json puts the quotes of an identifier into it as they are.
//! - What a backfill reads is an `I` with `snapshot`: by Debezium's names, where it stands among the rows of its table.
//! - The content of a message that is no text is base64, and `encoding` says so.

use std::io::Write as _;

use super::value::{ascii, base64, hex, is_json_number, names, string, truth};
use super::{EventHead, RowEvent, RowOperation};
use crate::change::{Datum, Message, Relation, Tuple, Type};
use crate::time::iso_micros;

/// Writes events as wal2json does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wal2json;

impl Wal2json {
    pub(super) fn row(&self, row: &RowEvent<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let action = match row.action {
            RowOperation::Insert | RowOperation::Read => 'I',
            RowOperation::Update { .. } => 'U',
            RowOperation::Delete => 'D',
        };
        open(&mut out, action, &row.head);
        table(&mut out, row.relation);
        if let Some(new) = row.new {
            out.extend_from_slice(br#","columns":"#);
            fields(&mut out, row, new, false);
        }
        if matches!(row.action, RowOperation::Update { .. } | RowOperation::Delete) {
            out.extend_from_slice(br#","identity":"#);
            match (row.old, row.new) {
                (Some(old), _) => fields(&mut out, row, old, false),
                // The old key is told where it was another one.
                (None, Some(new)) => fields(&mut out, row, new, true),
                (None, None) => out.extend_from_slice(b"[]"),
            }
        }
        out.extend_from_slice(br#","pk":["#);
        for (at, (name, type_name)) in row.relation.primary_key.iter().enumerate() {
            out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
            typed(&mut out, name, type_name);
            out.push(b'}');
        }
        out.push(b']');
        let unchanged: Vec<&str> = row.unchanged().collect();
        let omitted: Vec<&str> = row.omitted_names().collect();
        close(&mut out, &row.head, &unchanged, &omitted);
        out
    }

    pub(super) fn truncate(&self, head: &EventHead, relation: &Relation) -> Vec<u8> {
        let mut out = Vec::new();
        open(&mut out, 'T', head);
        table(&mut out, relation);
        close(&mut out, head, &[], &[]);
        out
    }

    pub(super) fn message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        open(&mut out, 'M', head);
        let transactional = head.place.of_transaction > 0;
        let _ = write!(out, r#","transactional":{transactional},"prefix":"#);
        string(&mut out, &message.prefix);
        out.extend_from_slice(br#","content":"#);
        match std::str::from_utf8(&message.content) {
            Ok(content) => string(&mut out, content),
            Err(_) => {
                base64(&mut out, &message.content);
                out.extend_from_slice(br#","encoding":"base64""#);
            }
        }
        close(&mut out, head, &[], &[]);
        out
    }
}

fn open(out: &mut Vec<u8>, action: char, head: &EventHead) {
    let _ = write!(out, r#"{{"action":"{action}","xid":"#);
    let lsn = head.place.position.lsn;
    let _ = match head.place.of_transaction {
        0 => write!(out, "null"),
        _ => write!(out, "{}", head.transaction.xid),
    };
    let _ = match head.transaction.commit_time {
        Some(time) => write!(out, r#","timestamp":"{}""#, timestamp(time)),
        None => write!(out, r#","timestamp":null"#),
    };
    let _ = write!(out, r#","lsn":"{lsn}""#);
}

/// As PostgreSQL prints a `timestamptz` in UTC: without zeros at the end of the fraction.
fn timestamp(micros: i64) -> String {
    let text = iso_micros(micros).replace('T', " ");
    let text = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{}+00", text.trim_end_matches('.'))
}

fn table(out: &mut Vec<u8>, relation: &Relation) {
    out.extend_from_slice(br#","schema":"#);
    string(out, &relation.table.schema);
    out.extend_from_slice(br#","table":"#);
    string(out, &relation.table.name);
}

fn close(out: &mut Vec<u8>, head: &EventHead, unchanged: &[&str], omitted: &[&str]) {
    let _ = write!(out, r#","position":"{}""#, head.place.position);
    if let Some(snapshot) = head.snapshot {
        let _ = write!(out, r#","snapshot":"{}""#, snapshot.name());
    }
    for (name, columns) in [("unchanged", unchanged), ("omitted", omitted)] {
        if !columns.is_empty() {
            let _ = write!(out, r#","{name}":"#);
            names(out, columns.iter().copied());
        }
    }
    out.push(b'}');
}

/// A row, or only its key, as a list of names, types and values.
fn fields(out: &mut Vec<u8>, row: &RowEvent<'_>, tuple: &Tuple<'_>, key_only: bool) {
    out.push(b'[');
    let mut first = true;
    for (column, datum) in row.image(tuple) {
        if *datum == Datum::Unchanged || (key_only && !column.key) {
            continue;
        }
        out.extend_from_slice(if std::mem::take(&mut first) { b"{" } else { b",{" });
        typed(out, &column.name, &column.type_name);
        out.extend_from_slice(br#","value":"#);
        match datum {
            Datum::Text(text) => value(out, &column.kind, text),
            _ => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn typed(out: &mut Vec<u8>, name: &str, type_name: &str) {
    out.extend_from_slice(br#""name":"#);
    string(out, name);
    out.extend_from_slice(br#","type":"#);
    // wal2json takes the quotes around one name for those of the JSON string.
    let inner = type_name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .filter(|name| !name.replace("\"\"", "").contains('"'));
    string(out, inner.unwrap_or(type_name));
}

/// Appends a value as wal2json writes it.
pub(super) fn value(out: &mut Vec<u8>, kind: &Type, text: &str) {
    let written = match kind {
        Type::Bool => truth(text).map(|value| out.extend_from_slice(if value { b"true" } else { b"false" })),
        Type::Integer | Type::Float | Type::Numeric(_) => {
            is_json_number(text).then(|| out.extend_from_slice(text.as_bytes()))
        }
        Type::Bytea => hex(text).map(|digits| ascii(out, &[digits])),
        _ => None,
    };
    if written.is_none() {
        string(out, text);
    }
}
