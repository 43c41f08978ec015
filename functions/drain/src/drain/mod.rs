//! The drain loop: peeks windows, sends their events, stores the checkpoint, and advances the slot.
//!
//! Reading and sending overlap. Bytes that were read and not yet acknowledged are bounded. At the bound the
//! loop reads no more rows.

mod ack_ahead;
mod backfill;
mod checkpointer;
mod confirmer;
mod markers;
pub(crate) mod reader;
pub mod report;
mod sender;
mod settings;
mod stream_routes;
mod task;
#[cfg(test)]
mod tests;
mod tip;
mod window;
mod window_bounds;
pub mod window_sizing;

use std::time::{Duration, Instant};

use crate::base::window::Window;
use crate::continuity::checkpoint::AckAhead;
use crate::encode::Event;
use crate::error::Error;
use crate::ports::{Slot, SlotError, StateStore, Stream, TableSource, WalPositions};

use backfill::{BackfillStep, BackfillWait, ChunkEnvironment, MAX_LAG_BYTES};
use report::StopReason;
use tip::TipPolling;
use window::{WindowOutcome, WindowRunner};
use window_bounds::{WindowBounds, WindowStep};
use window_sizing::DecodedLog;

pub use backfill::BackfillRunner;
pub use settings::{AGGREGATE_BYTES, REQUEST_LIMITS, Settings};
pub use stream_routes::{MAX_STREAMS, check_stream_name};
pub(crate) use stream_routes::{StreamOpener, StreamRoutes};
pub use task::{DrainOutcome, DrainPorts, DrainTask};

/// Most bytes of new log that are left to the next tick.
///
/// Every peek decodes again from `restart_lsn`, so another peek for fewer bytes is too expensive. The limit
/// is higher if a peek decodes much log again: see `Drain::linger`.
const TIP_BYTES: u64 = 1 << 20;

/// Least reading time that must be left to open a window.
const MIN_WINDOW_TIME: Duration = Duration::from_millis(250);

/// Row bound of an unconfirmed window.
///
/// The next confirmed window reads the same log again. If the drain ends before that window, the next tick
/// reads this log again.
const MAX_UNCONFIRMED_ROWS: i32 = 20_000;

/// Drains until little readable log is left, or the time is over.
///
/// After a failed window, the drain still stores the acknowledged position, and advances the slot past the
/// acknowledged transactions. After a discontinuity, neither the checkpoint nor the slot advances.
pub async fn drain<S: Slot + TableSource, K: Stream, C: StateStore>(
    ports: DrainPorts<'_, S, K, C>,
    task: DrainTask<'_>,
) -> DrainOutcome {
    let (first_event, ahead) = (task.first_event.clone(), task.ahead.clone());
    task.envelope.forget_definitions_after(task.start.acknowledged);
    let mut drain = Drain::new(ports, task);
    let result = drain.run(first_event, ahead).await;
    if let Err(error) = &result
        && !error.is_discontinuity()
    {
        drain.confirm_after_failure().await;
    }
    let mut report = drain.runner.into_report().await;
    // After a failure, the report must not say that the stream is 0 s behind.
    if result.is_err() {
        report.behind_seconds = report.behind_seconds.filter(|seconds| *seconds > 0);
    }
    DrainOutcome { report, result }
}

/// The loop of one drain.
///
/// It runs windows. Between two windows it reads a chunk of the backfill. At the end of the log it polls.
struct Drain<'a, S, K, C> {
    runner: WindowRunner<'a, S, K, C>,
    bounds: WindowBounds<'a>,
    tip: TipPolling,
    backfill_wait: BackfillWait,
    /// Time for reading when the drain began.
    reading_time: Duration,
    /// Whether the next window may be left to the next invocation.
    ///
    /// True after a confirmed window that left log to read, and after one that was too slow. False after a
    /// window of a search.
    is_in_backlog: bool,
}

impl<'a, S: Slot + TableSource, K: Stream, C: StateStore> Drain<'a, S, K, C> {
    fn new(ports: DrainPorts<'a, S, K, C>, task: DrainTask<'a>) -> Self {
        let began = Instant::now();
        let settings = task.settings;
        let reading_time = task.budget.reading_time_left(began);
        Drain {
            bounds: WindowBounds::new(&settings.slot, ports.sizing),
            tip: TipPolling::new(settings.poll_share, began + settings.linger),
            backfill_wait: BackfillWait::new(reading_time),
            reading_time,
            is_in_backlog: false,
            runner: WindowRunner::new(ports, task),
        }
    }

    async fn run(&mut self, first_event: Option<Event>, ahead: Option<AckAhead>) -> Result<(), Error> {
        if !self.runner.start(first_event, ahead).await? {
            self.runner.report.stopped = StopReason::Empty;
            return Ok(());
        }
        loop {
            let time_left = self.reading_time_left();
            if time_left < MIN_WINDOW_TIME {
                return self.stop_at_deadline().await;
            }
            let opened = Instant::now();
            // Resets the server time. `linger` then counts only the last window before the end of the log.
            self.runner.take_server_time();
            let (positions, window) = self.next_window().await?;
            self.runner.report_lag(positions);
            let confirmer = &self.runner.confirmer;
            let has_new = window.upto > confirmer.confirmed_or_queued();
            let opens_window =
                has_new || (window.upto > confirmer.confirmed() && !confirmer.is_unconfirmed());
            if opens_window {
                match self.drain_window(window, positions, opened, time_left).await? {
                    WindowStep::AtTip => {}
                    WindowStep::Another => continue,
                    WindowStep::OutOfTime => return self.stop_at_deadline().await,
                }
            }
            if !self.runner.sender.is_empty() {
                self.runner.confirm_sent().await?;
            }
            // Much log is unread, but no window was opened: the log waits for a standby. So no chunk is read.
            let step = match self.has_backlog().await? {
                true if opens_window => continue,
                true => BackfillStep::Idle,
                false => self.step_backfill().await?,
            };
            match step {
                BackfillStep::WatermarkEmitted => {
                    self.backfill_wait.end();
                    continue;
                }
                BackfillStep::Blocked | BackfillStep::Pending
                    if !self.backfill_wait.is_over(Instant::now()) =>
                {
                    continue;
                }
                BackfillStep::OutOfTime => return self.stop_at_deadline().await,
                BackfillStep::Blocked | BackfillStep::Pending | BackfillStep::Idle => {}
            }
            if !self.linger(positions, has_new).await? {
                self.runner.confirm_sent().await?;
                self.runner.report.stopped = StopReason::Empty;
                return Ok(());
            }
        }
    }

    /// Time that is left for reading.
    fn reading_time_left(&self) -> Duration {
        self.runner.budget.reading_time_left(Instant::now())
    }

    /// Positions of the log, and the next window.
    ///
    /// The window may stay unconfirmed. Only a confirmed window writes a marker.
    async fn next_window(&mut self) -> Result<(WalPositions, Window), Error> {
        let is_unconfirmed = self.leaves_unconfirmed();
        let sizing = self.bounds.sizing();
        let runner = &mut self.runner;
        runner.confirmer.begin_window(is_unconfirmed);
        let confirmed = runner.confirmer.confirmed();
        if is_unconfirmed {
            let positions = runner.slot.wal_positions().await?;
            let mut window = sizing.next_window(confirmed, positions.readable, positions.restart);
            window.rows = window.rows.min(MAX_UNCONFIRMED_ROWS);
            return Ok((positions, window));
        }
        let markers = &mut runner.confirmer.markers;
        let next = markers.next_window(runner.slot, sizing, confirmed, runner.budget);
        runner.sender.send_while(next, &mut runner.report).await?
    }

    /// Whether the next window stays unconfirmed.
    ///
    /// While a backfill runs, each window is confirmed: the end of a window stores the cursor. A window that
    /// resumes a transaction has other bounds: see [`WindowBounds::window_and_timeout`].
    fn leaves_unconfirmed(&self) -> bool {
        let WindowRunner {
            confirmer,
            sender,
            backfill,
            ..
        } = &self.runner;
        self.tip.may_leave_unconfirmed(confirmer.last_advance_at())
            && !self.bounds.is_searching()
            && backfill.as_ref().is_none_or(|backfill| !backfill.is_running())
            && confirmer.markers.expected().is_none()
            && sender.acknowledgements.position().resume.is_none()
    }

    /// Drains one window.
    ///
    /// `opened` is its start. `time_left` is the reading time that was left then.
    async fn drain_window(
        &mut self,
        window: Window,
        positions: WalPositions,
        opened: Instant,
        time_left: Duration,
    ) -> Result<WindowStep, Error> {
        let (confirmed_before, restart) = (self.runner.confirmer.confirmed(), positions.restart);
        let (rows, resume) = (window.rows, self.runner.resume_point());
        let (window, decode_timeout) = self.bounds.window_and_timeout(window, resume, time_left);
        let again_bytes = confirmed_before.bytes_since(restart);
        if self.is_too_late(again_bytes, decode_timeout, time_left) {
            return Ok(WindowStep::OutOfTime);
        }
        self.is_in_backlog = false;
        let running = self.runner.run(window, positions.readable, decode_timeout);
        let outcome = match running.await {
            Err(Error::Slot(error @ SlotError::PublicationSkipped { .. })) => {
                self.bounds.continue_search(error, rows)?;
                return Ok(WindowStep::Another);
            }
            Err(Error::Slot(error @ SlotError::OutOfSpace { .. })) => {
                self.tip.confirm_next_window();
                let bounds = &mut self.bounds;
                return bounds.shrink_after_lack_of_space(error, confirmed_before, restart, window.rows);
            }
            outcome => self.bounds.record_outcome(outcome?),
        };
        self.runner.report_lag(positions);
        let confirmer = &self.runner.confirmer;
        match outcome {
            WindowOutcome::OutOfTime => Ok(WindowStep::OutOfTime),
            WindowOutcome::TooSlow => {
                self.tip.confirm_next_window();
                self.is_in_backlog = !confirmer.has_unconfirmed_events() && !self.bounds.is_searching();
                let (bounds, had_most_time) = (&mut self.bounds, decode_timeout >= self.reading_time / 2);
                bounds.shrink_after_timeout(confirmed_before, restart, had_most_time)
            }
            WindowOutcome::ReadAgain => Ok(WindowStep::Another),
            WindowOutcome::Whole
                if window.upto == positions.readable || confirmer.markers.ends_at(window) =>
            {
                Ok(WindowStep::AtTip)
            }
            WindowOutcome::Whole | WindowOutcome::Partial if self.bounds.is_searching() => {
                // A window of a search is small on purpose, so it does not change the size of later windows.
                self.bounds.advance_search();
                Ok(WindowStep::Another)
            }
            WindowOutcome::Whole | WindowOutcome::Partial => {
                // At the row bound, the server stops before the LSN bound.
                let read_upto = match outcome {
                    WindowOutcome::Partial => confirmer.confirmed_or_queued(),
                    _ => window.upto,
                };
                let new_bytes = read_upto.bytes_since(confirmed_before);
                self.prepare_next_window(again_bytes, new_bytes, opened).await
            }
        }
    }

    /// Whether a backlog's next window is left to the next invocation.
    ///
    /// The next invocation has more time for it. Now, the window would probably exceed its time, and that
    /// would make later windows smaller. These windows are never left: the first one, one of a search, one
    /// after an unconfirmed window, and one that must return a chunk's watermark.
    fn is_too_late(&self, again_bytes: u64, decode_timeout: Duration, time_left: Duration) -> bool {
        self.is_in_backlog
            && !self.has_chunk()
            && time_left < self.reading_time / 2
            && self.bounds.sizing().is_too_late(again_bytes, decode_timeout)
    }

    /// Adjusts the size of windows, and reads a backfill's next chunk.
    ///
    /// The last window began at `opened`. Before its `new_bytes` of log, the server decoded `again_bytes`
    /// again.
    async fn prepare_next_window(
        &mut self,
        again_bytes: u64,
        new_bytes: u64,
        opened: Instant,
    ) -> Result<WindowStep, Error> {
        self.tip.confirm_next_window();
        // An unconfirmed window is small on purpose, so it does not change the size of later windows.
        if !self.runner.confirmer.is_unconfirmed() {
            self.is_in_backlog = true;
            let decoded = DecodedLog {
                again_bytes,
                new_bytes,
                time: self.runner.last.peek,
            };
            let (has_rows, time_left) = (self.runner.last.has_rows, self.reading_time_left());
            self.bounds.adjust(decoded, has_rows, opened, time_left);
        }
        if !self.has_chunk() && !self.has_backlog().await? {
            self.next_chunk().await?;
        }
        Ok(WindowStep::Another)
    }

    /// Pauses at the end of the log. Returns whether the drain reads another window.
    ///
    /// `positions` are those of the last window. `found` is true if there was new log.
    async fn linger(&mut self, positions: WalPositions, found: bool) -> Result<bool, Error> {
        let polled = self.runner.take_server_time();
        let last_moment = self.runner.budget.reading_deadline() - MIN_WINDOW_TIME;
        self.is_in_backlog = false;
        if self.tip.pause(polled, found, last_moment).await {
            // On a busy machine the pause may last too long for another window. The drain then ends as empty,
            // since it reached the end of the log.
            return Ok(self.reading_time_left() >= MIN_WINDOW_TIME);
        }
        // Another window confirms the events of the unconfirmed windows. If their log is no longer readable,
        // because a standby disconnected, the end of the drain confirms them, or a later tick reads them.
        let confirmer = &self.runner.confirmer;
        if confirmer.has_unconfirmed_events() && positions.readable > confirmer.confirmed() {
            return Ok(self.reading_time_left() >= MIN_WINDOW_TIME);
        }
        // The positions were read a moment ago, and there was nothing to read.
        if !found {
            return Ok(false);
        }
        // Another peek is worthwhile if the new log is more than 1 MiB, and more than a twentieth of the log
        // that it decodes again.
        let decoded_again = positions.flush.bytes_since(positions.restart) / 20;
        let positions = self.runner.slot.wal_positions().await?;
        self.runner.report_lag(positions);
        Ok(self.runner.unread_bytes(positions) > TIP_BYTES.max(decoded_again))
    }

    /// Whether a running backfill must wait because much log is unread.
    ///
    /// The positions are read again, since the last window may have taken long.
    async fn has_backlog(&mut self) -> Result<bool, Error> {
        if !self
            .runner
            .backfill
            .as_ref()
            .is_some_and(BackfillRunner::is_running)
        {
            return Ok(false);
        }
        let positions = self.runner.slot.wal_positions().await?;
        Ok(self.runner.unread_bytes(positions) >= MAX_LAG_BYTES)
    }

    /// Whether a chunk waits for its watermark.
    fn has_chunk(&self) -> bool {
        self.runner
            .backfill
            .as_ref()
            .is_some_and(BackfillRunner::has_chunk)
    }

    /// Reads the next chunk of the backfill, if one is running.
    async fn next_chunk(&mut self) -> Result<BackfillStep, Error> {
        let environment = ChunkEnvironment {
            settings: self.runner.settings,
            budget: self.runner.budget,
            acknowledged: self.runner.sender.acknowledgements.position().commit_end,
            reading_time: self.reading_time,
            peek_took: self.runner.last.peek,
        };
        match &mut self.runner.backfill {
            Some(backfill) => backfill.next_chunk(self.runner.slot, &environment).await,
            None => Ok(BackfillStep::Idle),
        }
    }

    /// Runs a step of the backfill. While the backfill is blocked, pauses and tries again.
    async fn step_backfill(&mut self) -> Result<BackfillStep, Error> {
        let mut step = self.next_chunk().await?;
        let began = Instant::now();
        while matches!(step, BackfillStep::Blocked | BackfillStep::Pending) {
            let Some(pause) = self.backfill_wait.next_pause(Instant::now()) else {
                return Ok(step);
            };
            tokio::time::sleep(pause).await;
            if step == BackfillStep::Pending || BackfillWait::needs_window(began.elapsed()) {
                return Ok(step);
            }
            step = self.next_chunk().await?;
        }
        Ok(step)
    }

    /// Confirms the events of unconfirmed windows after a failure.
    ///
    /// Otherwise the next tick would send them again.
    async fn confirm_after_failure(&mut self) {
        if let Err(error) = self.runner.confirm_sent().await {
            self.runner.warn_of_unconfirmed(&error);
        }
    }

    /// Stops because the time is over.
    ///
    /// Fails if events are left, and a stream has acknowledged no record since its last error. It also fails
    /// if the server lacked space for the last window. If these were no failures, the report would look like
    /// that of a backlog.
    async fn stop_at_deadline(&mut self) -> Result<(), Error> {
        self.runner.confirm_sent().await?;
        self.runner.report.stopped = StopReason::Deadline;
        match self.runner.sender.take_last_error() {
            Some(error) if !self.runner.sender.is_empty() => Err(Error::Stream(error)),
            _ => self
                .bounds
                .take_lack_of_space()
                .map_or(Ok(()), |error| Err(error.into())),
        }
    }
}
