//! The reader's part in a backfill: row lookups, and the chunk at its watermark.

use super::transaction::Treatment;
use super::{ReaderOutput, WindowReader};
use crate::backfill::{ChunkContext, ChunkPayload, ChunkRows, RowRequest};
use crate::base::lsn::Lsn;
use crate::change::{Change, Message, message_prefix};
use crate::encode::SnapshotPlace;
use crate::error::Error;
use crate::ports::PeekRow;

/// Whether rows of the chunk are emitted next: its watermark was read, and rows are left.
pub(super) fn is_due(chunk: Option<&ChunkContext>) -> bool {
    let chunk = chunk.and_then(|chunk| chunk.chunk.as_ref());
    chunk.is_some_and(|chunk| chunk.watermark_lsn.is_some() && chunk.next_row.is_some())
}

impl<R: PeekRow> WindowReader<'_, R> {
    /// The row lookup that a change needs before it is encoded.
    ///
    /// Returns `None` if the change needs none.
    pub(super) fn row_request(
        &self,
        change: &Change<'_>,
        context: Option<&ChunkContext>,
    ) -> Option<RowRequest> {
        let (open, context) = (self.open.as_ref()?, context?);
        let is_sent = matches!(open.treatment, Treatment::Send) && !self.settings.skipped.skips(change);
        if !is_sent {
            return None;
        }
        let rows = context.chunk.as_ref().and_then(|chunk| chunk.pending_rows());
        ChunkRows::row_request(context.table.as_ref()?, rows, open.transaction.xid, change)
    }

    /// Sets the watermark's LSN, if this message is the chunk's watermark.
    pub(super) fn apply_watermark(&mut self, lsn: Lsn, content: &[u8], out: &mut ReaderOutput<'_>) {
        let (Some(open), Some(context)) = (&self.open, out.chunk.as_deref_mut()) else {
            return;
        };
        let is_left_out = matches!(open.treatment, Treatment::LeaveOut);
        if let Some(chunk) = &mut context.chunk
            && !is_left_out
            && chunk.watermark.as_bytes() == content
        {
            chunk.watermark_lsn = Some(lsn);
        }
    }

    /// Queues the chunk's next row, or the control event of a repair.
    ///
    /// Rows that a change overtook are not queued.
    pub(super) fn queue_chunk_row(&mut self, out: &mut ReaderOutput<'_>) -> Result<(), Error> {
        let chunk = out
            .chunk
            .as_deref_mut()
            .and_then(|context| context.chunk.as_mut());
        let (Some(open), Some(chunk)) = (&mut self.open, chunk) else {
            return Ok(());
        };
        let (Some(progress), Some(lsn), Some(from)) =
            (&mut open.progress, chunk.watermark_lsn, chunk.next_row)
        else {
            return Ok(());
        };
        match &chunk.payload {
            ChunkPayload::Repaired(content) => {
                chunk.next_row = None;
                let message = Message::control(message_prefix::REPAIRED, content);
                self.encoder.encode_control_message(progress, lsn, &message);
            }
            ChunkPayload::Rows { rows, first, more } => {
                let Some(at) = rows.next_row(from) else {
                    chunk.next_row = None;
                    return Ok(());
                };
                chunk.next_row = rows.next_row(at + 1);
                let is_last = chunk.next_row.is_none() && !more;
                let place = snapshot_place(*first && chunk.rows_sent == 0, is_last);
                match self.encoder.encode_row(progress, lsn, rows, at, place) {
                    Ok(omitted) => {
                        out.report.omitted += omitted;
                        chunk.rows_sent += 1;
                    }
                    Err(why) => {
                        chunk.failure = Some(why);
                        chunk.next_row = None;
                        return Ok(());
                    }
                }
            }
        }
        self.encoder.queue(open.id, out)
    }
}

fn snapshot_place(is_first: bool, is_last: bool) -> SnapshotPlace {
    match (is_first, is_last) {
        (_, true) => SnapshotPlace::Last,
        (true, false) => SnapshotPlace::First,
        (false, false) => SnapshotPlace::Within,
    }
}
