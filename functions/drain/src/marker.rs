//! Markers: numbered logical messages that a drain lays into the server's log, and that must come back through the slot. One that
//! does proves that the slot reads the history that was drained before; one that does not is a gap. Without one, a slot that lost its
//! place in a failover and gives nothing looks like a slot that has nothing to give.
//!
//! The slot only moves below a marker that is not before it and is in the checkpoint: `confirmed_flush <= marker`. So whatever the slot
//! is after a failover, the first thing that it has to give is known. Markers are Spillway's own and are not delivered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::Message;
use crate::lsn::Lsn;

/// The prefix of the messages.
pub const PREFIX: &str = "spillway.marker";

/// A marker that was laid, as the checkpoint remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Counts the markers of a slot.
    pub number: u64,
    /// Tells it from one of the same number in another history: 16 hexadecimal digits, drawn at random.
    pub nonce: String,
    /// End of its record, as `pg_logical_emit_message` returned it. What was committed at or before this came before it.
    pub lsn: Lsn,
    /// Up to where the log was on disk once it was committed: its commit record ends at or before this.
    pub flushed: Lsn,
}

impl Marker {
    /// What the message says: JSON.
    pub fn content(slot: &str, number: u64, nonce: &str) -> String {
        serde_json::json!({"slot": slot, "number": number, "nonce": nonce}).to_string()
    }

    /// Whether a message is this marker.
    pub fn is(&self, slot: &str, message: &Message<'_>) -> bool {
        let said = serde_json::from_slice::<Value>(&message.content);
        message.prefix == PREFIX
            && said.is_ok_and(|said| {
                said["slot"] == slot && said["number"] == self.number && said["nonce"] == self.nonce
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
        }
    }

    #[test]
    fn only_the_same_marker_is_the_marker() {
        let marker = Marker {
            number: 7,
            nonce: "0123456789abcdef".into(),
            lsn: Lsn(100),
            flushed: Lsn(200),
        };
        let is = |message: Message<'_>| marker.is("s", &message);
        assert!(is(message(PREFIX, Marker::content("s", 7, "0123456789abcdef"))));
        for other in [
            message("spillway", Marker::content("s", 7, "0123456789abcdef")),
            message(PREFIX, Marker::content("t", 7, "0123456789abcdef")),
            message(PREFIX, Marker::content("s", 8, "0123456789abcdef")),
            message(PREFIX, Marker::content("s", 7, "fedcba9876543210")),
            message(PREFIX, "7".into()),
            message(PREFIX, String::new()),
        ] {
            assert!(!is(other));
        }
    }
}
