//! What a drain did: its answer, and its one summary line in the log.

use serde::Serialize;

use crate::backfill::state::{BackfillPhase, BackfillState};
use crate::lsn::Lsn;
use crate::ports::OldestTransaction;

/// The counts of one invocation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// `drain`
    pub action: &'static str,
    /// The slot.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: &'static str,
    /// Up to where the stream had everything before.
    pub from: Lsn,
    /// Up to where it has everything now.
    pub to: Lsn,
    /// Transactions that brought at least one change, skipped ones not counted.
    pub transactions: u64,
    /// Changes read, skipped ones not counted.
    pub changes: u64,
    /// Events made of them.
    pub events: u64,
    /// Records that the stream acknowledged.
    pub records: u64,
    /// PutRecords requests that were answered.
    pub requests: u64,
    /// Bytes of the acknowledged records, partition keys included.
    pub bytes: u64,
    /// Events that no record could have held, of which columns were left out (`OVERSIZE=omit`).
    pub omitted: u64,
    /// Changes that the slot gave again and the stream surely has.
    pub skipped: u64,
    /// Changes that the slot gave again and that were sent again, since a change of timeline leaves open whether they are
    /// the same.
    pub replayed: u64,
    /// Records that were sent again within this invocation.
    pub retried: u64,
    /// Records that were refused because their shard takes no more.
    pub throttled: u64,
    /// Windows that were opened.
    pub peeks: u64,
    /// Warnings that the server gave; each distinct text is logged once.
    pub notices: u64,
    /// Bytes of log on the server that are not confirmed yet, ours or not.
    pub lag_bytes: u64,
    /// Bytes of log that no standby has acknowledged yet, and that are therefore not delivered (`STANDBY_ACK`).
    pub held_bytes: u64,
    /// The oldest transaction that is writing, since the server must keep and re-read the log from its start.
    pub oldest_transaction: Option<OldestTransaction>,
    /// Why it stopped.
    pub stopped: StopReason,
    /// How the backfill stands that it carried on, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillReport>,
    /// Wall-clock time since the event was read, connecting included, milliseconds.
    pub elapsed_ms: u64,
}

/// Why a drain stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopReason {
    /// There was nothing more to read.
    #[default]
    Empty,
    /// Its time was over; the next tick goes on.
    Deadline,
    /// Another one is draining this slot.
    Busy,
}

/// How a backfill stands, and what an invocation did for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// How it stands.
    pub state: BackfillPhase,
    /// The table that is being read.
    pub table: Option<String>,
    /// Rows that arrived since it began.
    pub rows: u64,
    /// Its tables.
    pub tables: TablesReport,
    /// Chunks that arrived in this invocation.
    pub chunks: u64,
    /// Rows of these.
    pub read: u64,
    /// Those of them that were not sent, since a change of the row was sent first.
    pub overtaken: u64,
    /// What must end before it goes on.
    pub waits_for: Option<String>,
}

impl BackfillReport {
    /// Of one for which nothing was done.
    pub fn of(state: &BackfillState) -> Self {
        BackfillReport {
            state: state.phase(),
            table: state.table.as_ref().map(|reading| reading.name.unquoted()),
            rows: state.rows,
            tables: TablesReport {
                done: state.done,
                failed: state.failures,
                left: None,
            },
            chunks: 0,
            read: 0,
            overtaken: 0,
            waits_for: None,
        }
    }
}

/// How many tables of a backfill are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TablesReport {
    /// All of their rows arrived.
    pub done: u64,
    /// They could not be read on.
    pub failed: u64,
    /// They are not over; null where this invocation did not come to look.
    pub left: Option<u64>,
}
