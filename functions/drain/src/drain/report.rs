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
    /// Changes after `to` that were read and perhaps sent. The next invocation sends them again, as far as
    /// the checkpoint does not remember them.
    pub unconfirmed: u64,
    /// Changes that were read and not sent: an earlier invocation sent them, and its checkpoint remembers
    /// them.
    pub acknowledged_ahead: u64,
    /// Events of all changes that were read, without those of `acknowledged_ahead`.
    pub events: u64,
    /// Records that were acknowledged.
    pub records: u64,
    /// PutRecords requests that were answered.
    pub requests: u64,
    /// Bytes of the acknowledged records, partition keys included.
    pub bytes: u64,
    /// Events that were too large for a record, and lost columns (`OVERSIZE=omit`).
    pub omitted: u64,
    /// Changes that the slot sent again and the stream surely has.
    pub skipped: u64,
    /// Changes that the slot sent again and that were put again: after a change of timeline they may be
    /// others.
    pub replayed: u64,
    /// Records that were sent again within this invocation.
    pub retried: u64,
    /// Records that their shard throttled.
    pub throttled: u64,
    /// Windows that were opened.
    pub peeks: u64,
    /// Warnings of the server; the log has each distinct text once.
    pub notices: u64,
    /// Bytes of log that are not confirmed yet, of any table. Null if they are not known.
    pub lag_bytes: Option<u64>,
    /// Bytes of log that the server keeps for the slot: from its `restart_lsn` on. Null if they are not
    /// known.
    pub retained_bytes: Option<u64>,
    /// `pg_replication_slots.wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of log until the server may invalidate the slot.
    ///
    /// These bytes may still be written. Null without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Age of the last change in the stream, in seconds: 0 if the slot is empty. Null before the first
    /// change.
    pub behind_seconds: Option<u64>,
    /// Age of the checkpoint at the beginning of the invocation, in seconds.
    pub checkpoint_age_seconds: Option<u64>,
    /// Bytes of log that are not sent before a standby acknowledges them.
    ///
    /// `STANDBY_ACK` and the server's `synchronized_standby_slots` decide this.
    pub held_bytes: u64,
    /// The oldest transaction that is writing: the server keeps the log, and decodes it again, from its
    /// start.
    pub oldest_transaction: Option<OldestTransaction>,
    /// Tables that were sent at the last check, and are not now. The log has a warning for each.
    pub tables_left: u64,
    /// The reason why it stopped.
    pub stopped: StopReason,
    /// The session of another drainer that has the slot, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drainer: Option<LockHolder>,
    /// The pending backfill, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillReport>,
    /// Wall-clock time since the event was parsed, with connecting, milliseconds.
    pub elapsed_ms: u64,
    /// Tables with an old row that does not name its row. The log has a warning for each.
    #[serde(skip)]
    pub unnamed: BTreeSet<TableName>,
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
    /// Another drainer has this slot.
    Busy,
    /// There is neither a slot nor a checkpoint: `setup` creates both.
    #[serde(rename = "not_set_up")]
    NotSetUp,
}

/// The state of a backfill, and this invocation's counts of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// Its state.
    pub state: BackfillPhase,
    /// The table that is being read.
    pub table: Option<String>,
    /// Rows that were acknowledged since it began.
    pub rows: u64,
    /// Its tables.
    pub tables: TablesReport,
    /// Chunks of this invocation.
    pub chunks: u64,
    /// Rows of these chunks.
    pub read: u64,
    /// Rows of these chunks that a change overtook.
    ///
    /// They were not sent, since a change of the row was sent first.
    pub overtaken: u64,
    /// The session, transaction or limit that blocks it; null if nothing does.
    pub waits_for: Option<String>,
}

impl Report {
    /// Sets the counts to those of the acknowledged transactions.
    ///
    /// The other changes count as unconfirmed. Also sets the age of the last change. `now` is in µs since
    /// 1970-01-01 UTC.
    pub fn confirm(&mut self, counts: AcknowledgedCounts, now: i64) {
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

    /// Sets what the slot lags behind, and what the server retains.
    pub fn set_figures(&mut self, figures: SlotFigures) {
        self.lag_bytes = figures.lag_bytes;
        self.set_retention(figures.retention);
    }
}

impl BackfillReport {
    /// The report of a backfill for which nothing was done.
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
    /// Tables that are not over.
    ///
    /// Null if this invocation did not list them.
    pub left: Option<u64>,
}
