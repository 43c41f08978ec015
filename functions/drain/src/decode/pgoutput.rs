//! Decoder of pgoutput, protocol version 1: binary messages with values as text.
//!
//! PostgreSQL documents the layout in "Logical Replication Message Formats".

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{DecodeError, Plugin, merge_old_row};
use crate::catalog::{Catalog, CatalogTable};
use crate::change::{Change, Column, ColumnCoverage, Datum, Item, Message, Relation, Tuple, format_type};
use crate::lsn::Lsn;
use crate::table_name::TableName;
use crate::time::POSTGRES_EPOCH;

/// Decoder with the tables and types that the server described so far.
#[derive(Debug, Default)]
pub struct PgoutputDecoder {
    /// Tables by their OIDs.
    relations: HashMap<u32, Arc<Relation>>,
    /// Names of the types that are not built in, by their OIDs. A domain has the name of its base type.
    types: HashMap<u32, String>,
}

impl PgoutputDecoder {
    /// Decodes one message.
    ///
    /// # Errors
    /// The bytes are not a message of protocol version 1, or they name a table that the server did
    /// not describe.
    pub(super) fn decode<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
        let mut reader = ByteReader { data, at: 0 };
        let item = match reader.u8()? {
            b'B' => reader.begin()?,
            b'C' => reader.commit()?,
            b'R' => {
                let (oid, relation) = self.relation(catalog, &mut reader)?;
                self.relations.insert(oid, Arc::new(relation));
                Item::Nothing
            }
            b'Y' => {
                let oid = reader.u32()?;
                let (schema, name) = (reader.str()?, reader.str()?);
                self.types.insert(oid, format_type::of_catalog_name(schema, name));
                Item::Nothing
            }
            b'O' => {
                let _origin_commit = reader.u64()?;
                let _name = reader.str()?;
                Item::Nothing
            }
            b'I' => Item::Change(self.insert(&mut reader)?),
            b'U' => Item::Change(self.update(&mut reader)?),
            b'D' => Item::Change(self.delete(&mut reader)?),
            b'T' => Item::Change(self.truncate(&mut reader)?),
            b'M' => reader.message()?,
            _ => {
                reader.at = 0;
                return Err(reader.expected("a message type of protocol version 1"));
            }
        };
        if reader.at < data.len() {
            Err(reader.expected("the end of the message"))
        } else {
            Ok(item)
        }
    }

    fn insert<'a>(&self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let relation = self.described_relation(reader)?;
        if reader.u8()? != b'N' {
            return Err(reader.expected("the new row, marked N"));
        }
        let new = reader.tuple(&relation)?;
        Ok(Change::Insert { relation, new })
    }

    fn update<'a>(&self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let relation = self.described_relation(reader)?;
        let (old, tag) = match reader.u8()? {
            tag @ (b'K' | b'O') => (Some(reader.old_tuple(&relation, tag)?), reader.u8()?),
            tag => (None, tag),
        };
        if tag != b'N' {
            return Err(reader.expected("the new row, marked N"));
        }
        let mut new = reader.tuple(&relation)?;
        let old = old.and_then(|old| merge_old_row(&relation, old, &mut new));
        Ok(Change::Update { relation, old, new })
    }

    fn delete<'a>(&self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let relation = self.described_relation(reader)?;
        let tag = reader.u8()?;
        if tag != b'K' && tag != b'O' {
            return Err(reader.expected("the old row, marked K or O"));
        }
        let old = reader.old_tuple(&relation, tag)?;
        Ok(Change::Delete { relation, old })
    }

    fn truncate(&self, reader: &mut ByteReader<'_>) -> Result<Change<'static>, DecodeError> {
        let count = reader.u32()?;
        let _cascade_and_restart = reader.u8()?;
        let mut relations = Vec::with_capacity(reader.capacity(count as usize, 4));
        for _ in 0..count {
            relations.push(self.described_relation(reader)?);
        }
        Ok(Change::Truncate { relations })
    }

    /// Reads an OID and returns the table that the server described with it.
    fn described_relation(&self, reader: &mut ByteReader<'_>) -> Result<Arc<Relation>, DecodeError> {
        let at = reader.at;
        let oid = reader.u32()?;
        self.relations
            .get(&oid)
            .cloned()
            .ok_or_else(|| ByteReader { at, ..*reader }.expected("a table that the server described"))
    }

    /// Reads the description of a table; returns its OID and the table.
    fn relation(
        &self,
        catalog: &Catalog,
        reader: &mut ByteReader<'_>,
    ) -> Result<(u32, Relation), DecodeError> {
        let oid = reader.u32()?;
        let name = reader.table_name()?;
        let identity = reader.u8()?;
        let count = reader.u16()?;
        let table = catalog.table(&name);
        // The shortest column: its flags, an empty name, its type and its modifier.
        let mut columns = Vec::with_capacity(reader.capacity(count.into(), 10));
        let mut primary_key = Vec::new();
        for _ in 0..count {
            let (column, in_primary_key) = self.column(catalog, table, identity, reader)?;
            if in_primary_key {
                primary_key.push((column.name.clone(), column.type_name.clone()));
            }
            columns.push(column);
        }
        let relation = Relation {
            table: name,
            columns,
            primary_key,
            coverage: ColumnCoverage::Whole,
        };
        Ok((oid, relation))
    }

    /// Reads one column of a table's description; returns it and whether the primary key has it.
    fn column(
        &self,
        catalog: &Catalog,
        table: Option<&CatalogTable>,
        identity: u8,
        reader: &mut ByteReader<'_>,
    ) -> Result<(Column, bool), DecodeError> {
        let in_identity = reader.u8()? & 1 == 1;
        let name = reader.str()?;
        let (type_oid, modifier) = (reader.u32()?, reader.i32()?);
        let is_among = |names: &[String]| names.iter().any(|key| key == name);
        // With replica identity `full` every column has the mark, and with `nothing` none has it. Then the
        // key of the catalog identifies the rows.
        let key = match identity {
            b'f' | b'n' => table.is_some_and(|table| is_among(&table.key)),
            _ => in_identity,
        };
        let in_primary_key = match identity {
            b'd' => in_identity,
            _ => table.is_some_and(|table| is_among(&table.primary_key)),
        };
        let type_name = format_type::of_oid(type_oid, modifier).unwrap_or_else(|| {
            let sent = self.types.get(&type_oid).map_or("unknown", String::as_str);
            catalog.column_type(table, name, sent)
        });
        Ok((Column::new(name.to_owned(), type_name, key), in_primary_key))
    }
}

/// The table that a message describes; `None` for another message.
pub(super) fn described_table(data: &[u8]) -> Option<TableName> {
    let mut reader = ByteReader { data, at: 0 };
    if reader.u8() != Ok(b'R') {
        return None;
    }
    reader.u32().ok()?;
    reader.table_name().ok()
}

/// Reader of the fields of one message.
#[derive(Clone, Copy)]
struct ByteReader<'a> {
    data: &'a [u8],
    /// Offset of the next byte.
    at: usize,
}

impl<'a> ByteReader<'a> {
    fn expected(&self, expected: &'static str) -> DecodeError {
        DecodeError {
            plugin: Plugin::Pgoutput,
            length: self.data.len(),
            at: self.at,
            expected,
        }
    }

    fn begin(&mut self) -> Result<Item<'a>, DecodeError> {
        // This is the start of the commit record. The commit message holds its end.
        let _commit_start = self.u64()?;
        let commit_time = self.time()?;
        Ok(Item::Begin {
            xid: self.u32()?,
            commit_end: None,
            commit_time: Some(commit_time),
        })
    }

    fn commit(&mut self) -> Result<Item<'a>, DecodeError> {
        let _flags = self.u8()?;
        let _commit_start = self.u64()?;
        let commit_end = Lsn(self.u64()?);
        Ok(Item::Commit {
            commit_end,
            commit_time: Some(self.time()?),
        })
    }

    fn message(&mut self) -> Result<Item<'a>, DecodeError> {
        let is_transactional = self.u8()? & 1 == 1;
        let _lsn = self.u64()?;
        let prefix = Cow::Borrowed(self.str()?);
        let length = self.u32()? as usize;
        let content = Cow::Borrowed(self.bytes(length)?);
        let message = Message { prefix, content };
        Ok(if is_transactional {
            Item::Change(Change::Message(message))
        } else {
            Item::Message(message)
        })
    }

    fn table_name(&mut self) -> Result<TableName, DecodeError> {
        // pgoutput sends the schema pg_catalog as an empty name.
        let schema = match self.str()? {
            "" => "pg_catalog",
            schema => schema,
        };
        Ok(TableName::new(schema, self.str()?))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let bytes = rest.get(..length).ok_or_else(|| self.expected("more bytes"))?;
        self.at += length;
        Ok(bytes)
    }

    /// Capacity of a list for `count` elements of at least `bytes_each` bytes.
    ///
    /// The rest of the message bounds it: a row may claim any count, and memory for it could exhaust the
    /// function.
    fn capacity(&self, count: usize, bytes_each: usize) -> usize {
        count.min(self.data.len().saturating_sub(self.at) / bytes_each)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A time in µs since 1970-01-01 UTC; the message counts from PostgreSQL's epoch.
    fn time(&mut self) -> Result<i64, DecodeError> {
        self.array()
            .map(i64::from_be_bytes)
            .map(|micros| micros.saturating_add(POSTGRES_EPOCH))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.bytes(length)?).map_err(|e| {
            let at = at + e.valid_up_to();
            ByteReader { at, ..*self }.expected("UTF-8 text")
        })
    }

    /// A string before its closing zero byte.
    fn str(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|b| *b == 0)
            .ok_or_else(|| self.expected("a string with a zero byte at its end"))?;
        let text = self.text(length)?;
        self.at += 1;
        Ok(text)
    }

    fn tuple(&mut self, relation: &Relation) -> Result<Tuple<'a>, DecodeError> {
        if usize::from(self.u16()?) != relation.columns.len() {
            return Err(self.expected("one value for each column that the server described"));
        }
        relation.columns.iter().map(|_| self.datum()).collect()
    }

    fn datum(&mut self) -> Result<Datum<'a>, DecodeError> {
        match self.u8()? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::Unchanged),
            b't' => {
                let length = self.u32()? as usize;
                Ok(Datum::Text(Cow::Borrowed(self.text(length)?)))
            }
            _ => Err(self.expected("a value marked n, u or t")),
        }
    }

    /// An old row after its mark.
    ///
    /// A row marked K holds the key. It has nulls for all other columns, whatever their values were.
    fn old_tuple(&mut self, relation: &Relation, tag: u8) -> Result<Tuple<'a>, DecodeError> {
        let mut tuple = self.tuple(relation)?;
        if tag == b'K' {
            for (datum, column) in tuple.iter_mut().zip(&relation.columns) {
                if !column.key {
                    *datum = Datum::Absent;
                }
            }
        }
        Ok(tuple)
    }
}

#[cfg(test)]
mod tests;
