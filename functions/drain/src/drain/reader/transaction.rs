//! The open transaction: its row counts, its sections, and its resume point.

use md5::{Digest as _, Md5};

use super::change_encoder::ChangeEncoder;
use super::{SentHistory, out_of_place};
use crate::backfill::ChunkContext;
use crate::base::lsn::Lsn;
use crate::change::Change;
use crate::continuity::checkpoint::ResumePoint;
use crate::drain::report::Report;
use crate::encode::{Progress, Transaction};
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
    /// Whether only the resume point has the end of the commit record.
    pub(super) has_end_of_resume_point: bool,
    pub(super) treatment: Treatment,
    /// Whether it ends at or before the acknowledged position.
    ///
    /// The stream may have this transaction, or one of another history.
    pub(super) is_replayed: bool,
    /// Changes that are sent or skipped.
    pub(super) changes: u64,
    pub(super) row_counts: RowCounts,
}

/// What happens to the changes of an open transaction.
#[derive(Debug)]
pub(super) enum Treatment {
    /// They wait: the end of the commit record is not known yet.
    Hold,
    /// A later window sends them.
    ///
    /// The transaction ends after the readable position.
    LeaveOut,
    /// They are skipped.
    ///
    /// The stream has them, or this drain has queued them.
    Skip,
    /// They are skipped up to the resume point.
    ///
    /// The stream has them. The rest is sent.
    Resume(Box<ResumePoint>),
    /// They are sent.
    Send,
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
            has_end_of_resume_point: false,
            treatment: Treatment::Hold,
            is_replayed: false,
            changes: 0,
            row_counts: RowCounts::default(),
        }
    }

    /// Decides what happens to the changes, once the commit end is known.
    pub(super) fn decide(
        &mut self,
        encoder: &ChangeEncoder<'_>,
        commit_end: Lsn,
        commit_time: Option<i64>,
        history: &mut SentHistory,
    ) {
        self.transaction.commit_time = self.transaction.commit_time.or(commit_time);
        self.progress = Some(encoder.first_progress(self.transaction, commit_end));
        self.is_replayed = commit_end <= history.acknowledged;
        let is_sent = commit_end <= history.settled.max(history.queued_upto);
        let xid = self.transaction.xid;
        let resume = history.resume.take_if(|resume| resume.xid == xid);
        self.treatment = match resume {
            _ if commit_end > history.readable => Treatment::LeaveOut,
            _ if is_sent => Treatment::Skip,
            // A resume point without rows contains only the end of the transaction.
            Some(resume) if resume.rows > 0 => Treatment::Resume(Box::new(resume)),
            _ => Treatment::Send,
        };
    }

    /// Counts a change row.
    pub(super) fn count(&mut self, row: &impl PeekRow) {
        let (rows, lsn) = (&mut self.row_counts, row.lsn());
        rows.count += 1;
        rows.at_lsn = if rows.lsn == lsn { rows.at_lsn + 1 } else { 1 };
        rows.lsn = lsn;
        rows.bytes += row.data().len();
    }

    /// Skips a row that an earlier invocation sent.
    ///
    /// The row at the resume point must have the stored hash.
    ///
    /// # Errors
    /// [`Error::NotResumed`]: this is not the transaction of the resume point.
    /// [`Error::RowOutsideTransaction`]: the transaction is not resumed.
    pub(super) fn skip_resumed(
        &mut self,
        slot: &str,
        row: &impl PeekRow,
        change: Option<&Change<'_>>,
        encoder: &mut ChangeEncoder<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let (Some(progress), Treatment::Resume(resume)) = (&mut self.progress, &self.treatment) else {
            return Err(out_of_place(slot, row.lsn()));
        };
        // The server omits the rows before the resume point only if the window has a sent prefix.
        if row.lsn() < resume.lsn {
            return Ok(());
        }
        if let Some(change) = change {
            encoder.skip(progress, row.lsn(), change);
        }
        report.skipped += 1;
        let is_last = self.row_counts.at_lsn >= resume.rows_at_lsn;
        if row.lsn() > resume.lsn || (is_last && md5(row.data()) != resume.hash) {
            return Err(not_resumed(slot, resume.xid, resume.commit_end));
        }
        if is_last {
            progress.restore_counts(resume.counts.clone());
            self.row_counts.count = resume.rows;
            self.row_counts.bytes = 0;
            self.changes += 1;
            self.treatment = Treatment::Send;
        }
        Ok(())
    }

    /// Whether it may have further sections.
    pub(super) fn may_have_sections(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|progress| progress.counts().tables.len() <= MAX_COUNTED_TABLES)
    }

    /// Ends a section. `last_row` is the last change row that was read.
    ///
    /// Once the events of the section are acknowledged, the transaction can be resumed after it.
    pub(super) fn end_section(
        &mut self,
        last_row: &[u8],
        acknowledgements: &mut Acknowledgements,
        chunk: Option<&ChunkContext>,
    ) {
        let Some(progress) = &self.progress else {
            return;
        };
        if !matches!(self.treatment, Treatment::Send) {
            return;
        }
        // The transaction of a watermark has no sections: its chunk is acknowledged as a whole.
        let is_at_watermark = chunk.is_some_and(ChunkContext::is_at_watermark);
        if self.row_counts.count == 0 && is_at_watermark {
            return;
        }
        self.row_counts.bytes = 0;
        // The checkpoint has no room for more counts. So one invocation must send the rest of the
        // transaction.
        if !self.may_have_sections() {
            return;
        }
        let resume = ResumePoint {
            xid: self.transaction.xid,
            commit_end: progress.commit_end(),
            commit_time: self.transaction.commit_time,
            lsn: self.row_counts.lsn,
            rows_at_lsn: self.row_counts.at_lsn,
            rows: self.row_counts.count,
            hash: md5(last_row),
            counts: progress.counts().clone(),
        };
        self.id = acknowledgements.begin_section(self.id, resume);
    }
}

/// The error of a transaction that is not the resumed one.
///
/// `xid` and `commit_end` are those of the resume point.
pub(super) fn not_resumed(slot: &str, xid: u32, commit_end: Lsn) -> Error {
    Error::NotResumed {
        slot: slot.to_owned(),
        xid,
        commit_end,
    }
}

/// MD5 of a row, in hexadecimal.
fn md5(data: &[u8]) -> String {
    hex::encode(Md5::digest(data))
}
