//! The rows of one chunk, between their snapshot and their watermark.
//!
//! A change that the snapshot does not show is newer than the rows. It drops the row with its key, so the
//! older row is not sent. An update does not contain the large values that it left unchanged. They are copied
//! from the chunk's row with the same key.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::change::{Change, ColumnCoverage, Datum, Relation, Tuple};

use super::copy_row::{RowError, parse_row};
use super::row_lookup::RowRequest;
use super::snapshot::Snapshot;
use super::table::BackfillTable;

/// Approximate memory of a row besides its text and key, in bytes.
///
/// It is the memory of the row's entries in the list and in the map.
const CHUNK_ROW_BYTES: usize = 96;

/// Reason why a chunk is invalid: a change without a key may be of any row.
const UNKNOWN_ROW: &str = "a change does not name its row";

/// Reason why a chunk is invalid: an update lacks values of its row.
///
/// The update lacks a column's value. The chunk's row has the value, but the update drops this row. So the
/// chunk is read again: see [`lacks_columns`].
const LACKS_COLUMNS: &str = "an update lacks large values of columns that were altered later";

/// The rows of a chunk, in the order of their keys.
#[derive(Debug)]
pub struct ChunkRows {
    table: BackfillTable,
    snapshot: Snapshot,
    /// The rows in the format of `COPY`, without line breaks.
    text: Vec<u8>,
    rows: Vec<ChunkRow>,
    by_key: FxHashMap<Box<[u8]>, u32>,
    key_bytes: usize,
    overtaken: u64,
    invalid_reason: Option<&'static str>,
}

/// A row's range in the text, in bytes.
#[derive(Debug, Clone, Copy)]
struct ChunkRow {
    start: usize,
    length: usize,
    /// Whether a newer change has dropped the row.
    is_dropped: bool,
}

impl ChunkRows {
    /// An empty chunk of `table`, whose rows are read with `snapshot`.
    pub fn new(table: BackfillTable, snapshot: Snapshot) -> Self {
        ChunkRows {
            table,
            snapshot,
            text: Vec::new(),
            rows: Vec::new(),
            by_key: FxHashMap::default(),
            key_bytes: 0,
            overtaken: 0,
            invalid_reason: None,
        }
    }

    /// The reason why the chunk must be read again.
    ///
    /// `None` for a valid chunk. An invalid chunk has no rows to send.
    pub fn invalid_reason(&self) -> Option<&'static str> {
        self.invalid_reason
    }

    /// Makes the chunk invalid, so that it is read again.
    ///
    /// `reason` must be short: the stored state keeps 120 bytes of the reason of a failure.
    pub fn invalidate(&mut self, reason: &'static str) {
        self.invalid_reason = Some(reason);
    }

    /// The table.
    pub fn table(&self) -> &BackfillTable {
        &self.table
    }

    /// The number of rows, including dropped ones.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of rows that a change before the watermark dropped.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// The approximate memory of the rows in bytes.
    pub fn memory(&self) -> usize {
        self.text.len() + self.key_bytes + self.rows.len() * CHUNK_ROW_BYTES
    }

    /// Adds a row as `COPY … TO STDOUT` writes it.
    ///
    /// `line` may end with a line break. Its first field is not a column: see `parse_row`.
    ///
    /// # Errors
    /// The line is not a row of this table, or a text in it is not UTF-8.
    pub fn push(&mut self, line: &[u8]) -> Result<(), RowError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let row = ChunkRow {
            start: self.text.len(),
            length: line.len(),
            is_dropped: false,
        };
        self.text.extend_from_slice(line);
        let key = match self.key(row) {
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

    /// The key of the last row, one text for each column.
    pub fn last_key(&self) -> Option<Vec<String>> {
        let tuple = self.tuple(*self.rows.last()?).ok()?;
        let text = |index: &usize| match tuple.get(*index) {
            Some(Datum::Text(text)) => Some(text.to_string()),
            _ => None,
        };
        self.table.key_indexes.iter().map(text).collect()
    }

    /// The index of the next row to send, at or after `from`.
    ///
    /// `None` if no such row is left, or if the chunk is invalid.
    pub fn next_row(&self, from: usize) -> Option<usize> {
        if self.invalid_reason.is_some() {
            return None;
        }
        (from..self.rows.len()).find(|index| self.rows.get(*index).is_some_and(|row| !row.is_dropped))
    }

    /// The values of the row at `index`.
    ///
    /// # Errors
    /// The row has a text that is not UTF-8, or there is no such row.
    pub fn row(&self, index: usize) -> Result<Tuple<'_>, RowError> {
        self.rows
            .get(index)
            .ok_or(RowError::Malformed)
            .and_then(|row| self.tuple(*row))
    }

    /// Applies a change of transaction `xid` before it is sent.
    ///
    /// If the snapshot shows the transaction, the rows already have its changes. Otherwise the change is
    /// newer, and the rows with its keys are dropped. An update lacks the large values that it left
    /// unchanged. They are copied from the chunk's row.
    ///
    /// Returns the indexes of the new row's columns that were filled in.
    pub fn apply_change(&mut self, xid: u32, change: &mut Change<'_>) -> Vec<usize> {
        let mut filled = Vec::new();
        let is_ours = |relation: &Relation| self.table.matches(relation);
        match change {
            _ if self.snapshot.shows(xid) => {}
            Change::Insert { relation, new } if is_ours(relation) => {
                self.drop_row_of(relation, new);
            }
            Change::Update { relation, old, new } if is_ours(relation) => {
                if lacks_columns(&self.table, relation) {
                    self.invalidate(LACKS_COLUMNS);
                }
                let key = |tuple: &Tuple<'_>| key_of(relation, &self.table.key, tuple);
                let (before, after) = (old.as_ref().and_then(key), key(new));
                match (&before, &after) {
                    (Some(before), _) => filled = self.fill_from_row(before, relation, new),
                    // The server sends an old row if the update changed a column of the replica identity.
                    // Here is none, so the chunk's row has the new key.
                    (None, Some(after)) if relation.has_key_columns(&self.table.key) => {
                        filled = self.fill_from_row(after, relation, new)
                    }
                    _ => self.invalidate(UNKNOWN_ROW),
                }
                for key in [before, after].into_iter().flatten() {
                    self.drop_row(&key);
                }
            }
            Change::Delete { relation, old } if is_ours(relation) => {
                self.drop_row_of(relation, old);
            }
            Change::Truncate { relations } if relations.iter().any(|relation| is_ours(relation)) => {
                self.drop_all();
            }
            _ => {}
        }
        filled
    }

    /// Drops the row with the key of this tuple.
    fn drop_row_of(&mut self, relation: &Relation, tuple: &Tuple<'_>) {
        match key_of(relation, &self.table.key, tuple) {
            Some(key) => self.drop_row(&key),
            None => self.invalidate(UNKNOWN_ROW),
        }
    }

    fn drop_row(&mut self, key: &[u8]) {
        let row = self
            .by_key
            .get(key)
            .and_then(|index| self.rows.get_mut(*index as usize));
        if let Some(row) = row.filter(|row| !row.is_dropped) {
            row.is_dropped = true;
            self.overtaken += 1;
        }
    }

    fn drop_all(&mut self) {
        for row in self.rows.iter_mut().filter(|row| !row.is_dropped) {
            row.is_dropped = true;
            self.overtaken += 1;
        }
    }

    /// The request for a row whose change lacks unchanged large values.
    ///
    /// `table` is the table that is being read, and `rows` are the rows of the current chunk. `None` if no
    /// request is needed. It is needed only for an update that changes the key of its row. It is not needed
    /// if `rows` have the row with the old key, from before the update. Otherwise a consumer may not have
    /// that row yet, so the event of the new key must be complete.
    pub fn row_request(
        table: &BackfillTable,
        rows: Option<&ChunkRows>,
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
        let old_key = key_of(relation, &table.key, old)?;
        let is_known = |rows: &ChunkRows| rows.live_row(&old_key).is_some() && !rows.snapshot.shows(xid);
        if !changes_key(table, change) || rows.is_some_and(is_known) {
            return None;
        }
        let text = |index: &Option<usize>| match new.get((*index)?)? {
            Datum::Text(text) => Some(text.to_string()),
            _ => None,
        };
        let key: Option<_> = relation.column_indexes(&table.key).iter().map(text).collect();
        Some(RowRequest { key: key?, xid })
    }

    /// Fills an update's unchanged large values from the chunk's row.
    fn fill_from_row(&self, key: &[u8], relation: &Relation, new: &mut Tuple<'_>) -> Vec<usize> {
        // The values of a dropped row may be old. The change that dropped it was sent with the new values.
        if let Some(row) = self.live_row(key)
            && let Ok(tuple) = self.tuple(row)
        {
            return fill(&self.table, &tuple, relation, new);
        }
        Vec::new()
    }

    /// The row with this key, unless it was dropped.
    fn live_row(&self, key: &[u8]) -> Option<ChunkRow> {
        let index = *self.by_key.get(key)?;
        let row = self.rows.get(index as usize)?;
        (!row.is_dropped).then_some(*row)
    }

    fn tuple(&self, row: ChunkRow) -> Result<Tuple<'_>, RowError> {
        let line = self.text.get(row.start..row.start + row.length);
        line.ok_or(RowError::Malformed)
            .and_then(|line| parse_row(&self.table, line))
    }

    fn key(&self, row: ChunkRow) -> Result<Box<[u8]>, RowError> {
        let (tuple, table) = (self.tuple(row)?, &self.table);
        key_of(&table.relation, &table.key, &tuple).ok_or(RowError::Malformed)
    }
}

/// Whether an update's relation lacks columns that the backfill reads.
///
/// wal2json omits a large value that an update left unchanged. Usually the catalog has the column, and the
/// relation gets it from there. If the column was altered after the update, the catalog does not show whether
/// the updated row had it. Then the relation lacks the column, and no value can be filled in.
pub(super) fn lacks_columns(table: &BackfillTable, relation: &Relation) -> bool {
    let columns = table.relation.columns.iter().enumerate();
    let mut selected = columns.filter(|(index, _)| table.selects(*index));
    relation.coverage != ColumnCoverage::Whole
        && selected.any(|(_, column)| !relation.columns.iter().any(|it| it.name == column.name))
}

/// Whether a change of this table changes the key of its row.
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

/// Fills the unchanged large values of `new` from `table_row`.
///
/// `table_row` has the columns of `table`, and `new` those of `relation`.
///
/// Returns the indexes of the columns that were filled in.
pub(super) fn fill(
    table: &BackfillTable,
    table_row: &Tuple<'_>,
    relation: &Relation,
    new: &mut Tuple<'_>,
) -> Vec<usize> {
    let mut filled = Vec::new();
    let values: Vec<_> = table.relation.columns.iter().zip(table_row).collect();
    for (index, (column, datum)) in relation.columns.iter().zip(new).enumerate() {
        if *datum != Datum::Unchanged {
            continue;
        }
        let value = values.iter().find(|(other, _)| other.name == column.name);
        match value.map(|(_, datum)| *datum) {
            Some(Datum::Text(text)) => *datum = Datum::Text(Cow::Owned(text.to_string())),
            Some(Datum::Null) => *datum = Datum::Null,
            Some(Datum::Oversize { bytes }) => *datum = Datum::Oversize { bytes: *bytes },
            _ => continue,
        }
        filled.push(index);
    }
    filled
}

/// The key of a row: the texts of the columns with these names, each followed by a zero byte.
///
/// A text of PostgreSQL never contains a zero byte. `None` if a value is null or unknown.
fn key_of(relation: &Relation, names: &[String], tuple: &Tuple<'_>) -> Option<Box<[u8]>> {
    let mut key = Vec::with_capacity(24);
    for index in relation.column_indexes(names) {
        let index = index?;
        let Datum::Text(text) = tuple.get(index)? else {
            return None;
        };
        let text = relation.columns.get(index)?.kind.server_text(text);
        key.extend_from_slice(text.as_bytes());
        key.push(0);
    }
    Some(key.into_boxed_slice())
}

#[cfg(test)]
mod tests;
