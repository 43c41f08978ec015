//! Encodes changes, rows of a chunk and messages, and queues their events.

use super::ReaderOutput;
use crate::backfill::{ChunkContext, ChunkRows};
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::change::{Change, Datum, Message};
use crate::drain::settings::Settings;
use crate::encode::{
    BackfillRow, EncodedEvents, Envelope, Event, Progress, SnapshotPlace, SpareEvents, Transaction,
};
use crate::error::Error;
use crate::pack::{MAIN_STREAM, QueuedEvent, SpanId};
use crate::rules::projection::Projections;

/// Encodes the events of one window.
pub(super) struct ChangeEncoder<'a> {
    settings: &'a Settings,
    envelope: &'a Envelope,
    projections: Projections<'a>,
    /// Wall-clock time of this window, µs since 1970-01-01 UTC.
    now: i64,
    /// Encoded events that are not queued yet.
    events: EncodedEvents,
}

impl<'a> ChangeEncoder<'a> {
    /// An encoder for a window. `now` is in µs since 1970-01-01 UTC.
    pub(super) fn new(settings: &'a Settings, envelope: &'a Envelope, now: i64) -> Self {
        ChangeEncoder {
            settings,
            envelope,
            projections: Projections::new(&settings.projection),
            now,
            events: EncodedEvents::default(),
        }
    }

    /// Takes former events to reuse their buffers, unless some are left.
    pub(super) fn refill_spare(&mut self, former: &mut SpareEvents) {
        self.events.refill_spare(former);
    }

    /// The progress of a transaction before its first event.
    pub(super) fn first_progress(&self, transaction: Transaction, commit_end: Lsn) -> Progress {
        self.envelope.begin(transaction, commit_end)
    }

    /// Applies a change to the pending chunk, then encodes it.
    ///
    /// `xid` is the change's transaction. The chunk drops the rows that the change overtook. It fills in
    /// large values that the change lacks. If the events are then too large, these values are removed again.
    ///
    /// Returns the number of events with omitted columns.
    pub(super) fn encode(
        &mut self,
        progress: &mut Progress,
        xid: u32,
        lsn: Lsn,
        change: &mut Change<'_>,
        mut chunk: Option<&mut ChunkContext>,
    ) -> u64 {
        let filled = chunk.as_mut().map(|chunk| chunk.apply_change(xid, change));
        let filled = filled.unwrap_or_default();
        let before = (!filled.is_empty()).then(|| progress.clone());
        let omitted = self.encode_projected(progress, lsn, change);
        let Some(before) = before.filter(|_| self.size_problem().is_some()) else {
            return omitted;
        };
        // The filled-in values make the change too large for a record. They must not stop the drain. So the
        // change is encoded without them, and the backfill reads the row again. If the row is too large for a
        // record, its table's backfill fails, and the drain continues. With `OVERSIZE=omit` the change fits,
        // and names its omitted columns. A row that is read again would lack the same columns.
        if let Some(chunk) = chunk {
            chunk.require_read_again(change);
        }
        *progress = before;
        self.events.events.clear();
        if let Change::Update { new, .. } = change {
            for index in filled {
                if let Some(datum) = new.get_mut(index) {
                    *datum = Datum::Unchanged;
                }
            }
        }
        self.encode_projected(progress, lsn, change)
    }

    /// Encodes the projection of a change.
    ///
    /// Returns the number of events with omitted columns.
    fn encode_projected(&mut self, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) -> u64 {
        let projected = self.projections.change(change);
        let change = projected.as_ref().unwrap_or(change);
        let limit = self.settings.record_bytes;
        self.envelope
            .encode(progress, lsn, change, self.now, limit, &mut self.events)
    }

    /// The first encoded event that is too large, and its problem.
    fn size_problem(&self) -> Option<(&Event, String)> {
        let limit = self.settings.record_bytes;
        let mut events = self.events.events.iter();
        events.find_map(|event| Some((event, event.size_problem(limit)?)))
    }

    /// Advances the positions past a change that is not sent.
    ///
    /// The positions are those of the projected change: it may have another number of events.
    pub(super) fn skip(&mut self, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) {
        let projected = self.projections.change(change);
        self.envelope
            .skip(progress, lsn, projected.as_ref().unwrap_or(change));
    }

    /// Encodes a logical message outside of transactions.
    ///
    /// Returns the number of events with omitted columns.
    pub(super) fn encode_message(&mut self, position: Position, message: &Message<'_>) -> u64 {
        let limit = self.settings.record_bytes;
        let (event, omitted) = self
            .envelope
            .encode_message_within(position, message, self.now, limit);
        self.events.push(event);
        omitted
    }

    /// Encodes a control event, at the `lsn` of the chunk's watermark.
    pub(super) fn encode_control_message(
        &mut self,
        progress: &mut Progress,
        lsn: Lsn,
        message: &Message<'_>,
    ) {
        let event = self
            .envelope
            .encode_control_message(progress, lsn, message, self.now);
        self.events.push(event);
    }

    /// Encodes the chunk row with index `at`.
    ///
    /// `lsn` is that of the chunk's watermark.
    ///
    /// Returns the number of events with omitted columns.
    ///
    /// # Errors
    /// The reason why the row cannot be sent. Its events are dropped. The stored state keeps only the first
    /// 120 bytes of the reason.
    pub(super) fn encode_row(
        &mut self,
        progress: &mut Progress,
        lsn: Lsn,
        rows: &ChunkRows,
        at: usize,
        place: SnapshotPlace,
    ) -> Result<u64, String> {
        let values = rows.row(at).map_err(|error| error.to_string())?;
        let relation = &rows.table().relation;
        let projected = self.projections.row(relation, &values);
        let (relation, values) = match &projected {
            Some((relation, values)) => (relation, values),
            None => (relation, &values),
        };
        let row = BackfillRow {
            relation,
            values,
            place,
        };
        let limit = self.settings.record_bytes;
        let omitted =
            self.envelope
                .encode_backfill_row(progress, lsn, &row, self.now, limit, &mut self.events);
        let Some((event, problem)) = self.size_problem() else {
            return Ok(omitted);
        };
        let key_hash = event.key_hash();
        let why = format!("row with key hash {key_hash} {problem}: leave a column out, or OVERSIZE=omit");
        self.envelope.forget_definition(&relation.table, event);
        self.events.events.clear();
        Err(why)
    }

    /// Queues the encoded events.
    ///
    /// # Errors
    /// An event is too large for a record. The events before it are queued, and those after it are dropped.
    /// With `passes_oversize`, such an event is queued, too.
    pub(super) fn queue(&mut self, span: SpanId, out: &mut ReaderOutput<'_>) -> Result<(), Error> {
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
