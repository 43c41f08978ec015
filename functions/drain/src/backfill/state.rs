//! How far a backfill is, as it is kept: one JSON document in a parameter of its own, small whatever the number of tables.

use serde::{Deserialize, Serialize};

use crate::event::Request;
use crate::lsn::Lsn;

use super::table::Table;

/// The format that this version writes.
pub const VERSION: u64 = 1;

/// What a standard parameter holds (SSM, `PutParameter`), bytes.
const MOST_BYTES: usize = 4096;

/// A backfill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Always [`VERSION`].
    pub version: u64,
    /// The slot whose changes it stands beside.
    pub slot: String,
    /// The server, by its `system_identifier`.
    pub system_identifier: String,
    /// What was asked for.
    pub request: Request,
    /// Up to where the stream had every change when it began.
    pub began: Lsn,
    /// End of the watermark's transaction of the last chunk that arrived.
    pub position: Option<Lsn>,
    /// Whether ticks leave it alone.
    pub paused: bool,
    /// The table that is being read.
    pub table: Option<Reading>,
    /// The last table that is over; tables are read in the order of their names.
    pub after: Option<Name>,
    /// The tables that are done, the last ones as far as they find room.
    pub finished: Vec<Finished>,
    /// How many are done.
    pub done: u64,
    /// The tables that could not be read on, and why.
    pub failed: Vec<Failed>,
    /// Rows that arrived, of all tables.
    pub rows: u64,
    /// ISO 8601 in UTC.
    pub started_at: String,
    /// ISO 8601 in UTC.
    pub updated_at: String,
    /// Set when nothing is left to do. ISO 8601 in UTC.
    pub finished_at: Option<String>,
}

/// A table's name. Ordered by schema, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Name(pub String, pub String);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl From<&Table> for Name {
    fn from(table: &Table) -> Self {
        Name(table.relation.schema.clone(), table.relation.name.clone())
    }
}

/// How far a table is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The table.
    pub name: Name,
    /// The key of the last row that was read: one text for each of `columns`. Those behind it are yet to be read.
    pub key: Option<Vec<String>>,
    /// The columns of the key.
    pub columns: Vec<String>,
    /// Rows that arrived.
    pub rows: u64,
    /// Time that its chunks took, ms.
    pub ms: u64,
}

/// A table that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The table.
    pub name: Name,
    /// Rows that arrived.
    pub rows: u64,
    /// Time that its chunks took, ms.
    pub ms: u64,
}

/// A table that could not be read on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// The table.
    pub name: Name,
    /// Why.
    pub why: String,
}

/// A stored text that is not a backfill of this version.
#[derive(Debug, thiserror::Error)]
pub enum StateInvalid {
    /// Not the JSON it should be.
    #[error("it is not a backfill")]
    Unreadable(#[from] serde_json::Error),
    /// Another version.
    #[error(
        "it has format version {0}, and this Spillway reads version {VERSION}: deploy the version that wrote it, or a later one"
    )]
    Version(String),
}

/// How a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is going on.
    Running,
    /// It waits for transactions that wrote to the table and are not over.
    Waiting,
    /// The operator paused it.
    Paused,
    /// Everything was read.
    Finished,
    /// Nothing is left to do, and some tables could not be read.
    Failed,
}

impl State {
    /// One that has not begun.
    pub fn new(slot: &str, system_identifier: &str, request: Request, began: Lsn, now: &str) -> Self {
        State {
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
    pub fn parse(text: &str) -> Result<Self, StateInvalid> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("version") {
            Some(version) if version.as_u64() != Some(VERSION) => {
                Err(StateInvalid::Version(version.to_string()))
            }
            _ => Ok(serde_json::from_value(value)?),
        }
    }

    /// The text to store. Of the tables that are over, the oldest give way where it would not fit otherwise.
    pub fn to_text(&self) -> String {
        let mut state = self.clone();
        loop {
            // Names, numbers and texts always serialise.
            let text = serde_json::to_string(&state).unwrap_or_default();
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

    /// Whether ticks have something to do for it.
    pub fn is_pending(&self) -> bool {
        self.finished_at.is_none()
    }

    /// How it stands, as far as it tells by itself.
    pub fn phase(&self) -> Phase {
        match (self.is_pending(), self.paused, self.failed.is_empty()) {
            (true, true, _) => Phase::Paused,
            (true, false, _) => Phase::Running,
            (false, _, true) => Phase::Finished,
            (false, _, false) => Phase::Failed,
        }
    }

    /// Whether a table is over, done or not.
    pub fn is_over(&self, name: &Name) -> bool {
        self.after.as_ref().is_some_and(|after| name <= after)
    }

    /// How far a table is, and from where its next chunk goes on. A table whose key is made of other columns than it was begins anew.
    pub fn reading(&mut self, table: &Table) -> &mut Reading {
        let name = Name::from(table);
        let is_same = |reading: &Reading| reading.name == name && reading.columns == table.key;
        let reading = self.table.take().filter(is_same);
        self.table.insert(reading.unwrap_or_else(|| Reading {
            name,
            key: None,
            columns: table.key.clone(),
            rows: 0,
            ms: 0,
        }))
    }

    /// The table that is being read is over.
    pub fn finish_table(&mut self) {
        if let Some(Reading { name, rows, ms, .. }) = self.table.take() {
            self.done += 1;
            self.finished.push(Finished {
                name: name.clone(),
                rows,
                ms,
            });
            self.after = Some(name);
        }
    }

    /// A table cannot be read on.
    pub fn fail_table(&mut self, name: Name, why: String) {
        self.table = None;
        // The parameter has little room.
        if self.failed.len() < 8 {
            self.failed.push(Failed {
                name: name.clone(),
                why: why.chars().take(200).collect(),
            });
        }
        self.after = Some(name);
    }
}
