//! The rows that a backfill reads, which no change of the log brought.

use std::sync::Arc;

use super::oversize::OmittedColumns;
use super::{Envelope, Event, EventHead, Progress, RowEvent, RowOperation};
use crate::change::{Relation, Tuple};
use crate::lsn::Lsn;

/// Where a row stands among those that a backfill sends of its table. The names are Debezium's for an incremental snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPlace {
    /// It is the first of several.
    First,
    /// It is neither the first nor the last.
    Within,
    /// It is the last, or the only one.
    Last,
}

impl SnapshotPlace {
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
    /// The row's place among those of its table.
    pub place: SnapshotPlace,
}

impl Envelope {
    /// Appends the event of a row that a backfill read. Returns 1 when columns were left out, otherwise 0.
    ///
    /// Columns are left out where no record of `limit` bytes could hold the event. Whatever precedes a change of the row
    /// precedes this event, too. Its position is the next one of the open transaction, the watermark's, which was
    /// logged at `lsn`. `now` is in µs since 1970-01-01 UTC.
    pub fn encode_backfill_row(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        row: &BackfillRow<'_>,
        now: i64,
        limit: usize,
        out: &mut Vec<Event>,
    ) -> u64 {
        let head = EventHead {
            transaction: progress.transaction,
            place: progress.next(lsn, row.relation),
            snapshot: Some(row.place),
            now,
        };
        let row = RowEvent {
            action: RowOperation::Read,
            relation: row.relation,
            old: None,
            new: Some(row.values),
            head,
            omitted: &OmittedColumns::default(),
        };
        self.row(row, limit, out)
    }
}
