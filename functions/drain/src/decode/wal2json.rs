//! Decoder of wal2json, format version 2: one JSON object for each row.
//!
//! Values are the raw JSON text, so a numeric keeps all its digits.

mod relations;
pub(super) mod scanner;
#[cfg(test)]
mod tests;
mod type_names;
mod virtual_columns;

use std::borrow::Cow;
use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{DecodeError, Plugin, is_partitioned, merge_old_row};
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::base::time::micros_of_timestamp;
use crate::catalog::Catalog;
use crate::change::{Change, Column, Datum, DecodedRow, Message, MessageParts, Relation, Tuple, ValueType};
use relations::{JsonAction, RelationCache, RowDescription};
use type_names::escape_type_names;
use virtual_columns::{DroppedNulls, drop_virtual_columns};

/// The most columns of a table (`MaxHeapAttributeNumber`).
const MAX_COLUMNS: usize = 1600;

/// Row of wal2json: the fields that Spillway reads.
#[derive(Deserialize)]
struct JsonRow<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    xid: Option<u32>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    nextlsn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow)]
    table: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    columns: Vec<JsonColumn<'a>>,
    #[serde(borrow, default)]
    identity: Vec<JsonColumn<'a>>,
    #[serde(borrow, default, rename = "pk")]
    primary_key: Vec<JsonColumn<'a>>,
    #[serde(default)]
    transactional: bool,
    #[serde(borrow)]
    prefix: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<MessageContent<'a>>,
    /// Whether the prefix was not kept: see `scanner`.
    #[serde(default)]
    prefix_omitted: bool,
    #[serde(default)]
    content_omitted: bool,
}

/// Column of a row, an old row or a primary key.
#[derive(Deserialize)]
struct JsonColumn<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "type", default)]
    type_name: Cow<'a, str>,
    #[serde(rename = "typeoid", default, deserialize_with = "type_oid")]
    type_oid: Option<u32>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    /// Length of a value that was not kept: see `scanner`.
    oversize: Option<usize>,
}

/// Decoder with the tables that earlier rows described.
#[derive(Debug, Default)]
pub struct Wal2jsonDecoder {
    relations: RelationCache,
}

impl Wal2jsonDecoder {
    /// Decodes one row.
    ///
    /// # Errors
    /// The bytes are not a row of format version 2.
    pub(super) fn decode<'a>(
        &mut self,
        catalog: &Catalog,
        data: &'a [u8],
    ) -> Result<DecodedRow<'a>, DecodeError> {
        match self.decode_json(catalog, data) {
            // wal2json writes the names of some types without escapes. Such a name makes the JSON invalid.
            Err(error) => match escape_type_names(data) {
                Some(escaped) => self.decode_json(catalog, &escaped).map(DecodedRow::into_owned),
                None => Err(error),
            },
            decoded => decoded,
        }
    }

    fn decode_json<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<DecodedRow<'a>, DecodeError> {
        let row = JsonRow::parse(data)?;
        self.decoded_row(catalog, row)
            .map_err(|expected| decode_error(data, 0, expected))
    }

    /// The change, begin, commit or message of a row.
    ///
    /// # Errors
    /// The syntax that the decoder expected instead.
    fn decoded_row<'a>(
        &mut self,
        catalog: &Catalog,
        mut row: JsonRow<'a>,
    ) -> Result<DecodedRow<'a>, &'static str> {
        match &*row.action {
            "B" => Ok(DecodedRow::Begin {
                xid: row.xid.ok_or("an xid in B")?,
                commit_end: Some(row.commit_end().ok_or("nextlsn in B")?),
                commit_time: row.commit_time(),
            }),
            "C" => Ok(DecodedRow::Commit {
                commit_end: row.commit_end().ok_or("nextlsn in C")?,
                commit_time: row.commit_time(),
            }),
            "M" => row.into_message(),
            _ => {
                let dropped = drop_virtual_columns(catalog, &mut row);
                self.change(catalog, &row, dropped).map(DecodedRow::Change)
            }
        }
    }

    /// The change of a row. `dropped` are the nulls that were removed from it.
    fn change<'a>(
        &mut self,
        catalog: &Catalog,
        row: &JsonRow<'a>,
        dropped: DroppedNulls,
    ) -> Result<Change<'a>, &'static str> {
        let (Some(schema), Some(table)) = (&row.schema, &row.table) else {
            return Err("schema and table in I, U, D and T");
        };
        let (action, columns, identity) = match &*row.action {
            "T" => (JsonAction::Truncate, &[][..], &[][..]),
            "I" => (JsonAction::Insert, &row.columns[..], &[][..]),
            "D" => (JsonAction::Delete, &row.identity[..], &[][..]),
            "U" => (JsonAction::Update, &row.columns[..], &row.identity[..]),
            _ => return Err("an action of I, U, D, T, M, B or C"),
        };
        let description = RowDescription {
            action,
            columns,
            identity,
            primary_key: &row.primary_key,
            dropped,
        };
        let relation = self.relations.relation(catalog, schema, table, description);
        let tuple = |columns, missing| {
            tuple(&relation, columns, missing).ok_or("values that are text, in the table's order")
        };
        Ok(match action {
            JsonAction::Truncate => Change::Truncate {
                relations: match is_partitioned(catalog, &relation.table) {
                    true => Vec::new(),
                    false => vec![relation],
                },
            },
            JsonAction::Insert => Change::Insert {
                new: tuple(columns, &Datum::Absent)?,
                relation,
            },
            JsonAction::Delete => Change::Delete {
                old: tuple(columns, &Datum::Absent)?,
                relation,
            },
            JsonAction::Update => {
                let mut new = tuple(columns, &Datum::Unchanged)?;
                let old = tuple(identity, &Datum::Absent)?;
                let old = merge_old_row(&relation, old, &mut new);
                Change::Update { relation, old, new }
            }
        })
    }
}

/// The table of a row; `None` for a row without one.
///
/// wal2json writes the names before the values, so the values are not parsed.
pub(super) fn table(data: &[u8]) -> Option<TableName> {
    const SCHEMA: &[u8] = br#","schema":"#;
    const TABLE: &[u8] = br#","table":"#;
    let action = data.strip_prefix(br#"{"action":""#)?.first()?;
    if !matches!(action, b'I' | b'U' | b'D' | b'T') {
        return None;
    }
    let at = data.windows(SCHEMA.len()).position(|window| window == SCHEMA)?;
    let (schema, rest) = string(data.get(at + SCHEMA.len()..)?)?;
    let (name, _) = string(rest.strip_prefix(TABLE)?)?;
    Some(TableName::new(schema, name))
}

/// JSON string at the start of `data`, and the rest of `data`.
fn string(data: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut strings = serde_json::Deserializer::from_slice(data).into_iter::<Cow<'_, str>>();
    let string = strings.next()?.ok()?;
    Some((string, data.get(strings.byte_offset()..)?))
}

fn decode_error(data: &[u8], at: usize, expected: &'static str) -> DecodeError {
    DecodeError {
        plugin: Plugin::Wal2json,
        length: data.len(),
        at,
        expected,
    }
}

impl<'a> JsonRow<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, DecodeError> {
        // The input is bytes, because a message's content need not be UTF-8: see `MessageContent`.
        let row: JsonRow<'a> =
            serde_json::from_slice(data).map_err(|error| match std::str::from_utf8(data) {
                Err(utf8) => decode_error(data, utf8.valid_up_to(), "UTF-8 text"),
                // A row is one line, so the column of the error is the number of the byte, counted from 1.
                Ok(_) => {
                    let at = error.column().saturating_sub(1);
                    decode_error(data, at, "a JSON object of format version 2")
                }
            })?;
        let lengths = [row.columns.len(), row.identity.len(), row.primary_key.len()];
        if lengths.into_iter().any(|length| length > MAX_COLUMNS) {
            return Err(decode_error(data, 0, "no more columns than a table can have"));
        }
        Ok(row)
    }

    /// End of the commit record.
    fn commit_end(&self) -> Option<Lsn> {
        self.nextlsn.as_deref().and_then(|lsn| lsn.parse().ok())
    }

    /// Commit time in µs since 1970-01-01 UTC.
    fn commit_time(&self) -> Option<i64> {
        self.timestamp.as_deref().and_then(micros_of_timestamp)
    }

    fn into_message(self) -> Result<DecodedRow<'a>, &'static str> {
        let (Some(prefix), Some(MessageContent(content))) = (self.prefix, self.content) else {
            return Err("prefix and content in M");
        };
        let omitted = MessageParts {
            prefix: self.prefix_omitted,
            content: self.content_omitted,
        };
        let message = Message {
            prefix,
            content,
            omitted,
        };
        Ok(if self.transactional {
            DecodedRow::Change(Change::Message(message))
        } else {
            DecodedRow::Message(message)
        })
    }
}

/// Values in the order of the relation.
///
/// A column that the row lacks has the value `missing`. `columns` must be in the order of the relation.
/// Returns `None` if a value is not text, or if a column is not in the relation.
fn tuple<'a>(relation: &Relation, columns: &[JsonColumn<'a>], missing: &Datum<'static>) -> Option<Tuple<'a>> {
    let mut sent = columns.iter().peekable();
    let datum = |column: &Column| match sent.next_if(|it| it.name == column.name) {
        Some(JsonColumn {
            oversize: Some(bytes),
            ..
        }) => Some(Datum::Oversize { bytes: *bytes }),
        Some(it) => datum(&column.kind, it.value),
        None => Some(missing.clone()),
    };
    let tuple = relation.columns.iter().map(datum).collect::<Option<_>>()?;
    sent.next().is_none().then_some(tuple)
}

/// Value of a column.
///
/// `None` for a JSON string that is not text, such as half of a surrogate pair.
fn datum<'a>(kind: &ValueType, value: Option<&'a RawValue>) -> Option<Datum<'a>> {
    let Some(raw) = value.map(RawValue::get) else {
        return Some(Datum::Null);
    };
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(raw),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(_) => Cow::Owned(serde_json::from_str(raw).ok()?),
    };
    Some(Datum::Text(match kind {
        // wal2json removes the `\x` of a bytea, but not if the column's type is a domain.
        ValueType::Bytea if !text.starts_with("\\x") => Cow::Owned(format!("\\x{text}")),
        _ => text,
    }))
}

/// The OID of a type. wal2json writes it as a signed number of 32 bits.
fn type_oid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let oid = i32::try_from(number).map(i32::cast_unsigned);
    oid.or_else(|_| u32::try_from(number))
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// Content of a message: the bytes of a JSON string.
///
/// wal2json writes the content without a conversion, so it may be bytes that are not text. wal2json ends it
/// before its first zero byte.
struct MessageContent<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for MessageContent<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = MessageContent<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(MessageContent(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(MessageContent(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}
