//! The rows of one chunk, between their snapshot and their watermark: what a change does to them.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::change::{Change, Datum, Relation, Tuple, Type};

use super::row_lookup::RowRequest;
use super::snapshot::Snapshot;
use super::table::BackfillTable;

/// What a row that is held occupies besides its bytes, about: its entry, and its key's in the map.
const CHUNK_ROW_BYTES: usize = 96;

/// The rows of a chunk, in the order of their keys.
#[derive(Debug)]
pub struct ChunkRows {
    table: BackfillTable,
    snapshot: Snapshot,
    /// Each row as `COPY` wrote it, one behind the other.
    text: Vec<u8>,
    rows: Vec<ChunkRow>,
    by_key: HashMap<Box<[u8]>, u32>,
    key_bytes: usize,
    overtaken: u64,
    /// A change came of which it is not known what row it touched.
    is_invalid: bool,
}

#[derive(Debug, Clone, Copy)]
struct ChunkRow {
    start: usize,
    length: usize,
    dropped: bool,
}

/// A row that is not what `COPY` writes of this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Other columns, or an escape that `COPY` does not know.
    #[error("it is not a row of this table")]
    Malformed,
    /// A text that is not UTF-8, which only a database with the encoding SQL_ASCII can hold.
    #[error("a row of it holds bytes that are no UTF-8 text")]
    NotText,
}

impl ChunkRows {
    /// Nothing yet, of what this snapshot shows of a table.
    pub fn new(table: BackfillTable, snapshot: Snapshot) -> Self {
        ChunkRows {
            table,
            snapshot,
            text: Vec::new(),
            rows: Vec::new(),
            by_key: HashMap::new(),
            key_bytes: 0,
            overtaken: 0,
            is_invalid: false,
        }
    }

    /// Whether it must be read again: a change came of which it is not known what row it touched, or that
    /// could not tell what the row has.
    pub fn is_invalid(&self) -> bool {
        self.is_invalid
    }

    /// Has it read again.
    pub fn invalidate(&mut self) {
        self.is_invalid = true;
    }

    /// The table.
    pub fn table(&self) -> &BackfillTable {
        &self.table
    }

    /// How many rows there are, dropped ones too.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows that a change was there for before their watermark.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.text.len() + self.key_bytes + self.rows.len() * CHUNK_ROW_BYTES
    }

    /// Takes a row as `COPY … TO STDOUT` writes it, a line with or without its end. Its first field is not of
    /// the table: see `query`.
    ///
    /// # Errors
    /// It is not one of this table.
    pub fn push(&mut self, line: &[u8]) -> Result<(), RowError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let row = ChunkRow {
            start: self.text.len(),
            length: line.len(),
            dropped: false,
        };
        self.text.extend_from_slice(line);
        let key = match self.key_at(row) {
            Ok(key) => key,
            Err(error) => {
                self.text.truncate(row.start);
                return Err(error);
            }
        };
        self.key_bytes += key.len();
        self.by_key.insert(key, self.rows.len() as u32);
        self.rows.push(row);
        Ok(())
    }

    /// The key of the last row, one text for each of its columns.
    pub fn last_key(&self) -> Option<Vec<String>> {
        let tuple = self.tuple(*self.rows.last()?).ok()?;
        let text = |at: &usize| match tuple.get(*at) {
            Some(Datum::Text(text)) => Some(text.to_string()),
            _ => None,
        };
        self.table.key_indexes.iter().map(text).collect()
    }

    /// The place of the next row at or behind `from` that is to be sent.
    pub fn next_row(&self, from: usize) -> Option<usize> {
        (from..self.rows.len()).find(|at| self.rows.get(*at).is_some_and(|row| !row.dropped))
    }

    /// A row's values.
    ///
    /// # Errors
    /// It is not what `COPY` writes.
    pub fn row(&self, at: usize) -> Result<Tuple<'_>, RowError> {
        self.rows
            .get(at)
            .ok_or(RowError::Malformed)
            .and_then(|row| self.tuple(*row))
    }

    /// Lets a change of the transaction `xid` pass that is about to be sent. What the snapshot shows of it,
    /// the rows show, too. What it does not show came later, and so the rows that it touches are not sent any
    /// more; but a large value that it left alone is known only from them, and is filled in: returns the
    /// places where.
    pub fn apply_change(&mut self, xid: u32, change: &mut Change<'_>) -> Vec<usize> {
        let mut filled = Vec::new();
        let is_ours = |relation: &Relation| self.table.matches(relation);
        match change {
            _ if self.snapshot.shows(xid) => {}
            Change::Insert { relation, new } if is_ours(relation) => {
                self.touch(relation, new);
            }
            Change::Update { relation, old, new } if is_ours(relation) => {
                let key = |tuple: &Tuple<'_>| key_of(relation, &self.table.key, tuple);
                let (before, after) = (old.as_ref().and_then(key), key(new));
                match (&before, &after) {
                    (Some(before), _) => filled = self.complete(before, relation, new),
                    // An update of a row that keeps its key tells no old one.
                    (None, Some(after)) if relation.has_key() => filled = self.complete(after, relation, new),
                    // Which row it was is not known.
                    _ => self.is_invalid = true,
                }
                for key in [before, after].into_iter().flatten() {
                    self.drop_row(&key);
                }
            }
            Change::Delete { relation, old } if is_ours(relation) => {
                self.touch(relation, old);
            }
            Change::Truncate { relations } if relations.iter().any(|relation| is_ours(relation)) => {
                self.drop_all();
            }
            _ => {}
        }
        filled
    }

    fn touch(&mut self, relation: &Relation, tuple: &Tuple<'_>) {
        match key_of(relation, &self.table.key, tuple) {
            Some(key) => self.drop_row(&key),
            None => self.is_invalid = true,
        }
    }

    fn drop_row(&mut self, key: &[u8]) {
        let row = self
            .by_key
            .get(key)
            .and_then(|at| self.rows.get_mut(*at as usize));
        if let Some(row) = row.filter(|row| !row.dropped) {
            row.dropped = true;
            self.overtaken += 1;
        }
    }

    fn drop_all(&mut self) {
        for row in self.rows.iter_mut().filter(|row| !row.dropped) {
            row.dropped = true;
            self.overtaken += 1;
        }
    }

    /// Whether a change brings a row to its key of which it does not tell a large value, and which nobody can
    /// know: this table's rows are on their way to the stream, the row left a key that is not held, and that
    /// may not have been sent.
    pub fn row_request(
        table: &BackfillTable,
        held: Option<&ChunkRows>,
        xid: u32,
        change: &Change<'_>,
    ) -> Option<RowRequest> {
        let Change::Update {
            relation,
            old: Some(old),
            new,
        } = change
        else {
            return None;
        };
        if !table.matches(relation) || !new.contains(&Datum::Unchanged) {
            return None;
        }
        let before = key_of(relation, &table.key, old)?;
        let is_held = |held: &ChunkRows| {
            let row = held
                .by_key
                .get(&before)
                .and_then(|at| held.rows.get(*at as usize));
            row.is_some_and(|row| !row.dropped) && !held.snapshot.shows(xid)
        };
        if !changes_key(table, change) || held.is_some_and(is_held) {
            return None;
        }
        let text = |at: &Option<usize>| match new.get((*at)?)? {
            Datum::Text(text) => Some(text.to_string()),
            _ => None,
        };
        let key: Option<_> = relation.columns_named(&table.key).iter().map(text).collect();
        Some(RowRequest { key: key?, xid })
    }

    /// Fills the large values that an update left alone from the row that it changed.
    fn complete(&self, key: &[u8], relation: &Relation, new: &mut Tuple<'_>) -> Vec<usize> {
        let row = self.by_key.get(key).and_then(|at| self.rows.get(*at as usize));
        // One that was dropped was touched by a change before, which told the value.
        if let Some(row) = row.filter(|row| !row.dropped)
            && let Ok(tuple) = self.tuple(*row)
        {
            return fill(&self.table, &tuple, relation, new);
        }
        Vec::new()
    }

    fn tuple(&self, row: ChunkRow) -> Result<Tuple<'_>, RowError> {
        let line = self.text.get(row.start..row.start + row.length);
        line.ok_or(RowError::Malformed)
            .and_then(|line| fields(&self.table, line))
    }

    fn key_at(&self, row: ChunkRow) -> Result<Box<[u8]>, RowError> {
        let (tuple, table) = (self.tuple(row)?, &self.table);
        key_of(&table.relation, &table.key, &tuple).ok_or(RowError::Malformed)
    }
}

/// Whether a change of this table gives its row another key.
pub(super) fn changes_key(table: &BackfillTable, change: &Change<'_>) -> bool {
    let Change::Update {
        relation,
        old: Some(old),
        new,
    } = change
    else {
        return false;
    };
    let key = |tuple: &Tuple<'_>| key_of(relation, &table.key, tuple);
    table.matches(relation)
        && key(old)
            .zip(key(new))
            .is_some_and(|(before, after)| before != after)
}

/// The values of a row as `COPY` writes it, behind the field that tells its size.
///
/// # Errors
/// It is not one of this table.
pub(super) fn fields<'l>(table: &BackfillTable, line: &'l [u8]) -> Result<Tuple<'l>, RowError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.split(|byte| *byte == b'\t').skip(1);
    let columns = table.relation.columns.iter().enumerate();
    let tuple = columns
        .map(|(at, _)| match table.selects(at) {
            true => fields.next().ok_or(RowError::Malformed).and_then(value),
            false => Ok(Datum::Absent),
        })
        .collect::<Result<_, _>>()?;
    match fields.next() {
        None => Ok(tuple),
        Some(_) => Err(RowError::Malformed),
    }
}

/// Fills what a new row leaves out from what was read of it, and tells the places.
pub(super) fn fill(
    table: &BackfillTable,
    read: &Tuple<'_>,
    relation: &Relation,
    new: &mut Tuple<'_>,
) -> Vec<usize> {
    let mut filled = Vec::new();
    let read = table.relation.columns.iter().zip(read);
    let read: Vec<_> = read.collect();
    for (at, (column, datum)) in relation.columns.iter().zip(new).enumerate() {
        if *datum != Datum::Unchanged {
            continue;
        }
        let known = read.iter().find(|(known, _)| known.name == column.name);
        match known.map(|(_, datum)| *datum) {
            Some(Datum::Text(text)) => *datum = Datum::Text(Cow::Owned(text.to_string())),
            Some(Datum::Null) => *datum = Datum::Null,
            _ => continue,
        }
        filled.push(at);
    }
    filled
}

/// The key of a row of this relation: the values of the columns with these names, and a zero byte after each,
/// which no text holds.
fn key_of(relation: &Relation, names: &[String], tuple: &Tuple<'_>) -> Option<Box<[u8]>> {
    let mut key = Vec::with_capacity(24);
    for place in relation.columns_named(names) {
        let place = place?;
        let Datum::Text(text) = tuple.get(place)? else {
            return None;
        };
        // The one type that plugins do not write as the server does.
        let text = match (&relation.columns.get(place)?.kind, text.as_ref()) {
            (Type::Bool, "true") => "t",
            (Type::Bool, "false") => "f",
            (_, text) => text,
        };
        key.extend_from_slice(text.as_bytes());
        key.push(0);
    }
    Some(key.into_boxed_slice())
}

/// One field of `COPY`'s text format (PostgreSQL documentation, COPY, "Text Format").
fn value(field: &[u8]) -> Result<Datum<'_>, RowError> {
    if field == b"\\N" {
        return Ok(Datum::Null);
    }
    if !field.contains(&b'\\') {
        let text = std::str::from_utf8(field).map_err(|_| RowError::NotText)?;
        return Ok(Datum::Text(Cow::Borrowed(text)));
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next().ok_or(RowError::Malformed)? {
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 11,
                b'f' => 12,
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return Err(RowError::Malformed),
            },
            byte => *byte,
        });
    }
    let text = String::from_utf8(text).map_err(|_| RowError::NotText)?;
    Ok(Datum::Text(Cow::Owned(text)))
}

#[cfg(test)]
mod tests;
