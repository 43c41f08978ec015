//! Adjusts the bounds of windows to the time of earlier ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::window::LastWindow;
use super::window_sizing::{SizingStep, TransactionSearch, WindowSizing};
use crate::base::lsn::Lsn;
use crate::base::window::{SentPrefix, Window};
use crate::continuity::checkpoint::ResumePoint;
use crate::error::Error;
use crate::ports::SlotError;

/// Next step after a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowStep {
    /// Read no window: the log was read to its readable end, or to the last marker.
    AtTip,
    /// Read another window.
    Another,
    /// Read no window: the time is over.
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
    /// Most rows of a window, if the server lacked space.
    ///
    /// `None` unless the smallest usual window needed too much.
    row_limit: Option<i32>,
}

impl<'a> WindowBounds<'a> {
    /// Bounds of a drain that does not search for a transaction.
    ///
    /// `slot` is the slot's name. `sizing` keeps the bounds for later drains.
    pub(super) fn new(slot: &'a str, sizing: &'a Mutex<WindowSizing>) -> Self {
        WindowBounds {
            slot,
            sizing,
            search: None,
            row_limit: None,
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
    /// For a resumed transaction, the server omits the rows that were sent, but counts them against the row
    /// bound. So the window has no row bound. During a search, its row bound is a single row. A smaller
    /// window would not make the transaction smaller. So the server may use nearly all of the time.
    pub(super) fn adjusted(
        &self,
        window: Window,
        resume: Option<&ResumePoint>,
        time_left: Duration,
    ) -> (Window, Duration) {
        let rows = self.search.map(|search| search.rows).or(self.row_limit);
        let Some(resume) = resume else {
            let rows = rows.map_or(window.rows, |rows| rows.min(window.rows));
            return (Window { rows, ..window }, self.lock().decode_timeout(time_left));
        };
        let sent_prefix = Some(SentPrefix {
            xid: resume.xid,
            before: resume.lsn,
        });
        // With a bound of one row, the window ends with the first transaction: its commit row is never
        // omitted.
        let window = Window {
            rows: rows.map_or(i32::MAX, |_| 1),
            sent_prefix,
            ..window
        };
        (window, time_left * 9 / 10)
    }

    /// Starts or continues the search for an undecodable transaction.
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

    /// Adjusts the size of windows after one that was read and sent.
    ///
    /// That window began at `opened`. `time_left` is left for reading.
    pub(super) fn adjust(&mut self, last: LastWindow, opened: Instant, time_left: Duration) {
        match last.has_rows {
            true => self.lock().adjust(last.peek, opened.elapsed(), time_left),
            false => self.lock().adjust_empty(last.peek, time_left),
        }
    }

    /// Makes windows smaller after one that took too long.
    ///
    /// The server did not decode that window in time. `confirmed` and `restart` are the slot's positions
    /// before it. `had_most_time` is true if its decode timeout was at least half of the drain's reading
    /// time.
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

    /// Makes windows smaller after one for which the server lacked space.
    ///
    /// `confirmed` and `restart` are the slot's positions before it, and `rows` was its usual row bound. If
    /// the smallest usual window needs too much space, too, this drain halves its rows.
    ///
    /// # Errors
    /// Returns `error` if a window of one transaction failed, too.
    pub(super) fn shrink_after(
        &mut self,
        error: SlotError,
        confirmed: Lsn,
        restart: Lsn,
        rows: i32,
    ) -> Result<WindowStep, Error> {
        let step = self.lock().shrink(confirmed, restart);
        if self.row_limit.is_none() && step == SizingStep::Smaller {
            return Ok(WindowStep::Another);
        }
        let limit = self.row_limit.unwrap_or(rows);
        if limit <= 1 {
            return Err(Error::Slot(error));
        }
        self.row_limit = Some(limit / 2);
        Ok(WindowStep::Another)
    }

    /// Raises the row limit by a quarter.
    ///
    /// It is called after a window that was read.
    pub(super) fn raise_row_limit(&mut self) {
        let raised = self.row_limit.map(|limit| limit + limit / 4 + 1);
        self.row_limit = raised.filter(|limit| *limit < self.sizing().rows());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        upto: Lsn(1 << 30),
        rows: 1_000,
        sent_prefix: None,
    };

    fn skipped() -> SlotError {
        SlotError::PublicationSkipped {
            slot: "s".into(),
            confirmed: Lsn(7),
            source: "no publication".into(),
        }
    }

    #[test]
    fn a_search_halves_its_windows_and_fails_at_a_single_transaction() {
        let sizing = Mutex::default();
        let mut bounds = WindowBounds::new("s", &sizing);
        let rows = |bounds: &WindowBounds<'_>| bounds.adjusted(WINDOW, None, Duration::from_secs(60)).0.rows;
        bounds.continue_search(skipped(), 1_000).unwrap();
        // The first window has one transaction. It could be decoded, so the others follow.
        let mut tried = vec![rows(&bounds)];
        for _ in 0..3 {
            bounds.advance_search();
            tried.push(rows(&bounds));
        }
        assert_eq!(tried, [1, 500, 250, 125]);
        // The window of 125 rows failed: the transaction is in its first half.
        bounds.continue_search(skipped(), 1_000).unwrap();
        assert_eq!(rows(&bounds), 62);
        while rows(&bounds) > 1 {
            bounds.continue_search(skipped(), 1_000).unwrap();
        }
        let failed = bounds.continue_search(skipped(), 1_000).unwrap_err();
        assert_eq!(failed.name(), "PublicationMissing");
    }

    #[test]
    fn a_resumed_transaction_has_no_row_bound_and_nearly_all_of_the_time() {
        let sizing = Mutex::default();
        let mut bounds = WindowBounds::new("s", &sizing);
        let resume = ResumePoint {
            xid: 7,
            commit_end: Lsn(100),
            commit_time: None,
            lsn: Lsn(50),
            rows_at_lsn: 1,
            rows: 10,
            hash: String::new(),
            counts: crate::encode::EventCounts::default(),
        };
        let left = Duration::from_secs(100);
        let (window, time) = bounds.adjusted(WINDOW, Some(&resume), left);
        let sent_prefix = Some(SentPrefix {
            xid: 7,
            before: Lsn(50),
        });
        assert_eq!((window.rows, window.sent_prefix), (i32::MAX, sent_prefix));
        assert_eq!(time, Duration::from_secs(90));
        // A search reads this transaction alone.
        bounds.continue_search(skipped(), 1_000).unwrap();
        assert_eq!(bounds.adjusted(WINDOW, Some(&resume), left).0.rows, 1);
    }

    #[test]
    fn the_smallest_window_is_an_error_only_after_most_of_the_time() {
        let sizing = Mutex::default();
        let mut bounds = WindowBounds::new("s", &sizing);
        let mut steps = Vec::new();
        for had_most_time in [false, true] {
            // Each step makes the window smaller, up to the smallest one.
            let last = loop {
                match bounds.shrink(Lsn(1 << 40), Lsn(1 << 40), had_most_time) {
                    Ok(WindowStep::Another) => {}
                    last => break last,
                }
            };
            steps.push(last.map_err(|error| error.name()));
        }
        assert_eq!(steps[0], Ok(WindowStep::OutOfTime));
        assert_eq!(
            bounds
                .shrink(Lsn(1 << 40), Lsn(1 << 40), true)
                .unwrap_err()
                .name(),
            "PeekTimeout"
        );
    }
}
