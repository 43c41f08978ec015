//! From changes to events: the bytes that a record of the stream holds, and the key that places it. Pure, but for the memory of
//! the definitions that DMS's envelope announces.
//!
//! What is the same in every envelope is decided here: which events a change makes, their positions, their keys, and what is left out
//! of one that no record could hold. How an event is written is its envelope's.

mod debezium;
mod definitions;
mod dms;
mod key;
mod oversize;
mod progress;
mod snapshot;
#[cfg(test)]
mod tests;
mod value;
mod wal2json;

pub use debezium::{Debezium, DebeziumModes, DecimalMode, TimeMode};
pub use definitions::Definitions;
pub use dms::Dms;
pub use key::{PartitionBy, hash};
pub use progress::{EventCounts, Progress};
pub use snapshot::{BackfillRow, SnapshotPlace};
pub use wal2json::Wal2json;

use std::sync::Arc;

use crate::change::{Change, Column, Datum, Message, Relation, Tuple};
use crate::lsn::Lsn;
use crate::position::Position;
use oversize::OmittedColumns;
use progress::EventPlace;

/// A change in its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands. Sent with it, the same every time.
    pub position: Position,
    /// What decides the shard, and what must stay in order. Never empty, and not longer than Kinesis takes.
    pub partition_key: String,
    /// Whether everything before it must be acknowledged first and everything after it must wait: a truncate, a table's new
    /// definition, a row that moved from one key to another in one event, and a control message.
    pub barrier: bool,
    /// The table it is about; a message has none.
    pub relation: Option<Arc<Relation>>,
    /// The record's data. Empty for a tombstone.
    pub data: Vec<u8>,
}

impl Event {
    /// Bytes that count against a record: data and partition key.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.partition_key.len()
    }

    /// What errors call its partition key, which may hold data: the first 16 digits of its SHA-256.
    pub fn key_hash(&self) -> String {
        hash(&self.partition_key).chars().take(16).collect()
    }
}

/// What Debezium puts for a large value that an update did not touch.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// What the events of one transaction have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its id, 32 bits as in the log; 0 for a message outside of any transaction.
    pub xid: u32,
    /// When it was committed, µs since 1970-01-01 UTC. A message outside of any transaction has none.
    pub commit_time: Option<i64>,
}

impl Transaction {
    /// That of what belongs to none.
    pub const NONE: Transaction = Transaction {
        xid: 0,
        commit_time: None,
    };
}

/// What becomes of an event that no record can hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Oversize {
    /// The drain stops before its transaction.
    #[default]
    Fail,
    /// The largest columns outside the key are left out until it fits, and the event says which.
    Omit,
}

/// Writes events.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// How they are written.
    pub form: EnvelopeForm,
    /// What their partition keys are made of.
    pub partition_by: PartitionBy,
    /// What becomes of those that are too large.
    pub oversize: Oversize,
}

/// The forms of events that consumers know.
#[derive(Debug, Clone)]
pub enum EnvelopeForm {
    /// Debezium's PostgreSQL connector, as its JSON converter writes it.
    Debezium(Debezium),
    /// AWS DMS with Kinesis as its target.
    Dms(Dms),
    /// wal2json in its format version 2.
    Wal2json(Wal2json),
}

/// An event about a row.
struct RowEvent<'r> {
    action: RowOperation,
    relation: &'r Arc<Relation>,
    /// What is known of the row before.
    old: Option<&'r Tuple<'r>>,
    /// The row after; a delete has none.
    new: Option<&'r Tuple<'r>>,
    head: EventHead,
    omitted: &'r OmittedColumns,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOperation {
    Insert,
    /// It was there when a backfill read it.
    Read,
    /// `moved`: to another key.
    Update {
        moved: bool,
    },
    Delete,
}

/// What every event has.
#[derive(Debug, Clone, Copy)]
struct EventHead {
    transaction: Transaction,
    place: EventPlace,
    /// Where the row stands among those that a backfill reads; a change has none.
    snapshot: Option<SnapshotPlace>,
    /// When the change was read, µs since 1970-01-01 UTC: the one thing that differs when an event is sent again.
    now: i64,
}

impl<'r> RowEvent<'r> {
    /// The row by whose key the event is placed.
    fn placed_by(&self) -> &'r Tuple<'r> {
        const NOTHING: &Tuple<'static> = &Vec::new();
        self.new.or(self.old).unwrap_or(NOTHING)
    }

    /// The columns of one of its images that are known, with what is to be written of each: a value that was left out for the event's
    /// size is one that did not change.
    fn image(&self, tuple: &'r Tuple<'r>) -> impl Iterator<Item = (&'r Column, &'r Datum<'r>)> + use<'r> {
        const UNCHANGED: &Datum<'static> = &Datum::Unchanged;
        let omitted = self.omitted;
        let columns = self.relation.columns.iter().zip(tuple).enumerate();
        columns
            .map(move |(at, (column, datum))| (column, if omitted.has(at) { UNCHANGED } else { datum }))
            .filter(|(_, datum)| **datum != Datum::Absent)
    }

    /// The names of the columns whose values the new row does not tell.
    fn unchanged(&self) -> impl Iterator<Item = &'r str> {
        let new = self.new.into_iter().flat_map(|new| self.image(new));
        new.filter(|(_, datum)| **datum == Datum::Unchanged)
            .map(|(column, _)| column.name.as_str())
    }
}

impl Envelope {
    /// The same for events that are not sent: what it announces of tables does not count as announced.
    pub fn with_empty_definitions(&self) -> Self {
        let mut envelope = self.clone();
        if let EnvelopeForm::Dms(form) = &mut envelope.form {
            form.definitions = Definitions::default();
        }
        envelope
    }

    /// Appends the events of a change to `out`, and tells of how many something was left out because no record of `limit` bytes
    /// could hold it. An event may still be larger than that.
    ///
    /// Most changes are one event. A changed key is, in Debezium's envelope, a delete of the old key and a create of the new; a truncate
    /// is one for each table; a tombstone follows its delete, and a definition precedes what it describes, both with its position.
    ///
    /// `lsn` is the row's from the peek, `now` µs since 1970-01-01 UTC.
    pub fn encode(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        change: &Change<'_>,
        now: i64,
        limit: usize,
        out: &mut Vec<Event>,
    ) -> u64 {
        let transaction = progress.transaction;
        let mut row = |place, action, relation, old, new| {
            let head = EventHead {
                transaction,
                place,
                snapshot: None,
                now,
            };
            let omitted = &OmittedColumns::default();
            let row = RowEvent {
                action,
                relation,
                old,
                new,
                head,
                omitted,
            };
            self.row(row, limit, out)
        };
        match change {
            Change::Insert { relation, new } => row(
                progress.next(lsn, relation),
                RowOperation::Insert,
                relation,
                None,
                Some(new),
            ),
            Change::Delete { relation, old } => row(
                progress.next(lsn, relation),
                RowOperation::Delete,
                relation,
                Some(old),
                None,
            ),
            Change::Update { relation, old, new } => {
                let moved = moved(relation, old.as_ref(), new);
                match (&self.form, moved, old) {
                    (EnvelopeForm::Debezium(_), true, Some(old)) => {
                        let gone = progress.next(lsn, relation);
                        let gone = row(gone, RowOperation::Delete, relation, Some(old), None);
                        let come = progress.next(lsn, relation);
                        gone + row(come, RowOperation::Insert, relation, None, Some(new))
                    }
                    _ => {
                        let place = progress.next(lsn, relation);
                        if moved {
                            progress.pass(lsn);
                        }
                        row(
                            place,
                            RowOperation::Update { moved },
                            relation,
                            old.as_ref(),
                            Some(new),
                        )
                    }
                }
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    let place = progress.next(lsn, relation);
                    let head = EventHead {
                        transaction,
                        place,
                        snapshot: None,
                        now,
                    };
                    out.push(Event {
                        position: place.position,
                        partition_key: self
                            .partition_by
                            .of_table(relation, transaction.xid, place.position),
                        barrier: true,
                        relation: Some(Arc::clone(relation)),
                        data: match &self.form {
                            EnvelopeForm::Debezium(form) => form.truncate(&head, relation),
                            EnvelopeForm::Dms(form) => form.truncate(&head, relation, self.partition_by),
                            EnvelopeForm::Wal2json(form) => form.truncate(&head, relation),
                        },
                    });
                }
                0
            }
            Change::Message(message) => {
                let place = progress.next_message(lsn);
                out.push(self.event_of_message(transaction, place, message, now));
                0
            }
        }
    }

    /// Counts a change that is not sent because the stream has it, so that what follows it gets the same positions and numbers.
    pub fn skip(&self, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) {
        match change {
            Change::Insert { relation, .. } | Change::Delete { relation, .. } => {
                progress.next(lsn, relation);
            }
            Change::Update { relation, old, new } => {
                progress.next(lsn, relation);
                match &self.form {
                    _ if !moved(relation, old.as_ref(), new) => {}
                    EnvelopeForm::Debezium(_) => {
                        progress.next(lsn, relation);
                    }
                    EnvelopeForm::Dms(_) | EnvelopeForm::Wal2json(_) => progress.pass(lsn),
                }
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    progress.next(lsn, relation);
                }
            }
            Change::Message(_) => {
                progress.next_message(lsn);
            }
        }
    }

    /// What must be known of a transaction's beginning to go on in its middle: of its tables only where events tell their number.
    pub fn counts(&self, progress: &Progress) -> EventCounts {
        let by_table = match &self.form {
            EnvelopeForm::Debezium(form) => form.transaction_metadata,
            EnvelopeForm::Dms(_) | EnvelopeForm::Wal2json(_) => false,
        };
        match by_table {
            true => progress.counts().clone(),
            false => EventCounts {
                events: progress.counts().events,
                ..EventCounts::default()
            },
        }
    }

    /// The event of a logical message that belongs to no transaction.
    pub fn encode_message(&self, position: Position, message: &Message<'_>, now: i64) -> Event {
        self.event_of_message(Transaction::NONE, EventPlace::alone(position), message, now)
    }

    /// The event of a logical message that stands between the changes of all keys: everything before it must be acknowledged first, and
    /// everything behind it waits.
    pub fn encode_control_message(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        message: &Message<'_>,
        now: i64,
    ) -> Event {
        let place = progress.next_message(lsn);
        Event {
            barrier: true,
            ..self.event_of_message(progress.transaction, place, message, now)
        }
    }

    fn event_of_message(
        &self,
        transaction: Transaction,
        place: EventPlace,
        message: &Message<'_>,
        now: i64,
    ) -> Event {
        let head = EventHead {
            transaction,
            place,
            snapshot: None,
            now,
        };
        Event {
            position: place.position,
            partition_key: self
                .partition_by
                .of_message(&message.prefix, transaction.xid, place.position),
            barrier: false,
            relation: None,
            data: match &self.form {
                EnvelopeForm::Debezium(form) => form.message(&head, message),
                EnvelopeForm::Dms(form) => form.message(&head, message),
                EnvelopeForm::Wal2json(form) => form.message(&head, message),
            },
        }
    }

    /// Appends the event of a row, with what goes before and behind it. 1 when something of it was left out, otherwise 0.
    fn row(&self, row: RowEvent<'_>, limit: usize, out: &mut Vec<Event>) -> u64 {
        let (xid, position) = (row.head.transaction.xid, row.head.place.position);
        let own = |relation: &Relation, tuple: &Tuple<'_>| match &self.form {
            EnvelopeForm::Debezium(_) | EnvelopeForm::Wal2json(_) => debezium::key(relation, tuple),
            EnvelopeForm::Dms(_) => dms::key(relation, tuple),
        };
        let partition_key = self
            .partition_by
            .of_row(row.relation, row.placed_by(), xid, position, own);
        let data = |row: &RowEvent<'_>| match &self.form {
            EnvelopeForm::Debezium(form) => form.row(row),
            EnvelopeForm::Dms(form) => form.row(row, self.partition_by),
            EnvelopeForm::Wal2json(form) => form.row(row),
        };
        let event = |barrier, partition_key, mut data: Vec<u8>| {
            // It waits, perhaps with many others, and what waits is counted by what it occupies.
            data.shrink_to_fit();
            Event {
                position,
                partition_key,
                barrier,
                relation: Some(Arc::clone(row.relation)),
                data,
            }
        };
        if let EnvelopeForm::Dms(form) = &self.form
            && let Some((changed, control)) = form.definition(&row, self.partition_by)
        {
            // A first definition goes the way of the row that it came with; a new one concerns all rows.
            let key = if changed {
                self.partition_by.of_table(row.relation, xid, position)
            } else {
                partition_key.clone()
            };
            out.push(event(changed, key, control));
        }
        let room = limit.saturating_sub(partition_key.len());
        let mut written = data(&row);
        let mut omitted = OmittedColumns::default();
        if self.oversize == Oversize::Omit && written.len() > room {
            let mut candidates = oversize::candidates(&row, |out, kind, text| self.value(out, kind, text))
                .into_iter()
                .peekable();
            while let Some(left_out) = candidates.next() {
                omitted.add(left_out, written.len() - room);
                if omitted.may_do() || candidates.peek().is_none() {
                    written = data(&RowEvent {
                        omitted: &omitted,
                        ..row
                    });
                    if written.len() <= room {
                        break;
                    }
                    omitted.did_not_do();
                }
            }
        }
        // Of the two keys that a move concerns, the event lies on the lane of one. With everything before it acknowledged and everything
        // behind it waiting, it is in order for both.
        let moved = row.action == RowOperation::Update { moved: true };
        let barrier = moved && self.partition_by == PartitionBy::Key;
        let tombstone = match &self.form {
            EnvelopeForm::Debezium(form) => form.tombstones && row.action == RowOperation::Delete,
            EnvelopeForm::Dms(_) | EnvelopeForm::Wal2json(_) => false,
        };
        out.push(event(barrier, partition_key.clone(), written));
        if tombstone {
            out.push(event(false, partition_key, Vec::new()));
        }
        u64::from(!omitted.is_empty())
    }

    fn value(&self, out: &mut Vec<u8>, column: &Column, text: &str) {
        match &self.form {
            EnvelopeForm::Debezium(form) => form.modes.value(out, &column.kind, text),
            EnvelopeForm::Dms(_) => dms::value(out, &column.kind, text),
            EnvelopeForm::Wal2json(_) => wal2json::value(out, &column.kind, text),
        }
    }
}

/// Whether an update moved the row to another key.
fn moved(relation: &Relation, old: Option<&Tuple<'_>>, new: &Tuple<'_>) -> bool {
    let Some(old) = old else {
        return false;
    };
    let pairs = relation.columns.iter().zip(old.iter().zip(new));
    pairs
        .filter(|(column, _)| column.key)
        .any(|(_, (old, new))| *old != Datum::Absent && old != new)
}

/// Bytes that were written from strs.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}
