//! One window: its rows are read, its events are sent meanwhile, then the acknowledged position is confirmed.

mod reading;

use std::time::{Duration, Instant};

use super::BackfillRunner;
use super::ahead::AckAheadState;
use super::confirmer::Confirmer;
use super::reader::{HOLD_BYTES, ReaderNeed, ReaderOutput, ReaderRequest, SentHistory, WindowReader};
use super::report::Report;
use super::sender::Sender;
use super::settings::Settings;
use super::stream_routes::StreamRoutes;
use crate::backfill::{ChunkContext, RowRequest};
use crate::base::budget::{Budget, CANCEL_TIME};
use crate::base::clock::now_micros;
use crate::base::lsn::Lsn;
use crate::base::window_sizing::Window;
use crate::catalog::Catalog;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::{AckAhead, AckPosition};
use crate::encode::Envelope;
use crate::error::Error;
use crate::ports::{PeekRow, PeekRows, Slot, SlotError, StateStore, Stream, TableSource, WalPositions};

use reading::{ReadOutcome, WindowReading};

pub(super) use reading::WindowOutcome;

/// Most rows that are taken before the stream's answers are checked.
const ROWS_AT_ONCE: usize = 128;

/// The last window; all zero before the first one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastWindow {
    /// The time that the server needed to decode it.
    pub(super) peek: Duration,
    /// Whether the server sent a row.
    pub(super) has_rows: bool,
    /// The time that it waited for the stream after its last row.
    pub(super) sending: Duration,
}

/// Runs the windows of one drain.
pub(super) struct WindowRunner<'a, S, K, C> {
    pub(super) settings: &'a Settings,
    pub(super) envelope: &'a Envelope,
    pub(super) start: &'a StartPosition,
    pub(super) budget: Budget,
    pub(super) slot: &'a mut S,
    pub(super) sender: Sender<K>,
    pub(super) routes: StreamRoutes,
    pub(super) confirmer: Confirmer<C>,
    pub(super) backfill: Option<BackfillRunner<C>>,
    /// See [`StartPosition::settled`].
    pub(super) settled: Lsn,
    pub(super) last: LastWindow,
    pub(super) report: Report,
}

impl<S: Slot + TableSource, K: Stream, C: StateStore> WindowRunner<'_, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    /// Prepares the first window.
    ///
    /// `ahead` has the stored changes that are acknowledged after the checkpoint's position.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(super) async fn prepare(&mut self, ahead: Option<AckAhead>) -> Result<(), Error> {
        self.confirmer.prove_ahead(self.slot, self.start, ahead).await;
        match &mut self.backfill {
            Some(backfill) => backfill.watch_resumed_table(self.slot, self.budget).await,
            None => Ok(()),
        }
    }

    /// Stores a position as the checkpoint, and waits for it.
    ///
    /// # Errors
    /// As [`Confirmer::store`].
    pub(super) async fn store(&mut self, position: &AckPosition) -> Result<(), Error> {
        self.confirmer.store(self.slot, &self.sender, position).await
    }

    /// Confirms what windows have sent without confirming it.
    ///
    /// # Errors
    /// As [`Confirmer::confirm`].
    pub(super) async fn confirm_deferred(&mut self) -> Result<(), Error> {
        match self.confirmer.has_unconfirmed() {
            true => self.confirmer.confirm(self.slot, &self.sender).await.map(drop),
            false => Ok(()),
        }
    }

    /// Reports how much log is not confirmed, or waits for a standby.
    pub(super) fn report_lag(&mut self, positions: WalPositions) {
        let confirmed = self.confirmer.confirmed;
        self.report.lag_bytes = positions.flush.bytes_since(confirmed);
        let readable = positions.readable.max(confirmed);
        self.report.held_bytes = positions.flush.bytes_since(readable);
    }

    /// Reads one window, sends its events, and confirms the acknowledged position.
    ///
    /// The server must decode the window within `decode_timeout`. Transactions that end after `readable` are
    /// left to a later window.
    pub(super) async fn run(
        &mut self,
        window: Window,
        readable: Lsn,
        decode_timeout: Duration,
    ) -> Result<WindowOutcome, Error> {
        let now = now_micros();
        if let Some(backfill) = &mut self.backfill {
            backfill.refresh_visible(self.slot).await?;
        }
        let Some(mut rows) = self.peek(window, decode_timeout).await? else {
            return Ok(WindowOutcome::TooSlow);
        };
        self.last.has_rows = !rows.is_empty();
        // The catalog is read after the peek, so it contains tables that were created in this window. The
        // server sends the rows meanwhile. A table is added when the first row names it. Without rows the
        // catalog is not needed.
        let catalog = match rows.is_empty() {
            true => Catalog::default(),
            false => self.slot.catalog().await?,
        };
        let history = SentHistory {
            settled: self.settled,
            sent_here: self.confirmer.deferred,
            acknowledged: self.start.acknowledged,
            resume: self.sender.acknowledgements.position().resume.clone(),
            expected: self.confirmer.markers.expected.take(),
            ahead: self.confirmer.ahead.known.clone(),
            upto: readable,
        };
        let mut reader = WindowReader::new(self.settings, self.envelope, catalog, history, now);
        reader.add_first_commits(rows.take_first_commits());
        let mut reading = WindowReading {
            window,
            rows: &mut rows,
            reader,
            events: Vec::new(),
            count: 0,
        };
        let (read, failure) = match self.read(&mut reading).await {
            Ok(read) => (read, None),
            Err(error) => (ReadOutcome::Stopped, Some(error)),
        };
        let mut reader = reading.reader;
        if failure.is_none() {
            reader.end_section(&mut self.sender.acknowledgements, context(&self.backfill));
        }
        self.confirmer.markers.expected = reader.take_expected();
        let has_left_out = reader.has_left_out();
        // The connection runs another statement only after the rows are dropped.
        drop(rows);
        if !read.is_complete() {
            self.cancel_peek().await;
        }
        self.close_window(window, read, has_left_out, failure).await
    }

    /// Peeks a window.
    ///
    /// Returns `None` if the server did not decode it within `decode_timeout`.
    async fn peek(&mut self, window: Window, decode_timeout: Duration) -> Result<Option<S::Rows>, Error> {
        self.report.peeks += 1;
        let time = self.budget.reading_time_left(Instant::now());
        let began = Instant::now();
        let peeked = tokio::time::timeout(decode_timeout, self.slot.peek(window, time)).await;
        self.last.peek = began.elapsed();
        match peeked {
            Ok(Ok(rows)) => Ok(Some(rows)),
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                self.cancel_peek().await;
                Ok(None)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn cancel_peek(&mut self) {
        let _ = tokio::time::timeout(CANCEL_TIME, self.slot.cancel_peek()).await;
    }

    /// Waits for the acknowledgements of a window, and confirms them.
    ///
    /// It also does this after a failure: the stream may accept the events in flight, and a confirmed event
    /// is not sent again. `has_left_out` is true if a transaction is left to a later window. `failure` is the
    /// error that ended reading.
    async fn close_window(
        &mut self,
        window: Window,
        read: ReadOutcome,
        has_left_out: bool,
        failure: Option<Error>,
    ) -> Result<WindowOutcome, Error> {
        let began = Instant::now();
        let (sent, is_all_sent) = self.send_rest().await;
        self.last.sending = began.elapsed();
        let mut failure = failure.or(sent.err());
        if is_all_sent && failure.is_none() {
            match read {
                // The commit record of a transaction that was left out may begin before the window's end. The
                // server never sends such a transaction again after the slot has advanced to that end.
                ReadOutcome::Whole if !has_left_out => {
                    self.sender.acknowledgements.complete_window(window.upto)
                }
                ReadOutcome::Whole | ReadOutcome::RowBound => {}
                // The open transaction resumes where its last section ended.
                ReadOutcome::TooSlow | ReadOutcome::Stopped => {
                    self.sender.acknowledgements.discard_unfinished()
                }
            }
        }
        if read == ReadOutcome::Whole && !has_left_out && failure.is_none() {
            failure = self.overdue_marker(window);
        }
        // After a discontinuity, neither the checkpoint nor the slot may advance.
        if let Some(error @ Error::Discontinuity(_)) = failure {
            return Err(error);
        }
        let is_sent = is_all_sent && failure.is_none();
        if is_sent && self.confirmer.is_deferred && read == ReadOutcome::Whole && !has_left_out {
            self.confirmer.defer(window.upto);
            return Ok(WindowOutcome::Whole);
        }
        let closed = self.close_chunk(is_sent && read.is_complete()).await;
        // The slot advances even if the cursor was not stored. The error is returned after that, and the next
        // invocation reads the chunk again.
        let confirmed = self.confirmer.confirm(self.slot, &self.sender).await;
        let confirmed = match closed {
            Ok(()) => confirmed,
            Err(error) => confirmed.and(Err(error)),
        };
        if let Some(failure) = failure {
            return self.close_failed(failure, confirmed);
        }
        let confirmed = confirmed? && is_all_sent;
        Ok(match read {
            ReadOutcome::Whole if confirmed => WindowOutcome::Whole,
            ReadOutcome::RowBound if confirmed => WindowOutcome::RowBound,
            ReadOutcome::TooSlow if confirmed => WindowOutcome::TooSlow,
            _ => WindowOutcome::OutOfTime,
        })
    }

    /// Ends a window that failed.
    ///
    /// A transaction that could not be resumed is read again from its beginning.
    fn close_failed(
        &mut self,
        failure: Error,
        confirmed: Result<bool, Error>,
    ) -> Result<WindowOutcome, Error> {
        if let Error::NotResumed { .. } = &failure {
            confirmed?;
            tracing::warn!(slot = self.settings.slot, "{}", failure.chain());
            self.sender.acknowledgements.restart_transaction();
            // The log has other rows than those that were sent.
            self.confirmer.ahead = AckAheadState::new(false);
            let position = self.sender.acknowledgements.position().clone();
            self.confirmer.checkpointer.set_back(position);
            return Ok(WindowOutcome::ReadAgain);
        }
        if let Err(error) = confirmed {
            tracing::warn!(
                slot = self.settings.slot,
                error = %error.chain(),
                "acknowledged changes were not confirmed"
            );
        }
        Err(failure)
    }

    /// The error if a complete window lacks the expected marker.
    fn overdue_marker(&self, window: Window) -> Option<Error> {
        let expected = self.confirmer.markers.expected.as_ref()?;
        let is_overdue = expected.flushed <= window.upto;
        is_overdue.then(|| self.confirmer.markers.missing(expected, self.start.acknowledged))
    }

    /// Closes the chunk of the backfill at the end of a window.
    async fn close_chunk(&mut self, is_whole: bool) -> Result<(), Error> {
        let acknowledged = self.sender.acknowledgements.acknowledged();
        match &mut self.backfill {
            Some(backfill) => {
                let closed = backfill.close_chunk(self.slot, is_whole, acknowledged, self.budget);
                closed.await
            }
            None => Ok(()),
        }
    }

    /// Reads rows until the window or the time for reading ends. Sends events meanwhile.
    async fn read(&mut self, reading: &mut WindowReading<'_, S::Rows>) -> Result<ReadOutcome, Error> {
        let stop = tokio::time::sleep_until(self.budget.reading_deadline().into());
        tokio::pin!(stop);
        loop {
            self.sender.update_room(Instant::now());
            if !self.queue_events(reading).await? {
                return Ok(ReadOutcome::Stopped);
            }
            let retry = self.sender.next_try();
            let due = self.confirmer.store_due(&self.sender);
            tokio::select! {
                biased;
                () = &mut stop => return Ok(ReadOutcome::Stopped),
                answer = self.sender.next_answer(), if self.sender.is_waiting() => {
                    self.sender.apply_answer(answer?, &mut self.report)?;
                }
                row = reading.rows.next(), if self.sender.has_room() => {
                    let row = match row {
                        Ok(None) if reading.reader.has_rows(context(&self.backfill)) => continue,
                        Ok(None) => return reading.end_of_rows(),
                        row => row,
                    };
                    if let Some(ended) = self.take_rows(reading, row).await? {
                        return Ok(ended);
                    }
                }
                () = self.confirmer.checkpointer.wait_for_store(), if self.confirmer.checkpointer.is_storing() => {}
                () = sleep_until(due), if due.is_some() => self.confirmer.start_store(self.slot, &self.sender).await?,
                // Only if no row is available: more rows would make the request fuller.
                () = std::future::ready(()), if self.sender.should_send() => {
                    self.sender.send(self.sender.has_room());
                }
                () = sleep_until(retry), if retry.is_some() => self.sender.send(self.sender.has_room()),
            }
        }
    }

    /// Takes a row and those that have arrived after it.
    ///
    /// It takes more rows only while there is room. Many rows arrive at once, and the rest of the loop need
    /// not run for each of them. Returns the outcome if reading has ended.
    async fn take_rows(
        &mut self,
        reading: &mut WindowReading<'_, S::Rows>,
        row: Result<Option<<S::Rows as PeekRows>::Row>, SlotError>,
    ) -> Result<Option<ReadOutcome>, Error> {
        let (mut next, mut taken) = (row, 0);
        loop {
            let row = match next {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(None),
                Err(SlotError::Timeout { .. }) => return Ok(Some(ReadOutcome::TooSlow)),
                Err(error) => return Err(error.into()),
            };
            reading.count = reading.count.saturating_add(1);
            let needs_commits = reading.reader.take(row)? == ReaderNeed::LargeCommits;
            if needs_commits && !self.add_large_commits(reading).await? {
                return Ok(Some(ReadOutcome::Stopped));
            }
            if !self.queue_events(reading).await? {
                return Ok(Some(ReadOutcome::Stopped));
            }
            taken += 1;
            // A row that has arrived is lost unless it is taken.
            if taken == ROWS_AT_ONCE || !self.sender.has_room() {
                return Ok(None);
            }
            next = reading.rows.next_arrived();
        }
    }

    /// Queues the events of the reader's rows, and sends full requests.
    ///
    /// It queues events while there is room. Returns `false` if the time for reading is over.
    async fn queue_events(&mut self, reading: &mut WindowReading<'_, S::Rows>) -> Result<bool, Error> {
        let WindowReading { reader, events, .. } = reading;
        while reader.has_rows(context(&self.backfill)) && self.sender.has_room() {
            let mut out = ReaderOutput {
                acknowledgements: &mut self.sender.acknowledgements,
                events,
                report: &mut self.report,
                chunk: self.backfill.as_mut().map(|backfill| &mut backfill.context),
            };
            let next = reader.next(&mut out);
            if let Some(backfill) = &mut self.backfill
                && backfill.context.take_table_restart()
            {
                let why = "the change of a moved row exceeds a record if it has the values of the row lookup";
                backfill.restart_table(self.slot, why, self.budget).await?;
            }
            // Also after an error: the events of the rows before the failed one are valid.
            let deadline = self.budget.reading_deadline();
            for mut event in events.drain(..) {
                let stream = self.routes.stream_of(&event.event, &mut self.sender, deadline);
                let Some(stream) = stream.await.map_err(Error::Stream)? else {
                    return Ok(false);
                };
                event.stream = stream;
                self.sender.push(event);
            }
            reader.take_spare(&mut self.sender.spare);
            if let Some(request) = next? {
                match request {
                    ReaderRequest::Row(request) => self.look_up(&request).await?,
                    ReaderRequest::Tables(tables) => {
                        self.slot.add_tables(reader.catalog_mut(), &tables).await?;
                    }
                }
                // Each request costs a round trip, and a window may need many of them.
                if Instant::now() >= self.budget.reading_deadline() {
                    return Ok(false);
                }
            }
            while self.sender.can_send_full() {
                self.sender.send(true);
            }
        }
        Ok(true)
    }

    /// Looks up the row whose large values a change lacks.
    async fn look_up(&mut self, request: &RowRequest) -> Result<(), Error> {
        match &mut self.backfill {
            Some(backfill) => backfill.look_up(self.slot, request, self.budget).await,
            None => Ok(()),
        }
    }

    /// Requests the commits of the window's large transactions from the server.
    ///
    /// Returns `false` if the time for reading is over.
    async fn add_large_commits(&mut self, reading: &mut WindowReading<'_, S::Rows>) -> Result<bool, Error> {
        let asked = self.slot.large_commits(reading.window, HOLD_BYTES / 2);
        let Ok(commits) = tokio::time::timeout_at(self.budget.reading_deadline().into(), asked).await else {
            let _ = tokio::time::timeout(CANCEL_TIME, self.slot.cancel_control()).await;
            return Ok(false);
        };
        reading.reader.add_large_commits(commits?)?;
        reading
            .reader
            .end_section(&mut self.sender.acknowledgements, context(&self.backfill));
        Ok(true)
    }

    /// Sends the queued events.
    ///
    /// It ends when all are acknowledged, or when the time for sending is over. Returns the first error, and
    /// whether every event was acknowledged.
    pub(super) async fn send_rest(&mut self) -> (Result<(), Error>, bool) {
        let stop = tokio::time::sleep_until(self.budget.sending_deadline().into());
        tokio::pin!(stop);
        let mut result = Ok(());
        while !self.sender.is_done() {
            while self.sender.can_send_rest() {
                self.sender.send(false);
            }
            let retry = self.sender.next_try();
            let due = self.confirmer.store_due(&self.sender);
            tokio::select! {
                biased;
                () = &mut stop => break,
                answer = self.sender.next_answer(), if self.sender.is_waiting() => {
                    let applied = answer.and_then(|answer| self.sender.apply_answer(answer, &mut self.report));
                    result = result.and(applied);
                }
                () = self.confirmer.checkpointer.wait_for_store(), if self.confirmer.checkpointer.is_storing() => {}
                () = sleep_until(due), if due.is_some() => {
                    if let Err(error) = self.confirmer.start_store(self.slot, &self.sender).await {
                        // The lock may be lost. The loop still waits for events in flight, but starts no
                        // further store.
                        result = result.and(Err(error));
                        self.confirmer.checkpointer.close().await;
                    }
                }
                () = sleep_until(retry), if retry.is_some() => self.sender.send(false),
            }
        }
        (result, self.sender.is_empty())
    }
}

/// The chunk's context, if there is a backfill.
fn context<C>(backfill: &Option<BackfillRunner<C>>) -> Option<&ChunkContext> {
    backfill.as_ref().map(|backfill| &backfill.context)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
