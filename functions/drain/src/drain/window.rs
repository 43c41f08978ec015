//! One window: reads rows, sends their events meanwhile, and confirms the acknowledged position.

mod closing;
mod open_peek;
mod overlap;
mod start;

use std::time::{Duration, Instant};

use super::checkpointer::Checkpointer;
use super::confirmer::Confirmer;
use super::markers::Markers;
use super::reader::{
    Barriers, HOLD_BYTES, ReaderNeed, ReaderOutput, ReaderRequest, SentHistory, WindowReader,
};
use super::report::Report;
use super::sender::{Sender, sleep_until};
use super::settings::Settings;
use super::stream_routes::StreamRoutes;
use super::{BackfillRunner, DrainPorts, DrainTask};
use crate::backfill::{ChunkContext, RowRequest};
use crate::base::budget::{Budget, CANCEL_TIME};
use crate::base::clock::now_micros;
use crate::base::lsn::Lsn;
use crate::base::window::Window;
use crate::catalog::Catalog;
use crate::continuity::StartPosition;
use crate::continuity::checkpoint::{AckPosition, ResumePoint};
use crate::encode::Envelope;
use crate::error::Error;
use crate::ports::{PeekRows, Slot, SlotError, StateStore, Stream, TableSource, WalPositions};

use open_peek::{OpenPeek, ReadOutcome};

use closing::WindowEnd;
pub(super) use closing::WindowOutcome;

/// Most rows that are processed between two checks for answers.
const ROWS_AT_ONCE: usize = 128;

/// The last window; all zero before the first one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastWindow {
    /// The time that the server needed to decode it.
    pub(super) peek: Duration,
    /// Whether the server sent a row.
    pub(super) has_rows: bool,
    /// The server's time for its peeks: [`WindowRunner::take_server_time`] resets it.
    pub(super) polling: Duration,
}

/// Runs the windows of one drain.
pub(super) struct WindowRunner<'a, S, K, C> {
    pub(super) settings: &'a Settings,
    envelope: &'a Envelope,
    start: &'a StartPosition,
    pub(super) budget: Budget,
    pub(super) slot: &'a mut S,
    pub(super) sender: Sender<K>,
    routes: StreamRoutes,
    barriers: Barriers,
    pub(super) confirmer: Confirmer<C>,
    pub(super) backfill: Option<BackfillRunner<C>>,
    /// See [`StartPosition::settled`].
    settled: Lsn,
    pub(super) last: LastWindow,
    pub(super) report: Report,
}

impl<'a, S: Slot + TableSource, K: Stream, C: StateStore> WindowRunner<'a, S, K, C> {
    /// A runner before the first window.
    pub(super) fn new(ports: DrainPorts<'a, S, K, C>, task: DrainTask<'a>) -> Self {
        let (settings, start, budget) = (task.settings, task.start, task.budget);
        // The stream has the transactions up to `settled`, so the acknowledged position starts there. If the
        // expected marker is before `settled`, the acknowledged position starts at the slot's position. A
        // later start would let the slot pass the marker before a window has returned the marker.
        let read_from = match &start.expected {
            Some(marker) if marker.lsn < start.settled => start.confirmed,
            _ => start.settled,
        };
        let position = |commit_end| AckPosition {
            commit_end,
            resume: start.resume.clone(),
        };
        let stored = start.has_checkpoint.then(|| position(start.acknowledged));
        let markers = Markers::new(settings, task.checkpoint.marker.as_ref(), start.expected.clone());
        let checkpointer = Checkpointer::new(
            ports.checkpoint_store,
            task.checkpoint,
            stored,
            task.settings_hash,
        );
        let stores_ahead = settings.markers && ports.backfill.is_none();
        WindowRunner {
            settings,
            envelope: task.envelope,
            start,
            budget,
            slot: ports.slot,
            routes: StreamRoutes::new(settings, ports.stream.name()),
            barriers: Barriers::default(),
            sender: Sender::new(
                ports.stream,
                settings,
                position(read_from),
                budget.sending_deadline(),
            ),
            confirmer: Confirmer::new(checkpointer, markers, start.confirmed, budget, stores_ahead),
            backfill: ports.backfill,
            settled: start.settled,
            last: LastWindow::default(),
            report: Report {
                action: "drain",
                slot: settings.slot.clone(),
                plugin: settings.plugin.name(),
                from: start.acknowledged,
                to: start.acknowledged,
                ..Report::default()
            },
        }
    }

    /// Stores a position as the checkpoint, and waits for it.
    ///
    /// # Errors
    /// As [`Confirmer::store`].
    pub(super) async fn store(&mut self, position: &AckPosition) -> Result<(), Error> {
        self.confirmer.store(self.slot, &self.sender, position).await
    }

    /// Sends the events of unconfirmed windows, and confirms them.
    ///
    /// # Errors
    /// The stream failed definitely. Otherwise as [`Confirmer::confirm`].
    pub(super) async fn confirm_sent(&mut self) -> Result<(), Error> {
        if !self.confirmer.has_unconfirmed_events() {
            return Ok(());
        }
        let (sent, _) = self.send_rest().await;
        let advanced = self.confirmer.confirm(self.slot, &self.sender).await;
        sent.and(advanced.map(drop))
    }

    /// The resume point of the next window.
    ///
    /// `None` if no transaction was partly sent. The acknowledged position may still have a resume point
    /// inside of a transaction that an earlier window has queued completely. That one is not used.
    pub(super) fn resume_point(&self) -> Option<&ResumePoint> {
        let resume = self.sender.acknowledgements.position().resume.as_ref();
        resume.filter(|resume| resume.commit_end > self.confirmer.queued_upto())
    }

    /// Reports the bytes of unconfirmed log, and of unreadable log.
    pub(super) fn report_lag(&mut self, positions: WalPositions) {
        let confirmed = self.confirmer.confirmed();
        self.report.lag_bytes = Some(positions.flush.bytes_since(confirmed));
        let readable = positions.readable.max(confirmed);
        self.report.held_bytes = positions.flush.bytes_since(readable);
    }

    /// Bytes of readable log after the slot's position.
    pub(super) fn unread_bytes(&self, positions: WalPositions) -> u64 {
        positions.readable.bytes_since(self.confirmer.confirmed())
    }

    /// Returns the server's time for peeks and advances since the last call.
    pub(super) fn take_server_time(&mut self) -> Duration {
        std::mem::take(&mut self.last.polling) + self.confirmer.take_advance_duration()
    }

    /// The drain's report at its end.
    pub(super) async fn into_report(mut self) -> Report {
        self.confirmer.close().await;
        let stored = self.confirmer.stored();
        self.report.to = stored.map_or(self.start.acknowledged, |stored| stored.commit_end);
        self.report
            .set_stored_counts(self.confirmer.stored_counts(), now_micros());
        self.report.backfill = self.backfill.as_ref().map(BackfillRunner::report);
        self.report
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
        if self.sender.is_empty() {
            self.barriers = Barriers::default();
        }
        if let Some(backfill) = &mut self.backfill {
            backfill.refresh_visible(self.slot).await?;
        }
        let Some(mut rows) = self.peek(window, decode_timeout).await? else {
            return Ok(WindowOutcome::TooSlow);
        };
        self.last.has_rows = !rows.is_empty();
        // The catalog is created after the peek, while the server sends the rows. At first it has no tables.
        // A table is read when a row first names it, so tables that were created in this window are found.
        // Without rows, no catalog is needed.
        let catalog = match rows.is_empty() {
            true => Catalog::default(),
            false => self.slot.catalog().await?,
        };
        let history = self.history(readable);
        let mut reader = WindowReader::new(self.settings, self.envelope, catalog, history, now);
        reader.add_first_commits(rows.take_first_commits());
        let mut peek = OpenPeek {
            window,
            rows: &mut rows,
            reader,
            events: Vec::new(),
            count: 0,
        };
        let (read, failure) = match self.read(&mut peek).await {
            Ok(read) => (read, None),
            Err(error) => (ReadOutcome::Stopped, Some(error)),
        };
        let mut reader = peek.reader;
        if failure.is_none() {
            reader.end_section(&mut self.sender.acknowledgements, context(&self.backfill));
        }
        let has_left_out = reader.has_left_out();
        // The connection runs another statement only after the rows are dropped.
        drop(rows);
        if !read.is_complete() {
            self.cancel_peek().await;
        }
        let end = WindowEnd {
            window,
            read,
            has_left_out,
            readable,
        };
        self.close(end, failure).await
    }

    /// The history for the reader of the next window.
    fn history(&self, readable: Lsn) -> SentHistory {
        SentHistory {
            settled: self.settled,
            queued_upto: self.confirmer.queued_upto(),
            acknowledged: self.start.acknowledged,
            resume: self.resume_point().cloned(),
            expected: self.confirmer.markers.expected().cloned(),
            ahead: self.confirmer.known_ahead(),
            readable,
        }
    }

    /// Peeks a window. Sends the events of the window before meanwhile.
    ///
    /// Returns `None` if the server did not decode it within `decode_timeout`.
    async fn peek(&mut self, window: Window, decode_timeout: Duration) -> Result<Option<S::Rows>, Error> {
        self.report.peeks += 1;
        let time = self.budget.reading_time_left(Instant::now());
        let began = Instant::now();
        let peek = tokio::time::timeout(decode_timeout, self.slot.peek(window, time));
        let peeked = self.sender.send_while(peek, &mut self.report).await;
        self.last.peek = began.elapsed();
        self.last.polling += self.last.peek;
        match peeked {
            Ok(Ok(Ok(rows))) => Ok(Some(rows)),
            Ok(Err(_) | Ok(Err(SlotError::Timeout { .. }))) => {
                self.cancel_peek().await;
                Ok(None)
            }
            Ok(Ok(Err(error))) => Err(error.into()),
            Err(error) => {
                self.cancel_peek().await;
                Err(error)
            }
        }
    }

    async fn cancel_peek(&mut self) {
        let _ = tokio::time::timeout(CANCEL_TIME, self.slot.cancel_peek()).await;
    }

    /// Reads rows until the window or the time for reading ends. Sends events meanwhile.
    async fn read(&mut self, peek: &mut OpenPeek<'_, S::Rows>) -> Result<ReadOutcome, Error> {
        let stop = tokio::time::sleep_until(self.budget.reading_deadline().into());
        tokio::pin!(stop);
        loop {
            self.sender.update_bounds(Instant::now());
            if !self.queue_events(peek).await? {
                return Ok(ReadOutcome::Stopped);
            }
            // An unconfirmed window stores no checkpoint. If it continued, the next tick might send the
            // section again.
            let has_resume_point = self.sender.acknowledgements.position().resume.is_some();
            if self.confirmer.is_unconfirmed() && has_resume_point && peek.reader.may_have_sections() {
                return Ok(ReadOutcome::SectionSent);
            }
            let retry = self.sender.next_try();
            let due = self.confirmer.store_due(&self.sender);
            tokio::select! {
                biased;
                () = &mut stop => return Ok(ReadOutcome::Stopped),
                answer = self.sender.next_answer(), if self.sender.is_waiting() => {
                    self.sender.apply_answer(answer?, &mut self.report)?;
                }
                row = peek.rows.next(), if self.sender.has_room() => {
                    let row = match row {
                        Ok(None) if peek.reader.has_rows(context(&self.backfill)) => continue,
                        Ok(None) => return peek.end_of_rows(),
                        row => row,
                    };
                    if let Some(ended) = self.take_rows(peek, row).await? {
                        return Ok(ended);
                    }
                }
                () = self.confirmer.wait_for_store(), if self.confirmer.is_storing() => {}
                () = sleep_until(due), if due.is_some() => {
                    self.confirmer.start_store(self.slot, &self.sender).await?;
                }
                // Only if no row is available: more rows would add records to the request.
                () = std::future::ready(()), if self.sender.should_send() => {
                    self.sender.send(self.sender.has_room());
                }
                () = sleep_until(retry), if retry.is_some() => self.sender.send(self.sender.has_room()),
            }
        }
    }

    /// Processes a row, and the rows that have arrived after it.
    ///
    /// Further rows are processed only while there is room. Rows arrive in batches. To run the whole loop of
    /// [`WindowRunner::read`] for each row would be slow. Returns the outcome if reading has ended.
    async fn take_rows(
        &mut self,
        peek: &mut OpenPeek<'_, S::Rows>,
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
            peek.count = peek.count.saturating_add(1);
            let needs_commits = peek.reader.push_row(row)? == ReaderNeed::LargeCommits;
            if needs_commits && !self.add_large_commits(peek).await? {
                return Ok(Some(ReadOutcome::Stopped));
            }
            if !self.queue_events(peek).await? {
                return Ok(Some(ReadOutcome::Stopped));
            }
            taken += 1;
            // Checked before `next_arrived`: a row that it returns must be processed.
            if taken == ROWS_AT_ONCE || !self.sender.has_room() {
                return Ok(None);
            }
            next = peek.rows.next_arrived();
        }
    }

    /// Queues the events of the reader's rows, and sends full requests.
    ///
    /// It queues events while there is room. Returns `false` if the time for reading is over.
    async fn queue_events(&mut self, peek: &mut OpenPeek<'_, S::Rows>) -> Result<bool, Error> {
        let OpenPeek { reader, events, .. } = peek;
        while reader.has_rows(context(&self.backfill)) && self.sender.has_room() {
            let mut out = ReaderOutput {
                acknowledgements: &mut self.sender.acknowledgements,
                events,
                barriers: &mut self.barriers,
                report: &mut self.report,
                chunk: self.backfill.as_mut().map(|backfill| &mut backfill.context),
            };
            let next = reader.next(&mut out);
            if !reader.expects_marker() {
                self.confirmer.markers.clear_expected();
            }
            if let Some(backfill) = &mut self.backfill
                && let Some(why) = backfill.context.take_restart_reason()
            {
                backfill.restart_table(self.slot, why, self.budget).await?;
            }
            // After an error, these events are queued, too. They are earlier events of the failed row, and
            // `reader.next` has already counted them.
            let deadline = self.budget.reading_deadline();
            for mut event in events.drain(..) {
                let stream = self.routes.stream_of(&event.event, &mut self.sender, deadline);
                let Some(stream) = stream.await.map_err(Error::Stream)? else {
                    return Ok(false);
                };
                event.stream = stream;
                self.sender.push(event);
            }
            reader.refill_spare(&mut self.sender.spare);
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
    async fn add_large_commits(&mut self, peek: &mut OpenPeek<'_, S::Rows>) -> Result<bool, Error> {
        let began = Instant::now();
        let asked = self.slot.large_commits(peek.window, HOLD_BYTES / 2);
        let Ok(commits) = tokio::time::timeout_at(self.budget.reading_deadline().into(), asked).await else {
            let _ = tokio::time::timeout(CANCEL_TIME, self.slot.cancel_lock_session()).await;
            return Ok(false);
        };
        self.last.polling += began.elapsed();
        peek.reader.add_large_commits(commits?)?;
        peek.reader
            .end_section(&mut self.sender.acknowledgements, context(&self.backfill));
        Ok(true)
    }

    /// Sends the queued events.
    ///
    /// It ends when all are acknowledged, when sending has stopped, or when the time for sending is
    /// over. Returns the first error, and whether every event was acknowledged.
    pub(super) async fn send_rest(&mut self) -> (Result<(), Error>, bool) {
        self.send_until(|_| false).await
    }

    /// As [`WindowRunner::send_rest`], and also ends once `is_enough`.
    async fn send_until(&mut self, is_enough: impl Fn(&Self) -> bool) -> (Result<(), Error>, bool) {
        let stop = tokio::time::sleep_until(self.budget.sending_deadline().into());
        tokio::pin!(stop);
        let mut result = Ok(());
        while !self.sender.is_done() && !is_enough(self) {
            while self.sender.can_send_any() {
                self.sender.send(false);
            }
            let retry = self.sender.next_try();
            let due = self.confirmer.store_due(&self.sender);
            tokio::select! {
                biased;
                () = &mut stop => break,
                answer = self.sender.next_answer(), if self.sender.is_waiting() => {
                    let report = &mut self.report;
                    let applied = answer.and_then(|answer| self.sender.apply_answer(answer, report));
                    result = result.and(applied);
                }
                () = self.confirmer.wait_for_store(), if self.confirmer.is_storing() => {}
                () = sleep_until(due), if due.is_some() => {
                    if let Err(error) = self.confirmer.start_store(self.slot, &self.sender).await {
                        // The lock may be lost. The loop still sends the queued events and waits for answers,
                        // but starts no further store.
                        result = result.and(Err(error));
                        self.confirmer.close().await;
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
