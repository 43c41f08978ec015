//! The drain loop: peeks windows, sends their events, stores the checkpoint, and advances the slot.
//!
//! Reading and sending overlap. Bytes that were read and not yet acknowledged are bounded. At the bound the
//! loop reads no more rows.

mod ahead;
mod backfill;
mod checkpointer;
mod key_changes;
mod markers;
mod next_window;
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

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::checkpoint::{AckAhead, AckPosition};
use crate::clock::now_micros;
use crate::continuity::StartPosition;
use crate::encode::{Envelope, Event};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pack::{MAIN_STREAM, QueuedEvent};
use crate::ports::{
    PeekRow, PeekRows, Slot, SlotError, StateStore, Stream, StreamError, TableSource, WalPositions,
};
use crate::window_sizing::{TransactionSearch, Window, WindowSizing};

use ahead::AckAheadState;
use backfill::{BackfillStep, ChunkEnvironment, MOST_LAG_BYTES};
use checkpointer::Checkpointer;
use markers::{HistoryCheck, Markers};
use next_window::WindowStep;
use report::{Report, StopReason};
use sender::Sender;
use tip::TipPolling;
use window::LastWindow;

pub use backfill::BackfillRunner;
pub use settings::{AGGREGATE_BYTES, REQUEST, Settings};
pub use stream_routes::{MOST_STREAMS, check_name};
pub(crate) use stream_routes::{StreamOpener, StreamRoutes};
pub use task::{DrainOutcome, DrainPorts, DrainTask};

/// Most bytes of new log that are left to the next tick.
///
/// Every peek decodes again from `restart_lsn`, so a peek for less log is too expensive.
const TIP_BYTES: u64 = 1 << 20;

/// Longest wait for a blocked backfill at the end of the log.
///
/// See [`Drain::most_wait`].
const MOST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for a blocked backfill between two windows.
const WAIT_ROUND: Duration = Duration::from_secs(5);

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
    let began = Instant::now();
    let (first_event, ahead) = (task.first_event.clone(), task.ahead.clone());
    let start = task.start;
    let mut drain = Drain::new(ports, task, began);
    let result = drain.run(began, first_event, ahead).await;
    drain.checkpointer.close().await;
    let stored = drain.checkpointer.stored();
    drain.report.to = stored.map_or(start.acknowledged, |stored| stored.commit_end);
    // A drain that failed is not empty.
    let delivered = drain.sender.acknowledgements.delivered();
    drain.report.confirm(delivered, now_micros());
    if result.is_err() {
        drain.report.behind_seconds = drain.report.behind_seconds.filter(|seconds| *seconds > 0);
    }
    drain.report.backfill = drain.backfill.as_ref().map(BackfillRunner::report);
    DrainOutcome {
        report: drain.report,
        result,
    }
}

struct Drain<'a, S, K, C> {
    settings: &'a Settings,
    envelope: &'a Envelope,
    start: &'a StartPosition,
    budget: Budget,
    slot: &'a mut S,
    sizing: &'a Mutex<WindowSizing>,
    sender: Sender<K>,
    routes: StreamRoutes,
    checkpointer: Checkpointer<C>,
    markers: Markers,
    backfill: Option<BackfillRunner<C>>,
    /// The slot's `confirmed_flush_lsn`.
    confirmed: Lsn,
    /// See [`StartPosition::settled`].
    settled: Lsn,
    ahead: AckAheadState,
    /// Search for a transaction that the server cannot decode.
    ///
    /// `None` as long as the server decodes all transactions.
    search: Option<TransactionSearch>,
    /// Time for reading when the drain began.
    reading_time: Duration,
    last_window: LastWindow,
    tip: TipPolling,
    report: Report,
}

impl<'a, S: Slot + TableSource, K: Stream, C: StateStore> Drain<'a, S, K, C>
where
    <S::Rows as PeekRows>::Row: PeekRow,
{
    fn new(ports: DrainPorts<'a, S, K, C>, task: DrainTask<'a>, began: Instant) -> Self {
        let DrainTask {
            settings,
            envelope,
            start,
            budget,
            ..
        } = task;
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
        Drain {
            settings,
            envelope,
            start,
            budget,
            slot: ports.slot,
            sizing: ports.sizing,
            routes: StreamRoutes::new(settings, ports.stream.name()),
            sender: Sender::new(
                ports.stream,
                settings,
                position(read_from),
                budget.sending_deadline(),
            ),
            markers: Markers::new(settings, task.checkpoint.marker.as_ref(), start.expected.clone()),
            checkpointer: Checkpointer::new(ports.checkpoint_store, task.checkpoint, stored, task.rules_hash),
            ahead: AckAheadState::new(settings.markers && ports.backfill.is_none()),
            backfill: ports.backfill,
            confirmed: start.confirmed,
            settled: start.settled,
            search: None,
            reading_time: budget.reading_time_left(began),
            last_window: LastWindow::default(),
            tip: TipPolling::new(settings.poll_share, began),
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

    async fn run(
        &mut self,
        began: Instant,
        first_event: Option<Event>,
        ahead: Option<AckAhead>,
    ) -> Result<(), Error> {
        if self.checkpointer.stored().is_none() {
            self.store_first_position(first_event).await?;
        }
        self.check_history().await?;
        self.prove_ahead(ahead).await;
        if let Some(backfill) = &mut self.backfill {
            backfill.watch_resumed_table(self.slot, self.budget).await?;
        }
        let mut blocked_since: Option<Instant> = None;
        loop {
            let time_left = self.budget.reading_time_left(Instant::now());
            if time_left < WINDOW_MIN_TIME {
                return self.stop_at_deadline().await;
            }
            let opened = Instant::now();
            let (positions, window) = self.next_window(began).await?;
            self.report_lag(positions);
            let has_new = window.upto > self.sent();
            if has_new || (window.upto > self.confirmed && !self.tip.is_unconfirmed) {
                match self.drain_window(window, positions, opened, time_left).await? {
                    WindowStep::AtTip => {}
                    WindowStep::Another => continue,
                    WindowStep::OutOfTime => return self.stop_at_deadline().await,
                }
            }
            if self.has_backlog().await? {
                continue;
            }
            match self.step_backfill(&mut blocked_since).await? {
                BackfillStep::WatermarkEmitted => {
                    blocked_since = None;
                    continue;
                }
                BackfillStep::Blocked | BackfillStep::Pending if !self.is_wait_over(blocked_since) => {
                    continue;
                }
                BackfillStep::OutOfTime => return self.stop_at_deadline().await,
                BackfillStep::Blocked | BackfillStep::Pending | BackfillStep::Idle => {}
            }
            if !self.linger(began, opened, positions, has_new).await? {
                self.confirm_sent().await?;
                self.report.stopped = StopReason::Empty;
                return Ok(());
            }
        }
    }

    /// Positions of the log, and the next window. `began` is the start of the drain.
    async fn next_window(&mut self, began: Instant) -> Result<(WalPositions, Window), Error> {
        self.tip.is_unconfirmed = self.leaves_unconfirmed(began);
        if self.tip.is_unconfirmed {
            return self.unconfirmed_window().await;
        }
        let sizing = *self.sizing();
        let next = self
            .markers
            .next_window(self.slot, sizing, self.confirmed, self.budget);
        next.await
    }

    /// Stores the first position of the drain.
    ///
    /// It is stored if there is no checkpoint, or if the operator accepted a gap. `first_event` reports an
    /// accepted gap. The stream must acknowledge it before the position is stored.
    async fn store_first_position(&mut self, first_event: Option<Event>) -> Result<(), Error> {
        if let Some(event) = first_event {
            let acknowledgements = &mut self.sender.acknowledgements;
            let transaction = acknowledgements.begin();
            acknowledgements.add_event(transaction);
            acknowledgements.commit(transaction, self.start.acknowledged);
            self.report.events += 1;
            self.sender.push(QueuedEvent {
                event,
                transaction,
                change_positions: 1,
                stream: MAIN_STREAM,
            });
            let (result, is_all_sent) = self.send_rest().await;
            result?;
            if !is_all_sent {
                let late = StreamError::Unavailable {
                    stream: self.sender.stream_name(),
                    source: "it did not acknowledge the first event in time".into(),
                };
                return Err(Error::Stream(self.sender.take_trouble().unwrap_or(late)));
            }
        }
        self.store(&self.start.acknowledged.into()).await
    }

    /// Searches for the last marker if the history may differ.
    ///
    /// The slot may then have another history than the checkpoint. This is possible after a promotion. It is
    /// also possible if transactions are to be skipped. A server that was restored from an older copy of its
    /// disk has the same timeline, and its log may have passed the checkpoint's position again.
    async fn check_history(&mut self) -> Result<(), Error> {
        let skips = self.start.confirmed < self.start.acknowledged && self.start.expected.is_some();
        if !self.start.promoted && !skips {
            return Ok(());
        }
        let check = self
            .markers
            .check_history(self.slot, self.settings, self.start, self.budget);
        let HistoryCheck::Settled(settled) = check.await? else {
            return Ok(());
        };
        self.settled = settled;
        let position = AckPosition::from(settled);
        self.sender.acknowledgements.complete_window(settled);
        self.checkpointer.set_back(position.clone());
        self.store(&position).await
    }

    /// Whether a running backfill must wait because much log is unread.
    ///
    /// The positions are read again, since the last window may have taken long.
    async fn has_backlog(&mut self) -> Result<bool, Error> {
        if !self.backfill.as_ref().is_some_and(BackfillRunner::is_running) {
            return Ok(false);
        }
        let positions = self.slot.wal_positions().await?;
        Ok(positions.readable.bytes_since(self.confirmed) >= MOST_LAG_BYTES)
    }

    /// Reads the next chunk of the backfill, if one is running.
    async fn next_chunk(&mut self) -> Result<BackfillStep, Error> {
        let environment = ChunkEnvironment {
            settings: self.settings,
            budget: self.budget,
            acknowledged: self.sender.acknowledgements.position().commit_end,
            reading_time: self.reading_time,
            peek_took: self.last_window.peek,
        };
        match &mut self.backfill {
            Some(backfill) => backfill.next_chunk(self.slot, &environment).await,
            None => Ok(BackfillStep::Idle),
        }
    }

    /// Runs a step of the backfill. While it is blocked, pauses and tries again.
    ///
    /// `blocked_since` is the start of the wait, `None` before it.
    async fn step_backfill(&mut self, blocked_since: &mut Option<Instant>) -> Result<BackfillStep, Error> {
        let mut step = self.next_chunk().await?;
        let began = Instant::now();
        loop {
            if !matches!(step, BackfillStep::Blocked | BackfillStep::Pending) {
                return Ok(step);
            }
            let since = *blocked_since.get_or_insert(began);
            if since.elapsed() >= self.most_wait() {
                return Ok(step);
            }
            let pause = (since.elapsed() / 10).clamp(Duration::from_millis(100), Duration::from_secs(1));
            tokio::time::sleep(pause).await;
            // A window cannot end the transaction that blocks, and each window costs a peek. So windows are
            // rare during the wait.
            if step == BackfillStep::Pending || began.elapsed() >= WAIT_ROUND {
                return Ok(step);
            }
            step = self.next_chunk().await?;
        }
    }

    fn is_wait_over(&self, blocked_since: Option<Instant>) -> bool {
        blocked_since.is_none_or(|since| since.elapsed() >= self.most_wait())
    }

    /// Longest wait for a blocked backfill in an otherwise idle invocation.
    ///
    /// Transactions may overlap all day and block the backfill in turn. The wait is long enough that a gap
    /// between them is likely.
    fn most_wait(&self) -> Duration {
        MOST_WAIT.min(self.reading_time / 2)
    }

    fn report_lag(&mut self, positions: WalPositions) {
        self.report.lag_bytes = positions.flush.bytes_since(self.confirmed);
        let readable = positions.readable.max(self.confirmed);
        self.report.held_bytes = positions.flush.bytes_since(readable);
    }

    fn sizing(&self) -> MutexGuard<'_, WindowSizing> {
        // A panic of another lock holder cannot leave the sizing half changed.
        self.sizing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a position as the checkpoint, and waits for it.
    async fn store(&mut self, position: &AckPosition) -> Result<(), Error> {
        let deadline = self.budget.confirming_deadline();
        let ahead = self.ack_ahead();
        let slot = &mut *self.slot;
        self.checkpointer
            .store(position, ahead, deadline, async || slot.check_lock().await)
            .await
    }

    /// Stores the checkpoint, then advances the slot: `confirmed_flush <= checkpoint <= acknowledged`.
    ///
    /// Returns `false` if the slot was not advanced in time. The next invocation then reads these
    /// transactions again, and skips them by position.
    async fn confirm(&mut self) -> Result<bool, Error> {
        let position = self.sender.acknowledgements.position().clone();
        let acknowledged = position.commit_end;
        if acknowledged > self.confirmed {
            self.checkpointer
                .set_marker(self.markers.for_checkpoint(acknowledged));
        }
        self.store(&position).await?;
        if acknowledged <= self.confirmed {
            return Ok(true);
        }
        let stored = self.checkpointer.stored();
        assert!(
            stored.is_some_and(|stored| stored.commit_end >= acknowledged),
            "the slot advances only after the checkpoint is stored"
        );
        let deadline = self.budget.confirming_deadline();
        let time_left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(time_left, self.slot.advance(acknowledged, time_left)).await {
            Ok(Ok(())) => {
                self.confirmed = acknowledged;
                self.tip.confirmed_at = Instant::now();
                Ok(true)
            }
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                let slot = &self.settings.slot;
                tracing::warn!(slot, to = %acknowledged, "the slot was not advanced in time");
                Ok(false)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Stops because the time is over.
    ///
    /// Fails if events are left and the stream acknowledged no record since its last failure. A report would
    /// hide that failure, since it would look like the report of a backlog.
    async fn stop_at_deadline(&mut self) -> Result<(), Error> {
        self.confirm_sent().await?;
        self.report.stopped = StopReason::Deadline;
        match self.sender.take_trouble() {
            Some(error) if !self.sender.is_empty() => Err(Error::Stream(error)),
            _ => Ok(()),
        }
    }

    fn too_slow(&self) -> Error {
        Error::Slot(SlotError::Timeout {
            slot: self.settings.slot.clone(),
            doing: "reading the smallest window",
            source: "the server did not finish decoding it".into(),
        })
    }
}
