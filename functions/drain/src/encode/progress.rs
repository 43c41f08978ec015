//! Positions and counts of the open transaction's events.
//!
//! The counts start at the beginning of the transaction, and include events that are not sent. So an event
//! has the same position and counts each time it is encoded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Transaction;
use crate::base::lsn::Lsn;
use crate::base::position::{Position, PositionSequence};
use crate::base::table_name::TableName;
use crate::change::Relation;

/// Progress of the open transaction: its next position, and its counts.
#[derive(Debug, Clone)]
pub struct Progress {
    pub(super) transaction: Transaction,
    positions: PositionSequence,
    counts: EventCounts,
    /// Whether the events of each table are counted.
    counts_tables: bool,
}

/// Counts of a transaction's events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Events of all tables, and logical messages.
    pub events: u64,
    /// Number of events of each table.
    ///
    /// Empty if the events do not contain these counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "by_schema")]
    pub tables: BTreeMap<TableName, u64>,
}

/// Position of an event, and its numbers in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventNumbers {
    /// Position in the committed history.
    pub(super) position: Position,
    /// Number of the event in its transaction, from 1.
    ///
    /// 0 outside any transaction.
    pub(super) transaction_order: u64,
    /// Number of the event among those of its table, from 1.
    ///
    /// The count starts with the transaction. 0 for a message, and if the events of each table are not
    /// counted.
    pub(super) table_order: u64,
}

/// Stored form of the counts by table: `{"schema":{"table":count}}`.
mod by_schema {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::base::table_name::TableName;

    type CountsBySchema = BTreeMap<String, BTreeMap<String, u64>>;

    pub(super) fn serialize<S: Serializer>(
        counts: &BTreeMap<TableName, u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut nested = CountsBySchema::new();
        for (table, count) in counts {
            let tables = nested.entry(table.schema.clone()).or_default();
            tables.insert(table.name.clone(), *count);
        }
        nested.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<TableName, u64>, D::Error> {
        let nested = CountsBySchema::deserialize(deserializer)?;
        let flat = nested.into_iter().flat_map(|(schema, tables)| {
            let table = move |(name, count)| (TableName::new(schema.clone(), name), count);
            tables.into_iter().map(table)
        });
        Ok(flat.collect())
    }
}

impl EventNumbers {
    /// Place of an event that belongs to no transaction.
    pub(super) fn outside_transaction(position: Position) -> Self {
        EventNumbers {
            position,
            transaction_order: 0,
            table_order: 0,
        }
    }
}

impl Progress {
    /// Progress at the beginning of a transaction.
    ///
    /// `commit_end` is the end of the transaction's commit record. With `counts_tables`, the events of each
    /// table are counted.
    pub(super) fn new(transaction: Transaction, commit_end: Lsn, counts_tables: bool) -> Self {
        Progress {
            transaction,
            positions: PositionSequence::new(commit_end),
            counts: EventCounts::default(),
            counts_tables,
        }
    }

    /// Events counted so far.
    pub fn counts(&self) -> &EventCounts {
        &self.counts
    }

    /// Sets the counts to those of a resume point.
    pub fn restore_counts(&mut self, counts: EventCounts) {
        self.counts = counts;
    }

    /// The open transaction.
    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// End of the transaction's commit record.
    pub fn commit_end(&self) -> Lsn {
        self.positions.commit_end()
    }

    /// The position of the next event, whose change was logged at `lsn`.
    pub fn next_position(&self, lsn: Lsn) -> Position {
        self.positions.peek(lsn)
    }

    /// Counts the next event of a table and returns its numbers. The change was logged at `lsn`.
    pub(super) fn count_event(&mut self, lsn: Lsn, relation: &Relation) -> EventNumbers {
        if !self.counts_tables {
            return self.count_message(lsn);
        }
        // The name is cloned only for a table that has no count yet.
        let count = match self.counts.tables.get_mut(&relation.table) {
            Some(count) => count,
            None => self.counts.tables.entry(relation.table.clone()).or_default(),
        };
        // Restored counts are from a checkpoint, which an operator may have edited. So any number is
        // possible.
        *count = count.saturating_add(1);
        let table_order = *count;
        EventNumbers {
            table_order,
            ..self.count_message(lsn)
        }
    }

    /// Counts the next event without a table and returns its numbers. The message was logged at `lsn`.
    pub(super) fn count_message(&mut self, lsn: Lsn) -> EventNumbers {
        self.counts.events = self.counts.events.saturating_add(1);
        EventNumbers {
            position: self.positions.next(lsn),
            transaction_order: self.counts.events,
            table_order: 0,
        }
    }

    /// Skips the second position of a key change.
    ///
    /// A key change has two events in the envelope `debezium`, and one event in the others. With the skip,
    /// events after it have the same positions in every envelope.
    pub(super) fn skip_position(&mut self, lsn: Lsn) {
        self.positions.next(lsn);
    }
}
