//! One window: its rows are read and sent at the same time, what is under way is brought home, and what has arrived is confirmed.

use std::time::{Duration, Instant};

use super::parts::{Checkpoints, Row, Rows, Slot, SlotError, Stream, Tables};
use super::reader::{HOLD_BYTES, Output, Past, Reader, Wants};
use super::{Beside, Drain, End};
use crate::backfill::Side;
use crate::catalog::Catalog;
use crate::clock::now_micros;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::window::Window;

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

impl<S: Slot + Tables, K: Stream, C: Checkpoints> Drain<'_, S, K, C>
where
    <S::Rows as Rows>::Row: Row,
{
    /// Reads one window, sends it, and confirms what has arrived. The server gets `patience` to decode it.
    /// Transactions that end behind `readable` are left for later.
    pub(super) async fn window(
        &mut self,
        window: Window,
        readable: Lsn,
        patience: Duration,
    ) -> Result<End, Error> {
        let now = now_micros();
        let visible = match self.beside.as_ref().is_some_and(Beside::is_running) {
            true => Some(self.slot.snapshot().await?),
            false => None,
        };
        let Some(mut rows) = self.peek(window, patience).await? else {
            return Ok(End::TooSlow);
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
        let (read, failure) = match self.read(window, &mut rows, &mut reader).await {
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
        self.close(window, read, beyond, failure).await
    }

    /// Opens a window; `None` when the server does not decode it in time.
    async fn peek(&mut self, window: Window, patience: Duration) -> Result<Option<S::Rows>, Error> {
        self.report.peeks += 1;
        let time = self.budget.for_reading(Instant::now());
        let asked = Instant::now();
        let peeked = tokio::time::timeout(patience, self.slot.peek(window, time)).await;
        self.peek_took = asked.elapsed();
        match peeked {
            Ok(Ok(rows)) => Ok(Some(rows)),
            Err(_) | Ok(Err(SlotError::Timeout { .. })) => {
                self.abandon().await;
                Ok(None)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// A window was read, as far as it was. Brings home what is under way, and confirms what has arrived: even after a failure, since what is under
    /// way arrives anyway, and what is stored and confirmed need not be sent again.
    ///
    /// `beyond` says that a transaction was left for later, `failure` why reading ended.
    async fn close(
        &mut self,
        window: Window,
        read: Read,
        beyond: bool,
        mut failure: Option<Error>,
    ) -> Result<End, Error> {
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
                if reader.loses() {
                    self.read_anew("no record holds its change with what was read for it")
                        .await?;
                }
                // Also after an error: what came before the row stands.
                parcels.drain(..).for_each(|parcel| self.sender.push(parcel));
                if let Some(wanted) = done? {
                    let looked = self.row_of(&wanted).await?;
                    reader.found(looked);
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
    pub(super) async fn bring_home(&mut self) -> (Result<(), Error>, bool) {
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
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
