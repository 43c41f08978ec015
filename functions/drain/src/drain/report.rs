//! The report of a drain: its answer, and its summary line in the log.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::backfill::state::{BackfillPhase, BackfillState};
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::pack::AcknowledgedCounts;
use crate::ports::{LockHolder, OldestTransaction, Retention, SlotFigures};

/// The report of one invocation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The name of the action: `drain` or `backfill`.
    pub action: &'static str,
    /// The slot.
    pub slot: String,
    /// The slot's plugin; `unknown` without a slot or a known plugin.
    pub plugin: &'static str,
    /// The acknowledged position at the start; `0/0` without a drain.
    pub from: Lsn,
    /// The stored acknowledged position at the end; `0/0` without a drain.
    pub to: Lsn,
    /// Transactions with at least one change; skipped ones are not counted.
    ///
    /// While a drain runs, these are the transactions that were read. At its end they are those up to `to`.
    pub transactions: u64,
    /// Changes, counted as the transactions are; skipped ones are not counted.
    pub changes: u64,
    /// Changes after `to` that were read and perhaps sent.
    ///
    /// The next invocation sends them again, except those that the checkpoint has as acknowledged ahead.
    pub unconfirmed: u64,
    /// Changes that were read and not sent, since they were acknowledged ahead.
    ///
    /// An earlier invocation sent them, and its checkpoint has their acknowledgement.
    pub acknowledged_ahead: u64,
    /// Events that were queued: of changes, of backfilled rows, and control events.
    ///
    /// Changes of `skipped` and of `acknowledged_ahead` have none.
    pub events: u64,
    /// Records that were acknowledged.
    pub records: u64,
    /// PutRecords requests that were answered.
    pub requests: u64,
    /// Bytes of the acknowledged records, partition keys included.
    pub bytes: u64,
    /// Events that were too large for a record, and lost columns (`OVERSIZE=omit`).
    pub omitted: u64,
    /// Changes that the slot sent again, and the stream provably has.
    ///
    /// They were not sent to the stream again.
    pub skipped: u64,
    /// Changes up to the acknowledged position that were sent again.
    ///
    /// After a change of timeline, they may differ from the changes that the stream has.
    pub replayed: u64,
    /// Records that were sent again within this invocation.
    pub retried: u64,
    /// Records that a shard throttled; each attempt counts.
    pub throttled: u64,
    /// Windows that were opened.
    pub peeks: u64,
    /// Warnings of the server.
    ///
    /// The function's log has the first 20 distinct texts, each once.
    pub notices: u64,
    /// Bytes of log that are not confirmed yet, of any table. Null if unknown.
    pub lag_bytes: Option<u64>,
    /// Bytes of log from the slot's `restart_lsn` on. Null if unknown.
    ///
    /// The server keeps this log for the slot.
    pub retained_bytes: Option<u64>,
    /// `pg_replication_slots.wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of log until the server may invalidate the slot.
    ///
    /// These bytes may still be written. Null without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Age of the last acknowledged transaction, in seconds.
    ///
    /// 0 if the slot is empty and every change is acknowledged. Null if this drain acknowledged no change.
    pub behind_seconds: Option<u64>,
    /// Age of the checkpoint at the beginning of the invocation, in seconds.
    pub checkpoint_age_seconds: Option<u64>,
    /// Bytes of log that are not sent before a standby acknowledges them.
    ///
    /// `STANDBY_ACK` and the server's `synchronized_standby_slots` decide this.
    pub held_bytes: u64,
    /// The oldest open transaction that has written.
    ///
    /// The server keeps the log from the start of this transaction, and decodes it again for each peek.
    pub oldest_transaction: Option<OldestTransaction>,
    /// Tables that were sent at the last check, and are not now.
    ///
    /// The function's log has a warning for each that still exists, and one warning for all others.
    pub tables_left: u64,
    /// The reason why the drain stopped.
    pub stopped: StopReason,
    /// The session of another drainer that has the slot, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drainer: Option<LockHolder>,
    /// The pending backfill, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillReport>,
    /// Wall-clock time since the event was parsed, with connecting, milliseconds.
    pub elapsed_ms: u64,
    /// Tables with an old row whose values do not identify it.
    ///
    /// The log has a warning for each.
    #[serde(skip)]
    pub unidentified_tables: BTreeSet<TableName>,
}

/// Reason why a drain stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopReason {
    /// The slot was empty.
    #[default]
    Empty,
    /// The time was over; the next tick continues.
    Deadline,
    /// Another drainer has the slot's lock.
    Busy,
    /// There is neither a slot nor a checkpoint: `setup` creates both.
    #[serde(rename = "not_set_up")]
    NotSetUp,
}

/// The state of a backfill, and this invocation's counts of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// The state of the backfill.
    pub state: BackfillPhase,
    /// The table that is being read.
    pub table: Option<String>,
    /// Rows that were acknowledged since the backfill began.
    pub rows: u64,
    /// Counts of its tables.
    pub tables: TablesReport,
    /// Chunks of this invocation.
    pub chunks: u64,
    /// Rows of these chunks.
    pub read: u64,
    /// Rows of these chunks that a change overtook.
    ///
    /// They were not sent, since a change of the row was sent first.
    pub overtaken: u64,
    /// The session, transaction or limit that blocks the backfill; null if none.
    pub waits_for: Option<String>,
}

impl Report {
    /// Sets the counts to those of the acknowledged transactions.
    ///
    /// The other changes count as unconfirmed. Also sets the age of the last transaction. `now` is in µs
    /// since 1970-01-01 UTC.
    pub fn set_stored_counts(&mut self, counts: AcknowledgedCounts, now: i64) {
        self.unconfirmed = self.changes.saturating_sub(counts.changes);
        self.transactions = counts.transactions;
        self.changes = counts.changes;
        let age = |commit: i64| u64::try_from((now - commit) / 1_000_000).unwrap_or(0);
        self.behind_seconds = match self.stopped {
            // Log that waits for a standby was not read.
            StopReason::Empty if self.unconfirmed == 0 && self.held_bytes == 0 => Some(0),
            _ => counts.last_commit.map(age),
        };
    }

    /// Sets the figures of the slot's retained log.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retained_bytes = retention.retained_bytes;
        self.wal_status = retention.wal_status;
        self.safe_wal_size = retention.safe_wal_size;
    }

    /// Sets the slot's lag, and the figures of its retained log.
    pub fn set_figures(&mut self, figures: SlotFigures) {
        self.lag_bytes = figures.lag_bytes;
        self.set_retention(figures.retention);
    }
}

impl BackfillReport {
    /// The report of a backfill, without counts of this invocation.
    pub fn of(state: &BackfillState) -> Self {
        BackfillReport {
            state: state.phase(),
            table: state.table.as_ref().map(|table| table.name.unquoted()),
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

/// Counts of a backfill's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TablesReport {
    /// Tables whose rows were all acknowledged.
    pub done: u64,
    /// Tables that failed.
    pub failed: u64,
    /// Tables that are neither finished nor failed.
    ///
    /// Null if this invocation did not list them.
    pub left: Option<u64>,
}
