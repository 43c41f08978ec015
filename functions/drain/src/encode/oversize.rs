//! Omission of columns from an event that exceeds a record.
//!
//! The largest columns outside the key are omitted until the event fits. The same event always loses the same
//! columns.

use super::omitted_columns::OmittedColumns;
use super::{Envelope, OversizePolicy, RowEvent};
use crate::change::{Column, Datum};

/// A column that may be omitted.
#[derive(Debug, Clone, Copy)]
struct OmissionCandidate {
    /// Index into the relation's columns.
    column: usize,
    /// Bytes that the omission saves, approximately.
    bytes: usize,
}

impl RowEvent<'_> {
    /// Names of the omitted columns, in table order.
    pub(super) fn omitted_names(&self) -> impl Iterator<Item = &str> {
        let columns = self.relation.columns.iter().enumerate();
        columns
            .filter(|(index, _)| self.omitted.contains(*index))
            .map(|(_, column)| column.name.as_str())
    }
}

impl Envelope {
    /// Writes a row's event into `data`.
    ///
    /// The event has at most `limit` bytes where the policy and the columns allow that. Returns the omitted
    /// columns. Columns whose values were not kept are always among these.
    pub(super) fn write_row_within(
        &self,
        data: &mut Vec<u8>,
        row: &RowEvent<'_>,
        limit: usize,
    ) -> OmittedColumns {
        let columns = 0..row.relation.columns.len();
        let is_missing = |index: &usize| self.column_missing_bytes(row, *index) > 0;
        let mut omitted = OmittedColumns(columns.filter(is_missing).collect());
        let write = |data: &mut Vec<u8>, omitted: &OmittedColumns| {
            data.clear();
            self.form
                .write_row(data, &RowEvent { omitted, ..*row }, self.partition_by);
        };
        write(data, &omitted);
        if self.oversize == OversizePolicy::Fail || data.len() <= limit {
            return omitted;
        }
        let mut excess = data.len() - limit;
        let mut candidates = self.omission_candidates(row);
        candidates.retain(|candidate| !omitted.contains(candidate.column));
        let mut candidates = candidates.into_iter().peekable();
        while let Some(candidate) = candidates.next() {
            omitted.0.push(candidate.column);
            excess = excess.saturating_sub(candidate.bytes);
            // The whole event is encoded again only when the estimate says that it fits, or at the last
            // column.
            if excess > 0 && candidates.peek().is_some() {
                continue;
            }
            write(data, &omitted);
            if data.len() <= limit {
                break;
            }
            excess = data.len() - limit;
        }
        omitted
    }

    /// Bytes of the missing values that the event must hold.
    ///
    /// The missing values are those that were not kept. With the policy [`OversizePolicy::Fail`] the event must
    /// hold all of them, otherwise only those of the key.
    pub(super) fn missing_bytes(&self, row: &RowEvent<'_>) -> usize {
        let columns = row.relation.columns.iter().enumerate();
        columns
            .filter(|(_, column)| column.key || self.oversize == OversizePolicy::Fail)
            .map(|(index, _)| self.column_missing_bytes(row, index))
            .fold(0, usize::saturating_add)
    }

    /// Bytes of a column's values that were not kept.
    ///
    /// Only the images that the event has count.
    fn column_missing_bytes(&self, row: &RowEvent<'_>, column: usize) -> usize {
        let images = self.form.written_images(row).into_iter().flatten();
        let missing = images.map(|tuple| match tuple.get(column) {
            Some(Datum::Oversize { bytes }) => *bytes,
            _ => 0,
        });
        missing.fold(0, usize::saturating_add)
    }

    /// Columns outside the key, the largest first.
    ///
    /// The size of a column is the sum over both images. Columns of equal size are in table order.
    fn omission_candidates(&self, row: &RowEvent<'_>) -> Vec<OmissionCandidate> {
        let mut scratch = Vec::new();
        let columns = row.relation.columns.iter().enumerate();
        let mut candidates: Vec<OmissionCandidate> = columns
            .filter(|(_, column)| !column.key)
            .map(|(index, column)| OmissionCandidate {
                column: index,
                bytes: self.encoded_bytes(row, index, column, &mut scratch),
            })
            .filter(|candidate| candidate.bytes > 0)
            .collect();
        candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.bytes), candidate.column));
        candidates
    }

    /// Bytes of a column's encoded values in both images.
    fn encoded_bytes(
        &self,
        row: &RowEvent<'_>,
        index: usize,
        column: &Column,
        scratch: &mut Vec<u8>,
    ) -> usize {
        let images = [row.old, row.new].into_iter().flatten();
        let texts = images.filter_map(|tuple| match tuple.get(index) {
            Some(Datum::Text(text)) => Some(text),
            _ => None,
        });
        texts
            .map(|text| {
                scratch.clear();
                self.form.write_value(scratch, column, text);
                scratch.len()
            })
            .sum()
    }
}
