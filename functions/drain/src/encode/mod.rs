//! Encoding of changes into events.
//!
//! This module decides what all envelopes have in common. It decides the events of each change and their
//! positions, the source of their partition keys, and the columns that an oversized event omits. Each
//! envelope decides how it writes events, values and keys.
//!
//! The module does no I/O. Two parts keep state between events: the DMS envelope remembers the table
//! definitions that it announced, and the Debezium envelope caches schemas.

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
pub use encoded_events::{EncodedEvents, SpareEvents};
pub use form::EnvelopeForm;
pub use key::{KeylessRows, PartitionBy};
pub use progress::{EventCounts, Progress};
pub use wal2json::Wal2json;

use std::sync::Arc;

use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::base::table_name::TableName;
use crate::change::{Change, Message, MessageParts, Relation};
use encoder::EventEncoder;
use progress::EventNumbers;
use row::{EventHead, RowEvent, RowOperation, is_key_changed};

/// An encoded change, ready to be packed into a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the committed history.
    ///
    /// The event contains its position. The position is the same each time the event is sent.
    pub position: Position,
    /// Partition key, which determines the shard. Events with the same key stay in order.
    ///
    /// Never empty, and never longer than Kinesis accepts.
    pub partition_key: String,
    /// Whether the event is a barrier between the events of all keys.
    ///
    /// A barrier is sent after all earlier events are acknowledged, and all later events wait for it.
    /// Barriers are:
    /// - truncates, changed table definitions and the control event of a repair;
    /// - with [`PartitionBy::Key`], key changes in one event, and rows whose table has a key but whose own
    ///   key is not known;
    /// - events that the reader marks: the first row after the key of its table changed, and a row whose
    ///   partition key changed.
    ///
    /// The control event of an accepted gap is no barrier. The drain sends it alone, before the first window.
    pub barrier: bool,
    /// Table of the event; `None` for a message.
    pub relation: Option<Arc<Relation>>,
    /// The encoded bytes. Empty for a tombstone.
    pub data: Vec<u8>,
    /// Bytes of the values that the event must contain, but lacks.
    ///
    /// The decoder dropped these values, because no record can hold them. An event with missing bytes cannot
    /// be sent.
    pub missing_bytes: usize,
    /// Hash of the row's table and key, if [`Relation::partition_key_may_change`].
    ///
    /// Changes of one row may then have different partition keys, and must stay in order. The hash identifies
    /// the row.
    pub row_hash: Option<u64>,
}

impl Event {
    /// Bytes that count against the size of a record: data, partition key and missing values.
    pub fn bytes(&self) -> usize {
        (self.data.len() + self.partition_key.len()).saturating_add(self.missing_bytes)
    }

    /// Reason why the size of the event prevents sending.
    ///
    /// `None` if the event fits into a record of `limit` bytes and lacks no values. An event that lacks
    /// values must not be sent even if it fits: it would look complete to consumers.
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
    /// Errors name the key by this hash, because the key may contain values of a row.
    pub fn key_hash(&self) -> String {
        key::sha256_hex(&self.partition_key).chars().take(16).collect()
    }
}

/// Id and commit time of a transaction.
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
    /// Placeholder for the transaction of a message outside any transaction.
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
    /// The largest columns outside the key are omitted, until the event fits.
    ///
    /// The event names the columns that its new row lacks, or its old row for a delete.
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
    /// Copy of the envelope without the announced table definitions.
    ///
    /// A forecast encodes its events with this copy, and does not send them. So their definitions must not
    /// count as announced.
    pub fn with_empty_definitions(&self) -> Self {
        let mut envelope = self.clone();
        if let EnvelopeForm::Dms(form) = &mut envelope.form {
            form.definitions = Definitions::default();
        }
        envelope
    }

    /// Forgets the table definitions that were announced after this position.
    ///
    /// A drain that begins at this position announces these tables again. `acknowledged` is the position.
    pub fn forget_definitions_after(&self, acknowledged: Lsn) {
        if let EnvelopeForm::Dms(form) = &self.form {
            form.definitions.forget_after(acknowledged);
        }
    }

    /// Forgets the definition of an event that is not sent.
    pub fn forget_definition(&self, table: &TableName, event: &Event) {
        if let EnvelopeForm::Dms(form) = &self.form {
            form.definitions.forget(table, event.position);
        }
    }

    /// Text of all settings, without the announced table definitions.
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
    /// its partition key included. An event may still exceed `limit`, for example because of its key. `lsn`
    /// is the LSN of the change's row in the peek; `now` is in µs since 1970-01-01 UTC.
    ///
    /// Most changes have one event. A truncate has one event per table. In the Debezium envelope, a key
    /// change has two events: a delete of the old key and a create of the new key. In its unwrapped form, an
    /// update of a row without a key also has two, if the log holds the old row.
    ///
    /// A tombstone follows its delete, and a table definition precedes its row. Both have the position of
    /// that row's event.
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
    /// Columns are omitted, and a table definition is added, as in [`Envelope::encode`]. The event has the
    /// next position of the open transaction, which is the transaction of the watermark. `lsn` is the LSN of
    /// the watermark; `now` is in µs since 1970-01-01 UTC.
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

    /// Counts a change that the stream has, without encoding it.
    ///
    /// Later changes get the same positions and counts as if this change were encoded.
    pub fn skip(&self, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) {
        match change {
            Change::Insert { relation, .. } | Change::Delete { relation, .. } => {
                progress.count_event(lsn, relation);
            }
            Change::Update { relation, old, new } => {
                progress.count_event(lsn, relation);
                let is_key_changed = is_key_changed(relation, old.as_ref(), new);
                if self.form.splits_update(relation, old.as_ref(), is_key_changed) {
                    progress.count_event(lsn, relation);
                } else if is_key_changed {
                    progress.skip_position(lsn);
                }
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    progress.count_event(lsn, relation);
                }
            }
            Change::Message(_) => {
                progress.count_message(lsn);
            }
        }
    }

    /// Encodes a logical message that belongs to no transaction. `now` is in µs since 1970-01-01 UTC.
    pub fn encode_message(&self, position: Position, message: &Message<'_>, now: i64) -> Event {
        let numbers = EventNumbers::outside_transaction(position);
        self.message_event(&EventHead::new(Transaction::NONE, numbers, now), message)
    }

    /// Encodes a logical message that belongs to no transaction.
    ///
    /// The event has at most `limit` bytes. Returns the event, and 1 if a part of the message is omitted,
    /// otherwise 0.
    pub fn encode_message_within(
        &self,
        position: Position,
        message: &Message<'_>,
        now: i64,
        limit: usize,
    ) -> (Event, u64) {
        let numbers = EventNumbers::outside_transaction(position);
        self.message_event_within(&EventHead::new(Transaction::NONE, numbers, now), message, limit)
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
        let numbers = progress.count_message(lsn);
        let head = EventHead::new(progress.transaction, numbers, now);
        Event {
            barrier: true,
            ..self.message_event(&head, message)
        }
    }

    fn message_event(&self, head: &EventHead, message: &Message<'_>) -> Event {
        Event {
            position: head.numbers.position,
            partition_key: self.partition_by.message_key(head, &message.prefix),
            barrier: false,
            relation: None,
            data: self.form.encode_message(head, message),
            missing_bytes: 0,
            row_hash: None,
        }
    }

    /// Encodes a logical message in at most `limit` bytes.
    ///
    /// Every database role can write a message of any size, and none may stop the drain. So with each policy
    /// the content is omitted, and then the prefix if necessary. Returns the event, and 1 if a part is
    /// omitted, otherwise 0.
    fn message_event_within(&self, head: &EventHead, message: &Message<'_>, limit: usize) -> (Event, u64) {
        let mut event = self.message_event(head, message);
        let mut omitted = message.omitted;
        while event.bytes() > limit && omitted != MessageParts::ALL {
            omitted.prefix |= omitted.content;
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

/// Converts bytes that consist of written strings, so they are valid UTF-8.
fn into_string(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
