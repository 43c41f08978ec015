//! From rows to parcels: keeps the transaction that is open, gives positions, skips what the stream surely has.
//!
//! A position begins with the end of the commit record, and pgoutput and test_decoding tell that only at the commit. So
//! rows of such a transaction are held until their commit comes. One that outgrows [`HOLD_BYTES`] is not held further:
//! the server is asked for the commits of all such transactions of the window, which costs another peek, and from then on
//! their rows pass through. Rows that may go are given out one at a time, so that no burst of events exceeds the bound on
//! what waits.

use std::collections::VecDeque;

use crate::catalog::Catalog;
use crate::change::{Change, Item, Relation};
use crate::config::TablePattern;
use crate::decode::Decoder;
use crate::encode::{Envelope, Event, Progress, Transaction};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pack::{Ledger, Parcel, TransactionId};
use crate::position::Positions;

use super::Settings;
use super::parts::{Commits, ROW_BYTES, Row};
use super::rekeyed::Keys;
use super::report::Report;

/// Bytes of rows of one transaction that wait for its commit.
pub(super) const HOLD_BYTES: usize = 8 << 20;

/// What the reader needs before it can go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// The next row.
    Row,
    /// The commits of the window's large transactions, given to [`Reader::large_commits`].
    LargeCommits,
}

struct Open {
    id: TransactionId,
    transaction: Transaction,
    /// Begins when the commit is known: with the transaction, or when its commit was seen.
    progress: Option<Progress>,
    /// Whether the stream has it already.
    skip: bool,
    /// Whether the stream may have it already.
    replay: bool,
    changes: u64,
}

/// Reads the rows of one window.
pub(super) struct Reader<'a, R> {
    settings: &'a Settings,
    envelope: &'a Envelope,
    decoder: Decoder,
    catalog: Catalog,
    /// Transactions that end at or before this were acknowledged by the stream.
    acknowledged: Lsn,
    /// Whether those are surely the same ones.
    proved: bool,
    open: Option<Open>,
    /// Rows that wait: for the commit of their transaction, or for room.
    rows: VecDeque<R>,
    held_bytes: usize,
    /// Commits that the server was asked for; `None` until it was.
    commits: Option<Commits>,
    /// Wall-clock time of this window, µs since 1970-01-01 UTC.
    now: i64,
    events: Vec<Event>,
    keys: Keys,
}

/// What a row turned into.
pub(super) struct Output<'a> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) parcels: &'a mut Vec<Parcel>,
    pub(super) report: &'a mut Report,
}

impl<'a, R: Row> Reader<'a, R> {
    pub(super) fn new(
        settings: &'a Settings,
        envelope: &'a Envelope,
        catalog: Catalog,
        acknowledged: Lsn,
        proved: bool,
        now: i64,
    ) -> Self {
        Reader {
            settings,
            envelope,
            decoder: Decoder::new(settings.plugin),
            catalog,
            acknowledged,
            proved,
            open: None,
            rows: VecDeque::new(),
            held_bytes: 0,
            commits: None,
            now,
            events: Vec::new(),
            keys: Keys::default(),
        }
    }

    /// Whether a transaction was begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next row of the window.
    ///
    /// # Errors
    /// It is a commit row that cannot be read.
    pub(super) fn take(&mut self, row: R) -> Result<Wants, Error> {
        let waits = self.open.as_ref().is_some_and(|open| open.progress.is_none());
        if waits && self.decoder.is_commit(row.data()) {
            self.commit_found(row.lsn(), row.data())?;
        } else if waits {
            self.held_bytes += row.data().len() + ROW_BYTES;
        }
        self.rows.push_back(row);
        if self.held_bytes <= HOLD_BYTES {
            return Ok(Wants::Row);
        }
        match &mut self.commits {
            None => Ok(Wants::LargeCommits),
            Some(commits) => {
                let xid = self.open.as_ref().map_or(0, |open| open.transaction.xid);
                let commit = commits.remove(&xid);
                let (lsn, data) = commit.ok_or_else(|| self.out_of_place(Lsn::ZERO))?;
                self.commit_found(lsn, &data)?;
                Ok(Wants::Row)
            }
        }
    }

    /// The commits of the window's transactions that are too large to be held, [`HOLD_BYTES`] or more.
    ///
    /// # Errors
    /// The commit of the open transaction is not among them, or cannot be read.
    pub(super) fn large_commits(&mut self, mut commits: Commits) -> Result<(), Error> {
        let xid = self.open.as_ref().map_or(0, |open| open.transaction.xid);
        let commit = commits.remove(&xid);
        self.commits = Some(commits);
        let (lsn, data) = commit.ok_or_else(|| self.out_of_place(Lsn::ZERO))?;
        self.commit_found(lsn, &data)
    }

    /// Whether rows wait that may go.
    pub(super) fn has_rows(&self) -> bool {
        let held = self.open.as_ref().is_some_and(|open| open.progress.is_none());
        !held && !self.rows.is_empty()
    }

    /// Turns the next row that may go into parcels.
    ///
    /// # Errors
    /// The row is not what its plugin writes, or an event is larger than a record may be. What came before it stands.
    pub(super) fn next(&mut self, out: &mut Output<'_>) -> Result<(), Error> {
        match self.rows.pop_front() {
            Some(row) => self.process(row.lsn(), row.data(), out),
            None => Ok(()),
        }
    }

    /// The commit row of the open transaction: its held rows can go now.
    fn commit_found(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), Error> {
        let Item::Commit {
            commit_end,
            commit_time,
        } = self.decode(lsn, data)?
        else {
            return Err(self.out_of_place(lsn));
        };
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        open.transaction.commit_time = open.transaction.commit_time.or(commit_time);
        open.progress = Some(Progress::new(open.transaction, commit_end));
        open.skip = self.proved && commit_end <= self.acknowledged;
        open.replay = commit_end <= self.acknowledged;
        self.held_bytes = 0;
        Ok(())
    }

    fn process(&mut self, lsn: Lsn, data: &[u8], out: &mut Output<'_>) -> Result<(), Error> {
        match self.decode(lsn, data)? {
            Item::Nothing => {}
            Item::Begin {
                xid,
                commit_end,
                commit_time,
            } => {
                if self.open.is_some() {
                    return Err(self.out_of_place(lsn));
                }
                let known = |end: Lsn| end <= self.acknowledged;
                let transaction = Transaction { xid, commit_time };
                self.open = Some(Open {
                    id: out.ledger.begin(),
                    transaction,
                    progress: commit_end.map(|end| Progress::new(transaction, end)),
                    skip: self.proved && commit_end.is_some_and(known),
                    replay: commit_end.is_some_and(known),
                    changes: 0,
                });
            }
            Item::Commit { commit_end, .. } => {
                let Some(open) = self.open.take() else {
                    return Err(self.out_of_place(lsn));
                };
                out.report.transactions += u64::from(open.changes > 0 && !open.skip);
                out.ledger.commit(open.id, commit_end);
            }
            Item::Change(change) => {
                let Some(change) = wanted(&self.settings.tables, change) else {
                    return Ok(());
                };
                let Some(Open {
                    id,
                    progress: Some(progress),
                    skip,
                    replay,
                    changes,
                    ..
                }) = &mut self.open
                else {
                    return Err(self.out_of_place(lsn));
                };
                *changes += 1;
                if *skip {
                    out.report.skipped += 1;
                    self.envelope.skip(progress, lsn, &change);
                    return Ok(());
                }
                out.report.changes += 1;
                out.report.replayed += u64::from(*replay);
                let limit = self.settings.record_bytes;
                out.report.omitted +=
                    self.envelope
                        .encode(progress, lsn, &change, self.now, limit, &mut self.events);
                let id = *id;
                self.send(id, out)?;
            }
            // It stands in the log between commits, and is ordered among them by its own end, which is the row's LSN.
            Item::Message(message) => {
                if self.open.is_some() {
                    return Err(self.out_of_place(lsn));
                }
                let id = out.ledger.begin();
                if self.proved && lsn <= self.acknowledged {
                    out.report.skipped += 1;
                } else {
                    out.report.changes += 1;
                    out.report.replayed += u64::from(lsn <= self.acknowledged);
                    let position = Positions::new(lsn).next(lsn);
                    self.events
                        .push(self.envelope.message(position, &message, self.now));
                    self.send(id, out)?;
                }
                out.ledger.commit(id, lsn);
            }
        }
        Ok(())
    }

    fn send(&mut self, id: TransactionId, out: &mut Output<'_>) -> Result<(), Error> {
        for mut event in self.events.drain(..) {
            // What is on its way under the table's former keys goes first.
            event.barrier |= event
                .relation
                .as_ref()
                .is_some_and(|relation| self.keys.changed(relation));
            let bytes = event.data.len() + event.partition_key.len();
            if bytes > self.settings.record_bytes {
                return Err(Error::oversize(
                    &self.settings.slot,
                    &event,
                    bytes,
                    self.settings.record_bytes,
                ));
            }
            out.report.events += 1;
            out.ledger.add(id);
            out.parcels.push(Parcel {
                event,
                transaction: id,
            });
        }
        Ok(())
    }

    fn decode<'d>(&mut self, lsn: Lsn, data: &'d [u8]) -> Result<Item<'d>, Error> {
        let slot = &self.settings.slot;
        self.decoder
            .decode(&self.catalog, lsn, data)
            .map_err(|source| Error::Undecodable {
                slot: slot.clone(),
                lsn,
                source,
            })
    }

    pub(super) fn out_of_place(&self, lsn: Lsn) -> Error {
        Error::OutOfPlace {
            slot: self.settings.slot.clone(),
            lsn,
        }
    }
}

/// The change as far as the configuration wants it.
fn wanted<'c>(tables: &[TablePattern], change: Change<'c>) -> Option<Change<'c>> {
    let wants = |relation: &Relation| {
        tables.is_empty()
            || tables
                .iter()
                .any(|pattern| pattern.matches(&relation.schema, &relation.name))
    };
    match change {
        Change::Insert { ref relation, .. }
        | Change::Update { ref relation, .. }
        | Change::Delete { ref relation, .. } => wants(relation).then_some(change),
        Change::Truncate { relations } => {
            let relations: Vec<_> = relations.into_iter().filter(|relation| wants(relation)).collect();
            (!relations.is_empty()).then_some(Change::Truncate { relations })
        }
        Change::Message(_) => Some(change),
    }
}
