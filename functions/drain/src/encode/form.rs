//! The formats of events, and the dispatch to their encoders.

use super::key::PartitionBy;
use super::omitted_columns::Image;
use super::{Debezium, Dms, EventHead, RowEvent, RowOperation, Wal2json, debezium, dms, wal2json};
use crate::change::{Column, Message, Relation, Tuple};

/// Format of events, with the settings of this format.
#[derive(Debug, Clone)]
pub enum EnvelopeForm {
    /// Events of Debezium's PostgreSQL connector, as the JSON converter writes them.
    Debezium(Debezium),
    /// AWS DMS with Kinesis as its target.
    Dms(Dms),
    /// wal2json in its format version 2.
    Wal2json(Wal2json),
}

impl EnvelopeForm {
    /// Appends the data of a row's event.
    pub(super) fn write_row(&self, out: &mut Vec<u8>, row: &RowEvent<'_>, partition_by: PartitionBy) {
        match self {
            EnvelopeForm::Debezium(form) => form.write_row(out, row),
            EnvelopeForm::Dms(form) => form.write_row(out, row, partition_by),
            EnvelopeForm::Wal2json(form) => form.write_row(out, row),
        }
    }

    /// Data of a truncate's event about one table.
    pub(super) fn encode_truncate(
        &self,
        head: &EventHead,
        relation: &Relation,
        partition_by: PartitionBy,
    ) -> Vec<u8> {
        match self {
            EnvelopeForm::Debezium(form) => form.encode_truncate(head, relation),
            EnvelopeForm::Dms(form) => form.encode_truncate(head, relation, partition_by),
            EnvelopeForm::Wal2json(form) => form.encode_truncate(head, relation),
        }
    }

    /// Data of a logical message's event.
    pub(super) fn encode_message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        match self {
            EnvelopeForm::Debezium(form) => form.encode_message(head, message),
            EnvelopeForm::Dms(form) => form.encode_message(head, message),
            EnvelopeForm::Wal2json(form) => form.encode_message(head, message),
        }
    }

    /// Appends the text of a row's key, for a partition key.
    pub(super) fn write_key(&self, out: &mut Vec<u8>, relation: &Relation, tuple: &Tuple<'_>) {
        match self {
            EnvelopeForm::Debezium(_) | EnvelopeForm::Wal2json(_) => {
                debezium::write_key(out, relation, tuple);
            }
            EnvelopeForm::Dms(_) => dms::write_key(out, relation, tuple),
        }
    }

    /// Appends a column's value as the form writes it.
    pub(super) fn write_value(&self, out: &mut Vec<u8>, column: &Column, text: &str) {
        match self {
            EnvelopeForm::Debezium(form) => {
                form.modes.write_value(out, &column.kind, text);
            }
            EnvelopeForm::Dms(_) => dms::write_value(out, &column.kind, text),
            EnvelopeForm::Wal2json(_) => wal2json::write_value(out, &column.kind, text),
        }
    }

    /// Images of which the event contains all columns, not only the key.
    ///
    /// In DMS, the old row of an update has only its key columns, unless the table has no key. In the
    /// unwrapped form of Debezium, an update has no old row.
    pub(super) fn full_images<'r>(
        &self,
        row: &RowEvent<'r>,
    ) -> impl Iterator<Item = (Image, &'r Tuple<'r>)> + use<'r> {
        let is_update = matches!(row.operation, RowOperation::Update { .. });
        let old = match self {
            EnvelopeForm::Dms(_) if is_update && row.relation.has_key() => None,
            EnvelopeForm::Debezium(form) if is_update && form.unwrap => None,
            _ => row.old,
        };
        let old = old.map(|old| (Image::Old, old));
        let new = row.new.map(|new| (Image::New, new));
        old.into_iter().chain(new)
    }

    /// Old row of an update, if the event contains only its key.
    ///
    /// In DMS, the event of a key change contains the old key.
    pub(super) fn key_only_old_row<'r>(&self, row: &RowEvent<'r>) -> Option<&'r Tuple<'r>> {
        let is_changed = matches!(row.operation, RowOperation::Update { key_changed: true });
        row.old
            .filter(|_| is_changed && matches!(self, EnvelopeForm::Dms(_)) && row.relation.has_key())
    }

    /// Whether an update has two events: a delete of the old row, and a create.
    ///
    /// In the unwrapped form an update has no old row. If the table has no key, only a delete of the old row
    /// identifies the row that changed.
    pub(super) fn splits_update(
        &self,
        relation: &Relation,
        old: Option<&Tuple<'_>>,
        is_key_changed: bool,
    ) -> bool {
        match self {
            EnvelopeForm::Debezium(form) => {
                is_key_changed || (form.unwrap && old.is_some() && !relation.has_key())
            }
            EnvelopeForm::Dms(_) | EnvelopeForm::Wal2json(_) => false,
        }
    }

    /// Whether a tombstone follows each delete.
    pub(super) fn has_tombstones(&self) -> bool {
        matches!(self, EnvelopeForm::Debezium(form) if form.tombstones)
    }

    /// Whether events contain their number among the events of their table.
    pub(super) fn carries_table_counts(&self) -> bool {
        matches!(self, EnvelopeForm::Debezium(form) if form.transaction_metadata)
    }
}
