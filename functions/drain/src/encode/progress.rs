//! How far the open transaction has come: the positions and numbers of its events. They are counted from its beginning, also over what
//! is not sent, so that an event gets the same ones every time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Transaction;
use crate::change::Relation;
use crate::lsn::Lsn;
use crate::position::{Position, Positions};
use crate::table_name::TableName;

/// The open transaction.
#[derive(Debug, Clone)]
pub struct Progress {
    pub(super) transaction: Transaction,
    positions: Positions,
    counts: EventCounts,
}

/// Events of a transaction that were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Of all tables, and messages.
    pub events: u64,
    /// Of each table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "by_schema")]
    pub tables: BTreeMap<TableName, u64>,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventPlace {
    /// In the committed history.
    pub(super) position: Position,
    /// Among the events of its transaction, from 1; 0 for what belongs to none.
    pub(super) of_transaction: u64,
    /// Among those of its table, from 1; 0 for what is about none.
    pub(super) of_table: u64,
}

/// The stored form of counts by table: `{"schema":{"table":count}}`.
mod by_schema {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::table_name::TableName;

    type Nested = BTreeMap<String, BTreeMap<String, u64>>;

    pub(super) fn serialize<S: Serializer>(
        counts: &BTreeMap<TableName, u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut nested = Nested::new();
        for (table, count) in counts {
            let tables = nested.entry(table.schema.clone()).or_default();
            tables.insert(table.name.clone(), *count);
        }
        nested.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<TableName, u64>, D::Error> {
        let nested = Nested::deserialize(deserializer)?;
        let flat = nested.into_iter().flat_map(|(schema, tables)| {
            let table = move |(name, count)| (TableName::new(schema.clone(), name), count);
            tables.into_iter().map(table)
        });
        Ok(flat.collect())
    }
}

impl EventPlace {
    /// Of an event that belongs to no transaction.
    pub(super) fn alone(position: Position) -> Self {
        EventPlace {
            position,
            of_transaction: 0,
            of_table: 0,
        }
    }
}

impl Progress {
    /// At the beginning of a transaction whose commit record ends at `commit_end`.
    pub fn new(transaction: Transaction, commit_end: Lsn) -> Self {
        Progress {
            transaction,
            positions: Positions::new(commit_end),
            counts: EventCounts::default(),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> &EventCounts {
        &self.counts
    }

    /// What was counted up to here, when not all of the transaction was read.
    pub fn restore_counts(&mut self, counts: EventCounts) {
        self.counts = counts;
    }

    /// The transaction.
    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// End of its commit record.
    pub fn commit_end(&self) -> Lsn {
        self.positions.commit_end()
    }

    /// The place of the next event, of a change that was logged at `lsn`.
    pub(super) fn next(&mut self, lsn: Lsn, relation: &Relation) -> EventPlace {
        let count = match self.counts.tables.get_mut(&relation.table) {
            Some(count) => count,
            None => self.counts.tables.entry(relation.table.clone()).or_default(),
        };
        // What was resumed came from a checkpoint, which somebody may have written by hand.
        *count = count.saturating_add(1);
        let of_table = *count;
        EventPlace {
            of_table,
            ..self.next_message(lsn)
        }
    }

    /// The place of the next event, about no table.
    pub(super) fn next_message(&mut self, lsn: Lsn) -> EventPlace {
        self.counts.events = self.counts.events.saturating_add(1);
        EventPlace {
            position: self.positions.next(lsn),
            of_transaction: self.counts.events,
            of_table: 0,
        }
    }

    /// Leaves a position out that another envelope would use: what follows has the same position in each.
    pub(super) fn pass(&mut self, lsn: Lsn) {
        self.positions.next(lsn);
    }
}
