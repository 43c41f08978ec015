//! Adjusts the bounds of windows to the time of earlier ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::window::LastWindow;
use crate::base::lsn::Lsn;
use crate::base::window_sizing::{SentPrefix, SizingStep, TransactionSearch, Window, WindowSizing};
use crate::continuity::checkpoint::ResumePoint;
use crate::error::Error;
use crate::ports::SlotError;

/// Next step after a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowStep {
    /// No window: the log was read to its readable end, or to the last marker.
    AtTip,
    /// Read another window.
    Another,
    /// No window: the time is over.
    OutOfTime,
}

/// Adjusts the bounds of windows.
#[derive(Debug)]
pub(super) struct WindowBounds<'a> {
    /// The slot's name, for errors.
    slot: &'a str,
    sizing: &'a Mutex<WindowSizing>,
    /// Search for a transaction that the server cannot decode.
    ///
    /// `None` as long as the server decodes all transactions.
    search: Option<TransactionSearch>,
}

impl<'a> WindowBounds<'a> {
    /// Bounds without a search. `slot` is its name.
    ///
    /// Later drains use `sizing`, too.
    pub(super) fn new(slot: &'a str, sizing: &'a Mutex<WindowSizing>) -> Self {
        WindowBounds {
            slot,
            sizing,
            search: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, WindowSizing> {
        // A panic of another lock holder cannot leave the sizing half changed.
        self.sizing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present sizing.
    pub(super) fn sizing(&self) -> WindowSizing {
        *self.lock()
    }

    /// Whether a transaction is searched for.
    pub(super) fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// The window to peek, and its decode timeout.
    ///
    /// They differ from the usual ones if a transaction is resumed or searched for.
    ///
    /// For a resumed transaction, the server omits the rows that were sent. It still counts them against the
    /// row bound. So the window has no row bound. Only during a search it has one: a single row. A smaller
    /// window would not make the transaction smaller. So the server may use nearly all of the time.
    pub(super) fn adjusted(
        &self,
        window: Window,
        resume: Option<&ResumePoint>,
        time_left: Duration,
    ) -> (Window, Duration) {
        let rows = self.search.map(|search| search.rows);
        let Some(resume) = resume else {
            let rows = rows.map_or(window.rows, |rows| rows.min(window.rows));
            return (Window { rows, ..window }, self.lock().decode_timeout(time_left));
        };
        let sent_prefix = Some(SentPrefix {
            xid: resume.xid,
            before: resume.lsn,
        });
        // One row means: the window ends with the first transaction. Its commit row is never omitted.
        let window = Window {
            rows: rows.map_or(i32::MAX, |_| 1),
            sent_prefix,
            ..window
        };
        (window, time_left * 9 / 10)
    }

    /// Starts or continues the search for a transaction.
    ///
    /// The server cannot decode this transaction. `rows` is the row bound of a window without a search.
    ///
    /// # Errors
    /// Returns `error` if a window of one transaction failed, too.
    pub(super) fn continue_search(&mut self, error: SlotError, rows: i32) -> Result<(), Error> {
        self.search = match self.search {
            None => Some(TransactionSearch::new(rows)),
            Some(search) if search.rows > 1 => search.next(),
            Some(_) => return Err(error.into()),
        };
        Ok(())
    }

    /// Continues the search after a window that the server decoded.
    pub(super) fn advance_search(&mut self) {
        self.search = self.search.and_then(TransactionSearch::next);
    }

    /// Adjusts the size to a window that was read and sent.
    ///
    /// It began at `opened`, and `time_left` is left for reading.
    pub(super) fn adjust(&mut self, last: LastWindow, opened: Instant, time_left: Duration) {
        match last.has_rows {
            true => self.lock().adjust(last.peek, opened.elapsed(), time_left),
            false => self.lock().adjust_empty(last.peek, time_left),
        }
    }

    /// Makes windows smaller after one that took too long.
    ///
    /// The server did not decode it in time. `confirmed` and `restart` are the slot's positions before that
    /// window. `had_most_time` is whether it had half of the drain's time for reading.
    ///
    /// # Errors
    /// The smallest window takes longer than an invocation.
    pub(super) fn shrink(
        &mut self,
        confirmed: Lsn,
        restart: Lsn,
        had_most_time: bool,
    ) -> Result<WindowStep, Error> {
        let step = self.lock().shrink(confirmed, restart);
        match step {
            SizingStep::Smaller => Ok(WindowStep::Another),
            SizingStep::NextInvocation => Ok(WindowStep::OutOfTime),
            // Earlier attempts used most of the time. In the next invocation the server has nearly all of it.
            SizingStep::Impossible if !had_most_time => Ok(WindowStep::OutOfTime),
            SizingStep::Impossible => Err(Error::Slot(SlotError::Timeout {
                slot: self.slot.to_owned(),
                doing: "reading the smallest window",
                source: "the server did not finish decoding it".into(),
            })),
        }
    }
}
