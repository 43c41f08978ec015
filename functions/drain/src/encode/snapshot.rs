//! Rows that a backfill read; no change of the log holds them.

use std::sync::Arc;

use super::encoder::EventEncoder;
use super::{Envelope, Event, Progress};
use crate::change::{Relation, Tuple};
use crate::lsn::Lsn;

/// Place of a row among the rows of its table that a backfill sends.
///
/// The names are Debezium's for an incremental snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPlace {
    /// The first of several rows.
    First,
    /// A row between the first and the last.
    Within,
    /// The last row, or the only one.
    Last,
}

impl SnapshotPlace {
    /// Value of the field `snapshot`.
    pub(super) fn name(self) -> &'static str {
        match self {
            SnapshotPlace::First => "first_in_data_collection",
            SnapshotPlace::Within => "incremental",
            SnapshotPlace::Last => "last_in_data_collection",
        }
    }
}

/// A row that a backfill read.
#[derive(Debug, Clone, Copy)]
pub struct BackfillRow<'r> {
    /// The table.
    pub relation: &'r Arc<Relation>,
    /// The values.
    pub values: &'r Tuple<'r>,
    /// The row's place among the rows of its table.
    pub place: SnapshotPlace,
}

impl Envelope {
    /// Appends the event of a row that a backfill read. Returns 1 if columns were omitted, otherwise 0.
    ///
    /// Columns are omitted as in [`Envelope::encode`], from an event that would exceed `limit` bytes. A table
    /// definition precedes the event where it would precede a change of the row. The event's position is the
    /// next one of the open transaction. That transaction is the watermark's, which was logged at `lsn`.
    /// `now` is in µs since 1970-01-01 UTC.
    pub fn encode_backfill_row(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        row: &BackfillRow<'_>,
        now: i64,
        limit: usize,
        out: &mut Vec<Event>,
    ) -> u64 {
        let mut encoder = EventEncoder {
            envelope: self,
            progress,
            lsn,
            now,
            limit,
            out,
        };
        encoder.push_backfill_row(row)
    }
}
