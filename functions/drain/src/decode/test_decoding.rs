//! test_decoding: text made for people's eyes, read back. For troubleshooting; it tells no keys, which the catalog must.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::{DecodeError, Plugin, complete};
use crate::catalog::{Catalog, CatalogColumn};
use crate::change::{Change, Column, ColumnCoverage, Datum, Item, Message, Relation, Tuple};
use crate::lsn::Lsn;
use crate::table_name::TableName;
use crate::time::micros_of_timestamp;

pub(super) fn decode<'a>(catalog: &Catalog, lsn: Lsn, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
    let mut read = TextReader { data, at: 0 };
    if read.skip("BEGIN ") {
        let xid = read
            .rest_text()?
            .parse()
            .map_err(|_| read.expected("a transaction's id"))?;
        return Ok(Item::Begin {
            xid,
            commit_end: None,
            commit_time: None,
        });
    }
    if read.skip("COMMIT ") {
        let text = read.rest_text()?;
        let time = text
            .split_once("(at ")
            .and_then(|(_, rest)| micros_of_timestamp(rest.strip_suffix(')')?));
        // This row's `lsn` column is the end of the commit record.
        return Ok(Item::Commit {
            commit_end: lsn,
            commit_time: time,
        });
    }
    if read.skip("message: transactional: ") {
        let transactional = read.skip("1");
        if !transactional && !read.skip("0") || !read.skip(" prefix: ") {
            return Err(read.expected("transactional: 0 or 1, and a prefix"));
        }
        let (prefix, content) = read.message()?;
        let message = Message {
            prefix: Cow::Borrowed(prefix),
            content: Cow::Borrowed(content),
        };
        return Ok(if transactional {
            Item::Change(Change::Message(message))
        } else {
            Item::Message(message)
        });
    }
    if !read.skip("table ") {
        return Err(read.expected("BEGIN, COMMIT, message or table"));
    }
    let mut tables = vec![read.table()?];
    while read.skip(", ") {
        tables.push(read.table()?);
    }
    if !read.skip(": ") {
        return Err(read.expected("a colon after the table"));
    }
    if read.skip("TRUNCATE:") {
        let relations = tables
            .iter()
            .map(|table| Arc::new(relation(catalog, table, &[], ColumnCoverage::Row)))
            .collect();
        return Ok(Item::Change(Change::Truncate { relations }));
    }
    let [table] = &tables[..] else {
        return Err(read.expected("TRUNCATE behind several tables"));
    };
    let change = if read.skip("INSERT:") {
        let new = read.row()?;
        let (relation, new) = row(catalog, table, new, ColumnCoverage::Whole);
        Change::Insert { relation, new }
    } else if read.skip("UPDATE:") {
        let old = if read.skip(" old-key:") {
            Some(read.values(" new-tuple:")?)
        } else {
            None
        };
        let new = read.row()?;
        let (relation, mut new) = row(catalog, table, new, ColumnCoverage::Whole);
        let whole = catalog.table(table).is_some_and(|table| table.identity_full);
        let missing = if whole { Datum::Null } else { Datum::Absent };
        let old = match old {
            Some(old) => Some(
                old_tuple(&relation, old, &missing)
                    .ok_or_else(|| read.expected("an old row of columns that the new row has"))?,
            ),
            None => None,
        };
        let old = old.filter(|old| complete(&relation, old, &mut new));
        Change::Update { relation, old, new }
    } else if read.skip("DELETE:") {
        // Without an identity there is no tuple data: all that is known is that a row went.
        let old = with_nulls(catalog, table, read.values("")?);
        let (relation, old) = row(catalog, table, old, ColumnCoverage::Row);
        Change::Delete { relation, old }
    } else {
        return Err(read.expected("INSERT, UPDATE, DELETE or TRUNCATE"));
    };
    Ok(Item::Change(change))
}

struct Value<'a> {
    name: Cow<'a, str>,
    kind: Cow<'a, str>,
    datum: Datum<'a>,
}

fn relation(catalog: &Catalog, name: &TableName, values: &[Value<'_>], coverage: ColumnCoverage) -> Relation {
    let table = catalog.table(name);
    let column = |value: &Value<'_>| {
        let among = |names: &[String]| names.iter().any(|key| *key == value.name);
        Column::new(
            value.name.to_string(),
            catalog.column_type(table, &value.name, &value.kind),
            table.is_some_and(|table| among(&table.key)),
        )
    };
    Relation {
        table: name.clone(),
        columns: values.iter().map(column).collect(),
        primary_key: table
            .map(|table| catalog.primary_key_columns(table))
            .unwrap_or_default(),
        coverage,
    }
}

/// A row that is itself all that is known of its table's columns.
fn row<'a>(
    catalog: &Catalog,
    table: &TableName,
    values: Vec<Value<'a>>,
    coverage: ColumnCoverage,
) -> (Arc<Relation>, Tuple<'a>) {
    let relation = Arc::new(relation(catalog, table, &values, coverage));
    (relation, values.into_iter().map(|value| value.datum).collect())
}

/// The old row of a delete with the nulls that it leaves out where it is the whole row. As far as the catalog, which tells the
/// columns then, still knows those of the row.
fn with_nulls<'a>(catalog: &Catalog, name: &TableName, values: Vec<Value<'a>>) -> Vec<Value<'a>> {
    let full = catalog.table(name).filter(|table| table.identity_full);
    let whole = full.map(|table| table.columns.as_slice()).unwrap_or_default();
    let known: HashSet<&str> = whole.iter().map(|known| known.name.as_str()).collect();
    if values.is_empty() || !values.iter().all(|value| known.contains(&*value.name)) {
        return values;
    }
    let mut values = values.into_iter().peekable();
    let column = |known: &CatalogColumn| {
        let null = || Value {
            name: known.name.clone().into(),
            kind: known.type_name.clone().into(),
            datum: Datum::Null,
        };
        values
            .next_if(|value| value.name == known.name)
            .unwrap_or_else(null)
    };
    whole.iter().map(column).collect()
}

/// An old row. It leaves out the columns outside the key, or with `replica identity full` those that were null, which is what
/// `missing` says. `None` when it holds something that the new row does not. Both are in table order.
fn old_tuple<'a>(relation: &Relation, values: Vec<Value<'a>>, missing: &Datum<'static>) -> Option<Tuple<'a>> {
    let mut values = values.into_iter().peekable();
    let columns = relation.columns.iter();
    let tuple = columns
        .map(|column| {
            let value = values.next_if(|value| value.name == column.name);
            value.map_or(missing.clone(), |value| value.datum)
        })
        .collect();
    values.next().is_none().then_some(tuple)
}

struct TextReader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> TextReader<'a> {
    fn expected(&self, expected: &'static str) -> DecodeError {
        DecodeError {
            plugin: Plugin::TestDecoding,
            length: self.data.len(),
            at: self.at,
            expected,
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn rest_text(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.rest();
        self.take(rest.len())
    }

    /// The next `length` bytes as text.
    fn take(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let taken = self
            .rest()
            .get(..length)
            .ok_or_else(|| self.expected("more bytes"))?;
        let text = std::str::from_utf8(taken).map_err(|_| self.expected("UTF-8 text"))?;
        self.at += length;
        Ok(text)
    }

    /// A message's prefix and content, `prefix, sz: 4 content:abcd`. Nothing is quoted, and both may hold
    /// what stands between them: it is where the size is that of the rest. Where that is so twice, the
    /// content is believed to quote such a row, rather than the prefix.
    fn message(&mut self) -> Result<(&'a str, &'a [u8]), DecodeError> {
        const SIZE: &[u8] = b", sz: ";
        let rest = self.rest();
        let places = rest.windows(SIZE.len()).enumerate();
        for (at, _) in places.filter(|(_, window)| *window == SIZE) {
            let size = rest.get(at + SIZE.len()..).unwrap_or_default();
            let digits = size.iter().take_while(|b| b.is_ascii_digit()).count();
            let (size, content) = size.split_at(digits);
            let size = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok());
            if let Some(content) = content.strip_prefix(b" content:")
                && size == Some(content.len())
            {
                let prefix = self.take(at)?;
                self.at = self.data.len();
                return Ok((prefix, content));
            }
        }
        Err(self.expected("a prefix, and content of the size that is told"))
    }

    /// What a pair of quotes encloses, a doubled quote standing for one. The opening quote was read already.
    fn quoted(&mut self, quote: u8) -> Result<Cow<'a, str>, DecodeError> {
        let mut text = Cow::Borrowed("");
        loop {
            let end = self
                .rest()
                .iter()
                .position(|b| *b == quote)
                .ok_or_else(|| self.expected("a closing quote"))?;
            let doubled = self.rest().get(end + 1) == Some(&quote);
            let piece = self.take(end + usize::from(doubled))?;
            self.at += 1;
            if text.is_empty() {
                text = Cow::Borrowed(piece);
            } else {
                text.to_mut().push_str(piece);
            }
            if !doubled {
                return Ok(text);
            }
        }
    }

    /// An identifier as `quote_identifier` writes it, up to one of `ends`.
    fn identifier(&mut self, ends: &[u8]) -> Result<Cow<'a, str>, DecodeError> {
        if self.skip("\"") {
            return self.quoted(b'"');
        }
        let length = self.rest().iter().position(|b| ends.contains(b));
        Ok(Cow::Borrowed(self.take(
            length.ok_or_else(|| self.expected("the end of a name"))?,
        )?))
    }

    fn table(&mut self) -> Result<TableName, DecodeError> {
        let schema = self.identifier(b".")?;
        if !self.skip(".") {
            return Err(self.expected("schema.table"));
        }
        Ok(TableName::new(schema, self.identifier(b":,")?))
    }

    /// A type in brackets, which may itself hold brackets (`integer[]`) and quoted names.
    fn kind(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.rest();
        if !rest.starts_with(b"[") {
            return Err(self.expected("a type in brackets"));
        }
        let (mut depth, mut in_quotes) = (0, false);
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                b'"' => in_quotes = !in_quotes,
                b'[' if !in_quotes => depth += 1,
                b']' if !in_quotes && depth == 1 => {
                    self.at += 1;
                    let kind = self.take(at - 1)?;
                    self.at += 1;
                    return Ok(kind);
                }
                b']' if !in_quotes => depth -= 1,
                _ => {}
            }
        }
        Err(self.expected("a type in brackets"))
    }

    /// A new row. One without tuple data is refused: an event of it would say that the row is empty.
    fn row(&mut self) -> Result<Vec<Value<'a>>, DecodeError> {
        if self.rest() == b" (no-tuple-data)" {
            return Err(self.expected("the new row"));
        }
        self.values("")
    }

    /// ` name[type]:value …` up to `end`, which is read too; an empty `end` means the end of the row.
    fn values(&mut self, end: &str) -> Result<Vec<Value<'a>>, DecodeError> {
        let mut values = Vec::new();
        // Not the start of a column: its name would be quoted.
        self.skip(" (no-tuple-data)");
        while !(if end.is_empty() {
            self.rest().is_empty()
        } else {
            self.skip(end)
        }) {
            if !self.skip(" ") {
                return Err(self.expected("a space before a column"));
            }
            let name = self.identifier(b"[")?;
            let kind = self.kind()?;
            if !self.skip(":") {
                return Err(self.expected("a colon after the type"));
            }
            values.push(Value {
                name,
                kind: Cow::Borrowed(kind),
                datum: self.datum()?,
            });
        }
        Ok(values)
    }

    fn datum(&mut self) -> Result<Datum<'a>, DecodeError> {
        if self.skip("'") || self.skip("B'") {
            return Ok(Datum::Text(self.quoted(b'\'')?));
        }
        let length = self
            .rest()
            .iter()
            .position(|b| *b == b' ')
            .unwrap_or(self.rest().len());
        Ok(match self.take(length)? {
            "null" => Datum::Null,
            "unchanged-toast-datum" => Datum::Unchanged,
            text => Datum::Text(Cow::Borrowed(text)),
        })
    }
}

#[cfg(test)]
mod tests;
