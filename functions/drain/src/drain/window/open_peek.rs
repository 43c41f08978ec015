//! State of a window while its rows are read, and the outcome.

use crate::base::window::Window;
use crate::drain::reader::WindowReader;
use crate::error::Error;
use crate::pack::QueuedEvent;
use crate::ports::PeekRows;

/// Outcome of reading a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Every row up to the LSN bound was read.
    Whole,
    /// The row bound was reached.
    RowBoundReached,
    /// The server exceeded the window's time.
    TooSlow,
    /// An unconfirmed window has sent a section of a large transaction.
    ///
    /// The next window is confirmed, and resumes after that section.
    SectionSent,
    /// The time for reading is over, or reading failed.
    Stopped,
}

impl ReadOutcome {
    /// Whether every row of the peek was read.
    pub(super) fn is_complete(self) -> bool {
        matches!(self, ReadOutcome::Whole | ReadOutcome::RowBoundReached)
    }
}

/// Rows, reader and counts of a window that is being read.
pub(super) struct OpenPeek<'r, P: PeekRows> {
    pub(super) window: Window,
    pub(super) rows: &'r mut P,
    pub(super) reader: WindowReader<'r, P::Row>,
    /// Events of one row, before they are queued. The buffer is used again.
    pub(super) events: Vec<QueuedEvent>,
    /// Number of rows that were read.
    pub(super) count: i32,
}

impl<P: PeekRows> OpenPeek<'_, P> {
    /// Outcome of reading a peek to its last row.
    pub(super) fn end_of_rows(&self) -> Result<ReadOutcome, Error> {
        if self.reader.is_open() {
            return Err(self.reader.out_of_place(self.window.upto));
        }
        match self.count >= self.window.rows && !self.reader.has_left_out() {
            true => Ok(ReadOutcome::RowBoundReached),
            false => Ok(ReadOutcome::Whole),
        }
    }
}
