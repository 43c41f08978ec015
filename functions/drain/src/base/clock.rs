//! The wall clock, for times that are stored or reported.

use std::time::{Duration, SystemTime};

use crate::base::time::iso_utc;

/// The time since 1970-01-01 UTC.
///
/// Zero if the clock shows an earlier time.
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// The present time in µs since 1970-01-01 UTC.
pub(crate) fn now_micros() -> i64 {
    i64::try_from(now().as_micros()).unwrap_or(i64::MAX)
}

/// The present time in ISO 8601, UTC, whole seconds.
pub(crate) fn now_text() -> String {
    iso_utc(u64::try_from(now_micros() / 1_000_000).unwrap_or_default())
}
