//! Encoder of one change: its events in order.

use std::sync::Arc;

use super::backfill_row::BackfillRow;
use super::key::{KeylessRows, PartitionBy, spread_key};
use super::omitted_columns::OmittedColumns;
use super::{
    EncodedEvents, Envelope, EnvelopeForm, Event, EventHead, Progress, RowEvent, RowOperation, is_key_changed,
};
use crate::base::lsn::Lsn;
use crate::change::{Change, Message, Relation, Tuple};

/// Omitted columns of an event whose size is not known yet.
const NO_OMITTED_COLUMNS: &OmittedColumns = &OmittedColumns::NONE;

/// Unused bytes of a buffer that do not justify a reallocation.
const KEPT_CAPACITY: usize = 512;

/// Encoder of one change or one row of a backfill.
pub(super) struct EventEncoder<'a> {
    envelope: &'a Envelope,
    progress: &'a mut Progress,
    lsn: Lsn,
    now: i64,
    limit: usize,
    out: &'a mut EncodedEvents,
}

impl<'a> EventEncoder<'a> {
    /// An encoder that appends to `out`.
    ///
    /// `lsn` is the LSN of the change's row in the peek, and `now` is in µs since 1970-01-01 UTC. A record
    /// may hold `limit` bytes, partition key included.
    pub(super) fn new(
        envelope: &'a Envelope,
        progress: &'a mut Progress,
        lsn: Lsn,
        now: i64,
        limit: usize,
        out: &'a mut EncodedEvents,
    ) -> Self {
        EventEncoder {
            envelope,
            progress,
            lsn,
            now,
            limit,
            out,
        }
    }

    /// Appends the events of a change. Returns how many of them lost columns.
    pub(super) fn push_change(&mut self, change: &Change<'_>) -> u64 {
        match change {
            Change::Insert { relation, new } => self.push_insert(relation, new),
            Change::Delete { relation, old } => self.push_delete(relation, old),
            Change::Update { relation, old, new } => self.push_update(relation, old.as_ref(), new),
            Change::Truncate { relations } => {
                for relation in relations {
                    self.push_truncate(relation);
                }
                0
            }
            Change::Message(message) => self.push_message(message),
        }
    }

    /// Appends the events of a row that a backfill read. Returns how many of them lost columns.
    pub(super) fn push_backfill_row(&mut self, row: &BackfillRow<'_>) -> u64 {
        let head = EventHead {
            snapshot: Some(row.place),
            ..self.next_head(row.relation)
        };
        self.push_row(&RowEvent {
            operation: RowOperation::Read,
            relation: row.relation,
            old: None,
            new: Some(row.values),
            head,
            omitted: NO_OMITTED_COLUMNS,
        })
    }

    fn push_insert(&mut self, relation: &Arc<Relation>, new: &Tuple<'_>) -> u64 {
        let head = self.next_head(relation);
        self.push_row(&RowEvent {
            operation: RowOperation::Insert,
            relation,
            old: None,
            new: Some(new),
            head,
            omitted: NO_OMITTED_COLUMNS,
        })
    }

    fn push_delete(&mut self, relation: &Arc<Relation>, old: &Tuple<'_>) -> u64 {
        let head = self.next_head(relation);
        self.push_row(&RowEvent {
            operation: RowOperation::Delete,
            relation,
            old: Some(old),
            new: None,
            head,
            omitted: NO_OMITTED_COLUMNS,
        })
    }

    fn push_update(&mut self, relation: &Arc<Relation>, old: Option<&Tuple<'_>>, new: &Tuple<'_>) -> u64 {
        let key_changed = is_key_changed(relation, old, new);
        if let Some(old) = old
            && self.envelope.form.splits_update(relation, Some(old), key_changed)
        {
            return self.push_delete(relation, old) + self.push_insert(relation, new);
        }
        let head = self.next_head(relation);
        if key_changed {
            self.progress.skip_position(self.lsn);
        }
        self.push_row(&RowEvent {
            operation: RowOperation::Update { key_changed },
            relation,
            old,
            new: Some(new),
            head,
            omitted: NO_OMITTED_COLUMNS,
        })
    }

    fn push_truncate(&mut self, relation: &Arc<Relation>) {
        let head = self.next_head(relation);
        let Envelope {
            form, partition_by, ..
        } = self.envelope;
        self.out.push(Event {
            position: head.numbers.position,
            partition_key: partition_by.table_key(&head, relation),
            barrier: true,
            relation: Some(Arc::clone(relation)),
            data: form.encode_truncate(&head, relation, *partition_by),
            missing_bytes: 0,
            row_hash: None,
        });
    }

    fn push_message(&mut self, message: &Message<'_>) -> u64 {
        let numbers = self.progress.count_message(self.lsn);
        let head = EventHead::new(self.progress.transaction, numbers, self.now);
        let (event, omitted) = self.envelope.message_event_within(&head, message, self.limit);
        self.out.push(event);
        omitted
    }

    /// Head of the next event of a table.
    fn next_head(&mut self, relation: &Relation) -> EventHead {
        let numbers = self.progress.count_event(self.lsn, relation);
        EventHead::new(self.progress.transaction, numbers, self.now)
    }

    /// Appends a row's event, with its table definition and tombstone.
    ///
    /// A definition precedes the event, and a tombstone follows it. Returns 1 if the event lost columns,
    /// otherwise 0.
    fn push_row(&mut self, row: &RowEvent<'_>) -> u64 {
        let Envelope {
            form, partition_by, ..
        } = self.envelope;
        let (mut data, key) = self.out.buffers();
        let write_key = |key: &mut Vec<u8>, relation: &Relation, tuple: &Tuple<'_>| {
            form.write_key(key, relation, tuple);
        };
        let key = match self.is_spread(row) {
            true => spread_key(row.head.numbers.position, row.relation, key),
            false => partition_by.row_key(row, key, write_key),
        };
        self.push_definition(row, &key);
        let limit = self.limit.saturating_sub(key.len());
        let omitted = self.envelope.write_row_within(&mut data, row, limit);
        let missing_bytes = self.envelope.missing_bytes(row);
        // A key change in one event concerns two keys, but the event is in the lane of one. As a barrier, it
        // is in order with the events of both keys.
        let key_changed = row.operation == RowOperation::Update { key_changed: true };
        // In a table with a key, a row whose key is not known may be any row of the table.
        let is_lost = row.relation.has_key() && !row.has_key();
        let barrier = (key_changed || is_lost) && *partition_by == PartitionBy::Key;
        let has_tombstone = form.has_tombstones() && row.operation == RowOperation::Delete;
        let tombstone_key = has_tombstone.then(|| key.clone());
        self.push_event(row, barrier, key, data);
        if let Some(event) = self.out.events.last_mut() {
            event.missing_bytes = missing_bytes;
            event.row_hash = row.row_hash(write_key);
        }
        if let Some(key) = tombstone_key {
            self.push_event(row, false, key, Vec::new());
        }
        u64::from(missing_bytes == 0 && !omitted.is_empty())
    }

    /// Whether a row needs no order among the rows of its table.
    ///
    /// Only inserts into an insert-only table are spread, and only with [`PartitionBy::Key`] and
    /// [`KeylessRows::Spread`]. test_decoding also sends updates and deletes of such a table, but the log
    /// does not identify their rows. They use the lane of the table.
    fn is_spread(&self, row: &RowEvent<'_>) -> bool {
        let is_insert = matches!(row.operation, RowOperation::Insert | RowOperation::Read);
        let Envelope {
            partition_by,
            keyless,
            ..
        } = self.envelope;
        let is_chosen = *partition_by == PartitionBy::Key && *keyless == KeylessRows::Spread;
        is_chosen && is_insert && row.is_insert_only() && !row.has_partition_key_columns()
    }

    /// Appends the table definition that precedes a row, if any.
    ///
    /// Only the DMS form announces definitions.
    fn push_definition(&mut self, row: &RowEvent<'_>, row_key: &str) {
        let partition_by = self.envelope.partition_by;
        let EnvelopeForm::Dms(form) = &self.envelope.form else {
            return;
        };
        let Some((changed, control)) = form.encode_definition(row, partition_by) else {
            return;
        };
        // A first definition is in the lane of its row. A changed definition concerns all rows of the table.
        let key = match changed {
            true => partition_by.table_key(&row.head, row.relation),
            false => row_key.to_owned(),
        };
        self.push_event(row, changed, key, control);
    }

    fn push_event(&mut self, row: &RowEvent<'_>, barrier: bool, partition_key: String, mut data: Vec<u8>) {
        // Many events may be queued, and the capacity of their buffers counts against the memory limit.
        if data.capacity() / 2 > data.len() + KEPT_CAPACITY {
            data.shrink_to_fit();
        }
        self.out.push(Event {
            position: row.head.numbers.position,
            partition_key,
            barrier,
            relation: Some(Arc::clone(row.relation)),
            data,
            missing_bytes: 0,
            row_hash: None,
        });
    }
}
