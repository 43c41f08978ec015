//! Encoding of changes into events.
//!
//! An event has the data of one record and a partition key. Some parts are the same in all envelopes: the
//! events of a change, their positions, and their keys. This module decides them. If an event exceeds a
//! record, it decides which columns are omitted. Each envelope decides how its events are written. The module
//! is pure. Two parts keep state between events: the DMS envelope remembers the table definitions that it
//! announced, and Debezium's caches the texts of schemas.

mod backfill_row;
mod debezium;
mod definitions;
mod dms;
mod encoded_events;
mod encoder;
mod form;
mod key;
mod omitted_columns;
mod oversize;
mod progress;
mod row;
#[cfg(test)]
mod tests;
mod value;
mod wal2json;

pub use backfill_row::{BackfillRow, SnapshotPlace};
pub use debezium::{Debezium, DebeziumModes, DecimalMode, HstoreMode, IntervalMode, SchemaCache, TimeMode};
pub use definitions::Definitions;
pub use dms::Dms;
pub use encoded_events::EncodedEvents;
pub use form::EnvelopeForm;
pub use key::{KeylessRows, PartitionBy};
pub use progress::{EventCounts, Progress};
pub use wal2json::Wal2json;

use std::sync::Arc;

use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::change::{Change, Message, MessageParts, Relation};
use encoder::EventEncoder;
use progress::EventPlace;
use row::{EventHead, RowEvent, RowOperation, is_key_changed};

/// An encoded change, ready to be packed into a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the committed history. The event carries it, the same each time it is sent.
    pub position: Position,
    /// Partition key: decides the shard, and which events keep their order.
    ///
    /// Never empty, and never longer than Kinesis accepts.
    pub partition_key: String,
    /// Whether the event is a barrier between the events of all keys.
    ///
    /// A barrier is sent after all earlier events are acknowledged, and later events wait for it. Barriers
    /// are truncates, changed table definitions, key changes in one event, control messages, and rows whose
    /// lane or partition key is made in another way than before.
    pub barrier: bool,
    /// Table of the event; `None` for a message.
    pub relation: Option<Arc<Relation>>,
    /// Data of the record. Empty for a tombstone.
    pub data: Vec<u8>,
    /// Bytes of the missing values that the event must hold.
    ///
    /// These values were not kept, because no record can hold them. An event with such values cannot be sent.
    pub missing_bytes: usize,
    /// Hash of the row's table and key, if [`Relation::rows_may_move`].
    ///
    /// Changes of one row must arrive in order, also with different partition keys.
    pub row: Option<u64>,
}

impl Event {
    /// Bytes that count against the size of a record: data, partition key and missing values.
    pub fn bytes(&self) -> usize {
        (self.data.len() + self.partition_key.len()).saturating_add(self.missing_bytes)
    }

    /// What is wrong with the event's size.
    ///
    /// `None` if a record of `limit` bytes holds it. An event that lacks values is wrong at any size: it
    /// would look complete.
    pub fn size_problem(&self, limit: usize) -> Option<String> {
        let bytes = self.bytes();
        if bytes > limit {
            return Some(format!("has {bytes} bytes, a record may have {limit}"));
        }
        (self.missing_bytes > 0).then(|| {
            let missing = self.missing_bytes;
            format!("lacks values of {missing} bytes: its row is too large")
        })
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the partition key.
    ///
    /// Errors name the key by this hash, because the key itself may hold values of a row.
    pub fn key_hash(&self) -> String {
        key::sha256_hex(&self.partition_key).chars().take(16).collect()
    }
}

/// Facts that all events of one transaction share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Id of the transaction, 32 bits as in the log.
    ///
    /// 0 for a message outside any transaction.
    pub xid: u32,
    /// Time of the commit in µs since 1970-01-01 UTC.
    ///
    /// `None` for a message outside any transaction.
    pub commit_time: Option<i64>,
}

impl Transaction {
    /// Transaction of a message that belongs to none.
    pub const NONE: Transaction = Transaction {
        xid: 0,
        commit_time: None,
    };
}

/// Policy for an event that exceeds a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OversizePolicy {
    /// The drain stops before the event's transaction.
    #[default]
    Fail,
    /// The largest columns outside the key are omitted.
    ///
    /// The omission stops when the event fits. The event names the omitted columns.
    Omit,
}

/// Encoder settings: form, partition key and policy for large events.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Form of the events.
    pub form: EnvelopeForm,
    /// Source of the partition keys.
    pub partition_by: PartitionBy,
    /// Partition keys of rows that only inserts can write.
    pub keyless: KeylessRows,
    /// Policy for events that exceed a record.
    pub oversize: OversizePolicy,
}

impl Envelope {
    /// Returns a copy that shares no announced table definitions with this envelope.
    ///
    /// It encodes events that are not sent. Their definitions must not count as announced.
    pub fn with_empty_definitions(&self) -> Self {
        let mut envelope = self.clone();
        if let EnvelopeForm::Dms(form) = &mut envelope.form {
            form.definitions = Definitions::default();
        }
        envelope
    }

    /// Text of all its settings. The announced table definitions are none.
    pub fn settings_text(&self) -> String {
        let form = match &self.form {
            EnvelopeForm::Debezium(form) => format!("{form:?}"),
            EnvelopeForm::Dms(_) => "dms".to_owned(),
            EnvelopeForm::Wal2json(_) => "wal2json".to_owned(),
        };
        format!(
            "{form} {:?} {:?} {:?}",
            self.partition_by, self.keyless, self.oversize
        )
    }

    /// Progress at the beginning of a transaction.
    ///
    /// `commit_end` is the end of the transaction's commit record.
    pub fn begin(&self, transaction: Transaction, commit_end: Lsn) -> Progress {
        Progress::new(transaction, commit_end, self.form.carries_table_counts())
    }

    /// Appends the events of a change to `out`. Returns how many of them lost columns.
    ///
    /// Columns are omitted only with [`OversizePolicy::Omit`], from an event that would exceed `limit` bytes,
    /// its partition key included. An event may exceed `limit` even so. `lsn` is the LSN of the change's row
    /// in the peek; `now` is in µs since 1970-01-01 UTC.
    ///
    /// Most changes make one event. In the Debezium envelope, a changed key makes two: a delete of the old
    /// key and a create of the new key. So does an update without a key in its unwrapped form. A truncate
    /// makes one event per table. A tombstone follows its delete, and a table definition precedes the row
    /// that needs it; both have the position of that row's event.
    pub fn encode(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        change: &Change<'_>,
        now: i64,
        limit: usize,
        out: &mut EncodedEvents,
    ) -> u64 {
        EventEncoder::new(self, progress, lsn, now, limit, out).push_change(change)
    }

    /// Appends the event of a row that a backfill read. Returns 1 if columns were omitted, otherwise 0.
    ///
    /// Columns are omitted as in [`Envelope::encode`], from an event that would exceed `limit` bytes. A table
    /// definition precedes the event where it would precede a change of the row. The event's position is the
    /// next one of the open transaction. That transaction is the watermark's, which was logged at `lsn`.
    /// `now` is in µs since 1970-01-01 UTC.
    pub fn encode_backfill_row(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        row: &BackfillRow<'_>,
        now: i64,
        limit: usize,
        out: &mut EncodedEvents,
    ) -> u64 {
        EventEncoder::new(self, progress, lsn, now, limit, out).push_backfill_row(row)
    }

    /// Counts a change that is not sent, because the stream has it.
    ///
    /// Later changes get the same positions and counts as if the change had been encoded.
    pub fn skip(&self, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) {
        match change {
            Change::Insert { relation, .. } | Change::Delete { relation, .. } => {
                progress.next_place(lsn, relation);
            }
            Change::Update { relation, old, new } => {
                progress.next_place(lsn, relation);
                let is_key_changed = is_key_changed(relation, old.as_ref(), new);
                if self.form.splits_update(relation, old.as_ref(), is_key_changed) {
                    progress.next_place(lsn, relation);
                } else if is_key_changed {
                    progress.skip_position(lsn);
                }
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    progress.next_place(lsn, relation);
                }
            }
            Change::Message(_) => {
                progress.next_message_place(lsn);
            }
        }
    }

    /// Encodes a logical message that belongs to no transaction. `now` is in µs since 1970-01-01 UTC.
    pub fn encode_message(&self, position: Position, message: &Message<'_>, now: i64) -> Event {
        let place = EventPlace::outside_transaction(position);
        self.message_event(&EventHead::new(Transaction::NONE, place, now), message)
    }

    /// Encodes a logical message that belongs to no transaction.
    ///
    /// The event has at most `limit` bytes. Returns the event, and 1 if a part of the message was omitted for
    /// that, otherwise 0.
    pub fn encode_message_within(
        &self,
        position: Position,
        message: &Message<'_>,
        now: i64,
        limit: usize,
    ) -> (Event, u64) {
        let place = EventPlace::outside_transaction(position);
        self.message_event_within(&EventHead::new(Transaction::NONE, place, now), message, limit)
    }

    /// Encodes a logical message of the open transaction as a barrier.
    ///
    /// The event is a barrier between the changes of all keys. `lsn` is the LSN of the message's row in the
    /// peek; `now` is in µs since 1970-01-01 UTC.
    pub fn encode_control_message(
        &self,
        progress: &mut Progress,
        lsn: Lsn,
        message: &Message<'_>,
        now: i64,
    ) -> Event {
        let place = progress.next_message_place(lsn);
        let head = EventHead::new(progress.transaction, place, now);
        Event {
            barrier: true,
            ..self.message_event(&head, message)
        }
    }

    fn message_event(&self, head: &EventHead, message: &Message<'_>) -> Event {
        Event {
            position: head.place.position,
            partition_key: self.partition_by.message_key(head, &message.prefix),
            barrier: false,
            relation: None,
            data: self.form.encode_message(head, message),
            missing_bytes: 0,
            row: None,
        }
    }

    /// Encodes a logical message in at most `limit` bytes.
    ///
    /// Every role can write a message, of any size. So its content, and where necessary its prefix, are
    /// omitted with each policy. Returns the event, and 1 if a part is omitted, otherwise 0.
    fn message_event_within(&self, head: &EventHead, message: &Message<'_>, limit: usize) -> (Event, u64) {
        let mut event = self.message_event(head, message);
        let mut omitted = message.omitted;
        while event.bytes() > limit && omitted != MessageParts::ALL {
            omitted.prefix = omitted.content;
            omitted.content = true;
            let shortened = Message {
                prefix: (&*message.prefix).into(),
                content: (&*message.content).into(),
                omitted,
            };
            event.data = self.form.encode_message(head, &shortened);
        }
        (event, u64::from(omitted != MessageParts::default()))
    }
}

/// The string of bytes that were written from strings.
fn into_string(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}
