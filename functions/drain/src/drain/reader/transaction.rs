//! The open transaction: its row counts, its sections, and its resume point.

use md5::{Digest as _, Md5};

use super::events;
use super::{ReaderOutput, SentHistory, WindowReader};
use crate::backfill::ChunkContext;
use crate::base::lsn::Lsn;
use crate::change::Change;
use crate::continuity::checkpoint::ResumePoint;
use crate::encode::{Envelope, Progress, Transaction};
use crate::error::Error;
use crate::pack::{Acknowledgements, SpanId};
use crate::ports::PeekRow;

/// Most tables whose events a resume point counts.
///
/// Each table has a count of its own, for Debezium's transaction metadata. A checkpoint has at most 4 KB.
const MAX_COUNTED_TABLES: usize = 16;

/// A transaction between its first row and its commit.
pub(super) struct OpenTransaction {
    pub(super) id: SpanId,
    pub(super) transaction: Transaction,
    /// `None` until the end of the commit record is known.
    ///
    /// The begin row, the commit row or the resume point has this end.
    pub(super) progress: Option<Progress>,
    /// Whether it was sent before. Such a transaction is skipped.
    ///
    /// It ends at or before the settled position, or this drain sent it before.
    pub(super) is_sent: bool,
    /// Whether it ends at or before the acknowledged position.
    ///
    /// The stream may have this transaction, or one of another history.
    pub(super) is_replayed: bool,
    pub(super) changes: u64,
    /// Whether it ends after the readable position. A later window sends such a transaction.
    pub(super) left_out: bool,
    pub(super) rows: RowCounts,
    /// The resume point, until its row is read.
    pub(super) resumes: Option<ResumePoint>,
}

/// Counts of a transaction's change rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowCounts {
    pub(super) count: u64,
    /// The last row's `lsn`.
    pub(super) lsn: Lsn,
    /// Rows with that `lsn`.
    pub(super) at_lsn: u64,
    /// Bytes since the last section.
    pub(super) bytes: usize,
}

impl OpenTransaction {
    pub(super) fn new(id: SpanId, transaction: Transaction) -> Self {
        OpenTransaction {
            id,
            transaction,
            progress: None,
            is_sent: false,
            is_replayed: false,
            changes: 0,
            left_out: false,
            rows: RowCounts::default(),
            resumes: None,
        }
    }

    /// Starts the event counts, once the commit end is known.
    ///
    /// Decides whether the transaction is sent, skipped, resumed or left out.
    pub(super) fn start_progress(
        &mut self,
        envelope: &Envelope,
        commit_end: Lsn,
        commit_time: Option<i64>,
        history: &mut SentHistory,
    ) {
        self.transaction.commit_time = self.transaction.commit_time.or(commit_time);
        self.progress = Some(envelope.begin(self.transaction, commit_end));
        self.is_sent = commit_end <= history.settled.max(history.sent_by_this_drain);
        self.is_replayed = commit_end <= history.acknowledged;
        self.left_out = commit_end > history.readable;
        let xid = self.transaction.xid;
        self.resumes = history.resume.take_if(|resume| resume.xid == xid);
        // A resume point without rows contains only the end of the transaction.
        self.resumes.take_if(|resume| resume.rows == 0);
    }
}

impl<R: PeekRow> WindowReader<'_, R> {
    /// Counts a change row of the open transaction.
    pub(super) fn count(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), Error> {
        let Some(OpenTransaction { rows, .. }) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        rows.count += 1;
        rows.at_lsn = if rows.lsn == lsn { rows.at_lsn + 1 } else { 1 };
        rows.lsn = lsn;
        rows.bytes += data.len();
        self.last_row.clear();
        self.last_row.extend_from_slice(data);
        Ok(())
    }

    /// Skips a row that an earlier invocation sent.
    ///
    /// The row at the resume point must have the stored hash.
    pub(super) fn skip_resumed(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        change: Option<&Change<'_>>,
        out: &mut ReaderOutput<'_>,
    ) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        let (Some(progress), Some(resume)) = (&mut open.progress, &open.resumes) else {
            return Err(self.out_of_place(lsn));
        };
        // The server omits the rows before the resume point only if the window has a sent prefix.
        if lsn < resume.lsn {
            return Ok(());
        }
        if let Some(change) = change {
            events::skip(&mut self.projections, self.envelope, progress, lsn, change);
        }
        out.report.skipped += 1;
        let is_last = open.rows.at_lsn >= resume.rows_at_lsn;
        if lsn > resume.lsn || (is_last && md5(data) != resume.hash) {
            return Err(not_resumed(&self.settings.slot, resume));
        }
        if is_last {
            progress.restore_counts(resume.counts.clone());
            open.rows.count = resume.rows;
            open.rows.bytes = 0;
            open.changes += 1;
            open.resumes = None;
        }
        Ok(())
    }

    /// Whether the open transaction may have further sections.
    pub(crate) fn has_sections(&self) -> bool {
        let progress = self.open.as_ref().and_then(|open| open.progress.as_ref());
        progress.is_some_and(|progress| progress.counts().tables.len() <= MAX_COUNTED_TABLES)
    }

    /// Ends a section of the open transaction.
    ///
    /// Once the events of the section are acknowledged, the transaction can be resumed after it.
    pub(crate) fn end_section(
        &mut self,
        acknowledgements: &mut Acknowledgements,
        chunk: Option<&ChunkContext>,
    ) {
        let Some(open) = &mut self.open else {
            return;
        };
        let Some(progress) = &open.progress else {
            return;
        };
        if open.is_sent || open.left_out || open.resumes.is_some() {
            return;
        }
        // The transaction of a watermark has no sections: its chunk is acknowledged as a whole.
        let is_at_watermark = chunk.is_some_and(ChunkContext::is_at_watermark);
        if open.rows.count == 0 && is_at_watermark {
            return;
        }
        open.rows.bytes = 0;
        let counts = progress.counts().clone();
        // The checkpoint has no room for more counts. So one invocation must send the rest of the
        // transaction.
        if counts.tables.len() > MAX_COUNTED_TABLES {
            return;
        }
        let resume = ResumePoint {
            xid: open.transaction.xid,
            commit_end: progress.commit_end(),
            commit_time: open.transaction.commit_time,
            lsn: open.rows.lsn,
            rows_at_lsn: open.rows.at_lsn,
            rows: open.rows.count,
            hash: md5(&self.last_row),
            counts,
        };
        open.id = acknowledgements.begin_section(open.id, resume);
    }
}

pub(super) fn not_resumed(slot: &str, resume: &ResumePoint) -> Error {
    Error::NotResumed {
        slot: slot.to_owned(),
        xid: resume.xid,
        commit_end: resume.commit_end,
    }
}

/// MD5 of a row, in hexadecimal.
fn md5(data: &[u8]) -> String {
    hex::encode(Md5::digest(data))
}
