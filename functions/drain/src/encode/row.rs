//! The event of one row, before encoding.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::Transaction;
use super::backfill_row::SnapshotPlace;
use super::omitted_columns::{Image, OmittedColumns};
use super::progress::EventNumbers;
use crate::change::{Column, Datum, Relation, Tuple};

/// Event of a row: operation, table, both images and head.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowEvent<'r> {
    pub(super) operation: RowOperation,
    pub(super) relation: &'r Arc<Relation>,
    /// Known values of the row before the change.
    pub(super) old: Option<&'r Tuple<'r>>,
    /// The row after the change; `None` for a delete.
    pub(super) new: Option<&'r Tuple<'r>>,
    pub(super) head: EventHead,
    pub(super) omitted: &'r OmittedColumns,
}

/// Operation on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOperation {
    Insert,
    /// A backfill read the row.
    Read,
    /// `key_changed`: the update changed the key of the row.
    Update {
        key_changed: bool,
    },
    Delete,
}

/// Data that events of every kind contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventHead {
    pub(super) transaction: Transaction,
    pub(super) numbers: EventNumbers,
    /// Place of a backfill's row among the rows of its table.
    ///
    /// `None` for a change.
    pub(super) snapshot: Option<SnapshotPlace>,
    /// Time when the change was read, µs since 1970-01-01 UTC.
    ///
    /// If an event is sent again, only this time differs.
    pub(super) now: i64,
}

impl EventHead {
    /// Head of a change's event.
    pub(super) fn new(transaction: Transaction, numbers: EventNumbers, now: i64) -> Self {
        EventHead {
            transaction,
            numbers,
            snapshot: None,
            now,
        }
    }
}

impl<'r> RowEvent<'r> {
    /// Image whose key determines the partition key.
    ///
    /// It is the new row, or the old row of a delete.
    pub(super) fn current_row(&self) -> &'r Tuple<'r> {
        const NO_VALUES: &Tuple<'static> = &Vec::new();
        self.new.or(self.old).unwrap_or(NO_VALUES)
    }

    /// Name of the image that [`RowEvent::current_row`] returns.
    pub(super) fn current_image(&self) -> Image {
        match self.new {
            Some(_) => Image::New,
            None => Image::Old,
        }
    }

    /// An image; `None` if the event has no such image.
    pub(super) fn image(&self, image: Image) -> Option<&'r Tuple<'r>> {
        match image {
            Image::Old => self.old,
            Image::New => self.new,
        }
    }

    /// Whether the row has a value in each column of the key.
    ///
    /// A key with a null, or without some of its values, may match several rows.
    pub(super) fn has_key(&self) -> bool {
        let columns = self.relation.columns.iter().enumerate();
        let row = self.current_row();
        let is_known = |index: usize| matches!(row.get(index), Some(Datum::Text(_)));
        let mut key = columns.filter(|(_, column)| column.key).peekable();
        key.peek().is_some() && key.all(|(index, _)| is_known(index))
    }

    /// Whether only an insert can write a row of this table: see [`Relation::is_insert_only`].
    pub(super) fn is_insert_only(&self) -> bool {
        self.relation.is_insert_only && !self.relation.has_key()
    }

    /// Whether the columns of `PARTITION_KEYS` are the row's partition key.
    ///
    /// False if a value of these columns is not known. Also false for a row without a key: a later change
    /// does not identify its row, so all rows of the table must stay in order. The exception is a row that
    /// only an insert can write. No later change refers to it, so it needs no order.
    pub(super) fn has_partition_key_columns(&self) -> bool {
        let is_insert = matches!(self.operation, RowOperation::Insert | RowOperation::Read);
        let columns = self.relation.columns.iter().enumerate();
        let row = self.current_row();
        let is_known = |index: usize| matches!(row.get(index), Some(Datum::Text(_) | Datum::Null));
        let mut partition = columns.filter(|(_, column)| column.in_partition_key).peekable();
        partition.peek().is_some()
            && partition.all(|(index, _)| is_known(index))
            && (self.has_key() || is_insert && self.is_insert_only())
    }

    /// Hash of the row's table and key.
    ///
    /// `None` if the partition key of the row cannot change, or if the row has no whole key. `write_key`
    /// writes the row's key.
    pub(super) fn row_hash(&self, write_key: impl Fn(&mut Vec<u8>, &Relation, &Tuple<'_>)) -> Option<u64> {
        if !self.relation.partition_key_may_change || !self.has_key() {
            return None;
        }
        let mut key = Vec::new();
        write_key(&mut key, self.relation, self.current_row());
        let mut hasher = DefaultHasher::new();
        (&self.relation.table, key).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Whether each image of the event contains the whole key.
    ///
    /// True for a table without key columns.
    pub(super) fn has_whole_keys(&self) -> bool {
        let is_whole = |tuple: &Tuple<'_>| {
            let mut columns = self.relation.columns.iter().zip(tuple);
            columns.all(|(column, datum)| !column.key || matches!(datum, Datum::Text(_)))
        };
        [self.old, self.new].into_iter().flatten().all(is_whole)
    }

    /// Known columns of an image, with the value to write.
    ///
    /// The value of an omitted column is [`Datum::Unchanged`].
    pub(super) fn image_columns(
        &self,
        image: Image,
    ) -> impl Iterator<Item = (&'r Column, &'r Datum<'r>)> + use<'r> {
        self.all_columns(image)
            .filter(|(_, datum)| **datum != Datum::Absent)
    }

    /// All columns of an image, with the value to write.
    ///
    /// The value of an omitted column is [`Datum::Unchanged`].
    pub(super) fn all_columns(
        &self,
        image: Image,
    ) -> impl Iterator<Item = (&'r Column, &'r Datum<'r>)> + use<'r> {
        const UNCHANGED: &Datum<'static> = &Datum::Unchanged;
        let omitted = self.omitted;
        let tuple = self.image(image).into_iter().flatten();
        let columns = self.relation.columns.iter().zip(tuple).enumerate();
        columns.map(
            move |(index, (column, datum))| match omitted.contains(image, index) {
                true => (column, UNCHANGED),
                false => (column, datum),
            },
        )
    }

    /// Names of the columns whose values the new row lacks.
    ///
    /// The update did not change them, or they are omitted.
    pub(super) fn unchanged_names(&self) -> impl Iterator<Item = &'r str> {
        self.image_columns(Image::New)
            .filter(|(_, datum)| **datum == Datum::Unchanged)
            .map(|(column, _)| column.name.as_str())
    }
}

/// Whether an update changed the row's key.
pub(super) fn is_key_changed(relation: &Relation, old: Option<&Tuple<'_>>, new: &Tuple<'_>) -> bool {
    let Some(old) = old else {
        return false;
    };
    let pairs = relation.columns.iter().zip(old.iter().zip(new));
    pairs
        .filter(|(column, _)| column.key)
        .any(|(_, (old, new))| *old != Datum::Absent && old != new)
}
