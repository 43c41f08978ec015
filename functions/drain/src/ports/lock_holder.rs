//! The session that holds a slot's lock.

use serde::Serialize;

/// The session that holds the lock of the slot's only drainer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockHolder {
    /// Its process on the server.
    pub pid: i32,
    /// Its age in seconds; null unless the role may see it.
    pub age_seconds: Option<i64>,
}
