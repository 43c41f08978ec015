//! Prefixes of Spillway's own logical messages and control events.
//!
//! Markers and watermarks are written to the log, and never sent. Control events are sent, and are not in the
//! log.

/// The beginning of all these prefixes.
pub const SPILLWAY: &str = "spillway.";

/// The prefix of markers.
///
/// A marker shows that a server has the whole history of the slot.
pub const MARKER: &str = "spillway.marker";

/// The prefix of watermarks, which mark the chunks of a backfill.
pub const WATERMARK: &str = "spillway.watermark";

/// The prefix of the control event that follows an accepted gap.
pub const GAP_ACCEPTED: &str = "spillway.gap_accepted";

/// The prefix of the control event that ends a repair.
pub const REPAIRED: &str = "spillway.repaired";

/// Whether messages with this prefix are never sent: markers and watermarks.
///
/// Messages of earlier invocations can be recognized only by their prefix.
pub fn is_internal(prefix: &str) -> bool {
    matches!(prefix, MARKER | WATERMARK)
}
