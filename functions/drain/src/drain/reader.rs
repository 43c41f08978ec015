//! The reader of a window: turns peeked rows into queued events with positions.
//!
//! It skips changes that the stream already has.
//!
//! **Held rows.** A position begins with the end of the commit record. With pgoutput and test_decoding, only
//! the commit row has that end. So the rows of such a transaction are held until its commit row is read. If
//! they exceed [`HOLD_BYTES`], the reader uses a copy of the commit row: the server sends the first commit
//! rows of a window before all other rows. If the copy is not among them, the reader requests the commits of
//! all large transactions of the window. This request costs another peek.
//!
//! **Bounds.** The reader processes one row at a time. So the unacknowledged bytes exceed their bound by the
//! events of one row at most.
//!
//! **Large transactions.** A transaction may need several invocations. It is acknowledged in sections. The
//! next invocation resumes at the end of the last acknowledged section. It skips the earlier rows, and
//! compares the hash of the last skipped row.

mod barriers;
mod change_encoder;
mod chunk;
mod messages;
mod row_decoder;
mod sent_history;
mod transaction;
mod unidentified_rows;
mod waiting_rows;

use super::report::Report;
use super::settings::Settings;
use crate::backfill::{ChunkContext, RowRequest};
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::catalog::{Catalog, TableRequest};
use crate::change::{Change, DecodedRow, message_prefix};
use crate::continuity::ContinuityError;
use crate::continuity::checkpoint::AckAhead;
use crate::continuity::marker::Marker;
use crate::encode::{Envelope, Progress, SpareEvents, Transaction};
use crate::error::Error;
use crate::pack::{Acknowledgements, QueuedEvent};
use crate::ports::{CommitRows, PeekRow};
use crate::rules::pattern;
pub(crate) use barriers::Barriers;
use change_encoder::ChangeEncoder;
use row_decoder::RowDecoder;
pub(crate) use sent_history::SentHistory;
use transaction::{OpenTransaction, Treatment, not_resumed};
use unidentified_rows::warn_of_unidentified_row;
pub(crate) use waiting_rows::HOLD_BYTES;
use waiting_rows::WaitingRows;

/// Bytes of rows after which a section of a transaction ends.
///
/// The checkpoint is stored about once a second. So smaller sections would not reduce repeated work.
const SECTION_BYTES: usize = 1 << 20;

/// Next input that the reader needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReaderNeed {
    /// The next row.
    Row,
    /// The commits of the window's large transactions, for [`WindowReader::add_large_commits`].
    LargeCommits,
}

/// Lookup that the reader needs before it can process its next row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReaderRequest {
    /// A row of a table, for [`ChunkContext::add_lookup`].
    Row(RowRequest),
    /// Tables of the system catalog, for [`WindowReader::catalog_mut`].
    Tables(TableRequest),
}

/// Reads the rows of one window.
pub(crate) struct WindowReader<'a, R> {
    settings: &'a Settings,
    decoder: RowDecoder<'a>,
    encoder: ChangeEncoder<'a>,
    history: SentHistory,
    /// The transaction between its first row and its commit.
    open: Option<OpenTransaction>,
    /// Rows that were read and are not processed yet.
    rows: WaitingRows<R>,
    /// The open transaction's last change row, as the plugin wrote it.
    last_row: Vec<u8>,
    /// A decoded change whose row lookup is requested.
    looking_up: Option<(R, Change<'static>)>,
    /// See [`WindowReader::has_left_out`].
    has_left_out: bool,
}

/// Outputs of the reader.
pub(crate) struct ReaderOutput<'a> {
    pub(crate) acknowledgements: &'a mut Acknowledgements,
    pub(crate) events: &'a mut Vec<QueuedEvent>,
    pub(crate) barriers: &'a mut Barriers,
    pub(crate) report: &'a mut Report,
    /// The state of the backfill, if one is pending.
    pub(crate) chunk: Option<&'a mut ChunkContext>,
}

impl<'a, R: PeekRow> WindowReader<'a, R> {
    /// A reader of a window. `now` is in µs since 1970-01-01 UTC.
    pub(crate) fn new(
        settings: &'a Settings,
        envelope: &'a Envelope,
        catalog: Catalog,
        history: SentHistory,
        now: i64,
    ) -> Self {
        WindowReader {
            settings,
            decoder: RowDecoder::new(&settings.slot, settings.plugin, catalog),
            encoder: ChangeEncoder::new(settings, envelope, now),
            history,
            open: None,
            rows: WaitingRows::new(),
            last_row: Vec::new(),
            looking_up: None,
            has_left_out: false,
        }
    }

    /// Whether the slot must still return the expected marker.
    pub(crate) fn expects_marker(&self) -> bool {
        self.history.expected.is_some()
    }

    /// Gives the encoder the buffers of acknowledged events.
    ///
    /// Does nothing if the encoder still has such buffers.
    pub(crate) fn refill_spare(&mut self, former: &mut SpareEvents) {
        self.encoder.refill_spare(former);
    }

    /// The catalog, to add tables to.
    pub(crate) fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.decoder.catalog
    }

    /// Whether a transaction is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a transaction or a message was left to a later window.
    ///
    /// It ends after the readable position. The peek has transactions and messages in the order of their
    /// ends, so all that end up to that position precede it.
    pub(crate) fn has_left_out(&self) -> bool {
        self.has_left_out
    }

    /// Adds the next row of the window.
    ///
    /// # Errors
    /// A commit is undecodable or out of place, the expected marker is missing, or the resume point is wrong.
    pub(crate) fn push_row(&mut self, row: R) -> Result<ReaderNeed, Error> {
        if !self.is_held() {
            self.rows.push(row);
        } else if self.decoder.is_commit(row.data()) {
            self.apply_commit_row(row.lsn(), row.data())?;
            self.rows.push(row);
        } else {
            self.rows.hold(row);
        }
        if !self.rows.exceed_hold_bytes() {
            return Ok(ReaderNeed::Row);
        }
        match self.rows.must_request_commits(self.open_xid()) {
            true => Ok(ReaderNeed::LargeCommits),
            false => self.apply_large_commit().map(|()| ReaderNeed::Row),
        }
    }

    /// Adds the commits that the server sent before all other rows.
    pub(crate) fn add_first_commits(&mut self, commits: CommitRows) {
        self.rows.add_commits(commits);
    }

    /// Adds the commits of the window's large transactions.
    ///
    /// Their rows take more than half of [`HOLD_BYTES`].
    ///
    /// # Errors
    /// The commit of the open transaction is missing. Otherwise as [`WindowReader::push_row`].
    pub(crate) fn add_large_commits(&mut self, commits: CommitRows) -> Result<(), Error> {
        self.rows.add_large_commits(commits);
        self.apply_large_commit()
    }

    /// Whether [`WindowReader::next`] has a row to process.
    pub(crate) fn has_rows(&self, chunk: Option<&ChunkContext>) -> bool {
        let has_some = chunk::is_due(chunk) || self.looking_up.is_some() || !self.rows.is_empty();
        has_some && !self.is_held()
    }

    /// Turns the next row into queued events. At a watermark, this is the next row of the chunk.
    ///
    /// Returns a request if a row or a table must be read first. Add the result, then call `next` again.
    ///
    /// # Errors
    /// The row cannot be decoded or is out of place, the expected marker is missing, or a transaction is not
    /// resumed. Or an event is larger than a record. Events that were queued before the error remain valid.
    pub(crate) fn next(&mut self, out: &mut ReaderOutput<'_>) -> Result<Option<ReaderRequest>, Error> {
        if chunk::is_due(out.chunk.as_deref()) {
            return self.queue_chunk_row(out).map(|()| None);
        }
        if let Some((row, change)) = self.looking_up.take() {
            return self.apply_change(&row, change, out).map(|()| None);
        }
        if let Some(request) = self.decoder.table_request(&self.rows) {
            return Ok(Some(ReaderRequest::Tables(request)));
        }
        let Some(row) = self.rows.pop() else {
            return Ok(None);
        };
        match self.process(&row, out)? {
            None => Ok(None),
            Some((request, change)) => {
                self.looking_up = Some((row, change));
                Ok(Some(ReaderRequest::Row(request)))
            }
        }
    }

    /// Whether the rows of the open transaction wait for their commit.
    fn is_held(&self) -> bool {
        let treatment = self.open.as_ref().map(|open| &open.treatment);
        matches!(treatment, Some(Treatment::Hold))
    }

    /// The open transaction's id; 0 if none is open.
    fn open_xid(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.transaction.xid)
    }

    fn apply_large_commit(&mut self) -> Result<(), Error> {
        let commit = self.rows.take_commit(self.open_xid());
        let (lsn, data) = commit.ok_or_else(|| self.out_of_place(Lsn::ZERO))?;
        self.apply_commit_row(lsn, &data)
    }

    /// Applies the commit row of the open transaction.
    ///
    /// The transaction's held rows are processed afterwards.
    fn apply_commit_row(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), Error> {
        let DecodedRow::Commit {
            commit_end,
            commit_time,
        } = self.decoder.decode(lsn, data)?
        else {
            return Err(self.out_of_place(lsn));
        };
        self.rows.reset_held_bytes();
        self.apply_commit_end(lsn, commit_end, commit_time)
    }

    /// Applies the commit end of the open transaction.
    ///
    /// It decides whether the transaction is sent, skipped, resumed or left out.
    fn apply_commit_end(&mut self, lsn: Lsn, commit_end: Lsn, commit_time: Option<i64>) -> Result<(), Error> {
        self.check_expected_marker(commit_end)?;
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        open.decide(&self.encoder, commit_end, commit_time, &mut self.history);
        self.has_left_out |= matches!(open.treatment, Treatment::LeaveOut);
        match &open.treatment {
            // The server may have omitted the rows before the resume point. If this is another transaction
            // with the same xid, these rows would be lost.
            Treatment::Resume(resume) if resume.commit_end != commit_end => {
                Err(not_resumed(&self.settings.slot, resume.xid, resume.commit_end))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the expected marker is missing before this position.
    ///
    /// The position is the end of a commit record, or of the record of a message outside of transactions. The
    /// peek sends both in the order of these ends. The end of the marker's commit is before this position. So
    /// the peek should have sent the marker already.
    fn check_expected_marker(&self, end: Lsn) -> Result<(), Error> {
        let expected = self.history.expected.as_ref();
        match expected.filter(|marker| marker.flushed < end) {
            Some(marker) => Err(missing_marker(
                &self.settings.slot,
                marker,
                self.history.acknowledged,
            )),
            None => Ok(()),
        }
    }

    /// Processes one row of the peek.
    ///
    /// If its change needs a row lookup, returns the request and the change.
    fn process(
        &mut self,
        row: &R,
        out: &mut ReaderOutput<'_>,
    ) -> Result<Option<(RowRequest, Change<'static>)>, Error> {
        let lsn = row.lsn();
        match self.decoder.decode(lsn, row.data())? {
            DecodedRow::Nothing => {}
            DecodedRow::Begin {
                xid,
                commit_end,
                commit_time,
            } => {
                self.begin(lsn, Transaction { xid, commit_time }, commit_end, out)?;
            }
            DecodedRow::Commit { commit_end, .. } => self.commit(lsn, commit_end, out)?,
            DecodedRow::Change(Change::Message(message)) if message.prefix == message_prefix::MARKER => {
                let slot = &self.settings.slot;
                self.history.expected.take_if(|marker| marker.is(slot, &message));
            }
            DecodedRow::Change(Change::Message(message)) if message.prefix == message_prefix::WATERMARK => {
                self.apply_watermark(lsn, &message.content, out);
            }
            DecodedRow::Change(change) => {
                let change = messages::change_with_foreign_prefix(change);
                if let Some(request) = self.row_request(&change, out.chunk.as_deref()) {
                    return Ok(Some((request, change.into_owned())));
                }
                self.apply_change(row, change, out)?;
            }
            DecodedRow::Message(message) => self.message(lsn, message, out)?,
        }
        Ok(None)
    }

    fn begin(
        &mut self,
        lsn: Lsn,
        transaction: Transaction,
        commit_end: Option<Lsn>,
        out: &mut ReaderOutput<'_>,
    ) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(self.out_of_place(lsn));
        }
        let open = OpenTransaction::new(out.acknowledgements.begin(), transaction);
        // A resumed transaction need not be held: the checkpoint has the end of its commit record.
        let resume = self.history.resume.as_ref();
        let resume = resume.filter(|resume| resume.xid == transaction.xid);
        let known = commit_end.map(|end| (end, transaction.commit_time));
        self.open = Some(OpenTransaction {
            has_end_of_resume_point: known.is_none() && resume.is_some(),
            ..open
        });
        match known.or(resume.map(|resume| (resume.commit_end, resume.commit_time))) {
            Some((commit_end, commit_time)) => self.apply_commit_end(lsn, commit_end, commit_time),
            None => Ok(()),
        }
    }

    fn commit(&mut self, lsn: Lsn, commit_end: Lsn, out: &mut ReaderOutput<'_>) -> Result<(), Error> {
        let Some(open) = self.open.take() else {
            return Err(self.out_of_place(lsn));
        };
        if let Treatment::Resume(resume) = &open.treatment {
            return Err(not_resumed(&self.settings.slot, resume.xid, resume.commit_end));
        }
        // The positions of the events contain the commit end that was known earlier. Both ends must agree.
        let known_end = open.progress.as_ref().map(Progress::commit_end);
        match known_end.filter(|known_end| *known_end != commit_end) {
            // Another transaction has the same xid.
            Some(end) if open.has_end_of_resume_point => {
                return Err(not_resumed(&self.settings.slot, open.transaction.xid, end));
            }
            Some(_) => return Err(self.out_of_place(lsn)),
            None => {}
        }
        // If an earlier window of this drain has queued this transaction, that window acknowledges it. If it
        // is left out, a later window queues it.
        let is_left_out = matches!(open.treatment, Treatment::LeaveOut);
        if is_left_out || commit_end <= self.history.queued_upto {
            out.acknowledgements.discard(open.id);
            return Ok(());
        }
        if open.changes > 0 && matches!(open.treatment, Treatment::Send) {
            out.report.transactions += 1;
            out.acknowledgements
                .add_transaction(open.id, open.transaction.commit_time);
        }
        out.acknowledgements.commit(open.id, commit_end);
        Ok(())
    }

    /// Counts and applies a change row of the open transaction.
    fn apply_change(&mut self, row: &R, change: Change<'_>, out: &mut ReaderOutput<'_>) -> Result<(), Error> {
        let (lsn, encoder) = (row.lsn(), &mut self.encoder);
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        open.count(row);
        self.last_row.clear();
        self.last_row.extend_from_slice(row.data());
        if matches!(open.treatment, Treatment::LeaveOut) {
            return Ok(());
        }
        let Some(progress) = &mut open.progress else {
            return Err(self.out_of_place(lsn));
        };
        let (slot, commit_end) = (&self.settings.slot, progress.commit_end());
        let (catalog, patterns) = (&self.decoder.catalog, &self.settings.tables);
        let change = change
            .filtered(|table| pattern::matches_any(patterns, table) && catalog.is_table(table, commit_end))
            .filter(|change| !self.settings.skipped.skips(change));
        if matches!(open.treatment, Treatment::Resume(_)) {
            return open.skip_resumed(slot, row, change.as_ref(), encoder, out.report);
        }
        let Some(mut change) = change else {
            return Ok(());
        };
        open.changes += 1;
        if matches!(open.treatment, Treatment::Skip) {
            // This drain sent the transactions after the settled position. They are not counted as skipped.
            out.report.skipped += u64::from(commit_end <= self.history.settled);
            encoder.skip(progress, lsn, &change);
            return Ok(());
        }
        out.report.changes += 1;
        out.acknowledgements.add_change(open.id);
        out.report.replayed += u64::from(open.is_replayed);
        let ahead = self.history.ahead.as_ref();
        if ahead.is_some_and(|ahead| has_change(ahead, &change, progress.next_position(lsn))) {
            out.report.acknowledged_ahead += 1;
            encoder.skip(progress, lsn, &change);
        } else {
            warn_of_unidentified_row(slot, &change, out.report);
            let (xid, chunk) = (open.transaction.xid, out.chunk.as_deref_mut());
            out.report.omitted += encoder.encode(progress, xid, lsn, &mut change, chunk);
            self.decoder.recycle(change);
            encoder.queue(open.id, out)?;
        }
        if open.row_counts.bytes >= SECTION_BYTES {
            open.end_section(&self.last_row, out.acknowledgements, out.chunk.as_deref());
        }
        Ok(())
    }

    /// Whether the open transaction may have further sections.
    pub(crate) fn may_have_sections(&self) -> bool {
        self.open.as_ref().is_some_and(OpenTransaction::may_have_sections)
    }

    /// Ends a section of the open transaction.
    ///
    /// Once the events of the section are acknowledged, the transaction can be resumed after it.
    pub(crate) fn end_section(
        &mut self,
        acknowledgements: &mut Acknowledgements,
        chunk: Option<&ChunkContext>,
    ) {
        if let Some(open) = &mut self.open {
            open.end_section(&self.last_row, acknowledgements, chunk);
        }
    }

    pub(crate) fn out_of_place(&self, lsn: Lsn) -> Error {
        out_of_place(&self.settings.slot, lsn)
    }
}

fn out_of_place(slot: &str, lsn: Lsn) -> Error {
    Error::RowOutsideTransaction {
        slot: slot.to_owned(),
        lsn,
    }
}

/// Whether every event of a change is acknowledged. `position` is the position of its first event.
fn has_change(ahead: &AckAhead, change: &Change<'_>, position: Position) -> bool {
    match change {
        Change::Insert { .. } => ahead.is_insert_acknowledged(position),
        Change::Message(_) => ahead.is_message_acknowledged(position),
        _ => ahead.is_change_acknowledged(position),
    }
}

/// The error of a marker that the slot does not return.
pub(super) fn missing_marker(slot: &str, marker: &Marker, acknowledged: Lsn) -> Error {
    Error::from(ContinuityError::MarkerMissing {
        slot: slot.to_owned(),
        number: marker.number,
        marker: marker.lsn,
        acknowledged,
    })
}

#[cfg(test)]
mod tests;
