//! Adjusts the bounds of windows to the time of earlier ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::window::WindowOutcome;
use super::window_sizing::{DecodedLog, SizingStep, TransactionSearch, WindowSizing};
use crate::base::lsn::Lsn;
use crate::base::window::{AcknowledgedPrefix, Window};
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
    /// `None` until a window of the smallest usual size lacked space.
    row_limit: Option<i32>,
    /// The last window's error, if the server lacked space.
    lack_of_space: Option<SlotError>,
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
            lack_of_space: None,
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
    pub(super) fn window_and_timeout(
        &self,
        window: Window,
        resume: Option<&ResumePoint>,
        time_left: Duration,
    ) -> (Window, Duration) {
        let searched = self.search.map(|search| search.rows);
        let rows = searched.into_iter().chain(self.row_limit).min();
        let Some(resume) = resume else {
            let rows = rows.map_or(window.rows, |rows| rows.min(window.rows));
            return (Window { rows, ..window }, self.lock().decode_timeout(time_left));
        };
        let acknowledged_prefix = Some(AcknowledgedPrefix {
            xid: resume.xid,
            end: resume.lsn,
        });
        // With a bound of one row, the window ends with the first transaction: its commit row is never
        // omitted.
        let window = Window {
            rows: rows.map_or(i32::MAX, |_| 1),
            acknowledged_prefix,
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
    /// `decoded` is the log of that window. It had rows if `has_rows`, and began at `opened`. `time_left` is
    /// left for reading.
    pub(super) fn adjust(
        &mut self,
        decoded: DecodedLog,
        has_rows: bool,
        opened: Instant,
        time_left: Duration,
    ) {
        // A limited window is small on purpose, so it does not change the size of later windows.
        if self.row_limit.is_some() {
            return self.raise_row_limit();
        }
        match has_rows {
            true => self.lock().adjust(decoded, opened.elapsed(), time_left),
            false => self.lock().adjust_empty(decoded, time_left),
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
    pub(super) fn shrink_after_timeout(
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
    /// `confirmed` and `restart` are the slot's positions before it, and `rows` was its row bound. If the
    /// smallest usual window lacks space, too, this drain limits the rows further.
    ///
    /// # Errors
    /// Returns `error` if the window had a single transaction.
    pub(super) fn shrink_after_lack_of_space(
        &mut self,
        error: SlotError,
        confirmed: Lsn,
        restart: Lsn,
        rows: i32,
    ) -> Result<WindowStep, Error> {
        let step = self.lock().shrink(confirmed, restart);
        if rows <= 1 {
            return Err(Error::Slot(error));
        }
        if self.row_limit.is_some() || step != SizingStep::Smaller {
            self.row_limit = Some((rows.min(self.sizing().rows()) / 16).max(1));
        }
        self.lack_of_space = Some(error);
        Ok(WindowStep::Another)
    }

    /// Doubles the row limit after a window that was read.
    fn raise_row_limit(&mut self) {
        let raised = self.row_limit.map(|limit| limit.saturating_mul(2));
        self.row_limit = raised.filter(|limit| *limit < self.sizing().rows());
    }

    /// Records a window for which the server had enough space.
    pub(super) fn record_outcome(&mut self, outcome: WindowOutcome) -> WindowOutcome {
        if outcome != WindowOutcome::TooSlow {
            self.lack_of_space = None;
        }
        outcome
    }

    /// The last window's error, if the server lacked space.
    pub(super) fn take_lack_of_space(&mut self) -> Option<SlotError> {
        self.lack_of_space.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        upto: Lsn(1 << 30),
        rows: 1_000,
        acknowledged_prefix: None,
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
        let rows = |bounds: &WindowBounds<'_>| {
            bounds
                .window_and_timeout(WINDOW, None, Duration::from_secs(60))
                .0
                .rows
        };
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
    fn a_lack_of_space_makes_windows_smaller_down_to_one_transaction() {
        let sizing = Mutex::default();
        let mut bounds = WindowBounds::new("s", &sizing);
        let lack = || SlotError::OutOfSpace {
            slot: "s".into(),
            doing: "peeking a window",
            source: "temp_file_limit".into(),
        };
        let mut tried = Vec::new();
        let failed = loop {
            let window = Window {
                rows: bounds.sizing().rows(),
                ..WINDOW
            };
            let rows = bounds
                .window_and_timeout(window, None, Duration::from_secs(60))
                .0
                .rows;
            tried.push(rows);
            match bounds.shrink_after_lack_of_space(lack(), Lsn(1 << 40), Lsn(1 << 40), rows) {
                Ok(step) => assert_eq!(step, WindowStep::Another),
                Err(error) => break error,
            }
        };
        assert_eq!(tried, [100_000, 6_250, 1_000, 62, 3, 1]);
        assert_eq!(failed.name(), "PostgresFailed");
        assert!(bounds.take_lack_of_space().is_some());
        // After a window that was read, the rows grow again, and the usual size does not change.
        bounds.record_outcome(WindowOutcome::Partial);
        assert!(bounds.take_lack_of_space().is_none());
        let decoded = DecodedLog {
            again_bytes: 0,
            new_bytes: 1,
            time: Duration::ZERO,
        };
        for rows in [2, 4, 8] {
            bounds.adjust(decoded, false, Instant::now(), Duration::from_secs(60));
            assert_eq!(
                bounds
                    .window_and_timeout(WINDOW, None, Duration::from_secs(60))
                    .0
                    .rows,
                rows
            );
        }
        assert_eq!(bounds.sizing().rows(), 1_000);
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
        let (window, time) = bounds.window_and_timeout(WINDOW, Some(&resume), left);
        let acknowledged_prefix = Some(AcknowledgedPrefix { xid: 7, end: Lsn(50) });
        assert_eq!(
            (window.rows, window.acknowledged_prefix),
            (i32::MAX, acknowledged_prefix)
        );
        assert_eq!(time, Duration::from_secs(90));
        // A search reads this transaction alone.
        bounds.continue_search(skipped(), 1_000).unwrap();
        assert_eq!(bounds.window_and_timeout(WINDOW, Some(&resume), left).0.rows, 1);
    }

    #[test]
    fn the_smallest_window_is_an_error_only_after_most_of_the_time() {
        let sizing = Mutex::default();
        let mut bounds = WindowBounds::new("s", &sizing);
        let mut steps = Vec::new();
        for had_most_time in [false, true] {
            // Each step makes the window smaller, up to the smallest one.
            let last = loop {
                match bounds.shrink_after_timeout(Lsn(1 << 40), Lsn(1 << 40), had_most_time) {
                    Ok(WindowStep::Another) => {}
                    last => break last,
                }
            };
            steps.push(last.map_err(|error| error.name()));
        }
        assert_eq!(steps[0], Ok(WindowStep::OutOfTime));
        assert_eq!(
            bounds
                .shrink_after_timeout(Lsn(1 << 40), Lsn(1 << 40), true)
                .unwrap_err()
                .name(),
            "PeekTimeout"
        );
    }
}
