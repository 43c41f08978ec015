//! Backfill: brings the rows that were there before the slot, chunk by chunk beside the live changes, without a lock, and without a stale
//! row ever following its own update.
//!
//! **The way of a chunk.** Drain until little of the log is unread. In a read-only transaction with one snapshot S, read the next rows of a table in the order of a unique
//! index, and hold them. Write a logical message, the watermark, in a transaction of its own. Drain on: a change of a held row of which S
//! does not know takes that row away. At the watermark's commit, what is still held is sent as reads, positioned there. When all has
//! arrived, cursor and position are stored, then the slot advances.
//!
//! **Why it is right.** Let r be a held row with key k. Each transaction X that changed k, and came through the slot, is one of three.
//! 1. S shows X. Then r has what X did, or what came after. X was committed before S was taken, so it stands in the log before the watermark, and
//!    the read follows it.
//! 2. S does not show X, and X comes while r is held. Then r is older than X, and is not sent.
//! 3. S does not show X, and X came before r was held. This is the one that log order does not see: a commit can be read from the log while it waits
//!    for a standby, and is visible to nobody. So S is only used if it shows every transaction whose changes went out before: those of this
//!    invocation are remembered, and those of earlier ones have ended when everybody has ended who had written to the table when this
//!    invocation came to it, since a writer holds its lock on the table until it is visible.
//!
//! What commits behind the watermark is behind the read in the stream and in position. Two changes of one key cannot be visible in another order
//! than they stand in the log, since the second waits for the first one's row lock. So for each key the last event tells what PostgreSQL holds.
//!
//! **Large values.** An update does not log a large value that it left alone (TOAST), and a consumer that never had the row does not know
//! it. Such an update of a held row takes the value from that row, which S shows as it was before ([`Held::pass`]). An update that moves
//! a row to another key, perhaps from the unread to the read part of the table, has no held row; then the server is asked for the value as it is now
//! ([`Held::wants`]): if it has changed meanwhile, the change that did it follows. Where it cannot tell in time, as while the change waits for a
//! standby and is visible to nobody, the table is read from its beginning.
//!
//! **What hides rows.** A rewriting `alter table` that commits after S was taken leaves nothing that S shows. So the table's lock comes first, as a reader has it,
//! and then a look whether the table is the file that it was for S.
//!
//! **What a crash costs.** Held rows are in memory only. Whatever ends the invocation, a deadline, a kill, a failover, the next one reads the chunk
//! again from the cursor, with another snapshot and another watermark. Rows that had arrived come again, further on and newer.

mod held;
pub mod query;
mod snapshot;
pub mod state;
pub mod table;

pub use held::{Held, RowError, Wanted, fields, fill, moves};
pub use snapshot::Snapshot;
pub use state::State;
pub use table::Table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::change::Change;
use crate::lsn::Lsn;

/// The prefix of the logical messages that are watermarks. They are Spillway's own and are not delivered.
pub const WATERMARK: &str = "spillway.watermark";

/// The prefix of the message that ends a repair.
pub const REPAIRED: &str = "spillway.repaired";

/// What waits for its watermark.
#[derive(Debug)]
pub struct Chunk {
    /// The content of its watermark, which no other has.
    pub watermark: String,
    /// What is sent there.
    pub load: Load,
    /// When reading it began.
    pub began: Instant,
    /// The LSN of the watermark's row, once it has come.
    pub reached: Option<Lsn>,
    /// The place of the next row to send; `None` once there is none.
    pub next: Option<usize>,
    /// Rows that were sent.
    pub sent: u64,
    /// Why a row of it cannot be sent.
    pub failed: Option<String>,
}

/// What a chunk sends at its watermark.
#[derive(Debug)]
pub enum Load {
    /// Rows.
    Rows {
        /// Them.
        held: Box<Held>,
        /// Whether it has the table's first rows.
        first: bool,
        /// Whether there are rows behind them.
        more: bool,
    },
    /// The content of the control event that ends a repair.
    Repaired(String),
}

impl Chunk {
    /// One that was just read.
    pub fn new(watermark: String, load: Load, began: Instant) -> Self {
        Chunk {
            watermark,
            load,
            began,
            reached: None,
            next: Some(0),
            sent: 0,
            failed: None,
        }
    }

    /// The rows, if it is rows.
    pub fn held(&self) -> Option<&Held> {
        match &self.load {
            Load::Rows { held, .. } => Some(held),
            Load::Repaired(_) => None,
        }
    }

    /// The rows, if it is rows.
    pub fn held_mut(&mut self) -> Option<&mut Held> {
        match &mut self.load {
            Load::Rows { held, .. } => Some(held),
            Load::Repaired(_) => None,
        }
    }
}

/// What a reader of the log keeps for a backfill.
#[derive(Debug, Default)]
pub struct Side {
    /// What waits for its watermark.
    pub chunk: Option<Chunk>,
    /// The table whose rows are on their way, once the first chunk of it was read.
    pub table: Option<Arc<Table>>,
    /// What was visible when the window was opened; `None` where no chunk will be read any more.
    pub visible: Option<Snapshot>,
    /// Transactions whose changes went out, and that may not be visible yet.
    pub delivered: BTreeSet<u32>,
    /// What the server said of a row that was wanted, as `COPY` wrote it.
    pub found: Option<Option<Vec<u8>>>,
    /// A row moved that no event can tell as a whole, and the table is to be read from its beginning.
    pub is_lost: bool,
}

impl Side {
    /// Lets a change of the transaction `xid` pass that is about to go out; see [`Held::pass`]. Returns the places of the new row that were
    /// filled in.
    pub fn pass(&mut self, xid: u32, change: &mut Change<'_>) -> Vec<usize> {
        if self.visible.as_ref().is_some_and(|visible| !visible.shows(xid)) {
            self.delivered.insert(xid);
        }
        let held = self.chunk.as_mut().and_then(Chunk::held_mut);
        let mut filled = held.map(|held| held.pass(xid, change)).unwrap_or_default();
        if let (Some(Some(line)), Some(table)) = (self.found.take(), &self.table)
            && let Change::Update { relation, new, .. } = change
            && let Ok(read) = fields(table, &line)
        {
            filled.extend(fill(table, &read, relation, new));
        }
        filled
    }

    /// A change cannot tell what was read for it: its row is to be read again. `fails` says whether a row that no record holds fails its table:
    /// where it loses columns instead, as the change does now, there is nothing to read for.
    pub fn lose(&mut self, change: &Change<'_>, fails: bool) {
        if fails && self.table.as_ref().is_some_and(|table| moves(table, change)) {
            self.forget();
            self.is_lost = true;
        } else if let Some(held) = self.chunk.as_mut().and_then(Chunk::held_mut) {
            held.make_void();
        }
    }

    /// The table is read from its beginning, and nothing of it is on its way.
    pub fn forget(&mut self) {
        (self.chunk, self.table) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_is_remembered_while_it_is_not_visible_and_a_chunk_may_be_read() {
        let remembered = |visible: Option<&str>| {
            let mut side = Side {
                visible: visible.map(|text| text.parse().unwrap()),
                ..Side::default()
            };
            for xid in [99, 103, 104, 110] {
                side.pass(
                    xid,
                    &mut Change::Truncate {
                        relations: Vec::new(),
                    },
                );
            }
            side.delivered.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(remembered(Some("100:110:103")), [103, 110]);
        assert!(remembered(None).is_empty());
    }
}
