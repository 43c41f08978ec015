//! The checkpoint: the acknowledged position and the server's history, in a JSON document.

mod ack_ahead;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ServerInfo;
use crate::base::lsn::Lsn;
use crate::base::stored_document::{self, InvalidDocument};
use crate::continuity::marker::Marker;
use crate::encode::EventCounts;

pub use ack_ahead::{AckAhead, StoredAckAhead, settings_hash};

/// Most bytes of the stored positions, as Base64.
///
/// They are the unacknowledged positions before the bound, and the bound.
const MAX_POSITION_BYTES: usize = 2_400;

/// The format version that this Spillway writes.
///
/// A later format may use the same field names with another meaning.
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
    /// The OID of the slot's database. A rename does not change it.
    ///
    /// `None` in a checkpoint of a version that did not store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_oid: Option<u32>,
    /// The slot.
    pub slot: String,
    /// The slot's plugin.
    pub plugin: String,
    /// The acknowledged position.
    ///
    /// The stream has acknowledged every change up to it. It is the end of a commit record or of a window
    /// that was read completely, or the position at which the slot started.
    pub commit_end: Lsn,
    /// The resume point of the next transaction.
    ///
    /// `None` if no section of the next transaction is acknowledged.
    #[serde(default, rename = "progress")]
    pub resume: Option<ResumePoint>,
    /// The marker that the slot must return, if any.
    ///
    /// It is at or after the position. Usually it is the last marker that was written.
    #[serde(default)]
    pub marker: Option<Marker>,
    /// Acknowledged changes after the position; `None` if none are stored.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "ack_ahead::deserialize"
    )]
    pub ack_ahead: Option<Box<StoredAckAhead>>,
    /// Time at which this checkpoint was stored, ISO 8601 in UTC. Only reports use it.
    pub updated_at: String,
    /// Fields that a later version added.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A place inside a transaction, after its last acknowledged row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The transaction's id, 32 bits as in the log.
    pub xid: u32,
    /// End of its commit record.
    pub commit_end: Lsn,
    /// Commit time in µs since 1970-01-01 UTC.
    ///
    /// `None` if the plugin does not send it.
    pub commit_time: Option<i64>,
    /// LSN of the last acknowledged row. Rows of one transaction arrive in the order of their LSNs.
    pub lsn: Lsn,
    /// Number of acknowledged rows with that `lsn`.
    pub rows_at_lsn: u64,
    /// Number of acknowledged rows of the transaction.
    ///
    /// It is 0 if only the transaction's commit end and commit time are known. They are stored because the
    /// server has to decode the whole transaction to find them.
    pub rows: u64,
    /// MD5 of the last acknowledged row in the plugin's form, hexadecimal.
    ///
    /// A later peek must return the same row at this place. Otherwise the whole transaction is sent again.
    pub hash: String,
    /// Counts of the transaction's events up to this row.
    pub counts: EventCounts,
}

/// The acknowledged position, with its resume point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckPosition {
    /// Position up to which the stream has every change.
    ///
    /// See [`Checkpoint::commit_end`].
    pub commit_end: Lsn,
    /// Resume point of the transaction after `commit_end`, if any.
    pub resume: Option<ResumePoint>,
}

impl AckPosition {
    /// Whether this position is earlier than another one.
    pub fn is_before(&self, other: &Self) -> bool {
        // A resume point with 0 rows is later than no resume point: it states where the transaction ends.
        let rows = |position: &Self| position.resume.as_ref().map(|resume| resume.rows);
        (self.commit_end, rows(self)) < (other.commit_end, rows(other))
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
    /// The text is not JSON, not a checkpoint, or of another format version.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        stored_document::parse("checkpoint", VERSION, text)
    }

    /// The text to store.
    ///
    /// It has at most 4 KB, the limit of a standard parameter. Fields of a later version may make it larger.
    pub fn to_text(&self) -> String {
        stored_document::to_text(self)
    }

    /// Whether it belongs to the database of this connection.
    ///
    /// The OID decides: a rename keeps it, and a database that was created again under the same name has
    /// another one. The name decides if there is no OID, or if the cluster is another one: OIDs of two
    /// clusters cannot be compared.
    pub fn is_of_database(&self, server: &ServerInfo) -> bool {
        match self.database_oid {
            Some(oid) if self.system_identifier == server.system_identifier => oid == server.database_oid,
            _ => self.database == server.database,
        }
    }

    /// Adds the acknowledged changes after its position.
    ///
    /// Changes for which the document has no room are left out. With a resume point, nothing is added: the
    /// resume point may need most of the room.
    #[must_use]
    pub fn with_ack_ahead(mut self, ahead: &AckAhead, settings_hash: &str) -> Self {
        if self.resume.is_some() {
            return self;
        }
        let mut stored = StoredAckAhead::without_positions(self.commit_end, settings_hash, ahead);
        self.ack_ahead = Some(Box::new(stored.clone()));
        let room = stored_document::MAX_DOCUMENT_BYTES.saturating_sub(self.to_text().len());
        let has_some = stored.set_positions(ahead, room.min(MAX_POSITION_BYTES));
        self.ack_ahead = has_some.then(|| Box::new(stored));
        self
    }

    /// The acknowledged changes after its position.
    ///
    /// `None` if nothing is stored.
    ///
    /// # Errors
    /// The stored changes cannot be used, so they are sent again. The text states the reason.
    pub fn ack_ahead(&self, settings_hash: &str) -> Option<Result<AckAhead, &'static str>> {
        let stored = self.ack_ahead.as_ref()?;
        Some(match self.resume {
            Some(_) => Err("the checkpoint has a resume point"),
            None => stored.read(self.commit_end, settings_hash),
        })
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

    /// If a number lost digits, it would change with each store.
    #[test]
    fn a_number_in_an_unknown_field_keeps_all_its_digits() {
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

    /// SSM refuses a value with `{{name}}`: a reference to another parameter.
    #[test]
    fn a_database_named_with_braces_is_no_reference_to_another_parameter() {
        let stored = Checkpoint {
            database: "{{ssm:secret}}".into(),
            ..Checkpoint::parse(STORED).unwrap()
        };
        assert!(!stored.to_text().contains("{{"), "{}", stored.to_text());
        assert_eq!(Checkpoint::parse(&stored.to_text()).unwrap(), stored);
    }

    fn largest_ack_ahead() -> AckAhead {
        let position = |n: u64| crate::base::position::Position {
            commit_end: Lsn(n << 32),
            lsn: Lsn((n << 32) - 8),
            index: 2,
        };
        let marker = Marker {
            number: u64::MAX,
            nonce: "f".repeat(16),
            lsn: Lsn(u64::MAX),
            flushed: Lsn(u64::MAX),
        };
        AckAhead::new((1..3_000).map(position).collect(), position(3_000), marker).unwrap()
    }

    #[test]
    fn the_largest_document_fits_into_a_parameter() {
        let largest = Checkpoint {
            system_identifier: u64::MAX.to_string(),
            timeline: u32::MAX,
            // Each character is escaped as six.
            database: "\u{1}".repeat(63),
            database_oid: Some(u32::MAX),
            slot: "s".repeat(63),
            commit_end: Lsn(1),
            marker: Some(largest_ack_ahead().marker().clone()),
            others: Map::new(),
            ..Checkpoint::parse(STORED).unwrap()
        };
        let rules = settings_hash(&[]);
        for others in [0, 1_500, 3_500] {
            let mut largest = largest.clone();
            largest.others.insert("colour".into(), "x".repeat(others).into());
            let text = largest.with_ack_ahead(&largest_ack_ahead(), &rules).to_text();
            assert!(
                text.len() <= stored_document::MAX_DOCUMENT_BYTES || others == 3_500,
                "{}",
                text.len()
            );
            let read = Checkpoint::parse(&text).unwrap().ack_ahead(&rules);
            let read = read.map(|read| read.unwrap().missing().len());
            assert_eq!(read.is_some(), others < 3_500);
            assert!(read.is_none_or(|missing| missing > 100), "{read:?}");
        }
    }

    #[test]
    fn changes_acknowledged_ahead_belong_to_one_position() {
        let stored = Checkpoint::parse(STORED).unwrap();
        let ahead = AckAhead::new(
            largest_ack_ahead().missing().to_vec(),
            largest_ack_ahead().bound(),
            largest_ack_ahead().marker().clone(),
        );
        let with = stored.with_ack_ahead(&ahead.unwrap(), "settings");
        assert!(matches!(with.ack_ahead("settings"), Some(Ok(_))));
        // An older version does not know the field `ack_ahead`. It stores a new position, and keeps the
        // field.
        let moved = Checkpoint {
            commit_end: Lsn(0x16B_3750),
            ..with.clone()
        };
        assert!(matches!(moved.ack_ahead("settings"), Some(Err(_))));
        // A later version may give the field another form.
        let text = with.to_text();
        let mut other: Value = serde_json::from_str(&text).unwrap();
        other["ack_ahead"] = Value::from(7);
        assert_eq!(Checkpoint::parse(&other.to_string()).unwrap().ack_ahead, None);
    }

    #[test]
    fn another_format_version_is_refused() {
        let error = Checkpoint::parse(&STORED.replace("\"version\":1", "\"version\":2")).unwrap_err();
        assert!(matches!(error, InvalidDocument::Version { found, .. } if found == "2"));
    }

    #[test]
    fn a_text_that_is_not_a_checkpoint_is_refused() {
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
