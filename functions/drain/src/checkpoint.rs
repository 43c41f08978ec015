//! The checkpoint: the position up to which the stream has everything, and its history. One JSON document.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::encode::EventCounts;
use crate::lsn::Lsn;
use crate::marker::Marker;
use crate::stored_document::{self, InvalidDocument};

/// The format version that this Spillway writes. A later one may mean something else by the same names.
pub const VERSION: u64 = 1;

/// The stored document. It keeps fields that this version does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Format version, [`VERSION`].
    pub version: u64,
    /// Identifies the cluster's data, and survives a failover (`pg_control_system()`).
    pub system_identifier: String,
    /// Timeline of the server. Each promotion of a standby starts a new one.
    pub timeline: u32,
    /// The slot's database.
    pub database: String,
    /// The OID of the slot's database, which a rename keeps; `None` before a version that stores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_oid: Option<u32>,
    /// The slot.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: String,
    /// End of the last commit record up to which the stream has acknowledged every change.
    pub commit_end: Lsn,
    /// How much the stream has of the next transaction, if that is larger than one invocation.
    #[serde(default)]
    pub progress: Option<ResumePoint>,
    /// The last marker that was written.
    #[serde(default)]
    pub marker: Option<Marker>,
    /// When it was stored, ISO 8601 in UTC. For people; the drain does not use it.
    pub updated_at: String,
    /// Fields that a later version added.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A place inside a transaction: the stream has its rows up to here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The transaction's id, 32 bits as in the log.
    pub xid: u32,
    /// End of its commit record.
    pub commit_end: Lsn,
    /// When it was committed, µs since 1970-01-01 UTC, if the plugin sends that.
    pub commit_time: Option<i64>,
    /// The last row's `lsn`. Rows of one transaction arrive in the order of their LSNs.
    pub lsn: Lsn,
    /// Rows with that `lsn` that are in the stream.
    pub rows_at_lsn: u64,
    /// Rows of the transaction that are in the stream.
    ///
    /// With none, the point only states where the transaction ends: the server needed a decode of its own to
    /// find that.
    pub rows: u64,
    /// MD5 of the last row as the plugin wrote it, hexadecimal. The same row must arrive again at this place.
    pub hash: String,
    /// The numbers of its events so far.
    pub counts: EventCounts,
}

/// The position up to which the stream has everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckPosition {
    /// End of the last commit record up to which the stream has every change.
    pub commit_end: Lsn,
    /// How much it has of the transaction behind that, if a part.
    pub resume: Option<ResumePoint>,
}

/// Later positions are greater.
impl PartialOrd for AckPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        // A resume point without rows is more than none: it states where the transaction ends.
        let rows = |position: &Self| position.resume.as_ref().map(|resume| resume.rows);
        Some((self.commit_end, rows(self)).cmp(&(other.commit_end, rows(other))))
    }
}

impl From<Lsn> for AckPosition {
    fn from(commit_end: Lsn) -> Self {
        AckPosition {
            commit_end,
            resume: None,
        }
    }
}

impl Checkpoint {
    /// Reads the stored text.
    ///
    /// # Errors
    /// It is not JSON, not a checkpoint, or of another format version.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        stored_document::parse("checkpoint", VERSION, text)
    }

    /// The text to store: under 4 KB, a standard parameter's size, unless another version filled `others`.
    pub fn to_text(&self) -> String {
        stored_document::to_text(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = r#"{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s",
        "plugin":"pgoutput","commit_end":"0/16B3748","updated_at":"2026-11-23T12:00:00Z","colour":"green"}"#;

    #[test]
    fn unknown_fields_are_kept() {
        let checkpoint = Checkpoint::parse(STORED).unwrap();
        assert_eq!(checkpoint.commit_end, Lsn(0x16B_3748));
        let again: Value = serde_json::from_str(&checkpoint.to_text()).unwrap();
        assert_eq!(again["colour"], "green");
        assert_eq!(Checkpoint::parse(&checkpoint.to_text()).unwrap(), checkpoint);
    }

    /// Otherwise it would drift from store to store.
    #[test]
    fn a_number_of_another_version_is_kept_to_its_last_digit() {
        for number in [
            "1.9151844674040738e+24",
            "0.30000000000000004",
            "5e-324",
            "18446744073709551615",
            "-1.5",
        ] {
            let stored = STORED.replace("\"green\"", number);
            let again = Checkpoint::parse(&stored).unwrap().to_text();
            assert!(again.contains(&format!("\"colour\":{number}")), "{again}");
        }
    }

    /// SSM refuses a value that holds `{{name}}`: it takes that for a reference to another parameter.
    #[test]
    fn a_database_named_with_braces_is_no_reference_to_another_parameter() {
        let stored = Checkpoint {
            database: "{{ssm:secret}}".into(),
            ..Checkpoint::parse(STORED).unwrap()
        };
        assert!(!stored.to_text().contains("{{"), "{}", stored.to_text());
        assert_eq!(Checkpoint::parse(&stored.to_text()).unwrap(), stored);
    }

    #[test]
    fn another_version_is_refused() {
        let error = Checkpoint::parse(&STORED.replace("\"version\":1", "\"version\":2")).unwrap_err();
        assert!(matches!(error, InvalidDocument::Version { found, .. } if found == "2"));
    }

    #[test]
    fn what_is_not_a_checkpoint_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"version":1}"#,
            &STORED.replace("0/16B3748", "soon"),
        ] {
            assert!(
                matches!(Checkpoint::parse(text), Err(InvalidDocument::Unreadable { .. })),
                "{text}"
            );
        }
    }
}
