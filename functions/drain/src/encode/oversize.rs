//! What is left out of an event that no record can hold: the largest columns outside the key, until the rest fits. The same event
//! always loses the same columns.

use super::RowEvent;
use crate::change::{Column, Datum};

/// The columns that were left out.
#[derive(Debug, Default)]
pub(super) struct OmittedColumns {
    /// Places in the relation.
    columns: Vec<usize>,
    /// Bytes that the event had too many when it was last written, less what was left out since.
    excess: usize,
    /// Whether `excess` is known.
    measured: bool,
}

/// A column that may be left out, and about how many bytes that saves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    column: usize,
    bytes: usize,
}

impl OmittedColumns {
    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Whether the column at a place of the relation is left out.
    pub(super) fn has(&self, column: usize) -> bool {
        self.columns.contains(&column)
    }

    /// Leaves one more out of an event that was last `excess` bytes too large.
    pub(super) fn add(&mut self, candidate: Candidate, excess: usize) {
        if !self.measured {
            (self.measured, self.excess) = (true, excess);
        }
        self.columns.push(candidate.column);
        self.excess = self.excess.saturating_sub(candidate.bytes);
    }

    /// Whether it is worth writing the event again.
    pub(super) fn may_do(&self) -> bool {
        self.excess == 0
    }

    /// It was written again, and was still too large.
    pub(super) fn did_not_do(&mut self) {
        self.measured = false;
    }
}

impl RowEvent<'_> {
    /// The names of the columns that were left out, in table order.
    pub(super) fn omitted_names(&self) -> impl Iterator<Item = &str> {
        let columns = self.relation.columns.iter().enumerate();
        columns
            .filter(|(at, _)| self.omitted.has(*at))
            .map(|(_, column)| column.name.as_str())
    }
}

/// The columns outside the key, those that take most bytes in both images first; of equal ones the first of the table.
pub(super) fn candidates(row: &RowEvent<'_>, write: impl Fn(&mut Vec<u8>, &Column, &str)) -> Vec<Candidate> {
    let mut scratch = Vec::new();
    let mut bytes_of = |column: &Column, at: usize| {
        let images = [row.old, row.new].into_iter().flatten();
        let texts = images.filter_map(|tuple| match tuple.get(at) {
            Some(Datum::Text(text)) => Some(text),
            _ => None,
        });
        texts
            .map(|text| {
                scratch.clear();
                write(&mut scratch, column, text);
                scratch.len()
            })
            .sum()
    };
    let columns = row.relation.columns.iter().enumerate();
    let mut candidates: Vec<Candidate> = columns
        .filter(|(_, column)| !column.key)
        .map(|(at, column)| Candidate {
            column: at,
            bytes: bytes_of(column, at),
        })
        .filter(|candidate| candidate.bytes > 0)
        .collect();
    candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.bytes), candidate.column));
    candidates
}
