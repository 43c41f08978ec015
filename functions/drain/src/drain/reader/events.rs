//! The reader's encoder: turns a change into queued events.

use super::{ReaderOutput, WindowReader};
use crate::backfill::ChunkContext;
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::change::{Change, Datum};
use crate::continuity::checkpoint::AckAhead;
use crate::encode::{EncodedEvents, Envelope, Event, Progress};
use crate::error::Error;
use crate::pack::{MAIN_STREAM, QueuedEvent, SpanId};
use crate::ports::PeekRow;
use crate::rules::projection::Projections;

use super::super::report::Report;

/// Warns of a change that does not identify its row.
///
/// The log has neither the whole key of the old row nor the whole old row. So the event has no key, and a
/// consumer may not find the row. Each table causes at most one warning.
pub(super) fn warn_of_unidentified_row(slot: &str, change: &Change<'_>, report: &mut Report) {
    let (relation, old) = match change {
        Change::Delete { relation, old } => (relation, old),
        Change::Update {
            relation,
            old: Some(old),
            ..
        } => (relation, old),
        _ => return,
    };
    let is_incomplete = old.is_empty() || old.contains(&Datum::Absent);
    if relation.has_key() || !is_incomplete || report.unidentified_tables.contains(&relation.table) {
        return;
    }
    let table = relation.table.to_string();
    tracing::warn!(
        slot,
        table,
        "the log does not have the key of an old row: its event has the table's partition key. \
         The action status names tables whose replica identity is the cause."
    );
    report.unidentified_tables.insert(relation.table.clone());
}

impl<R: PeekRow> WindowReader<'_, R> {
    /// Encodes a change. Large values that it lacks are filled in from the backfill.
    ///
    /// Returns the number of events with omitted columns.
    pub(super) fn encode(
        &mut self,
        lsn: Lsn,
        mut change: Change<'_>,
        mut chunk: Option<&mut ChunkContext>,
    ) -> Result<u64, Error> {
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        let Some(progress) = &mut open.progress else {
            return Err(self.out_of_place(lsn));
        };
        let xid = open.transaction.xid;
        let filled = chunk.as_mut().map(|chunk| chunk.apply_change(xid, &mut change));
        let filled = filled.unwrap_or_default();
        let before = (!filled.is_empty()).then(|| progress.clone());
        let (envelope, now, limit) = (self.envelope, self.now, self.settings.record_bytes);
        let projections = &mut self.projections;
        let mut encode = |progress: &mut Progress, change: &Change<'_>, events: &mut EncodedEvents| {
            let projected = projections.change(change);
            envelope.encode(
                progress,
                lsn,
                projected.as_ref().unwrap_or(change),
                now,
                limit,
                events,
            )
        };
        let omitted = encode(progress, &change, &mut self.events);
        let is_too_large = self
            .events
            .events
            .iter()
            .any(|event| event.size_problem(limit).is_some());
        let Some(before) = before.filter(|_| is_too_large) else {
            self.decoder.recycle(change);
            return Ok(omitted);
        };
        // The filled-in values make the change too large for a record. They must not stop the drain. So the
        // change is encoded without them, and the backfill reads the row again. If the row is too large for a
        // record, its table's backfill fails, and the drain continues. With `OVERSIZE=omit` the change fits,
        // and names its omitted columns. A row that is read again would lack the same columns.
        if let Some(chunk) = chunk {
            chunk.discard_filled(&change);
        }
        *progress = before;
        self.events.events.clear();
        if let Change::Update { new, .. } = &mut change {
            for index in filled {
                if let Some(datum) = new.get_mut(index) {
                    *datum = Datum::Unchanged;
                }
            }
        }
        Ok(encode(progress, &change, &mut self.events))
    }

    /// Queues the encoded events.
    pub(super) fn queue_events(&mut self, span: SpanId, out: &mut ReaderOutput<'_>) -> Result<(), Error> {
        let limit = self.settings.record_bytes;
        // A definition and a tombstone have the position of their row's event.
        let index = |event: Option<&Event>| event.map_or(0, |event| event.position.index);
        let events = &self.events.events;
        let change_positions = index(events.last()) - index(events.first()) + 1;
        for mut event in self.events.events.drain(..) {
            out.barriers.add(&mut event);
            if let Some(problem) = event.size_problem(limit)
                && !self.settings.passes_oversize
            {
                let policy = self.envelope.oversize;
                return Err(Error::oversize(&self.settings.slot, &event, problem, policy));
            }
            out.report.events += 1;
            out.acknowledgements.add_event(span);
            out.events.push(QueuedEvent {
                event,
                span,
                change_positions,
                stream: MAIN_STREAM,
            });
        }
        Ok(())
    }
}

/// Advances the positions past a change that is not sent.
///
/// The positions are those of the projected change: it may have another number of events.
pub(super) fn skip(
    projections: &mut Projections<'_>,
    envelope: &Envelope,
    progress: &mut Progress,
    lsn: Lsn,
    change: &Change<'_>,
) {
    let projected = projections.change(change);
    envelope.skip(progress, lsn, projected.as_ref().unwrap_or(change));
}

/// Whether every event of a change is acknowledged. `position` is the position of its first event.
pub(super) fn has_change(ahead: &AckAhead, change: &Change<'_>, position: Position) -> bool {
    match change {
        Change::Insert { .. } => ahead.is_insert_acknowledged(position),
        _ => ahead.is_record_acknowledged(position),
    }
}
