//! wal2json, format version 2: one JSON object a row. Values are taken as the raw JSON text, so a numeric keeps all its
//! digits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{DecodeError, Plugin, complete};
use crate::catalog::{Catalog, CatalogTable};
use crate::change::{Change, Column, ColumnCoverage, Datum, Item, Message, Relation, Tuple, Type};
use crate::table_name::TableName;
use crate::time::micros_of_timestamp;

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
    columns: Vec<Field<'a>>,
    #[serde(borrow, default)]
    identity: Vec<Field<'a>>,
    #[serde(borrow, default)]
    pk: Vec<Field<'a>>,
    #[serde(default)]
    transactional: bool,
    #[serde(borrow)]
    prefix: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

#[derive(Deserialize)]
struct Field<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Tables by schema and name, each in the shapes in which its rows came: an update leaves untouched large values out.
#[derive(Debug, Default)]
pub struct Relations {
    shapes: HashMap<TableName, Vec<Shape>>,
    /// The name of the last row's table. Kept to be filled again: a map cannot be asked by borrowed parts.
    name: TableName,
}

/// Shapes of one table that are remembered. A table with many large columns has a shape for each set of them
/// that an update may leave alone, and looking through all of those would cost more than making one anew.
const MOST_SHAPES: usize = 64;

/// The most columns that a table can have (`MaxHeapAttributeNumber`).
const MOST_COLUMNS: usize = 1600;

#[derive(Debug)]
struct Shape {
    action: JsonAction,
    /// Names and types as the row gave them: with the names below, what tells one shape from another.
    fields: Vec<(String, String)>,
    identity: Vec<String>,
    pk: Vec<String>,
    relation: Arc<Relation>,
}

impl Relations {
    pub(super) fn decode<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
        let decoded = self.decode_json(catalog, data);
        // A type whose name needs quotes, as "OrderStatus", stands in the row as it is: `"type":""OrderStatus""`.
        match decoded {
            Err(error) => match escape_types(data) {
                Some(escaped) => self.decode_json(catalog, &escaped).map(Item::into_owned),
                None => Err(error),
            },
            decoded => decoded,
        }
    }

    fn decode_json<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
        let expected = |at, expected| DecodeError {
            plugin: Plugin::Wal2json,
            length: data.len(),
            at,
            expected,
        };
        // Not all of it need be text: see `Content`.
        let row: JsonRow<'a> = serde_json::from_slice(data).map_err(|e| match std::str::from_utf8(data) {
            Err(e) => expected(e.valid_up_to(), "UTF-8 text"),
            // A row is one line, so the column is the byte.
            Ok(_) => expected(e.column().saturating_sub(1), "a JSON object of format version 2"),
        })?;
        if [&row.columns, &row.identity, &row.pk]
            .iter()
            .any(|fields| fields.len() > MOST_COLUMNS)
        {
            return Err(expected(0, "no more columns than a table can have"));
        }
        let time = || row.timestamp.as_deref().and_then(micros_of_timestamp);
        let lsn = || row.nextlsn.as_deref().and_then(|lsn| lsn.parse().ok());
        Ok(match &*row.action {
            "B" => Item::Begin {
                xid: row.xid.ok_or_else(|| expected(0, "an xid in B"))?,
                commit_end: Some(lsn().ok_or_else(|| expected(0, "nextlsn in B"))?),
                commit_time: time(),
            },
            "C" => Item::Commit {
                commit_end: lsn().ok_or_else(|| expected(0, "nextlsn in C"))?,
                commit_time: time(),
            },
            "M" => {
                let (Some(prefix), Some(Content(content))) = (row.prefix, row.content) else {
                    return Err(expected(0, "prefix and content in M"));
                };
                let message = Message { prefix, content };
                if row.transactional {
                    Item::Change(Change::Message(message))
                } else {
                    Item::Message(message)
                }
            }
            action => {
                let (Some(schema), Some(table)) = (row.schema, row.table) else {
                    return Err(expected(0, "schema and table in I, U, D and T"));
                };
                let (action, columns, identity) = match action {
                    "T" => (JsonAction::Truncate, &[][..], &[][..]),
                    "I" => (JsonAction::Insert, &row.columns[..], &[][..]),
                    "D" => (JsonAction::Delete, &row.identity[..], &[][..]),
                    "U" => (JsonAction::Update, &row.columns[..], &row.identity[..]),
                    _ => return Err(expected(0, "an action of I, U, D, T, M, B or C")),
                };
                let described = RowDescription {
                    action,
                    columns,
                    identity,
                    pk: &row.pk,
                };
                let relation = self.relation(catalog, &schema, &table, described);
                let tuple = |fields, missing| {
                    tuple(&relation, fields, missing)
                        .ok_or_else(|| expected(0, "values that are text, in the table's order"))
                };
                Item::Change(match action {
                    JsonAction::Truncate => Change::Truncate {
                        relations: vec![relation],
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
                        let old = complete(&relation, &old, &mut new).then_some(old);
                        Change::Update { relation, old, new }
                    }
                })
            }
        })
    }

    /// The table in the shape of this row. That of an update has the columns, too, that the row may have left
    /// out.
    fn relation(
        &mut self,
        catalog: &Catalog,
        schema: &str,
        name: &str,
        described: RowDescription<'_, '_>,
    ) -> Arc<Relation> {
        self.name.schema.clear();
        self.name.schema.push_str(schema);
        self.name.name.clear();
        self.name.name.push_str(name);
        let shapes = self.shapes.get(&self.name);
        if let Some(shape) = shapes.and_then(|shapes| shapes.iter().find(|shape| shape.fits(&described))) {
            return Arc::clone(&shape.relation);
        }
        let RowDescription {
            action,
            columns: fields,
            identity,
            pk,
        } = described;
        let table = catalog.table(&self.name);
        let key = described.key(table);
        let column = |name: &str, type_name| Column::new(name.to_owned(), type_name, key.contains(&name));
        let type_name = |field: &Field<'_>| {
            // Only a domain comes without its modifier, and only a name in quotes without these.
            let told = catalog.base_type(&field.kind);
            let known = catalog.column_type(table, &field.name, &field.kind);
            let lacks = told != field.kind || known.starts_with('"');
            if lacks { known } else { told }
        };
        let typed = |field: &Field<'_>| column(&field.name, type_name(field));
        let mut columns: Vec<Column> = fields.iter().map(typed).collect();
        let mut coverage = match action {
            JsonAction::Insert => ColumnCoverage::Whole,
            JsonAction::Delete | JsonAction::Truncate => ColumnCoverage::Row,
            JsonAction::Update => {
                merge(&mut columns, identity.iter().map(typed));
                // Without the catalog it is not known whether the row left something out.
                if table.is_some() {
                    ColumnCoverage::Whole
                } else {
                    ColumnCoverage::Row
                }
            }
        };
        let toastable = table
            .filter(|_| action == JsonAction::Update)
            .map(|table| table.toastable());
        if let Some(toastable) = toastable {
            let told = columns.len();
            merge(
                &mut columns,
                toastable.map(|known| column(&known.name, catalog.base_type(&known.type_name))),
            );
            if columns.len() > told {
                coverage = ColumnCoverage::Completed;
            }
        }
        let relation = Arc::new(Relation {
            table: self.name.clone(),
            columns,
            primary_key: pk
                .iter()
                .map(|field| (field.name.to_string(), type_name(field)))
                .collect(),
            coverage,
        });
        let shapes = self.shapes.entry(self.name.clone()).or_default();
        if shapes.len() == MOST_SHAPES {
            shapes.clear();
        }
        let names = |fields: &[Field<'_>]| fields.iter().map(|field| field.name.to_string()).collect();
        shapes.push(Shape {
            action,
            fields: fields
                .iter()
                .map(|f| (f.name.to_string(), f.kind.to_string()))
                .collect(),
            identity: names(identity),
            pk: names(pk),
            relation: Arc::clone(&relation),
        });
        relation
    }
}

/// The row with the quotes and backslashes in its types' names escaped; `None` when there are none. What marks a type cannot
/// stand inside a value: there, every quote has a backslash before it.
fn escape_types(data: &[u8]) -> Option<Vec<u8>> {
    const MARK: &[u8] = br#""type":"#;
    const ENDS: [&[u8]; 3] = [br#"","value":"#, br#""}"#, br#"","typeoid":"#];
    let (mut out, mut rest, mut escaped) = (Vec::with_capacity(data.len() + 16), data, false);
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        let (before, name) = rest.split_at(at + MARK.len());
        out.extend_from_slice(before);
        rest = name;
        // The name of an array is escaped as it should be.
        if !name.starts_with(b"\"") || name.starts_with(br#""\""#) {
            continue;
        }
        let (text, length) = match raw_name(name) {
            // One name in quotes: they are also those of the JSON string.
            Some(length) if raw_quoted(name) == Some(length) => (name.get(1..length - 1)?, length),
            Some(length) => (name.get(..length)?, length),
            None => {
                let name = name.get(1..)?;
                let ends = |at: &usize| {
                    name.get(*at..)
                        .is_some_and(|name| ENDS.iter().any(|end| name.starts_with(end)))
                };
                let length = (0..name.len()).find(ends)?;
                (name.get(..length)?, length + 2)
            }
        };
        out.push(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                escaped = true;
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
        rest = rest.get(length..)?;
    }
    out.extend_from_slice(rest);
    escaped.then_some(out)
}

/// The length of the name of a type that stands as `format_type` prints it, `"My app".status`, where a JSON string should. That is
/// what wal2json does to every name that begins with a quote.
fn raw_name(text: &[u8]) -> Option<usize> {
    const BEHIND: [&[u8]; 3] = [br#","value":"#, b"}", br#","typeoid":"#];
    let mut length = raw_quoted(text)?;
    if text.get(length) == Some(&b'.') {
        let name = text.get(length + 1..)?;
        length += 1 + match name.first() {
            Some(b'"') => raw_quoted(name)?,
            _ => name.iter().position(|byte| matches!(byte, b',' | b'}'))?,
        };
    }
    let behind = text.get(length..)?;
    BEHIND.iter().any(|end| behind.starts_with(end)).then_some(length)
}

/// The length of a name in quotes, where a doubled quote stands for one.
fn raw_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text.get(at..)?.iter().position(|byte| *byte == b'"')?;
        if text.get(at + 1) != Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

impl Shape {
    fn fits(&self, row: &RowDescription<'_, '_>) -> bool {
        let same = |names: &[String], fields: &[Field<'_>]| {
            names.len() == fields.len() && names.iter().zip(fields).all(|(name, field)| *name == field.name)
        };
        let mut fields = self.fields.iter().zip(row.columns);
        self.action == row.action
            && self.fields.len() == row.columns.len()
            && fields.all(|(known, field)| known.0 == field.name && known.1 == field.kind)
            && same(&self.identity, row.identity)
            && same(&self.pk, row.pk)
    }
}

/// What a row tells of its table.
#[derive(Clone, Copy)]
struct RowDescription<'r, 'a> {
    action: JsonAction,
    /// The columns of the row; of a delete, those of its identity.
    columns: &'r [Field<'a>],
    /// The columns of an update's old row.
    identity: &'r [Field<'a>],
    /// The primary key.
    pk: &'r [Field<'a>],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JsonAction {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl RowDescription<'_, '_> {
    /// The names of the key's columns. The catalog knows an identity other than the primary key, but may have
    /// changed since: it is believed as far as the row bears it out.
    fn key<'k>(&'k self, table: Option<&'k CatalogTable>) -> Vec<&'k str> {
        fn names<'k>(fields: &'k [Field<'_>]) -> Vec<&'k str> {
            fields.iter().map(|field| &*field.name).collect()
        }
        if table.is_some_and(|table| table.deferrable) {
            return Vec::new();
        }
        let (columns, identity) = (names(self.columns), names(self.identity));
        if !identity.is_empty() && !columns.iter().all(|column| identity.contains(column)) {
            // An old row that is not the whole row is the key.
            return identity;
        }
        let seen = if identity.is_empty() { columns } else { identity };
        let known: Vec<&str> = table
            .into_iter()
            .flat_map(|t| &t.key)
            .map(String::as_str)
            .collect();
        let candidates = [known, names(self.pk)];
        let within = |key: &&Vec<&str>| !key.is_empty() && key.iter().all(|column| seen.contains(column));
        if let Some(key) = candidates.iter().find(within) {
            return key.clone();
        }
        // There is a key, and it is not in the old row: then the old row is an identity of its own, and not
        // the whole row.
        if self.action == JsonAction::Delete && candidates.iter().any(|key| !key.is_empty()) {
            return seen;
        }
        Vec::new()
    }
}

/// Adds the columns of `more` that are not there yet, each before the one it precedes in `more`: both are in
/// table order, and a key is written in that order whichever of its columns a row leaves out.
fn merge(columns: &mut Vec<Column>, more: impl DoubleEndedIterator<Item = Column>) {
    let mut place = columns.len();
    for column in more.rev() {
        match columns.iter().position(|known| known.name == column.name) {
            Some(at) => place = at,
            None => columns.insert(place, column),
        }
    }
}

/// Values in the relation's order, which is the row's; `missing` where the row has none. `None` when a value
/// is not text, or when there is one that the relation does not have.
fn tuple<'a>(relation: &Relation, fields: &[Field<'a>], missing: &Datum<'static>) -> Option<Tuple<'a>> {
    let mut fields = fields.iter().peekable();
    let columns = relation.columns.iter();
    let tuple = columns
        .map(|column| match fields.next_if(|field| field.name == column.name) {
            Some(field) => datum(&column.kind, field.value),
            None => Some(missing.clone()),
        })
        .collect::<Option<_>>()?;
    fields.next().is_none().then_some(tuple)
}

/// `None` for a JSON string that is no text, such as half of a surrogate pair.
fn datum<'a>(kind: &Type, value: Option<&'a RawValue>) -> Option<Datum<'a>> {
    let Some(raw) = value.map(RawValue::get) else {
        return Some(Datum::Null);
    };
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(raw),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(_) => Cow::Owned(serde_json::from_str(raw).ok()?),
    };
    Some(Datum::Text(match kind {
        // wal2json cuts the `\x` off, though not where the column's type is a domain.
        Type::Bytea if !text.starts_with("\\x") => Cow::Owned(format!("\\x{text}")),
        _ => text,
    }))
}

/// A JSON string as the bytes it stands for: a message's content need not be text, and is written as it is.
/// wal2json itself ends it at the first zero byte.
struct Content<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Content(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Content(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests;
