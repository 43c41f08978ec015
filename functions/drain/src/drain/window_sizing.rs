//! The size of windows: how much of the log one peek reads.
//!
//! Each peek decodes again from the slot's `restart_lsn`, which rarely advances. So a few large windows cost
//! less than many small ones. But a window must fit into the time that is left. And the server stores the
//! result of a peek in temporary files.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::base::lsn::Lsn;
use crate::base::window::Window;

/// Sizes windows by the cost of the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSizing {
    wal_bytes: u64,
    rows: i32,
    /// Whether decoding a window takes a large part of an invocation's time.
    ///
    /// True if decoding took more than a third of the time from the window's peek to the reading deadline.
    /// Also true after [`WindowSizing::shrink`]. A window without rows does not make it false.
    is_slow: bool,
    /// Whether a window may be larger than `wal_bytes`.
    ///
    /// If so, it may be as large as the part of the log that is decoded again before it.
    may_stretch: bool,
    /// Estimated time in which the server decodes 1 MiB of log again.
    ///
    /// `None` until a window decoded at least [`MEASURED_BYTES`].
    time_per_mib: Option<Duration>,
}

/// The log that the server decoded for one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedLog {
    /// Bytes before the window, which the server had decoded for earlier windows.
    pub again_bytes: u64,
    /// Bytes of the window, up to the last row that was read.
    pub new_bytes: u64,
    /// The time for both.
    pub time: Duration,
}

/// Search for a transaction that the server cannot decode.
///
/// A peek returns no row if its window contains such a transaction. So smaller windows read the transactions
/// before it. The server applies the row bound only at the end of a transaction. So a bound of one row reads
/// one transaction.
///
/// The first window reads one transaction. Usually this is the failing one, because an earlier invocation has
/// read the transactions before it. The second window has half of the row bound of the failed window. Each
/// further one has half of the bound before it. If the server decodes a window, the failing transaction comes
/// later. Otherwise it is in that window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionSearch {
    /// The row bound of the next window.
    pub rows: i32,
    /// The row bound of the window after the next one.
    ///
    /// 0 if there is no such window.
    half: i32,
}

impl TransactionSearch {
    /// The first step, after a window that the server cannot decode.
    ///
    /// `rows` is the row bound of a window without a search.
    pub fn new(rows: i32) -> Self {
        TransactionSearch {
            rows: 1,
            half: rows / 2,
        }
    }

    /// The step after this one; `None` after the last one.
    ///
    /// The search may end before it reaches the failing transaction. For example, each window also has an LSN
    /// bound, which may end it early. The next window without a search then fails, and starts a new search.
    pub fn next(self) -> Option<Self> {
        (self.half > 0).then_some(TransactionSearch {
            rows: self.half,
            half: self.half / 2,
        })
    }
}

/// The step after a window that took too long or lacked space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizingStep {
    /// Try a smaller window.
    Smaller,
    /// Try again in the next invocation. The window gets nearly all of its time.
    NextInvocation,
    /// The smallest window took nearly all of the time that was left.
    ///
    /// The drain fails only if that was most of its time. Otherwise the next invocation tries again.
    Impossible,
}

/// Least bytes of log whose time sets or raises the estimate.
///
/// The time of less log can only lower it.
const MEASURED_BYTES: u64 = 64 << 20;
/// Bytes of a mebibyte.
const MIB: f64 = 1_048_576.0;
/// Least and most bytes of log in a window.
const WAL_BYTES: RangeInclusive<u64> = 1 << 20..=4 << 30;
/// Smallest and largest row bound of a window.
const ROWS: RangeInclusive<i32> = 1_000..=2_000_000;

impl Default for WindowSizing {
    /// A size that a small instance decodes in a second or two.
    ///
    /// This is true for any content of the log.
    fn default() -> Self {
        WindowSizing {
            wal_bytes: 128 << 20,
            rows: 100_000,
            is_slow: false,
            may_stretch: true,
            time_per_mib: None,
        }
    }
}

impl WindowSizing {
    /// The row bound of a window.
    pub fn rows(&self) -> i32 {
        self.rows
    }

    /// The next window after `confirmed`, up to `readable` at most.
    ///
    /// The server decodes from `restart`. It decodes the log from `restart` to `confirmed` again, which costs
    /// as much as new log of that size. So the window is at least as large as that log, up to 4 GiB. After a
    /// slow window, this rule does not apply.
    pub fn next_window(&self, confirmed: Lsn, readable: Lsn, restart: Lsn) -> Window {
        let decoded_again = match self.may_stretch {
            true => confirmed.bytes_since(restart).min(*WAL_BYTES.end()),
            false => 0,
        };
        Window {
            upto: readable.min(confirmed.plus(self.wal_bytes.max(decoded_again))),
            rows: self.rows,
            acknowledged_prefix: None,
        }
    }

    /// The longest time for the server to decode a window.
    ///
    /// `left` is the time that is left of the invocation. The server decodes the whole window before it sends
    /// the first row. The limit is half of `left`, so that time remains for a smaller window. If windows are
    /// slow, the limit is nine tenths.
    pub fn decode_timeout(&self, left: Duration) -> Duration {
        match self.is_slow {
            true => left * 9 / 10,
            false => left / 2,
        }
    }

    /// Adjusts the size after a window of this size.
    ///
    /// `took` is the time since the drain read the positions for this window. It includes decoding, sending
    /// and confirmation, but not the sending that overlaps with the next window. `left` is the time that is
    /// left.
    ///
    /// Decoding for the next window should take a quarter of `left`, at least half a second and at most
    /// thirty seconds. Decoding and sending may take four fifths of `left`. This share is large because each
    /// window decodes a part of the log again: a slow stream must not make windows small.
    ///
    /// Both limits also cover the repeated log: the log that is decoded again. But at least half of each
    /// limit is for the window's own log. Smaller windows would decode the repeated log more often, and
    /// hardly save time. The size changes by at most a factor of four, because a single measurement may be an
    /// outlier.
    pub fn adjust(&mut self, decoded: DecodedLog, took: Duration, left: Duration) {
        let decode_factor = self.decode_factor(decoded, left);
        let again = self.estimated_time_again(decoded.again_bytes);
        let sending_time = (left * 4 / 5).max(Duration::from_millis(500));
        let factor = decode_factor.min(factor_of_new_log(sending_time, took, again));
        let factor = factor.clamp(0.25, 4.0);
        self.scale(factor, factor);
    }

    /// Adjusts the size after a window without a row.
    ///
    /// Its log belongs to other tables, or to a transaction that ends later. Each window that ends inside a
    /// transaction decodes the transaction's log again. So the size grows by a factor of up to 16, and fewer
    /// windows end inside it. If an earlier window was slow, the factor is at most 4, and windows stay slow:
    /// the server may need long for the end of the transaction. The row bound does not grow beyond the
    /// default, because an empty window does not show the cost of rows. A bound that is larger already stays.
    pub fn adjust_empty(&mut self, decoded: DecodedLog, left: Duration) {
        let was_slow = self.is_slow;
        let factor = self.decode_factor(decoded, left);
        self.is_slow |= was_slow;
        self.may_stretch = !self.is_slow;
        let rows = self.rows;
        self.scale(factor.clamp(0.25, if was_slow { 4.0 } else { 16.0 }), 4.0);
        self.rows = self.rows.min(rows.max(WindowSizing::default().rows));
    }

    /// The factor that makes the decode time of the next window suitable.
    ///
    /// Also decides whether windows are slow, and updates the estimate of the time of repeated log.
    fn decode_factor(&mut self, decoded: DecodedLog, left: Duration) -> f64 {
        self.is_slow = decoded.time > (decoded.time + left) / 3;
        self.may_stretch = !self.is_slow;
        self.measure(decoded);
        let decode_time = (left / 4).clamp(Duration::from_millis(500), Duration::from_secs(30));
        factor_of_new_log(
            decode_time,
            decoded.time,
            self.estimated_time_again(decoded.again_bytes),
        )
    }

    /// Updates the estimated time to decode log again.
    ///
    /// The server writes no row of this log, so it usually takes less time per byte than new log. So the
    /// least time per byte of recent windows is the best estimate. It rises by at most an eighth per window.
    /// An estimate that is too high makes windows too large, because too little time counts for their own
    /// log. The time of a short log is mostly that of the statement, so a short log only lowers the estimate.
    fn measure(&mut self, decoded: DecodedLog) {
        let bytes = decoded.again_bytes.saturating_add(decoded.new_bytes);
        let per_mib = decoded.time.mul_f64(MIB / bytes.max(1) as f64);
        self.time_per_mib = match self.time_per_mib {
            Some(last) if bytes < MEASURED_BYTES => Some(per_mib.min(last)),
            Some(last) => Some(per_mib.min(last * 9 / 8)),
            None => (bytes >= MEASURED_BYTES).then_some(per_mib),
        };
    }

    /// Whether the server could probably not decode a window in this time.
    ///
    /// The server decodes `again_bytes` before the window. It is too late if they alone need more than two
    /// thirds of the time.
    pub fn is_too_late(&self, again_bytes: u64, decode_timeout: Duration) -> bool {
        self.estimated_time_again(again_bytes) > decode_timeout * 2 / 3
    }

    /// The estimated time to decode so many bytes again.
    ///
    /// It is zero without an estimate.
    fn estimated_time_again(&self, bytes: u64) -> Duration {
        let per_mib = self.time_per_mib.unwrap_or_default();
        per_mib.mul_f64(bytes as f64 / MIB)
    }

    /// Makes the next window smaller.
    ///
    /// The server did not decode the last window in its time, or lacked space for it. If the window was
    /// larger than `wal_bytes`, the next one is not. Each further step divides the size by 16, because an
    /// invocation has time for few attempts.
    pub fn shrink(&mut self, confirmed: Lsn, restart: Lsn) -> SizingStep {
        let before = *self;
        match self.may_stretch && confirmed.bytes_since(restart) > self.wal_bytes {
            true => self.may_stretch = false,
            false => self.scale(1.0 / 16.0, 1.0 / 16.0),
        }
        let is_smaller = before != *self;
        match (is_smaller, std::mem::replace(&mut self.is_slow, true)) {
            (true, _) => SizingStep::Smaller,
            (false, false) => SizingStep::NextInvocation,
            (false, true) => SizingStep::Impossible,
        }
    }

    /// Multiplies the bytes and the rows, within their bounds.
    fn scale(&mut self, bytes: f64, rows: f64) {
        // The casts saturate, and both types can represent their bounds.
        self.wal_bytes = ((self.wal_bytes as f64 * bytes) as u64).clamp(*WAL_BYTES.start(), *WAL_BYTES.end());
        self.rows = ((f64::from(self.rows) * rows) as i32).clamp(*ROWS.start(), *ROWS.end());
    }
}

/// The factor by which a window's new log may change.
///
/// `suitable` is the time that the next window should take. `took` is the time of the last one, and
/// `again` is the part of it for repeated log.
fn factor_of_new_log(suitable: Duration, took: Duration, again: Duration) -> f64 {
    let for_new = suitable.saturating_sub(again).max(suitable / 2);
    ratio(for_new, took.saturating_sub(again))
}

/// The quotient of two durations. A `divisor` below 1 ms counts as 1 ms.
fn ratio(duration: Duration, divisor: Duration) -> f64 {
    duration.as_secs_f64() / divisor.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests;
