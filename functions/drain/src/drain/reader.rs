//! From rows to parcels: keeps the transaction that is open, gives positions, skips what the stream surely has.
//!
//! A position begins with the end of the commit record, and pgoutput and test_decoding tell that only at the commit. So
//! rows of such a transaction are held until their commit comes. One that outgrows [`HOLD_BYTES`] is not held further:
//! the server is asked for the commits of all such transactions of the window, which costs another peek, and from then on
//! their rows pass through. Rows that may go are given out one at a time, so that no burst of events exceeds the bound on
//! what waits.
//!
//! A transaction may be larger than one invocation. It is acknowledged in sections, and where the last one ended is where the next
//! invocation goes on: the rows before are not read again, the last row must be the one it was.

mod reads;

use std::collections::VecDeque;

use md5::{Digest as _, Md5};

use crate::backfill::{Side, WATERMARK, Wanted};
use crate::catalog::Catalog;
use crate::change::{Change, Datum, Item, Relation};
use crate::checkpoint::Inside;
use crate::continuity::Discontinuity;
use crate::decode::Decoder;
use crate::encode::{Envelope, Event, Oversize, Progress, Transaction};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::marker::{Marker, PREFIX};
use crate::pack::{Ledger, Parcel, TransactionId};
use crate::pattern::TablePattern;
use crate::position::Positions;

use super::Settings;
use super::parts::{Commits, ROW_BYTES, Row};
use super::rekeyed::Keys;
use super::report::Report;

/// Bytes of rows of one transaction that wait for its commit.
pub(super) const HOLD_BYTES: usize = 8 << 20;

/// Bytes of rows of one transaction after which a section of it ends. A checkpoint is stored about once a second, so smaller ones
/// would not be of use.
const SECTION_BYTES: usize = 1 << 20;

/// Tables whose events are counted one by one (Debezium's transaction metadata) in a checkpoint's progress, at most.
const MOST_TABLES: usize = 16;

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
    /// Whether it reaches beyond what may be read: it comes again when that has moved.
    beyond: bool,
    /// Its rows so far.
    rows: Rows,
    /// What is yet to come of what an earlier invocation sent.
    resumed: Option<Inside>,
}

/// The change rows of a transaction, as they were read.
#[derive(Debug, Clone, Copy, Default)]
struct Rows {
    count: u64,
    /// The last row's `lsn`.
    lsn: Lsn,
    /// Rows with that `lsn`.
    at_lsn: u64,
    /// Bytes since the last section.
    bytes: usize,
}

impl Open {
    fn new(id: TransactionId, transaction: Transaction) -> Self {
        Open {
            id,
            transaction,
            progress: None,
            skip: false,
            replay: false,
            changes: 0,
            beyond: false,
            rows: Rows::default(),
            resumed: None,
        }
    }
}

/// Reads the rows of one window.
pub(super) struct Reader<'a, R> {
    settings: &'a Settings,
    envelope: &'a Envelope,
    decoder: Decoder,
    catalog: Catalog,
    /// What is known of what was sent before.
    past: Past,
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
    /// The last change row.
    last: Vec<u8>,
    /// See [`Reader::is_beyond`].
    beyond: bool,
    /// What is to be done for a backfill.
    side: Option<Side>,
}

/// What is known of what was sent before this window, and of where it ends.
#[derive(Debug)]
pub(super) struct Past {
    /// Transactions that end at or before this are in the stream, surely as they are in the log now.
    pub(super) settled: Lsn,
    /// Transactions that end at or before this were in the stream once.
    pub(super) acknowledged: Lsn,
    /// How much of the next one is in the stream.
    pub(super) inside: Option<Inside>,
    /// A marker that must come.
    pub(super) expected: Option<Marker>,
    /// Transactions that end after this are not to be read yet.
    pub(super) upto: Lsn,
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
        past: Past,
        side: Option<Side>,
        now: i64,
    ) -> Self {
        Reader {
            settings,
            envelope,
            decoder: Decoder::new(settings.plugin),
            catalog,
            past,
            open: None,
            rows: VecDeque::new(),
            held_bytes: 0,
            commits: None,
            now,
            events: Vec::new(),
            keys: Keys::default(),
            last: Vec::new(),
            beyond: false,
            side,
        }
    }

    /// What it did for a backfill.
    pub(super) fn side(&mut self) -> Option<Side> {
        self.side.take()
    }

    /// The marker that has not come yet.
    pub(super) fn expected(&mut self) -> Option<Marker> {
        self.past.expected.take()
    }

    /// Ends the section of the open transaction here: what was read of it counts once it has arrived.
    pub(super) fn stop(&mut self, ledger: &mut Ledger) {
        self.end_section(ledger);
    }

    /// Whether a transaction was begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a transaction was left out that ends beyond what may be read. Everything before the window's end was seen then.
    pub(super) fn is_beyond(&self) -> bool {
        self.beyond
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
        !held && (self.gives() || !self.rows.is_empty())
    }

    /// Turns the next row that may go into parcels: one that the slot gave, or at its watermark one that was read. What is returned must be
    /// answered by [`Reader::found`] first.
    ///
    /// # Errors
    /// The row is not what its plugin writes, or an event is larger than a record may be. What came before it stands.
    pub(super) fn next(&mut self, out: &mut Output<'_>) -> Result<Option<Wanted>, Error> {
        if self.gives() {
            return self.give(out).map(|()| None);
        }
        let Some(row) = self.rows.pop_front() else {
            return Ok(None);
        };
        let wanted = self.process(row.lsn(), row.data(), out)?;
        if wanted.is_some() {
            self.rows.push_front(row);
        }
        Ok(wanted)
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
        self.held_bytes = 0;
        self.commit_known(lsn, commit_end, commit_time)
    }

    /// Where the open transaction ends decides what becomes of it.
    fn commit_known(&mut self, lsn: Lsn, commit_end: Lsn, commit_time: Option<i64>) -> Result<(), Error> {
        // Transactions come in the order of their commits.
        if let Some(marker) = &self.past.expected
            && marker.flushed < commit_end
        {
            return Err(self.missing(marker));
        }
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        open.transaction.commit_time = open.transaction.commit_time.or(commit_time);
        open.progress = Some(Progress::new(open.transaction, commit_end));
        open.skip = commit_end <= self.past.settled;
        open.replay = commit_end <= self.past.acknowledged;
        open.beyond = commit_end > self.past.upto;
        self.beyond |= open.beyond;
        open.resumed = self
            .past
            .inside
            .take_if(|inside| inside.xid == open.transaction.xid);
        // What is resumed has rows that were sent; that its end is known needs nothing of it to come again.
        open.resumed.take_if(|inside| inside.rows == 0);
        match &open.resumed {
            // The server may have left rows out.
            Some(inside) if inside.commit_end != commit_end => Err(not_resumed(&self.settings.slot, inside)),
            _ => Ok(()),
        }
    }

    fn process(&mut self, lsn: Lsn, data: &[u8], out: &mut Output<'_>) -> Result<Option<Wanted>, Error> {
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
                let transaction = Transaction { xid, commit_time };
                self.open = Some(Open::new(out.ledger.begin(), transaction));
                // The rows that it was known from are not needed to know it again.
                let commit = commit_end.map(|end| (end, commit_time));
                let resumed = self.past.inside.as_ref().filter(|inside| inside.xid == xid);
                let resumed = resumed.map(|inside| (inside.commit_end, inside.commit_time));
                if let Some((commit_end, commit_time)) = commit.or(resumed) {
                    self.commit_known(lsn, commit_end, commit_time)?;
                }
            }
            Item::Commit { commit_end, .. } => {
                let Some(open) = self.open.take() else {
                    return Err(self.out_of_place(lsn));
                };
                if let Some(inside) = &open.resumed {
                    return Err(not_resumed(&self.settings.slot, inside));
                }
                // All of its events were given positions that begin with it.
                if open
                    .progress
                    .as_ref()
                    .is_some_and(|progress| progress.commit_end() != commit_end)
                {
                    return Err(self.out_of_place(lsn));
                }
                if open.beyond {
                    out.ledger.forget(open.id);
                    return Ok(None);
                }
                out.report.transactions += u64::from(open.changes > 0 && !open.skip);
                out.ledger.commit(open.id, commit_end);
            }
            Item::Change(Change::Message(message)) if message.prefix == PREFIX => {
                let slot = &self.settings.slot;
                self.past.expected.take_if(|marker| marker.is(slot, &message));
            }
            Item::Change(Change::Message(message)) if message.prefix == WATERMARK => {
                self.reach(lsn, &message.content);
            }
            Item::Change(change) => {
                if let Some(wanted) = self.wants(&change) {
                    return Ok(Some(wanted));
                }
                self.count(lsn, data)?;
                self.change(lsn, data, change, out)?;
            }
            // It stands in the log between commits, and is ordered among them by its own end, which is the row's LSN.
            Item::Message(message) => {
                if self.open.is_some() {
                    return Err(self.out_of_place(lsn));
                }
                if lsn > self.past.upto {
                    self.beyond = true;
                    return Ok(None);
                }
                let id = out.ledger.begin();
                if lsn <= self.past.settled {
                    out.report.skipped += 1;
                } else {
                    out.report.changes += 1;
                    out.report.replayed += u64::from(lsn <= self.past.acknowledged);
                    let position = Positions::new(lsn).next(lsn);
                    self.events
                        .push(self.envelope.message(position, &message, self.now));
                    self.send(id, out)?;
                }
                out.ledger.commit(id, lsn);
            }
        }
        Ok(None)
    }

    /// A change row of the open transaction, which [`Reader::count`] has counted.
    fn change(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        change: Change<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Error> {
        let change = wanted(&self.settings.tables, change);
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        if open.beyond {
            return Ok(());
        }
        let Some(progress) = &mut open.progress else {
            return Err(self.out_of_place(lsn));
        };
        if open.resumed.is_some() {
            return self.resume(lsn, data, change.as_ref(), out);
        }
        let Some(change) = change else {
            return Ok(());
        };
        open.changes += 1;
        if open.skip {
            out.report.skipped += 1;
            self.envelope.skip(progress, lsn, &change);
            return Ok(());
        }
        let id = open.id;
        out.report.changes += 1;
        out.report.replayed += u64::from(open.replay);
        out.report.omitted += self.encode(lsn, change)?;
        self.send(id, out)?;
        let open = self.open.as_ref();
        if open.is_some_and(|open| open.rows.bytes >= SECTION_BYTES) {
            self.end_section(out.ledger);
        }
        Ok(())
    }

    /// A row that an earlier invocation sent. The last of them must be the one that it was.
    fn resume(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        change: Option<&Change<'_>>,
        out: &mut Output<'_>,
    ) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        let (Some(progress), Some(inside)) = (&mut open.progress, &open.resumed) else {
            return Err(self.out_of_place(lsn));
        };
        // What the server was not asked to leave out may come all the same.
        if lsn < inside.lsn {
            return Ok(());
        }
        if let Some(change) = change {
            self.envelope.skip(progress, lsn, change);
        }
        out.report.skipped += 1;
        let last = open.rows.at_lsn >= inside.rows_at_lsn;
        if lsn > inside.lsn || (last && md5(data) != inside.hash) {
            return Err(not_resumed(&self.settings.slot, inside));
        }
        if last {
            progress.resume(inside.counts.clone());
            open.rows.count = inside.rows;
            open.rows.bytes = 0;
            open.changes += 1;
            open.resumed = None;
        }
        Ok(())
    }

    /// Makes events of a change, which may be completed from a chunk that is held. How many values were left out of them.
    fn encode(&mut self, lsn: Lsn, mut change: Change<'_>) -> Result<u64, Error> {
        let Some(open) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        let Some(progress) = &mut open.progress else {
            return Err(self.out_of_place(lsn));
        };
        let side = self.side.as_mut();
        let filled = side.map(|side| side.pass(open.transaction.xid, &mut change));
        let filled = filled.filter(|filled| !filled.is_empty());
        let before = filled.as_ref().map(|_| progress.clone());
        let limit = self.settings.record_bytes;
        let encode = |progress: &mut Progress, change: &Change<'_>, events: &mut Vec<Event>| {
            self.envelope
                .encode(progress, lsn, change, self.now, limit, events)
        };
        let omitted = encode(progress, &change, &mut self.events);
        // A change that a record holds must not become too large for what was filled in.
        let is_large = |event: &Event| event.data.len() + event.partition_key.len() > limit;
        let (Some(filled), Some(before)) = (filled, before) else {
            return Ok(omitted);
        };
        if omitted == 0 && !self.events.iter().any(is_large) {
            return Ok(omitted);
        }
        *progress = before;
        self.events.clear();
        // Read again, the row fails or loses columns as it has to: with its chunk, or where it may have moved to what was read, with all of the table.
        if let Some(side) = &mut self.side {
            side.lose(&change, self.envelope.oversize == Oversize::Fail);
        }
        if let Change::Update { new, .. } = &mut change {
            for at in filled {
                if let Some(datum) = new.get_mut(at) {
                    *datum = Datum::Unchanged;
                }
            }
        }
        Ok(encode(progress, &change, &mut self.events))
    }

    /// Counts a change row of the open transaction.
    fn count(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), Error> {
        let Some(Open { rows, .. }) = &mut self.open else {
            return Err(self.out_of_place(lsn));
        };
        rows.count += 1;
        rows.at_lsn = if rows.lsn == lsn { rows.at_lsn + 1 } else { 1 };
        rows.lsn = lsn;
        rows.bytes += data.len();
        self.last.clear();
        self.last.extend_from_slice(data);
        Ok(())
    }

    /// What was sent of the open transaction may count for itself from here on.
    fn end_section(&mut self, ledger: &mut Ledger) {
        let Some(open) = &mut self.open else {
            return;
        };
        let Some(progress) = &open.progress else {
            return;
        };
        if open.skip || open.beyond || open.resumed.is_some() {
            return;
        }
        // Of a watermark's transaction there is only the whole.
        let chunk = self.side.as_ref().and_then(|side| side.chunk.as_ref());
        if open.rows.count == 0 && chunk.is_some_and(|chunk| chunk.reached.is_some()) {
            return;
        }
        open.rows.bytes = 0;
        let counts = self.envelope.counts(progress);
        // A checkpoint has 4 KB. Where so many tables are counted, the transaction must pass in one go.
        if counts.tables.values().map(|tables| tables.len()).sum::<usize>() > MOST_TABLES {
            return;
        }
        let inside = Inside {
            xid: open.transaction.xid,
            commit_end: progress.commit_end(),
            commit_time: open.transaction.commit_time,
            lsn: open.rows.lsn,
            rows_at_lsn: open.rows.at_lsn,
            rows: open.rows.count,
            hash: md5(&self.last),
            counts,
        };
        open.id = ledger.section(open.id, inside);
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

    /// The marker did not come before what was committed after it.
    pub(super) fn missing(&self, marker: &Marker) -> Error {
        Error::from(Discontinuity::MarkerMissing {
            slot: self.settings.slot.clone(),
            number: marker.number,
            marker: marker.lsn,
            acknowledged: self.past.acknowledged,
        })
    }

    pub(super) fn out_of_place(&self, lsn: Lsn) -> Error {
        Error::OutOfPlace {
            slot: self.settings.slot.clone(),
            lsn,
        }
    }
}

fn not_resumed(slot: &str, inside: &Inside) -> Error {
    Error::NotResumed {
        slot: slot.to_owned(),
        xid: inside.xid,
        commit_end: inside.commit_end,
    }
}

fn md5(data: &[u8]) -> String {
    Md5::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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

#[cfg(test)]
mod tests;
