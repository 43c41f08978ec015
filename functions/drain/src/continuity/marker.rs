//! Markers: numbered logical messages that a drain writes into the WAL, and that the slot must return.
//!
//! If the slot returns the marker, the slot continues where the last drain ended. If it does not, the slot
//! lost changes. Without markers, a slot that lost changes in a failover looks like a slot without changes:
//! both send nothing.
//!
//! The checkpoint stores the last marker. While markers are written, the slot is never confirmed beyond it:
//! `confirmed_flush <= marker`. So after any failover the slot must still return the marker. Markers are not
//! sent to the stream.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::lsn::Lsn;
use crate::change::{Message, message_prefix};

/// Longest wait until a marker is committed and readable.
///
/// A commit may wait for standbys.
pub const MARKER_TIME: Duration = Duration::from_secs(2);

/// A marker that was written, as the checkpoint stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Its number among the markers of the slot.
    pub number: u64,
    /// 16 random hexadecimal digits.
    ///
    /// They distinguish the marker from one with the same number on another server or timeline.
    pub nonce: String,
    /// End of its record, as `pg_logical_emit_message` returned it. Commits at or before this LSN precede it.
    pub lsn: Lsn,
    /// The flush position after its commit. Its commit record ends at or before this LSN.
    pub flushed: Lsn,
}

/// A marker that is not written yet.
#[derive(Debug)]
pub struct MarkerDraft {
    number: u64,
    nonce: String,
}

impl MarkerDraft {
    /// A marker of this number and with this nonce.
    pub fn new(number: u64, nonce: String) -> Self {
        MarkerDraft { number, nonce }
    }

    /// The content of its message.
    pub fn content(&self, slot: &str) -> String {
        content(slot, self.number, &self.nonce)
    }

    /// The written marker.
    ///
    /// Its message ends at `lsn`, and the log is on disk up to `flushed`.
    pub fn written(self, lsn: Lsn, flushed: Lsn) -> Marker {
        Marker {
            number: self.number,
            nonce: self.nonce,
            lsn,
            flushed,
        }
    }
}

/// The content of a marker's message, as JSON.
fn content(slot: &str, number: u64, nonce: &str) -> String {
    serde_json::json!({"slot": slot, "number": number, "nonce": nonce}).to_string()
}

impl Marker {
    /// Whether a message is this marker.
    pub fn is(&self, slot: &str, message: &Message<'_>) -> bool {
        let content = serde_json::from_slice::<Value>(&message.content);
        message.prefix == message_prefix::MARKER
            && content.is_ok_and(|content| {
                content["slot"] == slot && content["number"] == self.number && content["nonce"] == self.nonce
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(prefix: &'static str, content: String) -> Message<'static> {
        Message {
            prefix: prefix.into(),
            content: content.into_bytes().into(),
            omitted: Default::default(),
        }
    }

    #[test]
    fn a_message_is_the_marker_only_with_the_same_slot_number_and_nonce() {
        let marker = Marker {
            number: 7,
            nonce: "0123456789abcdef".into(),
            lsn: Lsn(100),
            flushed: Lsn(200),
        };
        let is = |message: Message<'_>| marker.is("s", &message);
        assert!(is(message(
            message_prefix::MARKER,
            content("s", 7, "0123456789abcdef")
        )));
        for other in [
            message("spillway", content("s", 7, "0123456789abcdef")),
            message(message_prefix::MARKER, content("t", 7, "0123456789abcdef")),
            message(message_prefix::MARKER, content("s", 8, "0123456789abcdef")),
            message(message_prefix::MARKER, content("s", 7, "fedcba9876543210")),
            message(message_prefix::MARKER, "7".into()),
            message(message_prefix::MARKER, String::new()),
        ] {
            assert!(!is(other));
        }
    }
}
