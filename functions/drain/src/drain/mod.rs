//! The loop: peek a window, decode, encode, send by lane, and when all of it has arrived store the checkpoint and advance
//! the slot. Reading and sending overlap; what is read and not yet acknowledged is bounded in bytes, and beyond that bound
//! nothing more is taken from PostgreSQL.

mod beside;
mod keeper;
pub mod parts;
pub mod plan;
mod proof;
mod reader;
mod rekeyed;
pub mod report;
mod sender;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::backfill::Side;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::checkpoint::{Checkpoint, Reached};
use crate::config::TablePattern;
use crate::continuity::Start;
use crate::decode::Plugin;
use crate::encode::{Envelope, Event};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::marker::Marker;
use crate::pack::{Aggregation, Limits, Parcel, ShardMap};
use crate::window::{Known, Next, Pace, Window};

use beside::{MOST_LAG, Step};
use keeper::Keeper;
use parts::{Checkpoints, Reach, Row, Rows, Slot, SlotError, Stream, StreamError, Tables};
use proof::Markers;
use reader::{HOLD_BYTES, Output, Past, Reader, Wants};
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

/// How long a backfill may keep an invocation that has nothing else to do and must wait: each look costs a peek.
const MOST_WAIT: Duration = Duration::from_secs(5);

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
    drain.report.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
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
            let Reach {
                flush,
                readable,
                restart,
            } = reach;
            self.report_lag(reach);
            if window.upto > self.confirmed {
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
                    End::Deadline => return self.out_of_time(),
                    End::TooSlow => {
                        let next = self.pace().too_slow(before, restart);
                        match next {
                            Next::Smaller => continue,
                            Next::Later => return self.out_of_time(),
                            // Attempts before it took the time; the next invocation gives it nearly all.
                            Next::Never if patience < self.whole / 2 => return self.out_of_time(),
                            Next::Never => return Err(self.too_slow()),
                        }
                    }
                    End::Again => continue,
                    End::Whole if window.upto == readable || self.is_touched(window) => {}
                    End::Whole | End::Full => {
                        let left = self.budget.for_reading(Instant::now());
                        self.pace().learn(opened.elapsed(), left);
                        if readable.bytes_since(self.confirmed) < MOST_LAG {
                            self.carry_on().await?;
                        }
                        continue;
                    }
                }
            }
            let mut step = self.carry_on().await?;
            // Without further windows: each costs a peek, which brings nothing nearer.
            while step == Step::Waits && waited.is_none_or(|since| since.elapsed() < MOST_WAIT) {
                waited.get_or_insert_with(Instant::now);
                tokio::time::sleep(Duration::from_millis(100)).await;
                step = self.carry_on().await?;
            }
            match step {
                Step::Laid => {
                    waited = None;
                    continue;
                }
                Step::Pending if waited.is_none_or(|since| since.elapsed() < MOST_WAIT) => {
                    waited.get_or_insert_with(Instant::now);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Step::Late => return self.out_of_time(),
                Step::Waits | Step::Pending | Step::Nothing => {}
            }
            // At the tip. Polling costs the server a decode from restart_lsn each time, so it gets at most a
            // twentieth of the server's time, and a long transaction that pins restart_lsn slows it down.
            let pause = (opened.elapsed() * 20).clamp(Duration::from_millis(500), Duration::from_secs(30));
            let stay = began + self.settings.linger;
            if Instant::now() + pause < stay.min(self.budget.stop_reading() - LEAST_TIME) {
                tokio::time::sleep(pause).await;
                continue;
            }
            // Another peek must be worth what it reads again: a twentieth of it, at least.
            let reach = self.slot.reach().await?;
            let news = reach.readable.bytes_since(self.confirmed);
            self.report_lag(reach);
            if news <= TIP_BYTES.max(flush.bytes_since(restart) / 20) {
                self.report.stopped = Stopped::Empty;
                return Ok(());
            }
        }
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

    /// Reads one window, sends it, and confirms what has arrived. The server gets `patience` to decode it.
    /// Transactions that end behind `readable` are left for later.
    async fn window(&mut self, window: Window, readable: Lsn, patience: Duration) -> Result<End, Error> {
        let now = now();
        let visible = match self.beside.as_ref().is_some_and(Beside::is_running) {
            true => Some(self.slot.snapshot().await?),
            false => None,
        };
        self.report.peeks += 1;
        let time = self.budget.for_reading(Instant::now());
        let asked = Instant::now();
        let peeked = tokio::time::timeout(patience, self.slot.peek(window, time)).await;
        self.peek_took = asked.elapsed();
        let mut rows = match peeked {
            Ok(Ok(rows)) => rows,
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                self.abandon().await;
                return Ok(End::TooSlow);
            }
            Ok(Err(error)) => return Err(error.into()),
        };
        // Read while the rows are on their way, so that a table that is new in them is known; not at all for none.
        let catalog = if rows.is_empty() {
            Catalog::default()
        } else {
            self.slot.catalog().await?
        };
        let past = Past {
            settled: self.settled,
            acknowledged: self.start.acknowledged,
            inside: self.sender.ledger.reached().inside.clone(),
            expected: self.markers.expected.take(),
            upto: readable,
        };
        let side = self.beside.as_mut().map(|beside| Side {
            visible,
            ..std::mem::take(&mut beside.side)
        });
        let mut reader = Reader::new(self.settings, self.envelope, catalog, past, side, now);
        let (read, mut failure) = match self.read(window, &mut rows, &mut reader).await {
            Ok(read) => (read, None),
            Err(error) => (Read::Stopped, Some(error)),
        };
        if failure.is_none() {
            reader.stop(&mut self.sender.ledger);
        }
        self.markers.expected = reader.expected();
        let beyond = reader.is_beyond();
        if let (Some(beside), Some(side)) = (&mut self.beside, reader.side()) {
            beside.side = side;
        }
        // The connection can only be told something else once nobody waits for its rows.
        drop(rows);
        if !matches!(read, Read::Whole | Read::Full) {
            self.abandon().await;
        }
        // Even after a failure: what is under way arrives anyway, and what is stored and confirmed need not be sent again.
        let (sent, all) = self.bring_home().await;
        failure = failure.or(sent.err());
        if all && failure.is_none() {
            match read {
                // What was left for later may begin before the window's end.
                Read::Whole if !beyond => self.sender.ledger.examined(window.upto),
                Read::Whole | Read::Full => {}
                // The open transaction goes on where its last section ended.
                Read::TooSlow | Read::Stopped => self.sender.ledger.abandon(),
            }
        }
        if let (Read::Whole, false, None, Some(expected)) = (read, beyond, &failure, &self.markers.expected)
            && expected.flushed <= window.upto
        {
            failure = Some(self.missing(expected));
        }
        // Nothing moves once history is known to be another.
        if let Some(Error::Discontinuity(_)) = &failure {
            return failure.map_or(Ok(End::Deadline), Err);
        }
        let is_whole = all && failure.is_none() && matches!(read, Read::Whole | Read::Full);
        let settled = self.settle_chunk(is_whole).await;
        // Even if the cursor was not stored: one that is behind reads again, and the drain goes on.
        let confirmed = self.confirm().await;
        let confirmed = match settled {
            Ok(()) => confirmed,
            Err(error) => confirmed.and(Err(error)),
        };
        if let Some(Error::NotResumed { .. }) = &failure {
            confirmed?;
            tracing::warn!(
                slot = self.settings.slot,
                "{}",
                failure.map(|failure| failure.chain()).unwrap_or_default()
            );
            self.sender.ledger.start_over();
            self.keeper.set_back(self.sender.ledger.reached().clone());
            return Ok(End::Again);
        }
        if let Some(failure) = failure {
            if let Err(error) = confirmed {
                tracing::warn!(slot = self.settings.slot, error = %error.chain(), "what had arrived was not confirmed");
            }
            return Err(failure);
        }
        Ok(match (read, confirmed?) {
            (Read::Whole, true) if all => End::Whole,
            (Read::Full, true) if all => End::Full,
            (Read::TooSlow, true) if all => End::TooSlow,
            _ => End::Deadline,
        })
    }

    /// Stops the peek. The server may be gone, and what is under way to the stream must not wait for it.
    async fn abandon(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.slot.abandon()).await;
    }

    /// Takes rows until there are no more or the time for reading is over, sending meanwhile.
    async fn read<R: Row>(
        &mut self,
        window: Window,
        rows: &mut impl Rows<Row = R>,
        reader: &mut Reader<'_, R>,
    ) -> Result<Read, Error> {
        let stop = tokio::time::sleep_until(self.budget.stop_reading().into());
        tokio::pin!(stop);
        let (mut count, mut parcels) = (0i32, Vec::new());
        loop {
            while reader.has_rows() && self.sender.has_room() {
                let Self { sender, report, .. } = self;
                let mut out = Output {
                    ledger: &mut sender.ledger,
                    parcels: &mut parcels,
                    report,
                };
                let done = reader.next(&mut out);
                // Also after an error: what came before the row stands.
                parcels.drain(..).for_each(|parcel| self.sender.push(parcel));
                if let Some(wanted) = done? {
                    let line = self.row_of(&wanted).await?;
                    reader.found(line);
                    // Each costs a question, and there may be many.
                    if Instant::now() >= self.budget.stop_reading() {
                        return Ok(Read::Stopped);
                    }
                }
                while self.sender.can_send_full() {
                    self.sender.send(true);
                }
            }
            let retry = self.sender.next_try();
            let due = self.keeper.due(self.sender.ledger.reached());
            tokio::select! {
                biased;
                () = &mut stop => return Ok(Read::Stopped),
                answer = self.sender.next_answer(), if self.sender.waits() => {
                    self.sender.settle(answer?, &mut self.report)?;
                }
                row = rows.next(), if self.sender.has_room() => {
                    let row = match row {
                        Ok(Some(row)) => row,
                        Ok(None) if reader.has_rows() => continue,
                        Ok(None) if reader.is_open() => return Err(reader.out_of_place(window.upto)),
                        Ok(None) if count >= window.rows && !reader.is_beyond() => return Ok(Read::Full),
                        Ok(None) => return Ok(Read::Whole),
                        Err(SlotError::Timeout { .. }) => return Ok(Read::TooSlow),
                        Err(error) => return Err(error.into()),
                    };
                    count = count.saturating_add(1);
                    if reader.take(row)? == Wants::LargeCommits {
                        let asked = self.slot.large_commits(window, HOLD_BYTES / 2);
                        match tokio::time::timeout_at(self.budget.stop_reading().into(), asked).await {
                            Ok(commits) => {
                                reader.large_commits(commits?)?;
                                reader.stop(&mut self.sender.ledger);
                            }
                            Err(_) => {
                                let _ = tokio::time::timeout(Duration::from_secs(1), self.slot.give_up()).await;
                                return Ok(Read::Stopped);
                            }
                        }
                    }
                }
                () = self.keeper.settle(), if self.keeper.waits() => {}
                () = until(due), if due.is_some() => self.store_along_the_way().await?,
                // Only when no row is there to be taken: until then requests fill up.
                () = std::future::ready(()), if self.sender.should_send() => self.sender.send(self.sender.has_room()),
                () = until(retry), if retry.is_some() => self.sender.send(self.sender.has_room()),
            }
        }
    }

    /// Sends what was read until all of it has arrived (then `true`), or the time for that is over.
    async fn bring_home(&mut self) -> (Result<(), Error>, bool) {
        let stop = tokio::time::sleep_until(self.budget.stop_sending().into());
        tokio::pin!(stop);
        let mut result = Ok(());
        while !self.sender.is_done() {
            while self.sender.can_send_rest() {
                self.sender.send(false);
            }
            let retry = self.sender.next_try();
            let due = self.keeper.due(self.sender.ledger.reached());
            tokio::select! {
                biased;
                () = &mut stop => break,
                answer = self.sender.next_answer(), if self.sender.waits() => {
                    let settled = answer.and_then(|answer| self.sender.settle(answer, &mut self.report));
                    result = result.and(settled);
                }
                () = self.keeper.settle(), if self.keeper.waits() => {}
                () = until(due), if due.is_some() => {
                    if let Err(error) = self.store_along_the_way().await {
                        // What is under way arrives all the same, but nobody may tell.
                        result = result.and(Err(error));
                        self.keeper.close().await;
                    }
                }
                () = until(retry), if retry.is_some() => self.sender.send(false),
            }
        }
        (result, self.sender.is_empty())
    }

    /// Starts a store, if nobody else can have stored meanwhile.
    async fn store_along_the_way(&mut self) -> Result<(), Error> {
        self.slot.holds().await?;
        self.keeper.start(self.sender.ledger.reached());
        Ok(())
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

/// How reading a window ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// Everything up to its bound.
    Whole,
    /// The row bound was met.
    Full,
    /// The server took longer than it had.
    TooSlow,
    /// The time for reading is over, or something failed.
    Stopped,
}

/// Wall-clock time, µs since 1970-01-01 UTC.
fn now() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
