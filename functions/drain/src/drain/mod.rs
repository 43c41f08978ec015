//! The drain loop: peeks windows, sends their events, stores the checkpoint, and advances the slot.
//!
//! Reading and sending overlap. Bytes that were read and not yet acknowledged are bounded. At the bound the
//! loop reads no more rows.

mod ahead;
mod backfill;
mod checkpointer;
mod confirmer;
mod key_changes;
mod markers;
pub(crate) mod reader;
pub mod report;
mod requested_events;
mod row_lanes;
mod sender;
mod settings;
mod stream_routes;
mod task;
#[cfg(test)]
mod tests;
mod throughput;
mod tip;
mod window;
mod window_bounds;

use std::time::{Duration, Instant};

use crate::base::clock::now_micros;
use crate::base::window_sizing::Window;
use crate::continuity::checkpoint::{AckAhead, AckPosition};
use crate::encode::Event;
use crate::error::Error;
use crate::pack::{MAIN_STREAM, QueuedEvent};
use crate::ports::{PeekRow, PeekRows, Slot, SlotError, StateStore, Stream, StreamError};
use crate::ports::{TableSource, WalPositions};

use backfill::{BackfillStep, BackfillWait, ChunkEnvironment, MOST_LAG_BYTES};
use checkpointer::Checkpointer;
use confirmer::Confirmer;
use markers::HistoryCheck;
use report::{Report, StopReason};
use sender::Sender;
use tip::TipPolling;
use window::{LastWindow, WindowOutcome, WindowRunner};
use window_bounds::{WindowBounds, WindowStep};

pub use backfill::BackfillRunner;
pub use settings::{AGGREGATE_BYTES, REQUEST, Settings};
pub use stream_routes::{MOST_STREAMS, check_name};
pub(crate) use stream_routes::{StreamOpener, StreamRoutes};
pub use task::{DrainOutcome, DrainPorts, DrainTask};

/// Most bytes of new log that are left to the next tick.
///
/// Every peek decodes again from `restart_lsn`, so a peek for less log is too expensive.
const TIP_BYTES: u64 = 1 << 20;

/// Least time for reading with which a window is opened.
const WINDOW_MIN_TIME: Duration = Duration::from_millis(250);

/// Drains until the slot is empty or the time is over.
///
/// A failed window still stores the acknowledged position, and advances the slot past the acknowledged
/// transactions. After a discontinuity, neither the checkpoint nor the slot advances.
pub async fn drain<S: Slot + TableSource, K: Stream, C: StateStore>(
    ports: DrainPorts<'_, S, K, C>,
    task: DrainTask<'_>,
) -> DrainOutcome {
    let (first_event, ahead) = (task.first_event.clone(), task.ahead.clone());
    let start = task.start;
    let mut drain = Drain::new(ports, task);
    let result = drain.run(first_event, ahead).await;
    let WindowRunner {
        mut confirmer,
        mut report,
        sender,
        backfill,
        ..
    } = drain.windows;
    confirmer.checkpointer.close().await;
    let stored = confirmer.checkpointer.stored();
    report.to = stored.map_or(start.acknowledged, |stored| stored.commit_end);
    let delivered = sender.acknowledgements.delivered();
    report.confirm(delivered, now_micros());
    // A drain that failed is not empty.
    if result.is_err() {
        report.behind_seconds = report.behind_seconds.filter(|seconds| *seconds > 0);
    }
    report.backfill = backfill.as_ref().map(BackfillRunner::report);
    DrainOutcome { report, result }
}

/// The loop of one drain: windows, chunks of a backfill between them, polls at the end of the log.
struct Drain<'a, S, K, C> {
    windows: WindowRunner<'a, S, K, C>,
    bounds: WindowBounds<'a>,
    tip: TipPolling,
    backfill_wait: BackfillWait,
    /// End of the polling, if the invocation's time is not over before.
    linger_until: Instant,
    /// Time for reading when the drain began.
    reading_time: Duration,
}

impl<'a, S: Slot + TableSource, K: Stream, C: StateStore> Drain<'a, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    fn new(ports: DrainPorts<'a, S, K, C>, task: DrainTask<'a>) -> Self {
        let began = Instant::now();
        let (settings, start, budget) = (task.settings, task.start, task.budget);
        let reading_time = budget.reading_time_left(began);
        // Transactions up to `settled` were sent, so the drain starts after them. If the expected marker is
        // before `settled`, the drain starts at the slot's position instead.
        let read_from = match &start.expected {
            Some(marker) if marker.lsn < start.settled => start.confirmed,
            _ => start.settled,
        };
        let position = |commit_end| AckPosition {
            commit_end,
            resume: start.resume.clone(),
        };
        let stored = start.stored.then(|| position(start.acknowledged));
        let checkpointer =
            Checkpointer::new(ports.checkpoint_store, task.checkpoint, stored, task.rules_hash);
        let stores_ahead = settings.markers && ports.backfill.is_none();
        let windows = WindowRunner {
            settings,
            envelope: task.envelope,
            start,
            budget,
            slot: ports.slot,
            routes: StreamRoutes::new(settings, ports.stream.name()),
            sender: Sender::new(
                ports.stream,
                settings,
                position(read_from),
                budget.sending_deadline(),
            ),
            confirmer: Confirmer::new(settings, start, budget, checkpointer, stores_ahead),
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
        };
        Drain {
            windows,
            bounds: WindowBounds::new(&settings.slot, ports.sizing),
            tip: TipPolling::new(settings.poll_share),
            backfill_wait: BackfillWait::new(reading_time),
            linger_until: began + settings.linger,
            reading_time,
        }
    }

    async fn run(&mut self, first_event: Option<Event>, ahead: Option<AckAhead>) -> Result<(), Error> {
        if self.windows.confirmer.checkpointer.stored().is_none() {
            self.store_first_position(first_event).await?;
        }
        self.check_history().await?;
        self.windows.prepare(ahead).await?;
        loop {
            let time_left = self.reading_time_left();
            if time_left < WINDOW_MIN_TIME {
                return self.stop_at_deadline().await;
            }
            let opened = Instant::now();
            let (positions, window) = self.next_window().await?;
            self.windows.report_lag(positions);
            let confirmer = &self.windows.confirmer;
            let has_new = window.upto > confirmer.sent();
            if has_new || (window.upto > confirmer.confirmed && !confirmer.is_deferred) {
                match self.drain_window(window, positions, opened, time_left).await? {
                    WindowStep::AtTip => {}
                    WindowStep::Another => continue,
                    WindowStep::OutOfTime => return self.stop_at_deadline().await,
                }
            }
            if self.has_backlog().await? {
                continue;
            }
            match self.step_backfill().await? {
                BackfillStep::WatermarkEmitted => {
                    self.backfill_wait.end();
                    continue;
                }
                BackfillStep::Blocked | BackfillStep::Pending if !self.backfill_wait.is_over() => continue,
                BackfillStep::OutOfTime => return self.stop_at_deadline().await,
                BackfillStep::Blocked | BackfillStep::Pending | BackfillStep::Idle => {}
            }
            if !self.linger(opened, positions, has_new).await? {
                self.windows.confirm_deferred().await?;
                self.windows.report.stopped = StopReason::Empty;
                return Ok(());
            }
        }
    }

    /// Time that is left for reading.
    fn reading_time_left(&self) -> Duration {
        self.windows.budget.reading_time_left(Instant::now())
    }

    /// Positions of the log, and the next window.
    ///
    /// A window that is not confirmed has no marker. A backfill confirms each window, since its cursor is
    /// stored with it. A resumed transaction needs a window of its own.
    async fn next_window(&mut self) -> Result<(WalPositions, Window), Error> {
        let sizing = self.bounds.sizing();
        let is_searching = self.bounds.is_searching();
        let windows = &mut self.windows;
        let confirmer = &mut windows.confirmer;
        let may_defer = self.tip.may_defer(self.linger_until, confirmer.confirmed_at);
        confirmer.is_deferred = may_defer
            && !is_searching
            && windows.backfill.is_none()
            && confirmer.markers.expected.is_none()
            && windows.sender.acknowledgements.position().resume.is_none();
        let confirmed = confirmer.confirmed;
        if confirmer.is_deferred {
            let positions = windows.slot.wal_positions().await?;
            let window = sizing.next_window(confirmed, positions.readable, positions.restart);
            return Ok((positions, window));
        }
        let markers = &mut confirmer.markers;
        let next = markers.next_window(windows.slot, sizing, confirmed, windows.budget);
        next.await
    }

    /// Drains one window.
    ///
    /// `opened` is its start, and `time_left` the time for reading at that moment.
    async fn drain_window(
        &mut self,
        window: Window,
        positions: WalPositions,
        opened: Instant,
        time_left: Duration,
    ) -> Result<WindowStep, Error> {
        let confirmed_before = self.windows.confirmer.confirmed;
        let rows = window.rows;
        let resume = self.windows.sender.acknowledgements.position().resume.as_ref();
        let (window, decode_timeout) = self.bounds.adjusted(window, resume, time_left);
        let ran = self.windows.run(window, positions.readable, decode_timeout);
        let outcome = match ran.await {
            Err(Error::Slot(error @ SlotError::PublicationSkipped { .. })) => {
                self.bounds.continue_search(error, rows)?;
                return Ok(WindowStep::Another);
            }
            outcome => outcome?,
        };
        self.windows.report_lag(positions);
        let confirmer = &self.windows.confirmer;
        match outcome {
            WindowOutcome::OutOfTime => Ok(WindowStep::OutOfTime),
            WindowOutcome::TooSlow => {
                let had_most_time = decode_timeout >= self.reading_time / 2;
                self.bounds
                    .shrink(confirmed_before, positions.restart, had_most_time)
            }
            WindowOutcome::ReadAgain => Ok(WindowStep::Another),
            WindowOutcome::Whole
                if window.upto == positions.readable || confirmer.markers.ends_at(window) =>
            {
                Ok(WindowStep::AtTip)
            }
            WindowOutcome::Whole | WindowOutcome::RowBound => {
                let was_search = self.bounds.is_searching();
                let time_left = self.reading_time_left();
                self.bounds.add_window(self.windows.last, opened, time_left);
                let unread = positions.readable.bytes_since(self.windows.confirmer.confirmed);
                if !was_search && unread < MOST_LAG_BYTES {
                    self.next_chunk().await?;
                }
                Ok(WindowStep::Another)
            }
        }
    }

    /// Waits at the end of the log for new changes. Returns whether to open another window.
    ///
    /// `opened` and `positions` are the start and the positions of the last window. `found` is whether there
    /// was new log.
    async fn linger(&mut self, opened: Instant, positions: WalPositions, found: bool) -> Result<bool, Error> {
        let polled = opened
            .elapsed()
            .saturating_sub(std::mem::take(&mut self.windows.last.sending));
        let last_moment = self.windows.budget.reading_deadline() - WINDOW_MIN_TIME;
        let until = self.linger_until.min(last_moment);
        // After the last pause every window is confirmed, and the next one confirms what was sent before. On
        // a busy machine a pause may last longer. The end of the log was reached even so.
        if self.tip.pause(polled, found, until).await || self.windows.confirmer.has_unconfirmed() {
            return Ok(self.reading_time_left() >= WINDOW_MIN_TIME);
        }
        // The positions were read a moment ago, and there was nothing to read.
        if !found {
            return Ok(false);
        }
        // Another peek is worthwhile if the new log is more than a twentieth of the log that it decodes
        // again.
        let decoded_again = positions.flush.bytes_since(positions.restart) / 20;
        let positions = self.windows.slot.wal_positions().await?;
        self.windows.report_lag(positions);
        let unread = positions.readable.bytes_since(self.windows.confirmer.confirmed);
        Ok(unread > TIP_BYTES.max(decoded_again))
    }

    /// Stores the first position of the drain.
    ///
    /// It is stored if there is no checkpoint, or if the operator accepted a gap. `first_event` reports an
    /// accepted gap. The stream must acknowledge it before the position is stored.
    async fn store_first_position(&mut self, first_event: Option<Event>) -> Result<(), Error> {
        if let Some(event) = first_event {
            let acknowledgements = &mut self.windows.sender.acknowledgements;
            let transaction = acknowledgements.begin();
            acknowledgements.add_event(transaction);
            acknowledgements.commit(transaction, self.windows.start.acknowledged);
            self.windows.report.events += 1;
            self.windows.sender.push(QueuedEvent {
                event,
                transaction,
                change_positions: 1,
                stream: MAIN_STREAM,
            });
            let (result, is_all_sent) = self.windows.send_rest().await;
            result?;
            if !is_all_sent {
                let late = StreamError::Unavailable {
                    stream: self.windows.sender.stream_name(),
                    source: "it did not acknowledge the first event in time".into(),
                };
                return Err(Error::Stream(self.windows.sender.take_trouble().unwrap_or(late)));
            }
        }
        self.windows.store(&self.windows.start.acknowledged.into()).await
    }

    /// Searches for the last marker if the history may differ.
    ///
    /// The slot may then have another history than the checkpoint. This is possible after a promotion. It is
    /// also possible if transactions are to be skipped. A server that was restored from an older copy of its
    /// disk has the same timeline, and its log may have passed the checkpoint's position again.
    async fn check_history(&mut self) -> Result<(), Error> {
        let skips = self.windows.start.confirmed < self.windows.start.acknowledged
            && self.windows.start.expected.is_some();
        if !self.windows.start.promoted && !skips {
            return Ok(());
        }
        let windows = &mut self.windows;
        let markers = &windows.confirmer.markers;
        let check = markers.check_history(windows.slot, windows.settings, windows.start, windows.budget);
        let HistoryCheck::Settled(settled) = check.await? else {
            return Ok(());
        };
        self.windows.settled = settled;
        let position = AckPosition::from(settled);
        self.windows.sender.acknowledgements.complete_window(settled);
        self.windows.confirmer.checkpointer.set_back(position.clone());
        self.windows.store(&position).await
    }

    /// Whether a running backfill must wait because much log is unread.
    ///
    /// The positions are read again, since the last window may have taken long.
    async fn has_backlog(&mut self) -> Result<bool, Error> {
        if !self
            .windows
            .backfill
            .as_ref()
            .is_some_and(BackfillRunner::is_running)
        {
            return Ok(false);
        }
        let positions = self.windows.slot.wal_positions().await?;
        Ok(positions.readable.bytes_since(self.windows.confirmer.confirmed) >= MOST_LAG_BYTES)
    }

    /// Reads the next chunk of the backfill, if one is running.
    async fn next_chunk(&mut self) -> Result<BackfillStep, Error> {
        let environment = ChunkEnvironment {
            settings: self.windows.settings,
            budget: self.windows.budget,
            acknowledged: self.windows.sender.acknowledgements.position().commit_end,
            reading_time: self.reading_time,
            peek_took: self.windows.last.peek,
        };
        match &mut self.windows.backfill {
            Some(backfill) => backfill.next_chunk(self.windows.slot, &environment).await,
            None => Ok(BackfillStep::Idle),
        }
    }

    /// Runs a step of the backfill. While it is blocked, pauses and tries again.
    async fn step_backfill(&mut self) -> Result<BackfillStep, Error> {
        let mut step = self.next_chunk().await?;
        self.backfill_wait.start_round();
        while matches!(step, BackfillStep::Blocked | BackfillStep::Pending) {
            let Some(pause) = self.backfill_wait.next_pause() else {
                return Ok(step);
            };
            tokio::time::sleep(pause).await;
            if step == BackfillStep::Pending || self.backfill_wait.is_round_over() {
                return Ok(step);
            }
            step = self.next_chunk().await?;
        }
        Ok(step)
    }

    /// Stops because the time is over.
    ///
    /// Fails if events are left and the stream acknowledged no record since its last failure. A report would
    /// hide that failure, since it would look like the report of a backlog.
    async fn stop_at_deadline(&mut self) -> Result<(), Error> {
        self.windows.confirm_deferred().await?;
        self.windows.report.stopped = StopReason::Deadline;
        match self.windows.sender.take_trouble() {
            Some(error) if !self.windows.sender.is_empty() => Err(Error::Stream(error)),
            _ => Ok(()),
        }
    }
}
