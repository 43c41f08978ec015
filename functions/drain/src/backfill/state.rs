//! The stored state of a backfill: one JSON document in a parameter of its own.
//!
//! It fits into the parameter for any number of tables: see [`BackfillState::to_text`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::BackfillTable;
use crate::base::lsn::Lsn;
use crate::base::stored_document::{self, InvalidDocument};
use crate::base::table_name::TableName;
use crate::invocation::BackfillRequest;

/// The format version that this Spillway writes.
pub const VERSION: u64 = 1;

/// Most bytes of a stored failure reason.
const MAX_REASON_BYTES: usize = 120;

/// Most failed tables that are stored with their reasons. The parameter is small.
const MAX_FAILED_TABLES: usize = 8;

/// Most bytes of a new state. The rest of the parameter is for the progress.
const MAX_NEW_STATE_BYTES: usize = 1536;

/// Bytes that a stored cursor leaves free.
///
/// The counters and the times of the progress have more digits later.
const MAX_COUNTER_GROWTH: usize = 128;

/// Rows of a table's first chunk, before the rate is known.
const FIRST_CHUNK_ROWS: u64 = 2_000;

/// Fewest rows of a chunk that is sized by its rate.
///
/// Fewer rows would cost too much: each chunk needs a snapshot and a window of its own. If the table is slow,
/// these are also the most rows.
const SLOW_CHUNK_ROWS: u64 = 100;

/// The state of a backfill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackfillState {
    /// The format version, always [`VERSION`].
    pub version: u64,
    /// The slot whose drain runs the backfill.
    pub slot: String,
    /// The server's `system_identifier`.
    pub system_identifier: String,
    /// The request.
    pub request: BackfillRequest,
    /// The acknowledged position before the first row was read.
    pub began: Lsn,
    /// The acknowledged position when the last chunk was acknowledged.
    pub position: Option<Lsn>,
    /// Whether the operator paused it. Ticks then do not run it.
    pub paused: bool,
    /// The table that is being read.
    pub table: Option<TableProgress>,
    /// The last table that finished or failed. Tables are read in the order of their names.
    pub after: Option<TableName>,
    /// The finished tables. If the parameter is too small, the oldest ones are left out.
    pub finished: Vec<FinishedTable>,
    /// The number of finished tables.
    pub done: u64,
    /// The tables that failed. Only the first ones are stored: see [`BackfillState::to_text`].
    pub failed: Vec<FailedTable>,
    /// The number of tables that failed.
    pub failures: u64,
    /// The number of acknowledged rows, of all tables.
    pub rows: u64,
    /// Time of the request, ISO 8601 in UTC.
    pub started_at: String,
    /// Time of the last store, ISO 8601 in UTC.
    pub updated_at: String,
    /// Time at which its last table ended, ISO 8601 in UTC.
    ///
    /// `None` while the backfill is pending.
    pub finished_at: Option<String>,
}

/// The progress of the table that is being read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableProgress {
    /// The table.
    pub name: TableName,
    /// The cursor: the key of the last row of the last acknowledged chunk, one text for each column.
    ///
    /// `None` before the first chunk was acknowledged.
    pub key: Option<Vec<String>>,
    /// The identity for which the cursor is valid: see [`BackfillTable::cursor_identity`].
    pub columns: Vec<String>,
    /// The number of acknowledged rows.
    pub rows: u64,
    /// The time that its chunks took, in milliseconds.
    pub ms: u64,
    /// Whether the last read of its next rows timed out.
    ///
    /// The server sent no row in time. The next read may take longer.
    pub slow: bool,
    /// The number of consecutive chunks that were not acknowledged in time.
    #[serde(default)]
    pub late: u32,
    /// The number of consecutive chunks that a change made invalid.
    #[serde(default)]
    pub invalid: u32,
}

impl TableProgress {
    /// The number of rows of the next chunk, 1 to `most`.
    ///
    /// These are the rows that take `time` at the rate so far, within two bounds. They are at least 100, and
    /// at most as many as were acknowledged so far, or 2,000 if that is more. For a slow table they are at
    /// most 100. Each consecutive chunk that was invalid, or not acknowledged in time, halves the number.
    pub fn next_rows(&self, most: u64, time: Duration) -> u64 {
        let rows = match self.ms {
            0 => FIRST_CHUNK_ROWS,
            ms => (self.rows as f64 / ms as f64 * time.as_secs_f64() * 1000.0) as u64,
        };
        let rows = rows.min(self.rows.max(FIRST_CHUNK_ROWS)).max(SLOW_CHUNK_ROWS);
        let rows = rows.min(if self.slow { SLOW_CHUNK_ROWS } else { most }).min(most);
        let halvings = self.late.saturating_add(self.invalid);
        rows.checked_shr(halvings).unwrap_or(0).max(1)
    }
}

/// A finished table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedTable {
    /// The table.
    pub name: TableName,
    /// The number of acknowledged rows.
    pub rows: u64,
    /// The time that its chunks took, in milliseconds.
    pub ms: u64,
}

/// A table that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedTable {
    /// The table.
    pub name: TableName,
    /// The reason, at most 120 bytes.
    pub why: String,
}

/// The phase of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackfillPhase {
    /// Each tick reads further chunks.
    Running,
    /// It waits. The field `waits_for` of the answer names the reason.
    Waiting,
    /// The operator paused it.
    Paused,
    /// All tables were read.
    Finished,
    /// It ended, and some tables failed.
    Failed,
}

impl BackfillState {
    /// The state of a backfill that has read nothing yet.
    pub fn new(slot: &str, system_identifier: &str, request: BackfillRequest, began: Lsn, now: &str) -> Self {
        BackfillState {
            version: VERSION,
            slot: slot.to_owned(),
            system_identifier: system_identifier.to_owned(),
            request,
            began,
            position: None,
            paused: false,
            table: None,
            after: None,
            finished: Vec::new(),
            done: 0,
            failed: Vec::new(),
            failures: 0,
            rows: 0,
            started_at: now.to_owned(),
            updated_at: now.to_owned(),
            finished_at: None,
        }
    }

    /// Whether it is the backfill of this slot on this cluster.
    pub fn is_of(&self, slot: &str, system_identifier: &str) -> bool {
        self.slot == slot && self.system_identifier == system_identifier
    }

    /// Advances `began` to `acknowledged`, if no row was read yet.
    ///
    /// Every change up to `acknowledged` is acknowledged. At the request of the backfill, the log may have
    /// had a backlog. The events of that backlog, too, precede every row that the backfill reads.
    pub fn begin(&mut self, acknowledged: Lsn) {
        if self.table.is_none() && self.after.is_none() {
            self.began = self.began.max(acknowledged);
        }
    }

    /// Reads the stored text.
    ///
    /// # Errors
    /// The text is not JSON, is not the state of a backfill, or has another format version.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        stored_document::parse("backfill", VERSION, text)
    }

    /// The text to store.
    ///
    /// If it does not fit into a parameter, the oldest finished tables are left out, then the last failed
    /// tables. The numbers of both stay.
    pub fn to_text(&self) -> String {
        self.text_within(stored_document::MAX_DOCUMENT_BYTES)
    }

    /// The text without the tables for which `most_bytes` are too few.
    fn text_within(&self, most_bytes: usize) -> String {
        let mut state = self.clone();
        loop {
            let text = stored_document::to_text(&state);
            let is_smallest = state.finished.is_empty() && state.failed.is_empty();
            if text.len() <= most_bytes || is_smallest {
                return text;
            }
            let surplus = state.finished.len().div_ceil(4);
            state.finished.drain(..surplus);
            if surplus == 0 {
                state.failed.pop();
            }
        }
    }

    /// Whether a parameter can hold the text, also with larger counters.
    pub fn fits(&self) -> bool {
        const MAX_STATE_BYTES: usize = stored_document::MAX_DOCUMENT_BYTES - MAX_COUNTER_GROWTH;
        self.text_within(MAX_STATE_BYTES).len() <= MAX_STATE_BYTES
    }

    /// Whether the state of a new backfill leaves room for the progress.
    ///
    /// The progress is stored in the same parameter.
    pub fn has_room(&self) -> bool {
        self.to_text().len() <= MAX_NEW_STATE_BYTES
    }

    /// Whether it has not ended yet.
    pub fn is_pending(&self) -> bool {
        self.finished_at.is_none()
    }

    /// Its phase, but never [`BackfillPhase::Waiting`].
    ///
    /// The state does not contain the reason of a wait.
    pub fn phase(&self) -> BackfillPhase {
        match (self.is_pending(), self.paused, self.failures == 0) {
            (true, true, _) => BackfillPhase::Paused,
            (true, false, _) => BackfillPhase::Running,
            (false, _, true) => BackfillPhase::Finished,
            (false, _, false) => BackfillPhase::Failed,
        }
    }

    /// Whether a table has finished or failed.
    pub fn has_ended(&self, name: &TableName) -> bool {
        self.after.as_ref().is_some_and(|after| name <= after)
    }

    /// Sets the table that is being read. Returns its progress.
    ///
    /// The progress is empty if another table was read before, or if the table has another
    /// [`BackfillTable::cursor_identity`] than before.
    pub fn table_progress(&mut self, table: &BackfillTable) -> &mut TableProgress {
        let name = table.name().clone();
        let is_same =
            |progress: &TableProgress| progress.name == name && progress.columns == table.cursor_identity();
        let progress = self.table.take().filter(is_same);
        self.table.insert(progress.unwrap_or_else(|| TableProgress {
            name,
            key: None,
            columns: table.cursor_identity(),
            rows: 0,
            ms: 0,
            slow: false,
            late: 0,
            invalid: 0,
        }))
    }

    /// Starts the backfill again after a gap.
    ///
    /// The rows that were read before the gap may be outdated.
    pub fn restart(&mut self, slot: &str, system_identifier: &str, began: Lsn) {
        *self = BackfillState {
            paused: self.paused,
            ..BackfillState::new(
                slot,
                system_identifier,
                self.request.clone(),
                began,
                &self.started_at,
            )
        };
    }

    /// Sets the cursor back to the first row of the current table.
    pub fn restart_table(&mut self) {
        if let Some(progress) = &mut self.table {
            (progress.key, progress.rows, progress.ms) = (None, 0, 0);
        }
    }

    /// Moves the table that is being read to the finished tables.
    pub fn finish_table(&mut self) {
        if let Some(TableProgress { name, rows, ms, .. }) = self.table.take() {
            self.done += 1;
            self.finished.push(FinishedTable {
                name: name.clone(),
                rows,
                ms,
            });
            self.after = Some(name);
        }
    }

    /// Ends a table that cannot be read. `why` is cut to 120 bytes.
    pub fn fail_table(&mut self, name: TableName, mut why: String) {
        self.table = None;
        self.failures += 1;
        if self.failed.len() < MAX_FAILED_TABLES {
            why.truncate(why.floor_char_boundary(MAX_REASON_BYTES));
            self.failed.push(FailedTable {
                name: name.clone(),
                why,
            });
        }
        self.after = Some(name);
    }
}

#[cfg(test)]
mod tests;
