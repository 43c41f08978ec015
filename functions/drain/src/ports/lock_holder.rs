//! The session that holds a slot's lock.

use serde::Serialize;

/// The session that holds the lock of a slot.
///
/// Only the drainer with this lock drains the slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockHolder {
    /// The id of its server process.
    pub pid: i32,
    /// Its age in seconds; null if the role may not see it.
    pub age_seconds: Option<i64>,
}
