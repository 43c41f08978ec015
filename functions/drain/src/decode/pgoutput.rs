//! pgoutput, protocol version 1: binary messages, values as text. The layout is PostgreSQL's documentation, "Logical
//! Replication Message Formats".

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{DecodeError, Plugin, complete};
use crate::catalog::Catalog;
use crate::change::{Change, Column, ColumnCoverage, Datum, Item, Message, Relation, Tuple, format_type};
use crate::lsn::Lsn;
use crate::table_name::TableName;
use crate::time::POSTGRES_EPOCH;

/// The tables and types that the server described so far, by OID.
#[derive(Debug, Default)]
pub struct Relations {
    relations: HashMap<u32, Arc<Relation>>,
    /// The names of types that are not built in, and of what domains are made of.
    types: HashMap<u32, String>,
}

impl Relations {
    pub(super) fn decode<'a>(&mut self, catalog: &Catalog, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
        let mut read = ByteReader { data, at: 0 };
        let item = match read.u8()? {
            b'B' => {
                // The commit record's start; its end comes with the commit.
                let _commit_start = read.u64()?;
                let commit_time = read.time()?;
                Item::Begin {
                    xid: read.u32()?,
                    commit_end: None,
                    commit_time: Some(commit_time),
                }
            }
            b'C' => {
                let _flags = read.u8()?;
                let _commit_start = read.u64()?;
                let commit_end = Lsn(read.u64()?);
                Item::Commit {
                    commit_end,
                    commit_time: Some(read.time()?),
                }
            }
            b'R' => {
                let (oid, relation) = self.relation(catalog, &mut read)?;
                self.relations.insert(oid, Arc::new(relation));
                Item::Nothing
            }
            b'Y' => {
                let oid = read.u32()?;
                let (schema, name) = (read.str()?, read.str()?);
                self.types.insert(oid, format_type::of_catalog_name(schema, name));
                Item::Nothing
            }
            b'O' => {
                let _origin_commit = read.u64()?;
                let _name = read.str()?;
                Item::Nothing
            }
            b'I' => {
                let relation = self.known(&mut read)?;
                read.tag(b'N')?;
                let new = read.tuple(&relation)?;
                Item::Change(Change::Insert { relation, new })
            }
            b'U' => {
                let relation = self.known(&mut read)?;
                let (mut old, tag) = match read.u8()? {
                    tag @ (b'K' | b'O') => (Some(read.old_tuple(&relation, tag)?), read.u8()?),
                    tag => (None, tag),
                };
                if tag != b'N' {
                    return Err(read.expected("the new row, marked N"));
                }
                let mut new = read.tuple(&relation)?;
                if let Some(row) = &old
                    && !complete(&relation, row, &mut new)
                {
                    old = None;
                }
                Item::Change(Change::Update { relation, old, new })
            }
            b'D' => {
                let relation = self.known(&mut read)?;
                let tag = read.u8()?;
                if tag != b'K' && tag != b'O' {
                    return Err(read.expected("the old row, marked K or O"));
                }
                let old = read.old_tuple(&relation, tag)?;
                Item::Change(Change::Delete { relation, old })
            }
            b'T' => {
                let count = read.u32()?;
                let _cascade_and_restart = read.u8()?;
                let mut relations = Vec::with_capacity(read.at_most(count as usize, 4));
                for _ in 0..count {
                    relations.push(self.known(&mut read)?);
                }
                Item::Change(Change::Truncate { relations })
            }
            b'M' => {
                let transactional = read.u8()? & 1 == 1;
                let _lsn = read.u64()?;
                let prefix = Cow::Borrowed(read.str()?);
                let length = read.u32()? as usize;
                let message = Message {
                    prefix,
                    content: Cow::Borrowed(read.bytes(length)?),
                };
                if transactional {
                    Item::Change(Change::Message(message))
                } else {
                    Item::Message(message)
                }
            }
            _ => {
                read.at = 0;
                return Err(read.expected("a message type of protocol version 1"));
            }
        };
        if read.at < data.len() {
            Err(read.expected("the end of the message"))
        } else {
            Ok(item)
        }
    }

    fn known(&self, read: &mut ByteReader<'_>) -> Result<Arc<Relation>, DecodeError> {
        let at = read.at;
        let oid = read.u32()?;
        self.relations
            .get(&oid)
            .cloned()
            .ok_or_else(|| ByteReader { at, ..*read }.expected("a table that was described"))
    }

    fn relation(&self, catalog: &Catalog, read: &mut ByteReader<'_>) -> Result<(u32, Relation), DecodeError> {
        let oid = read.u32()?;
        // pg_catalog is sent as an empty name.
        let schema = match read.str()? {
            "" => "pg_catalog",
            schema => schema,
        };
        let name = TableName::new(schema, read.str()?);
        let identity = read.u8()?;
        let count = read.u16()?;
        let table = catalog.table(&name);
        // Flags, a name of no letters, type and modifier.
        let mut columns = Vec::with_capacity(read.at_most(count.into(), 10));
        let mut primaries = Vec::new();
        for _ in 0..count {
            let in_identity = read.u8()? & 1 == 1;
            let name = read.str()?;
            let (oid, modifier) = (read.u32()?, read.i32()?);
            let among = |names: &[String]| names.iter().any(|key| key == name);
            // With the whole row as identity every column is marked: then the primary key tells rows apart.
            let key = match identity {
                b'f' | b'n' => table.is_some_and(|table| among(&table.key)),
                _ => in_identity,
            };
            let primary = match identity {
                b'd' => in_identity,
                _ => table.is_some_and(|table| among(&table.primary_key)),
            };
            let type_name = format_type::of_oid(oid, modifier).unwrap_or_else(|| {
                let told = self.types.get(&oid).map_or("unknown", String::as_str);
                catalog.column_type(table, name, told)
            });
            if primary {
                primaries.push((name.to_owned(), type_name.clone()));
            }
            columns.push(Column::new(name.to_owned(), type_name, key));
        }
        Ok((
            oid,
            Relation {
                table: name,
                columns,
                primary_key: primaries,
                coverage: ColumnCoverage::Whole,
            },
        ))
    }
}

#[derive(Clone, Copy)]
struct ByteReader<'a> {
    data: &'a [u8],
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

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or_else(|| self.expected("more bytes"))?;
        self.at += length;
        Ok(taken)
    }

    /// `count` as far as the bytes that are left can bear it out: what room is made for, whatever a count
    /// claims.
    fn at_most(&self, count: usize, bytes_each: usize) -> usize {
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

    fn time(&mut self) -> Result<i64, DecodeError> {
        self.array()
            .map(i64::from_be_bytes)
            .map(|micros| micros.saturating_add(POSTGRES_EPOCH))
    }

    fn tag(&mut self, tag: u8) -> Result<(), DecodeError> {
        if self.u8()? == tag {
            Ok(())
        } else {
            Err(self.expected("the new row, marked N"))
        }
    }

    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.bytes(length)?).map_err(|e| {
            let at = at + e.valid_up_to();
            ByteReader { at, ..*self }.expected("UTF-8 text")
        })
    }

    /// A string that a zero byte ends.
    fn str(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|b| *b == 0)
            .ok_or_else(|| self.expected("a string that a zero byte ends"))?;
        let text = self.text(length)?;
        self.at += 1;
        Ok(text)
    }

    fn tuple(&mut self, relation: &Relation) -> Result<Tuple<'a>, DecodeError> {
        if usize::from(self.u16()?) != relation.columns.len() {
            return Err(self.expected("as many values as the table was described with columns"));
        }
        relation
            .columns
            .iter()
            .map(|_| match self.u8()? {
                b'n' => Ok(Datum::Null),
                b'u' => Ok(Datum::Unchanged),
                b't' => {
                    let length = self.u32()? as usize;
                    Ok(Datum::Text(Cow::Borrowed(self.text(length)?)))
                }
                _ => Err(self.expected("a value marked n, u or t")),
            })
            .collect()
    }

    /// An old row; one marked K holds the key and sends null for everything else, which says nothing about it.
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
