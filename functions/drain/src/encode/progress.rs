//! How far the open transaction has come: the positions and numbers of its events. They are counted from its beginning, also over what
//! is not sent, so that an event gets the same ones every time.

use std::collections::HashMap;

use super::Transaction;
use crate::change::Relation;
use crate::lsn::Lsn;
use crate::position::{Position, Positions};

/// The open transaction.
#[derive(Debug)]
pub struct Progress {
    pub(super) transaction: Transaction,
    positions: Positions,
    events: u64,
    /// Events of each table, by schema and name.
    tables: HashMap<String, HashMap<String, u64>>,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// In the committed history.
    pub(super) position: Position,
    /// Among the events of its transaction, from 1; 0 for what belongs to none.
    pub(super) of_transaction: u64,
    /// Among those of its table, from 1; 0 for what is about none.
    pub(super) of_table: u64,
}

impl Place {
    /// Of an event that belongs to no transaction.
    pub(super) fn alone(position: Position) -> Self {
        Place {
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
            events: 0,
            tables: HashMap::new(),
        }
    }

    /// The place of the next event, of a change that was logged at `lsn`.
    pub(super) fn next(&mut self, lsn: Lsn, relation: &Relation) -> Place {
        let tables = match self.tables.get_mut(&relation.schema) {
            Some(tables) => tables,
            None => self.tables.entry(relation.schema.clone()).or_default(),
        };
        let count = match tables.get_mut(&relation.name) {
            Some(count) => count,
            None => tables.entry(relation.name.clone()).or_default(),
        };
        *count += 1;
        let of_table = *count;
        Place {
            of_table,
            ..self.next_message(lsn)
        }
    }

    /// The place of the next event, about no table.
    pub(super) fn next_message(&mut self, lsn: Lsn) -> Place {
        self.events += 1;
        Place {
            position: self.positions.next(lsn),
            of_transaction: self.events,
            of_table: 0,
        }
    }

    /// Leaves a position out that another envelope would use: what follows has the same position in each.
    pub(super) fn pass(&mut self, lsn: Lsn) {
        self.positions.next(lsn);
    }
}
