//! Decoder of pgoutput, protocol version 1: binary messages with values as text.
//!
//! PostgreSQL documents the layout in "Logical Replication Message Formats".

mod relation_tables;
pub(super) mod scanner;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{DecodeError, Plugin, merge_old_row};
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::base::time::POSTGRES_EPOCH;
use crate::catalog::Catalog;
use crate::change::char_byte;
use crate::change::{
    Change, Column, ColumnCoverage, ColumnType, Datum, DecodedRow, Message, MessageParts, Relation, Tuple,
};
use relation_tables::{RelationTable, RelationTables};
use scanner::{OVERSIZE, WITHOUT_CONTENT, WITHOUT_PREFIX};

/// Decoder with the tables and types that the server described so far.
#[derive(Debug, Default)]
pub struct PgoutputDecoder {
    tables: RelationTables,
    /// Schema and name of each type that is not built in.
    ///
    /// The keys are the OIDs of the types. A domain has the names of its base type.
    types: HashMap<u32, (String, String)>,
    /// Empty tuple whose memory the next row reuses.
    spare: Tuple<'static>,
}

impl PgoutputDecoder {
    /// Decodes one message.
    ///
    /// # Errors
    /// The bytes are not a message of protocol version 1, or they name a table that the server did
    /// not describe.
    pub(super) fn decode<'a>(
        &mut self,
        catalog: &Catalog,
        data: &'a [u8],
    ) -> Result<DecodedRow<'a>, DecodeError> {
        let mut reader = ByteReader { data, at: 0 };
        let item = match reader.u8()? {
            b'B' => reader.begin()?,
            b'C' => reader.commit()?,
            b'R' => {
                let (oid, table) = self.table(catalog, &mut reader)?;
                self.tables.insert(oid, table);
                DecodedRow::Nothing
            }
            b'Y' => {
                let oid = reader.u32()?;
                let (schema, name) = (reader.str()?, reader.str()?);
                self.types.insert(oid, (schema.to_owned(), name.to_owned()));
                DecodedRow::Nothing
            }
            b'O' => {
                let _origin_commit = reader.u64()?;
                let _name = reader.str()?;
                DecodedRow::Nothing
            }
            b'I' => DecodedRow::Change(self.insert(&mut reader)?),
            b'U' => DecodedRow::Change(self.update(&mut reader)?),
            b'D' => DecodedRow::Change(self.delete(&mut reader)?),
            b'T' => DecodedRow::Change(self.truncate(&mut reader)?),
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

    /// Keeps the memory of a tuple for the next row.
    pub(super) fn recycle(&mut self, tuple: Tuple<'_>) {
        self.spare = emptied(tuple);
    }

    fn insert<'a>(&mut self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let (oid, relation) = self.row_table(reader)?;
        if reader.u8()? != b'N' {
            return Err(reader.expected("the new row, marked N"));
        }
        let new = reader.tuple(&relation, std::mem::take(&mut self.spare))?;
        let relation = self.tables.relation_of_row(oid, None).unwrap_or(relation);
        Ok(Change::Insert { relation, new })
    }

    fn update<'a>(&mut self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let (oid, relation) = self.row_table(reader)?;
        let (old, tag) = match reader.u8()? {
            tag @ (b'K' | b'O') => (Some(self.old_tuple(oid, &relation, tag, reader)?), reader.u8()?),
            tag => (None, tag),
        };
        if tag != b'N' {
            return Err(reader.expected("the new row, marked N"));
        }
        let mut new = reader.tuple(&relation, std::mem::take(&mut self.spare))?;
        let relation = self.tables.relation_of_row(oid, old.as_ref()).unwrap_or(relation);
        let old = old.and_then(|old| merge_old_row(&relation, old, &mut new));
        Ok(Change::Update { relation, old, new })
    }

    fn delete<'a>(&mut self, reader: &mut ByteReader<'a>) -> Result<Change<'a>, DecodeError> {
        let (oid, relation) = self.row_table(reader)?;
        let tag = reader.u8()?;
        if tag != b'K' && tag != b'O' {
            return Err(reader.expected("the old row, marked K or O"));
        }
        let old = self.old_tuple(oid, &relation, tag, reader)?;
        let relation = self.tables.relation_of_row(oid, Some(&old)).unwrap_or(relation);
        Ok(Change::Delete { relation, old })
    }

    fn truncate(&mut self, reader: &mut ByteReader<'_>) -> Result<Change<'static>, DecodeError> {
        let count = reader.u32()?;
        let _cascade_and_restart = reader.u8()?;
        let mut relations = Vec::with_capacity(reader.capacity(count as usize, 4));
        for _ in 0..count {
            let start = *reader;
            relations.push(self.relation(reader.u32()?, &start)?);
        }
        self.tables.forget_described();
        Ok(Change::Truncate { relations })
    }

    /// Table of a row, with its OID.
    ///
    /// Reads the OID from the row, and returns it with the table that the server described. The descriptions
    /// before the row show which partition the row belongs to.
    fn row_table(&mut self, reader: &mut ByteReader<'_>) -> Result<(u32, Arc<Relation>), DecodeError> {
        let start = *reader;
        let oid = reader.u32()?;
        self.tables.begin_row(oid);
        self.relation(oid, &start).map(|relation| (oid, relation))
    }

    /// Table that the server described with this OID.
    ///
    /// `reader` is at the OID in the message. The error reports this place.
    fn relation(&self, oid: u32, reader: &ByteReader<'_>) -> Result<Arc<Relation>, DecodeError> {
        let relation = self.tables.relation(oid);
        relation.ok_or_else(|| reader.expected("a table that the server described"))
    }

    /// Reads an old row, after the byte of its kind.
    ///
    /// A null of an old row is a value only if the table logs whole rows. Otherwise pgoutput sends a null in
    /// place of each value that the log does not contain.
    fn old_tuple<'a>(
        &self,
        oid: u32,
        relation: &Relation,
        tag: u8,
        reader: &mut ByteReader<'a>,
    ) -> Result<Tuple<'a>, DecodeError> {
        let mut tuple = reader.tuple(relation, Vec::new())?;
        if !self.tables.logs_whole_rows(oid, tag == b'O') {
            for datum in tuple.iter_mut().filter(|datum| **datum == Datum::Null) {
                *datum = Datum::Absent;
            }
        }
        Ok(tuple)
    }

    /// Reads the description of a table; returns its OID and the table.
    fn table(
        &self,
        catalog: &Catalog,
        reader: &mut ByteReader<'_>,
    ) -> Result<(u32, RelationTable), DecodeError> {
        let oid = reader.u32()?;
        let name = reader.table_name()?;
        let identity = reader.u8()?;
        let count = reader.u16()?;
        let past = catalog.past_table(oid);
        // The shortest column: its flags, an empty name, its type and its modifier.
        let mut columns = Vec::with_capacity(reader.capacity(count.into(), 10));
        for _ in 0..count {
            columns.push(self.column(catalog, reader)?);
        }
        let relation = Relation {
            table: name,
            columns,
            primary_key: Vec::new(),
            coverage: ColumnCoverage::Whole,
            is_insert_only: false,
            partition_key_may_change: false,
        };
        Ok((oid, RelationTable::new(relation, identity, past)))
    }

    /// Reads one column of a table's description. It is marked as a key if the server marks it.
    fn column(&self, catalog: &Catalog, reader: &mut ByteReader<'_>) -> Result<Column, DecodeError> {
        let is_marked = reader.u8()? & 1 == 1;
        let name = reader.str()?;
        let (type_oid, modifier) = (reader.u32()?, reader.i32()?);
        let column_type = self.column_type(catalog, type_oid, modifier);
        Ok(Column::new(name.to_owned(), column_type, is_marked))
    }

    /// The type with this OID and modifier. A dropped type is found by the names that the server sent.
    fn column_type(&self, catalog: &Catalog, oid: u32, modifier: i32) -> ColumnType {
        catalog
            .type_of_oid(oid, modifier)
            .unwrap_or_else(|| match self.types.get(&oid) {
                Some((schema, name)) => catalog.type_of_catalog_name(schema, name),
                None => ColumnType::unknown("unknown"),
            })
    }
}

/// Empty tuple that reuses the memory of this one.
///
/// Its values may have another lifetime.
fn emptied<'a>(mut tuple: Tuple<'_>) -> Tuple<'a> {
    tuple.clear();
    // The standard library collects an iterator over a vector in the memory of that vector.
    tuple.into_iter().map(|_| Datum::Null).collect()
}

/// Whether a message describes a table.
pub(super) fn is_description(data: &[u8]) -> bool {
    data.first() == Some(&b'R')
}

/// OID and name of the table that a message describes.
///
/// `None` for a message that describes no table.
pub(super) fn described_table(data: &[u8]) -> Option<(u32, TableName)> {
    let mut reader = ByteReader { data, at: 0 };
    if reader.u8() != Ok(b'R') {
        return None;
    }
    let oid = reader.u32().ok()?;
    Some((oid, reader.table_name().ok()?))
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

    fn begin(&mut self) -> Result<DecodedRow<'a>, DecodeError> {
        // This is the start of the commit record. The commit message contains the end of the record.
        let _commit_start = self.u64()?;
        let commit_time = self.time()?;
        Ok(DecodedRow::Begin {
            xid: self.u32()?,
            commit_end: None,
            commit_time: Some(commit_time),
        })
    }

    fn commit(&mut self) -> Result<DecodedRow<'a>, DecodeError> {
        let _flags = self.u8()?;
        let _commit_start = self.u64()?;
        let commit_end = Lsn(self.u64()?);
        Ok(DecodedRow::Commit {
            commit_end,
            commit_time: Some(self.time()?),
        })
    }

    fn message(&mut self) -> Result<DecodedRow<'a>, DecodeError> {
        let flags = self.u8()?;
        let omitted = MessageParts {
            prefix: flags & WITHOUT_PREFIX != 0,
            content: flags & WITHOUT_CONTENT != 0,
        };
        let _lsn = self.u64()?;
        let prefix = Cow::Borrowed(self.str()?);
        let length = match omitted.content {
            true => 0,
            false => self.u32()? as usize,
        };
        let message = Message {
            prefix,
            content: Cow::Borrowed(self.bytes(length)?),
            omitted,
        };
        Ok(if flags & 1 == 1 {
            DecodedRow::Change(Change::Message(message))
        } else {
            DecodedRow::Message(message)
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
    /// The rest of the message bounds the capacity. A malformed message may contain any count, and a list of
    /// that capacity could exhaust the function's memory.
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

    /// Time in µs since 1970-01-01 UTC.
    ///
    /// The message contains µs since PostgreSQL's epoch, 2000-01-01.
    fn time(&mut self) -> Result<i64, DecodeError> {
        self.array()
            .map(i64::from_be_bytes)
            .map(|micros| micros.saturating_add(POSTGRES_EPOCH))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.bytes(length)?).map_err(|error| {
            let at = at + error.valid_up_to();
            ByteReader { at, ..*self }.expected("UTF-8 text")
        })
    }

    /// A string; a zero byte ends it in the message.
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

    /// The values of a row, in the memory of `spare`.
    fn tuple(&mut self, relation: &Relation, spare: Tuple<'_>) -> Result<Tuple<'a>, DecodeError> {
        if usize::from(self.u16()?) != relation.columns.len() {
            return Err(self.expected("one value for each column that the server described"));
        }
        let mut tuple = emptied(spare);
        tuple.reserve(relation.columns.len());
        for column in &relation.columns {
            tuple.push(self.datum(column.type_oid)?);
        }
        Ok(tuple)
    }

    /// A value of a column whose type has this OID.
    fn datum(&mut self, type_oid: u32) -> Result<Datum<'a>, DecodeError> {
        match self.u8()? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::Unchanged),
            b't' => {
                let length = self.u32()? as usize;
                let value = self.data.get(self.at..).and_then(|rest| rest.get(..length));
                let text = self.text(length).map(Cow::Borrowed);
                let text = text.or_else(|error| {
                    let byte = value.and_then(|value| char_byte::of_oid(type_oid, value));
                    byte.map(Cow::Owned).ok_or(error)
                });
                text.map(Datum::Text)
            }
            OVERSIZE => Ok(Datum::Oversize {
                bytes: usize::try_from(self.u64()?).unwrap_or(usize::MAX),
            }),
            _ => Err(self.expected("a value marked n, u or t")),
        }
    }
}

#[cfg(test)]
mod tests;
