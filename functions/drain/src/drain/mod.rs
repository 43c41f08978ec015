//! The loop: peek a window, decode, encode, send by lane, and when all of it has arrived store the checkpoint and advance
//! the slot. Reading and sending overlap; what is read and not yet acknowledged is bounded in bytes, and beyond that bound
//! nothing more is taken from PostgreSQL.

mod beside;
mod keeper;
pub mod parts;
mod passage;
pub mod plan;
mod proof;
mod reader;
mod rekeyed;
pub mod report;
mod sender;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::checkpoint::{Checkpoint, Reached};
use crate::continuity::Start;
use crate::decode::Plugin;
use crate::encode::{Envelope, Event};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::marker::Marker;
use crate::pack::{Aggregation, Limits, Parcel, ShardMap};
use crate::pattern::TablePattern;
use crate::window::{Known, Next, Pace, Window};

use beside::{MOST_LAG, Step};
use keeper::Keeper;
use parts::{Checkpoints, Reach, Row, Rows, Slot, SlotError, Stream, StreamError, Tables};
use proof::Markers;
use report::{Report, Stopped};
use sender::Sender;

pub use beside::Beside;

/// What one PutRecords request may hold (Kinesis API, PutRecords).
pub const REQUEST: Limits = Limits {
    records: 500,
    bytes: 10 << 20,
};

/// Most bytes of an aggregate. A shard takes 1 MB a second from all its producers together: a record of a quarter of that finds
/// room beside others, and leaves little of a put unit (25 KB) unused. A shard has one under way, so this is what it gets a round trip.
pub const AGGREGATE_BYTES: usize = 256 << 10;

/// Log that came in while the last window was read and is not worth another peek before the next tick, bytes.
const TIP_BYTES: u64 = 1 << 20;

/// A marker may take so long to be committed, where the server waits for standbys.
pub(crate) const MARKER_TIME: Duration = Duration::from_secs(2);

/// How long a backfill may keep an invocation that has nothing else to do and must wait; see [`Drain::most_wait`].
const MOST_WAIT: Duration = Duration::from_secs(60);

/// How long it waits before the log is looked at again.
const WAIT_ROUND: Duration = Duration::from_secs(5);

/// A window is not opened with less time than this.
const LEAST_TIME: Duration = Duration::from_millis(250);

/// What a drain is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The slot's name.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: Plugin,
    /// Tables to drain; empty means all that come.
    pub tables: Vec<TablePattern>,
    /// Most bytes of one record, data and partition key.
    pub record_bytes: usize,
    /// How events become records.
    pub aggregation: Aggregation,
    /// The stream's shards, as far as is known.
    pub shards: ShardMap,
    /// Whether the partition key decides the shard.
    pub keyed: bool,
    /// Bytes that may be read and not yet acknowledged.
    pub bytes_in_flight: usize,
    /// How long to poll once the slot is empty.
    pub linger: Duration,
    /// Whether markers are laid.
    pub markers: bool,
}

/// What a drain works on.
#[derive(Debug)]
pub struct Parts<'a, S, K, C> {
    /// The slot.
    pub slot: S,
    /// The stream.
    pub stream: K,
    /// The checkpoint's place.
    pub checkpoints: C,
    /// How large windows may be, as the last invocations found.
    pub pace: &'a Mutex<Pace>,
    /// A backfill that is to be carried on.
    pub backfill: Option<Beside<C>>,
}

/// Drains until the slot is empty or the time is over. `opening` is sent, and acknowledged, before anything else.
///
/// # Errors
/// Whatever failed. What was acknowledged until then is stored and confirmed as far as whole transactions reach.
pub async fn drain<S: Slot + Tables, K: Stream, C: Checkpoints>(
    parts: Parts<'_, S, K, C>,
    settings: &Settings,
    envelope: &Envelope,
    start: &Start,
    document: Checkpoint,
    opening: Option<Event>,
    budget: Budget,
) -> (Report, S, Result<(), Error>) {
    let began = Instant::now();
    let report = Report {
        action: "drain",
        slot: settings.slot.clone(),
        plugin: settings.plugin.name(),
        from: start.acknowledged,
        to: start.acknowledged,
        ..Report::default()
    };
    let number = document.marker.as_ref().map_or(0, |marker| marker.number);
    // Nothing that is settled need be read, unless the marker lies in it.
    let free = |marker: &Marker| marker.lsn >= start.settled;
    let from = match &start.expected {
        Some(marker) if !free(marker) => start.confirmed,
        _ => start.settled,
    };
    let mut drain = Drain {
        settings,
        envelope,
        start,
        budget,
        slot: parts.slot,
        pace: parts.pace,
        sender: Sender::new(
            parts.stream,
            settings,
            Reached {
                commit_end: from,
                inside: start.inside.clone(),
            },
            budget.stop_sending(),
        ),
        keeper: Keeper::new(
            parts.checkpoints,
            document,
            start.stored.then(|| Reached {
                commit_end: start.acknowledged,
                inside: start.inside.clone(),
            }),
        ),
        confirmed: start.confirmed,
        settled: start.settled,
        whole: budget.for_reading(began),
        peek_took: Duration::ZERO,
        markers: Markers {
            number,
            ahead: start.expected.clone(),
            ..Markers::default()
        },
        report,
        beside: parts.backfill,
    };
    let outcome = drain.run(began, opening).await;
    drain.keeper.close().await;
    drain.report.to = drain
        .keeper
        .stored()
        .map_or(start.acknowledged, |stored| stored.commit_end);
    drain.report.backfill = drain.beside.as_ref().map(Beside::report);
    (drain.report, drain.slot, outcome)
}

struct Drain<'a, S, K, C> {
    settings: &'a Settings,
    envelope: &'a Envelope,
    start: &'a Start,
    budget: Budget,
    slot: S,
    pace: &'a Mutex<Pace>,
    sender: Sender<K>,
    keeper: Keeper<C>,
    /// The slot's `confirmed_flush_lsn`.
    confirmed: Lsn,
    /// See [`Start::settled`].
    settled: Lsn,
    /// Time for reading, when it began.
    whole: Duration,
    /// What the server needed to decode the last window.
    peek_took: Duration,
    markers: Markers,
    report: Report,
    beside: Option<Beside<C>>,
}

/// How a window ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything up to its bound was read and has arrived.
    Whole,
    /// The row bound was met; everything that was read has arrived.
    Full,
    /// The server took longer than the window's time.
    TooSlow,
    /// A transaction did not go on as it began, and is to be read from its beginning.
    Again,
    /// The invocation's time is over.
    Deadline,
}

/// What comes after a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// There is no more log that may be read now.
    Tip,
    /// More log, or the same again.
    More,
    /// The invocation's time is over.
    Late,
}

impl<S: Slot + Tables, K: Stream, C: Checkpoints> Drain<'_, S, K, C>
where
    <S::Rows as Rows>::Row: Row,
{
    async fn run(&mut self, began: Instant, opening: Option<Event>) -> Result<(), Error> {
        if self.keeper.stored().is_none() {
            self.open(opening).await?;
        }
        // On the same timeline, too: a server that was set back to an older copy of its disk has that, and where its log has grown again,
        // what is skipped would be something else.
        let skips = self.start.confirmed < self.start.acknowledged && self.start.expected.is_some();
        if self.start.promoted || skips {
            self.prove().await?;
        }
        self.watch_changes().await?;
        let mut waited: Option<Instant> = None;
        loop {
            let left = self.budget.for_reading(Instant::now());
            if left < LEAST_TIME {
                return self.out_of_time();
            }
            let opened = Instant::now();
            let (reach, window) = self.next_window().await?;
            self.report_lag(reach);
            if window.upto > self.confirmed {
                match self.pass(window, reach, opened, left).await? {
                    Passed::Tip => {}
                    Passed::More => continue,
                    Passed::Late => return self.out_of_time(),
                }
            }
            if self.beside.as_ref().is_some_and(Beside::is_running) {
                // The window may have taken long.
                let reach = self.slot.reach().await?;
                if reach.readable.bytes_since(self.confirmed) >= MOST_LAG {
                    continue;
                }
            }
            match self.step(&mut waited).await? {
                Step::Laid => {
                    waited = None;
                    continue;
                }
                Step::Waits | Step::Pending
                    if waited.is_some_and(|since| since.elapsed() < self.most_wait()) =>
                {
                    continue;
                }
                Step::Late => return self.out_of_time(),
                Step::Waits | Step::Pending | Step::Nothing => {}
            }
            if !self.linger(began, opened, reach).await? {
                self.report.stopped = Stopped::Empty;
                return Ok(());
            }
        }
    }

    /// Drains a window that begins at `opened`, with so much time `left`.
    async fn pass(
        &mut self,
        window: Window,
        reach: Reach,
        opened: Instant,
        left: Duration,
    ) -> Result<Passed, Error> {
        let Reach {
            readable, restart, ..
        } = reach;
        let before = self.confirmed;
        let inside = self.sender.ledger.reached().inside.as_ref();
        let known = inside.map(|inside| Known {
            xid: inside.xid,
            before: inside.lsn,
        });
        // The server counts the rows that it leaves out, and we cannot: the log alone bounds such a window. No window makes its
        // transaction smaller, so it gets nearly all of the time.
        let (window, patience) = match known {
            Some(_) => (
                Window {
                    rows: i32::MAX,
                    known,
                    ..window
                },
                left * 9 / 10,
            ),
            None => (window, self.pace().patience(left)),
        };
        let end = self.window(window, readable, patience).await?;
        self.report_lag(reach);
        match end {
            End::Deadline => Ok(Passed::Late),
            End::TooSlow => {
                let next = self.pace().too_slow(before, restart);
                match next {
                    Next::Smaller => Ok(Passed::More),
                    Next::Later => Ok(Passed::Late),
                    // Attempts before it took the time; the next invocation gives it nearly all.
                    Next::Never if patience < self.whole / 2 => Ok(Passed::Late),
                    Next::Never => Err(self.too_slow()),
                }
            }
            End::Again => Ok(Passed::More),
            End::Whole if window.upto == readable || self.is_touched(window) => Ok(Passed::Tip),
            End::Whole | End::Full => {
                let left = self.budget.for_reading(Instant::now());
                self.pace().learn(opened.elapsed(), left);
                if readable.bytes_since(self.confirmed) < MOST_LAG {
                    self.carry_on().await?;
                }
                Ok(Passed::More)
            }
        }
    }

    /// At the tip of the log. Stays for a while, if it was asked to, and says whether to look again: `reach` was the log's when that was done last,
    /// at `opened`.
    async fn linger(&mut self, began: Instant, opened: Instant, reach: Reach) -> Result<bool, Error> {
        // Polling costs the server a decode from restart_lsn each time, so it gets at most a twentieth of the server's time, and a long
        // transaction that pins restart_lsn slows it down.
        let pause = (opened.elapsed() * 20).clamp(Duration::from_millis(500), Duration::from_secs(30));
        let stay = began + self.settings.linger;
        if Instant::now() + pause < stay.min(self.budget.stop_reading() - LEAST_TIME) {
            tokio::time::sleep(pause).await;
            return Ok(true);
        }
        // Another peek must be worth what it reads again: a twentieth of it, at least.
        let again = reach.flush.bytes_since(reach.restart) / 20;
        let reach = self.slot.reach().await?;
        let news = reach.readable.bytes_since(self.confirmed);
        self.report_lag(reach);
        Ok(news > TIP_BYTES.max(again))
    }

    /// Carries the backfill on. Where it must wait it does for a while, `waited` tells since when.
    async fn step(&mut self, waited: &mut Option<Instant>) -> Result<Step, Error> {
        let mut step = self.carry_on().await?;
        let began = Instant::now();
        loop {
            if !matches!(step, Step::Waits | Step::Pending) {
                return Ok(step);
            }
            let since = *waited.get_or_insert(began);
            if since.elapsed() >= self.most_wait() {
                return Ok(step);
            }
            let pause = (since.elapsed() / 10).clamp(Duration::from_millis(100), Duration::from_secs(1));
            tokio::time::sleep(pause).await;
            // No window brings the end of a transaction nearer, and each costs a peek.
            if step == Step::Pending || began.elapsed() >= WAIT_ROUND {
                return Ok(step);
            }
            step = self.carry_on().await?;
        }
    }

    /// How long a backfill that must wait may keep an invocation that has nothing else to do: transactions that follow each other all day
    /// must find an end within it.
    fn most_wait(&self) -> Duration {
        MOST_WAIT.min(self.whole / 2)
    }

    /// Whether a window ends where the last marker lies, which was where the log ended.
    fn is_touched(&self, window: Window) -> bool {
        self.markers
            .ahead
            .as_ref()
            .is_some_and(|ahead| ahead.lsn == window.upto)
    }

    fn report_lag(&mut self, reach: Reach) {
        self.report.lag_bytes = reach.flush.bytes_since(self.confirmed);
        self.report.held_bytes = reach.flush.bytes_since(reach.readable.max(self.confirmed));
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // A panic elsewhere leaves nothing half done here.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no checkpoint yet, or the operator accepted a gap: says so in the stream, and stores one.
    async fn open(&mut self, opening: Option<Event>) -> Result<(), Error> {
        if let Some(event) = opening {
            let transaction = self.sender.ledger.begin();
            self.sender.ledger.add(transaction);
            self.sender.ledger.commit(transaction, self.start.acknowledged);
            self.report.events += 1;
            self.sender.push(Parcel { event, transaction });
            let (result, all) = self.bring_home().await;
            result?;
            if !all {
                let (stream, source) = (
                    self.sender.stream_name(),
                    "it did not take the first event in time".into(),
                );
                let late = StreamError::Unavailable { stream, source };
                return Err(Error::Stream(self.sender.trouble.take().unwrap_or(late)));
            }
        }
        let (first, end) = (self.start.acknowledged.into(), self.budget.stop_confirming());
        self.keeper
            .store(&first, end, async || self.slot.holds().await)
            .await
    }

    /// Stores the checkpoint, then advances the slot: `confirmed_flush <= checkpoint <= acknowledged`. False when the slot was
    /// not advanced in time, which costs nothing but reading: the next invocation skips by position.
    async fn confirm(&mut self) -> Result<bool, Error> {
        let reached = self.sender.ledger.reached().clone();
        let acknowledged = reached.commit_end;
        let end = self.budget.stop_confirming();
        if acknowledged > self.confirmed {
            let marker = self.markers.next().filter(|marker| marker.lsn >= acknowledged);
            self.keeper.mark(marker.cloned());
        }
        self.keeper
            .store(&reached, end, async || self.slot.holds().await)
            .await?;
        if acknowledged > self.confirmed {
            assert!(
                self.keeper
                    .stored()
                    .is_some_and(|stored| stored.commit_end >= acknowledged),
                "the slot moves after the checkpoint"
            );
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.slot.advance(acknowledged, left)).await {
                Ok(Ok(())) => self.confirmed = acknowledged,
                Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                    tracing::warn!(slot = self.settings.slot, to = %acknowledged, "the slot was not advanced in time");
                    return Ok(false);
                }
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn out_of_time(&mut self) -> Result<(), Error> {
        self.report.stopped = Stopped::Deadline;
        self.unless_in_trouble()
    }

    /// The time is over. That nothing at all came through is worth an error, not a report that looks like a backlog.
    fn unless_in_trouble(&mut self) -> Result<(), Error> {
        match self.sender.trouble.take() {
            Some(error) if !self.sender.is_empty() => Err(Error::Stream(error)),
            _ => Ok(()),
        }
    }

    fn too_slow(&self) -> Error {
        let (slot, doing) = (self.settings.slot.clone(), "reading the smallest window");
        Error::Slot(SlotError::Timeout {
            slot,
            doing,
            source: "the server did not finish decoding it".into(),
        })
    }
}
