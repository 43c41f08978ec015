//! The rows that a backfill reads, which no change of the log brought.

use std::sync::Arc;

use super::omit::Omitted;
use super::{Action, Envelope, Event, Head, Progress, Row};
use crate::change::{Relation, Tuple};
use crate::lsn::Lsn;

/// Where a row stands among those that a backfill sends of its table. The names are Debezium's for an incremental snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// It is the first of several.
    First,
    /// It is neither the first nor the last.
    Within,
    /// It is the last, or the only one.
    Last,
}

impl Snapshot {
    pub(super) fn name(self) -> &'static str {
        match self {
            Snapshot::First => "first_in_data_collection",
            Snapshot::Within => "incremental",
            Snapshot::Last => "last_in_data_collection",
        }
    }
}

impl Envelope {
    /// Appends the event of a row that a backfill read, and tells by 1 that something was left out of it because no record of `limit`
    /// bytes could hold it. What goes before a change of the row goes before it, too.
    ///
    /// Its position is the next one of the open transaction, that of the watermark, which was logged at `lsn`.
    #[allow(clippy::too_many_arguments)] // Those of a change, and what a change would hold.
    pub fn read(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        relation: &Arc<Relation>,
        row: &Tuple<'_>,
        snapshot: Snapshot,
        now: i64,
        limit: usize,
        out: &mut Vec<Event>,
    ) -> u64 {
        let head = Head {
            transaction: progress.transaction,
            place: progress.next(lsn, relation),
            snapshot: Some(snapshot),
            now,
        };
        let row = Row {
            action: Action::Read,
            relation,
            old: None,
            new: Some(row),
            head,
            omitted: &Omitted::default(),
        };
        self.row(row, limit, out)
    }
}
