//! The rows that a backfill reads, which no change of the log brought.

use std::sync::Arc;

use super::omit::Omitted;
use super::{Action, Envelope, Event, Head, Progress, Row};
use crate::change::{Message, Relation, Tuple};
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
    /// Appends the event of a row that a backfill read, as [`Envelope::encode`] does those of a change: with the next position of the
    /// open transaction, which is the watermark's, and 1 when something of it was left out, otherwise 0.
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

    /// The event of a logical message that tells consumers of something between the changes of all keys: everything before it must be
    /// acknowledged first, and everything behind it waits.
    pub fn control(&self, progress: &mut Progress, lsn: Lsn, message: &Message<'_>, now: i64) -> Event {
        let place = progress.next_message(lsn);
        Event {
            barrier: true,
            ..self.event_of_message(progress.transaction, place, message, now)
        }
    }
}
