//! The wall clock, of which only what is written down wants to know.

use std::time::SystemTime;

use crate::time::iso_utc;

/// µs since 1970-01-01 UTC.
pub(crate) fn now_micros() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// ISO 8601 in UTC, to the second.
pub(crate) fn now_text() -> String {
    iso_utc(u64::try_from(now_micros() / 1_000_000).unwrap_or_default())
}
