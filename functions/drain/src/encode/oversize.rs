//! Omission of columns from an event that exceeds a record.
//!
//! The largest columns outside the key are omitted, until the event fits. The old row loses columns before
//! the new row, because consumers need it less. With the same record size, an event always loses the same
//! columns.

use super::omitted_columns::{Image, OmittedColumns};
use super::{Envelope, OversizePolicy, RowEvent};
use crate::change::Datum;

/// A column that may be omitted.
#[derive(Debug, Clone, Copy)]
struct OmissionCandidate {
    image: Image,
    /// Index into the relation's columns.
    column: usize,
    /// Approximate number of bytes that the omission saves.
    bytes: usize,
}

impl RowEvent<'_> {
    /// Names of the columns omitted from the current row, in table order.
    pub(super) fn omitted_names(&self) -> impl Iterator<Item = &str> {
        let (columns, image) = (self.relation.columns.iter().enumerate(), self.current_image());
        columns
            .filter(move |(index, _)| self.omitted.contains(image, *index))
            .map(|(_, column)| column.name.as_str())
    }
}

impl Envelope {
    /// Writes a row's event into `data`.
    ///
    /// The event has at most `limit` bytes, if the policy and the columns permit it. Returns the omitted
    /// columns. They always include the columns whose values the decoder dropped for their size.
    pub(super) fn write_row_within(
        &self,
        data: &mut Vec<u8>,
        row: &RowEvent<'_>,
        limit: usize,
    ) -> OmittedColumns {
        let mut omitted = self.missing_columns(row);
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
        let mut candidates = self.omission_candidates(row).into_iter().peekable();
        while let Some(candidate) = candidates.next() {
            omitted.add(candidate.image, candidate.column);
            excess = excess.saturating_sub(candidate.bytes);
            // Encoding the whole event again is slow. It is necessary only if the event fits by the estimate,
            // or after the last column.
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

    /// Columns whose values the decoder dropped for their size.
    fn missing_columns(&self, row: &RowEvent<'_>) -> OmittedColumns {
        let mut missing = OmittedColumns::default();
        for (image, tuple) in self.form.full_images(row) {
            for (column, datum) in tuple.iter().enumerate() {
                if matches!(datum, Datum::Oversize { .. }) {
                    missing.add(image, column);
                }
            }
        }
        missing
    }

    /// Bytes of dropped values that must not be omitted.
    ///
    /// The decoder dropped the values for their size. With [`OversizePolicy::Fail`] no value may be omitted;
    /// otherwise no value of the key. The bytes count as a part of the event, so the event is oversize.
    pub(super) fn missing_bytes(&self, row: &RowEvent<'_>) -> usize {
        let images = self.form.full_images(row);
        let values = images.flat_map(|(_, tuple)| row.relation.columns.iter().zip(tuple));
        let missing = values.map(|(column, datum)| match datum {
            Datum::Oversize { bytes } if column.key || self.oversize == OversizePolicy::Fail => *bytes,
            _ => 0,
        });
        let old = self.form.key_only_old_row(row).into_iter();
        let old_key = old.flat_map(|old| row.relation.columns.iter().zip(old));
        let old_key = old_key.map(|(column, datum)| match datum {
            Datum::Oversize { bytes } if column.key => *bytes,
            _ => 0,
        });
        missing.chain(old_key).fold(0, usize::saturating_add)
    }

    /// Values outside the key, in the order of their omission.
    ///
    /// The values of the old row are first. The values of each row are in descending order of size, and
    /// values of equal size are in table order.
    fn omission_candidates(&self, row: &RowEvent<'_>) -> Vec<OmissionCandidate> {
        let mut scratch = Vec::new();
        let mut candidates = Vec::new();
        for (image, tuple) in self.form.full_images(row) {
            for (index, (column, datum)) in row.relation.columns.iter().zip(tuple).enumerate() {
                if let (false, Datum::Text(text)) = (column.key, datum) {
                    scratch.clear();
                    self.form.write_value(&mut scratch, column, text);
                    candidates.push(OmissionCandidate {
                        image,
                        column: index,
                        bytes: scratch.len(),
                    });
                }
            }
        }
        candidates.sort_by_key(|candidate| {
            let largest_first = std::cmp::Reverse(candidate.bytes);
            (candidate.image, largest_first, candidate.column)
        });
        candidates
    }
}
