//! wal2json, format version 2: one JSON object a row. Values are taken as the raw JSON text, so a numeric keeps all its
//! digits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{DecodeError, Plugin};
use crate::catalog::Catalog;
use crate::change::{Change, Column, Datum, Item, Message, Relation, Tuple, Type};
use crate::time::micros_of_timestamp;

#[derive(Deserialize)]
struct Row<'a> {
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
    content: Option<Cow<'a, str>>,
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
pub struct Relations(HashMap<String, HashMap<String, Vec<Shape>>>);

#[derive(Debug)]
struct Shape {
    /// Names and types as the row gave them: what tells one shape from another.
    fields: Vec<(String, String)>,
    pk: Vec<String>,
    whole: bool,
    relation: Arc<Relation>,
}

impl Relations {
    pub(super) fn decode<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
        let expected = |at, expected| DecodeError {
            plugin: Plugin::Wal2json,
            length: data.len(),
            at,
            expected,
        };
        let text = std::str::from_utf8(data).map_err(|e| expected(e.valid_up_to(), "UTF-8 text"))?;
        let row: Row<'a> = serde_json::from_str(text)
            // A row is one line, so the column is the byte.
            .map_err(|e| expected(e.column().saturating_sub(1), "a JSON object of format version 2"))?;
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
                let content = match row.content {
                    Some(Cow::Owned(content)) => Cow::Owned(content.into_bytes()),
                    Some(Cow::Borrowed(content)) => Cow::Borrowed(content.as_bytes()),
                    None => Cow::Borrowed(&[][..]),
                };
                let message = Message {
                    prefix: row.prefix.unwrap_or_default(),
                    content,
                };
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
                match action {
                    "T" => Item::Change(Change::Truncate {
                        relations: vec![self.relation(catalog, &schema, &table, &[], &[], true)],
                    }),
                    "I" => {
                        let relation = self.relation(catalog, &schema, &table, &row.columns, &row.pk, true);
                        let new = tuple(&relation, &row.columns, &Datum::Absent);
                        Item::Change(Change::Insert { relation, new })
                    }
                    "D" => {
                        let relation = self.relation(catalog, &schema, &table, &row.identity, &row.pk, true);
                        let old = tuple(&relation, &row.identity, &Datum::Absent);
                        Item::Change(Change::Delete { relation, old })
                    }
                    "U" => {
                        let relation = self.relation(catalog, &schema, &table, &row.columns, &row.pk, false);
                        let (old, new) = update(&relation, &row.columns, &row.identity);
                        Item::Change(Change::Update { relation, old, new })
                    }
                    _ => return Err(expected(0, "an action of I, U, D, T, M, B or C")),
                }
            }
        })
    }

    /// The table in the shape of this row. `whole` is false for an update, whose missing columns are unchanged ones.
    fn relation(
        &mut self,
        catalog: &Catalog,
        schema: &str,
        name: &str,
        fields: &[Field<'_>],
        pk: &[Field<'_>],
        whole: bool,
    ) -> Arc<Relation> {
        let same = |shape: &&Shape| {
            shape.fields.len() == fields.len()
                && shape.pk.len() == pk.len()
                && shape
                    .fields
                    .iter()
                    .zip(fields)
                    .all(|(a, b)| a.0 == b.name && a.1 == b.kind)
                && shape.pk.iter().zip(pk).all(|(a, b)| *a == b.name)
                && shape.whole == whole
        };
        if let Some(shape) = self
            .0
            .get(schema)
            .and_then(|tables| tables.get(name)?.iter().find(same))
        {
            return Arc::clone(&shape.relation);
        }
        let table = catalog.table(schema, name);
        let told: Vec<&str> = pk.iter().map(|field| &*field.name).collect();
        // The catalog knows an identity other than the primary key; where its columns are not in the row it has
        // changed since, and the row is believed.
        let known = table.map(|table| table.key.iter().map(String::as_str).collect::<Vec<_>>());
        let key = known
            .filter(|key| {
                !key.is_empty()
                    && key
                        .iter()
                        .all(|key| fields.iter().any(|field| field.name == *key))
            })
            .unwrap_or(told);
        let mut columns: Vec<Column> = fields
            .iter()
            .map(|field| Column {
                name: field.name.to_string(),
                kind: catalog.type_of(&field.kind),
                key: key.contains(&&*field.name),
            })
            .collect();
        if let (false, Some(table)) = (whole, table) {
            for (name, kind) in &table.toastable {
                if !columns.iter().any(|column| column.name == *name) {
                    columns.push(Column {
                        name: name.clone(),
                        kind: kind.clone(),
                        key: false,
                    });
                }
            }
        }
        let relation = Arc::new(Relation {
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns,
        });
        let shapes = self
            .0
            .entry(schema.to_owned())
            .or_default()
            .entry(name.to_owned())
            .or_default();
        shapes.push(Shape {
            fields: fields
                .iter()
                .map(|f| (f.name.to_string(), f.kind.to_string()))
                .collect(),
            pk: pk.iter().map(|f| f.name.to_string()).collect(),
            whole,
            relation: Arc::clone(&relation),
        });
        relation
    }
}

/// The old and the new row of an update. `identity` comes with every update; it says something only where the key
/// changed or where it is the whole row.
fn update<'a>(
    relation: &Relation,
    columns: &[Field<'a>],
    identity: &[Field<'a>],
) -> (Option<Tuple<'a>>, Tuple<'a>) {
    let mut new = tuple(relation, columns, &Datum::Unchanged);
    let old = tuple(relation, identity, &Datum::Absent);
    let mut tells = false;
    for ((column, new), old) in relation.columns.iter().zip(&mut new).zip(&old) {
        if *old == Datum::Absent {
            continue;
        }
        if *new == Datum::Unchanged {
            *new = old.clone();
        }
        tells |= !column.key || new != old;
    }
    (tells.then_some(old), new)
}

/// Values in the relation's order; `missing` where the row has none.
fn tuple<'a>(relation: &Relation, fields: &[Field<'a>], missing: &Datum<'static>) -> Tuple<'a> {
    let mut tuple: Tuple<'a> = Vec::with_capacity(relation.columns.len());
    for (at, column) in relation.columns.iter().enumerate() {
        // Nearly always the same order.
        let field = fields.get(at).filter(|field| field.name == column.name);
        let field = field.or_else(|| fields.iter().find(|field| field.name == column.name));
        tuple.push(field.map_or_else(|| missing.clone(), |field| datum(&column.kind, field.value)));
    }
    tuple
}

fn datum<'a>(kind: &Type, value: Option<&'a RawValue>) -> Datum<'a> {
    let Some(raw) = value.map(RawValue::get) else {
        return Datum::Null;
    };
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(raw),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        // `raw` was parsed as a JSON string once already.
        Some(inner) => serde_json::from_str(raw).map_or(Cow::Borrowed(inner), Cow::Owned),
    };
    Datum::Text(match kind {
        // wal2json cuts the `\x` off.
        Type::Bytea => Cow::Owned(format!("\\x{text}")),
        _ => text,
    })
}
