//! The step after each window: another window, a smaller one, or none.

use std::time::{Duration, Instant};

use super::Drain;
use super::backfill::MOST_LAG_BYTES;
use super::window::{LastWindow, WindowOutcome};
use crate::error::Error;
use crate::ports::{PeekRow, PeekRows, Slot, SlotError, StateStore, Stream, TableSource, WalPositions};
use crate::window_sizing::{SentPrefix, SizingStep, TransactionSearch, Window};

/// Next step after a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowStep {
    /// No window: the log was read to its readable end.
    AtTip,
    /// Read another window.
    Another,
    /// No window: the time is over.
    OutOfTime,
}

impl<S: Slot + TableSource, K: Stream, C: StateStore> Drain<'_, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    /// Drains one window.
    ///
    /// `opened` is its start, and `time_left` the time for reading at that moment.
    pub(super) async fn drain_window(
        &mut self,
        window: Window,
        positions: WalPositions,
        opened: Instant,
        time_left: Duration,
    ) -> Result<WindowStep, Error> {
        let confirmed_before = self.confirmed;
        let rows = window.rows;
        let (window, decode_timeout) = self.bounded(window, time_left);
        let outcome = match self.run_window(window, positions.readable, decode_timeout).await {
            Err(Error::Slot(error @ SlotError::PublicationSkipped { .. })) => {
                self.continue_search(error, rows)?;
                return Ok(WindowStep::Another);
            }
            outcome => outcome?,
        };
        self.report_lag(positions);
        match outcome {
            WindowOutcome::OutOfTime => Ok(WindowStep::OutOfTime),
            WindowOutcome::TooSlow => {
                let step = self.sizing().shrink(confirmed_before, positions.restart);
                match step {
                    SizingStep::Smaller => Ok(WindowStep::Another),
                    SizingStep::NextInvocation => Ok(WindowStep::OutOfTime),
                    // Earlier attempts used most of the time. In the next invocation the server has nearly
                    // all of it.
                    SizingStep::Impossible if decode_timeout < self.reading_time / 2 => {
                        Ok(WindowStep::OutOfTime)
                    }
                    SizingStep::Impossible => Err(self.too_slow()),
                }
            }
            WindowOutcome::ReadAgain => Ok(WindowStep::Another),
            WindowOutcome::Whole if window.upto == positions.readable || self.markers.ends_at(window) => {
                Ok(WindowStep::AtTip)
            }
            // The size and the duration of a window of the search say nothing about others.
            WindowOutcome::Whole | WindowOutcome::RowBound if self.search.is_some() => {
                self.search = self.search.and_then(TransactionSearch::next);
                Ok(WindowStep::Another)
            }
            WindowOutcome::Whole | WindowOutcome::RowBound => {
                let time_left = self.budget.reading_time_left(Instant::now());
                let LastWindow { peek, has_rows, .. } = self.last_window;
                match has_rows {
                    true => self.sizing().adjust(peek, opened.elapsed(), time_left),
                    false => self.sizing().adjust_empty(peek, time_left),
                }
                if positions.readable.bytes_since(self.confirmed) < MOST_LAG_BYTES {
                    self.next_chunk().await?;
                }
                Ok(WindowStep::Another)
            }
        }
    }

    /// Starts or continues the search for a transaction.
    ///
    /// The server cannot decode this transaction. `rows` is the row bound of a window without a search.
    ///
    /// # Errors
    /// Returns `error` if no transaction is left before that one.
    fn continue_search(&mut self, error: SlotError, rows: i32) -> Result<(), Error> {
        self.search = match self.search {
            None => Some(TransactionSearch::new(rows)),
            Some(search) if search.rows > 1 => search.next(),
            Some(_) => return Err(error.into()),
        };
        Ok(())
    }

    /// The adjusted window and its decode timeout.
    ///
    /// They are adjusted if a transaction is resumed or searched for.
    ///
    /// The server's row bound includes the rows that it omits, and Spillway never receives these. So a window
    /// with a resumed transaction has only an LSN bound, or ends with that transaction. A smaller window
    /// would not make its transaction smaller, so the server has nearly all of the time to decode it.
    fn bounded(&self, window: Window, time_left: Duration) -> (Window, Duration) {
        let rows = self.search.map(|search| search.rows);
        let Some(resume) = &self.sender.acknowledgements.position().resume else {
            let rows = rows.map_or(window.rows, |rows| rows.min(window.rows));
            return (Window { rows, ..window }, self.sizing().decode_timeout(time_left));
        };
        let sent_prefix = Some(SentPrefix {
            xid: resume.xid,
            before: resume.lsn,
        });
        // The server does not omit the commit, so a window that ends with a transaction has at least one row.
        let window = Window {
            rows: rows.map_or(i32::MAX, |_| 1),
            sent_prefix,
            ..window
        };
        (window, time_left * 9 / 10)
    }
}
