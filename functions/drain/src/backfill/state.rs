//! How far a backfill is, as it is kept: one JSON document in a parameter of its own, small whatever the
//! number of tables.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::BackfillRequest;
use crate::lsn::Lsn;

use super::table::BackfillTable;
use crate::stored_document::{self, InvalidDocument};
use crate::table_name::TableName;

/// The format that this version writes.
pub const VERSION: u64 = 1;

/// What a standard parameter holds (SSM, `PutParameter`), bytes.
const MOST_BYTES: usize = 4096;

/// The most of a reason that is kept, bytes.
const MOST_REASON: usize = 120;

/// What a request may take of a parameter, so that there is room for the rest, bytes.
const MOST_REQUEST: usize = 1536;

/// Rows of a table's first chunk, of which it is not known how fast they go.
const FIRST_ROWS: u64 = 2_000;

/// The fewest rows of a chunk that is to take its time: each costs a snapshot and a window of its own. Also
/// the most of one that was slow.
const FEW_ROWS: u64 = 100;

/// A backfill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackfillState {
    /// Always [`VERSION`].
    pub version: u64,
    /// The slot whose changes it stands beside.
    pub slot: String,
    /// The server, by its `system_identifier`.
    pub system_identifier: String,
    /// What was asked for.
    pub request: BackfillRequest,
    /// Up to where the stream had every change when it began.
    pub began: Lsn,
    /// Up to where the stream had every change when the last chunk had arrived.
    pub position: Option<Lsn>,
    /// Whether ticks leave it alone.
    pub paused: bool,
    /// The table that is being read.
    pub table: Option<TableProgress>,
    /// The last table that is over; tables are read in the order of their names.
    pub after: Option<TableName>,
    /// The tables that are done, the last ones as far as they find room.
    pub finished: Vec<FinishedTable>,
    /// How many are done.
    pub done: u64,
    /// The tables that could not be read on, and why: the first ones.
    pub failed: Vec<FailedTable>,
    /// How many could not be read on.
    pub failures: u64,
    /// Rows that arrived, of all tables.
    pub rows: u64,
    /// ISO 8601 in UTC.
    pub started_at: String,
    /// ISO 8601 in UTC.
    pub updated_at: String,
    /// Set when nothing is left to do. ISO 8601 in UTC.
    pub finished_at: Option<String>,
}

/// How far a table is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableProgress {
    /// The table.
    pub name: TableName,
    /// The key of the last row that was read: one text for each of its columns. Those behind it are yet to be
    /// read.
    pub key: Option<Vec<String>>,
    /// The table itself, the columns of the key and their order: see [`BackfillTable::cursor_identity`].
    pub columns: Vec<String>,
    /// Rows that arrived.
    pub rows: u64,
    /// Time that its chunks took, ms.
    pub ms: u64,
    /// Whether reading its next rows takes most of an invocation's time.
    pub slow: bool,
    /// How many chunks in a row did not arrive in time.
    #[serde(default)]
    pub late: u32,
}

impl TableProgress {
    /// Rows of the next chunk, 1 or more: as many as will take `time` at the rate so far, at most as many
    /// again as there were, and never more than `most`; half of that for each chunk that did not arrive.
    pub fn next_rows(&self, most: u64, time: Duration) -> u64 {
        let rows = match self.ms {
            0 => FIRST_ROWS,
            ms => (self.rows as f64 / ms as f64 * time.as_secs_f64() * 1000.0) as u64,
        };
        let rows = rows.min(self.rows.max(FIRST_ROWS)).max(FEW_ROWS);
        let rows = rows.min(if self.slow { FEW_ROWS } else { most }).min(most);
        rows.checked_shr(self.late).unwrap_or(0).max(1)
    }
}

/// A table that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedTable {
    /// The table.
    pub name: TableName,
    /// Rows that arrived.
    pub rows: u64,
    /// Time that its chunks took, ms.
    pub ms: u64,
}

/// A table that could not be read on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedTable {
    /// The table.
    pub name: TableName,
    /// Why.
    pub why: String,
}

/// How a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackfillPhase {
    /// It is going on.
    Running,
    /// It waits for something that an answer names in `waits_for`.
    Waiting,
    /// The operator paused it.
    Paused,
    /// Everything was read.
    Finished,
    /// Nothing is left to do, and some tables could not be read.
    Failed,
}

impl BackfillState {
    /// One that has not begun.
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

    /// Reads the stored text.
    ///
    /// # Errors
    /// It is not JSON, not a backfill, or of another format version.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        stored_document::parse("backfill", VERSION, text)
    }

    /// The text to store. Of the tables that are over, the oldest give way where it would not fit otherwise.
    pub fn to_text(&self) -> String {
        let mut state = self.clone();
        loop {
            let text = stored_document::to_text(&state);
            if text.len() <= MOST_BYTES || state.finished.is_empty() {
                return text;
            }
            let surplus = state.finished.len().div_ceil(4);
            state.finished.drain(..surplus);
        }
    }

    /// Whether the text is small enough to be stored.
    pub fn fits(&self) -> bool {
        self.to_text().len() <= MOST_BYTES
    }

    /// Whether the request leaves room for all that is kept beside it.
    pub fn has_room(&self) -> bool {
        self.to_text().len() <= MOST_REQUEST
    }

    /// Whether ticks have something to do for it.
    pub fn is_pending(&self) -> bool {
        self.finished_at.is_none()
    }

    /// How it stands, as far as it tells by itself.
    pub fn phase(&self) -> BackfillPhase {
        match (self.is_pending(), self.paused, self.failures == 0) {
            (true, true, _) => BackfillPhase::Paused,
            (true, false, _) => BackfillPhase::Running,
            (false, _, true) => BackfillPhase::Finished,
            (false, _, false) => BackfillPhase::Failed,
        }
    }

    /// Whether a table is over, done or not.
    pub fn is_over(&self, name: &TableName) -> bool {
        self.after.as_ref().is_some_and(|after| name <= after)
    }

    /// How far a table is, and from where its next chunk goes on. Another table of its name begins anew, and
    /// so does one whose key is made of other columns than it was, or ordered otherwise.
    pub fn table_progress(&mut self, table: &BackfillTable) -> &mut TableProgress {
        let name = table.name().clone();
        let is_same =
            |reading: &TableProgress| reading.name == name && reading.columns == table.cursor_identity();
        let reading = self.table.take().filter(is_same);
        self.table.insert(reading.unwrap_or_else(|| TableProgress {
            name,
            key: None,
            columns: table.cursor_identity(),
            rows: 0,
            ms: 0,
            slow: false,
            late: 0,
        }))
    }

    /// There is a gap behind which nothing is known of what was read before: it begins anew.
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

    /// The table that is being read must be read from its beginning.
    pub fn restart_table(&mut self) {
        if let Some(reading) = &mut self.table {
            (reading.key, reading.rows, reading.ms) = (None, 0, 0);
        }
    }

    /// The table that is being read is over.
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

    /// A table cannot be read on.
    pub fn fail_table(&mut self, name: TableName, why: String) {
        self.table = None;
        self.failures += 1;
        // The parameter has little room.
        if self.failed.len() < 8 {
            let mut why = why;
            why.truncate(why.floor_char_boundary(MOST_REASON));
            self.failed.push(FailedTable {
                name: name.clone(),
                why,
            });
        }
        self.after = Some(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> BackfillState {
        let request = BackfillRequest {
            tables: Vec::new(),
            condition: None,
            columns: Vec::new(),
            chunk_rows: None,
            repair: false,
        };
        BackfillState::new("s", "7", request, Lsn(0x10), "2026-11-25T12:00:00Z")
    }

    fn name(number: u32) -> TableName {
        TableName::new("public", format!("table_{number:04}"))
    }

    #[test]
    fn it_comes_back_as_it_was_stored_and_another_version_is_refused() {
        let mut state = state();
        state.table = Some(TableProgress {
            name: name(1),
            key: Some(vec!["7".into(), "it's".into()]),
            columns: vec!["a".into(), "b".into()],
            rows: 9,
            ms: 3,
            slow: true,
            late: 0,
        });
        assert_eq!(BackfillState::parse(&state.to_text()).unwrap(), state);
        let other = state.to_text().replace("\"version\":1", "\"version\":2");
        assert!(
            matches!(BackfillState::parse(&other), Err(InvalidDocument::Version { found, .. }) if found == "2")
        );
        assert!(matches!(
            BackfillState::parse("{}"),
            Err(InvalidDocument::Unreadable { .. })
        ));
    }

    #[test]
    fn a_chunk_has_as_many_rows_as_its_time_allows() {
        let reading = |rows, ms, slow| TableProgress {
            name: name(1),
            key: None,
            columns: vec!["id".into()],
            rows,
            ms,
            slow,
            late: 0,
        };
        for (rows, ms, slow, most, expected) in [
            // Nothing is known.
            (0, 0, false, 1_000_000, 2_000),
            (0, 0, false, 500, 500),
            // 10 rows a ms.
            (100_000, 10_000, false, 1_000_000, 30_000),
            (100_000, 10_000, false, 5, 5),
            // As fast, but so far there were few.
            (4_000, 400, false, 1_000_000, 4_000),
            (1_000, 100, false, 1_000_000, 2_000),
            // A row takes a second; a chunk was given up before it brought one.
            (10, 10_000, false, 1_000_000, 100),
            (0, 5_000, false, 1_000_000, 100),
            (100_000, 10_000, true, 1_000_000, 100),
            (100_000, 10_000, true, 50, 50),
        ] {
            let next = reading(rows, ms, slow).next_rows(most, Duration::from_secs(3));
            assert_eq!(next, expected, "{rows} rows in {ms} ms, at most {most}");
        }
        // One that does not arrive gets smaller, however few it had.
        for (late, expected) in [(1, 50), (3, 12), (6, 1), (200, 1)] {
            let reading = TableProgress {
                late,
                ..reading(10, 10_000, false)
            };
            let next = reading.next_rows(1_000_000, Duration::from_secs(3));
            assert_eq!(next, expected, "{late} chunks did not arrive");
        }
    }

    #[test]
    fn it_fits_into_a_parameter_however_many_tables_are_done() {
        let mut state = state();
        for number in 0..1000 {
            state.table = Some(TableProgress {
                name: name(number),
                key: None,
                columns: vec!["id".into()],
                rows: 1_000_000,
                ms: 60_000,
                slow: false,
                late: 0,
            });
            state.finish_table();
            assert!(state.fits());
        }
        let stored = BackfillState::parse(&state.to_text()).unwrap();
        assert_eq!(stored.done, 1000);
        assert!(stored.is_over(&name(0)) && stored.is_over(&name(999)) && !stored.is_over(&name(1000)));
        assert_eq!(stored.finished.last().unwrap().name, name(999));
        state.table = Some(TableProgress {
            name: name(1000),
            key: Some(vec!["x".repeat(5000)]),
            columns: vec!["id".into()],
            rows: 1,
            ms: 1,
            slow: false,
            late: 0,
        });
        assert!(!state.fits(), "a key that no parameter holds");
        state.fail_table(name(1000), "too long".into());
        assert!(state.fits());
    }

    #[test]
    fn a_key_with_braces_is_no_reference_to_another_parameter() {
        let mut state = state();
        state.table = Some(TableProgress {
            name: name(1),
            key: Some(vec!["{{1,2},{3,4}}".into(), "{{{name}}}".into()]),
            columns: vec!["a".into(), "b".into()],
            rows: 9,
            ms: 3,
            slow: false,
            late: 0,
        });
        assert!(!state.to_text().contains("{{"));
        assert_eq!(BackfillState::parse(&state.to_text()).unwrap(), state);
    }

    #[test]
    fn it_tells_how_it_stands() {
        let mut state = state();
        assert_eq!(state.phase(), BackfillPhase::Running);
        state.paused = true;
        assert_eq!(state.phase(), BackfillPhase::Paused);
        state.finished_at = Some("2026-11-25T12:00:00Z".into());
        assert_eq!(state.phase(), BackfillPhase::Finished);
        state.fail_table(name(1), "it is no longer there".into());
        assert_eq!(state.phase(), BackfillPhase::Failed);
        state.restart("s", "8", Lsn(0x20));
        assert_eq!(
            (state.phase(), state.began, state.after),
            (BackfillPhase::Paused, Lsn(0x20), None)
        );
    }
}
