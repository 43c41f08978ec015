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
    /// True if the last window took more than a third of the time that was left, or was not decoded in its
    /// time.
    is_slow: bool,
    /// Whether a window may be larger than `wal_bytes`.
    ///
    /// If so, it may be as large as the part of the log that is decoded again before it.
    may_stretch: bool,
    /// Estimated time in which the server decodes 1 MiB of log again.
    ///
    /// `None` before the first window.
    time_per_mib: Option<Duration>,
}

/// The log that the server decoded for one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedLog {
    /// Bytes before the window, which it has decoded before.
    pub again_bytes: u64,
    /// Bytes of the window.
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
/// read the transactions before it. Each further window has half of the rows. If the server decodes it, the
/// failing transaction is in the other half.
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
    /// The last window may end before the failing transaction: a transaction may have more rows than the
    /// bound, and an LSN may bound the windows. The next window without a search then fails, and starts a new
    /// search.
    pub fn next(self) -> Option<Self> {
        (self.half > 0).then_some(TransactionSearch {
            rows: self.half,
            half: self.half / 2,
        })
    }
}

/// The step after a window that did not fit into its time.
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

/// Least bytes of decoded log whose time is measured.
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
    /// as much as new log of that size. So the window is at least as large, up to 4 GiB, unless such a window
    /// was too slow.
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
    /// `took` is the time from the peek to the last acknowledgement. `left` is the time that is left.
    /// Decoding for the next window should take a quarter of `left`, at least half a second and at most
    /// thirty seconds. If decoding the earlier log again takes most of this time, the window's own log may
    /// take an eighth of `left`: smaller windows would repeat the earlier log more often, and hardly save
    /// time.
    ///
    /// Sending it may take four fifths of `left`. This share is large because each window decodes a part of
    /// the log again: a slow stream must not make windows small. The size changes by at most a factor of
    /// four, because a single measurement may be an outlier.
    pub fn adjust(&mut self, decoded: DecodedLog, took: Duration, left: Duration) {
        let sending_time = (left * 4 / 5).max(Duration::from_millis(500));
        let smaller = self.decode_factor(decoded, left).min(ratio(sending_time, took));
        let factor = smaller.clamp(0.25, 4.0);
        self.scale(factor, factor);
    }

    /// Adjusts the size after a window without a row.
    ///
    /// Its log belongs to other tables, or to a transaction that ends later. The next window decodes the log
    /// of such a transaction again. So the size grows by a factor of up to 16: then few windows end inside
    /// the transaction. If an earlier window was slow, the factor is at most 4, and windows stay slow: the
    /// server may need long for the end of the transaction. The row bound does not grow beyond the default,
    /// because an empty window does not show the cost of rows. A bound that is larger already stays.
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
    /// Also decides whether windows are slow.
    fn decode_factor(&mut self, decoded: DecodedLog, left: Duration) -> f64 {
        self.is_slow = decoded.time > (decoded.time + left) / 3;
        self.may_stretch = !self.is_slow;
        let decode_time = (left / 4).clamp(Duration::from_millis(500), Duration::from_secs(30));
        let again = self.time_again(decoded);
        let time_for_new = decode_time.saturating_sub(again).max(decode_time / 2);
        ratio(time_for_new, decoded.time.saturating_sub(again))
    }

    /// The estimated time for the log that was decoded again.
    ///
    /// The server writes no row of this log, so it takes less time per byte than new log. The least time per
    /// byte of the last windows is closest to it. The estimate at most doubles with each window, so that one
    /// fast window does not count for long. The time of a short log is mostly that of the statement, so a
    /// shorter one counts as [`MEASURED_BYTES`].
    fn time_again(&mut self, decoded: DecodedLog) -> Duration {
        let bytes = decoded.again_bytes.saturating_add(decoded.new_bytes);
        let bytes = bytes.max(MEASURED_BYTES);
        let per_mib = decoded.time.mul_f64(MIB / bytes as f64);
        let per_mib = self.time_per_mib.map_or(per_mib, |last| per_mib.min(last * 2));
        self.time_per_mib = Some(per_mib);
        self.estimated_time_again(decoded.again_bytes)
    }

    /// Whether the server could probably not decode a window in this time.
    ///
    /// It decodes `again_bytes` before the window. Two thirds of the time must be enough for them.
    pub fn is_too_late(&self, again_bytes: u64, decode_timeout: Duration) -> bool {
        self.estimated_time_again(again_bytes) > decode_timeout * 2 / 3
    }

    /// The estimated time to decode so many bytes again.
    ///
    /// It is zero before the first window.
    fn estimated_time_again(&self, bytes: u64) -> Duration {
        let per_mib = self.time_per_mib.unwrap_or_default();
        per_mib.mul_f64(bytes as f64 / MIB)
    }

    /// Makes the next window smaller.
    ///
    /// The server did not decode the last window in its time. The first step removes the stretching. Each
    /// further step divides the size by 16, because an invocation has time for few attempts.
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

/// The quotient of two durations. A `part` below 1 ms counts as 1 ms.
fn ratio(duration: Duration, part: Duration) -> f64 {
    duration.as_secs_f64() / part.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const END: Lsn = Lsn(u64::MAX);

    /// A window without log that is decoded again.
    fn decoded(time: Duration) -> DecodedLog {
        DecodedLog {
            again_bytes: 0,
            new_bytes: 1 << 20,
            time,
        }
    }

    /// The size of a window if no log is decoded again.
    fn size(sizing: &WindowSizing) -> (u64, i32) {
        let window = sizing.next_window(Lsn(0), END, Lsn(0));
        (window.upto.0, window.rows)
    }

    #[test]
    fn a_window_never_ends_after_the_readable_position() {
        let sizing = WindowSizing::default();
        assert_eq!(sizing.next_window(Lsn(100), Lsn(200), Lsn(100)).upto, Lsn(200));
        assert_eq!(
            sizing.next_window(Lsn(100), END, Lsn(100)).upto,
            Lsn(100 + (128 << 20))
        );
    }

    #[test]
    fn a_window_is_at_least_as_large_as_the_log_that_is_decoded_again() {
        let sizing = WindowSizing::default();
        assert_eq!(sizing.next_window(Lsn(1 << 30), END, Lsn(0)).upto, Lsn(2 << 30));
        assert_eq!(
            sizing.next_window(Lsn(1 << 40), END, Lsn(0)).upto,
            Lsn((1 << 40) + (4 << 30))
        );
    }

    #[test]
    fn windows_grow_while_they_are_fast_and_shrink_when_they_are_slow() {
        let mut sizing = WindowSizing::default();
        let adjust = |sizing: &mut WindowSizing, time, left| sizing.adjust(decoded(time), time, left);
        adjust(&mut sizing, Duration::from_millis(10), MINUTE);
        assert_eq!(size(&sizing), (512 << 20, 400_000));
        assert_eq!(sizing.decode_timeout(MINUTE), MINUTE / 2);
        adjust(&mut sizing, MINUTE, Duration::from_secs(4));
        assert_eq!(size(&sizing), (128 << 20, 100_000));
        assert_eq!(sizing.decode_timeout(MINUTE), MINUTE * 9 / 10);
    }

    #[test]
    fn a_window_without_rows_raises_the_bytes_and_not_the_rows_of_the_next() {
        let mut sizing = WindowSizing::default();
        sizing.adjust_empty(decoded(Duration::from_secs(1)), MINUTE);
        assert_eq!(size(&sizing), (15 * (128 << 20), 100_000));
        sizing.adjust_empty(decoded(Duration::from_millis(1)), MINUTE);
        assert_eq!(size(&sizing), (4 << 30, 100_000));
        // This window took most of the time, so the next one is not stretched.
        sizing.adjust_empty(decoded(MINUTE), Duration::from_secs(8));
        assert_eq!(size(&sizing), (1 << 30, 100_000));
        assert_eq!(sizing.next_window(Lsn(2 << 30), END, Lsn(0)).upto, Lsn(3 << 30));
    }

    #[test]
    fn an_empty_window_after_a_slow_one_does_not_restore_the_slow_size() {
        let mut sizing = WindowSizing::default();
        sizing.adjust_empty(decoded(Duration::from_secs(1)), MINUTE);
        let (slow, rows) = size(&sizing);
        assert_eq!(sizing.shrink(Lsn(0), Lsn(0)), SizingStep::Smaller);
        sizing.adjust_empty(decoded(Duration::from_millis(10)), MINUTE);
        assert!(size(&sizing).0 < slow / 3, "{} of {slow} bytes", size(&sizing).0);
        assert_eq!(sizing.decode_timeout(MINUTE), MINUTE * 9 / 10);
        sizing.adjust_empty(decoded(Duration::from_millis(10)), MINUTE);
        sizing.adjust_empty(decoded(Duration::from_millis(10)), MINUTE);
        assert_eq!(size(&sizing).1, rows);
    }

    #[test]
    fn a_slow_stream_does_not_make_windows_small() {
        let mut sizing = WindowSizing::default();
        // Sending took 20 s, so four fifths of 40 s are enough for 1.6 windows of this size.
        sizing.adjust(
            decoded(Duration::from_secs(1)),
            Duration::from_secs(20),
            Duration::from_secs(40),
        );
        assert_eq!(size(&sizing), ((128 << 20) * 8 / 5, 160_000));
        assert_eq!(sizing.decode_timeout(MINUTE), MINUTE / 2);
        // The time that is left is enough for a fifth of a window. But one measurement changes the size by at
        // most a factor of four.
        sizing.adjust(
            decoded(Duration::from_secs(1)),
            Duration::from_secs(40),
            Duration::from_secs(10),
        );
        assert_eq!(size(&sizing).1, 40_000);
    }

    #[test]
    fn a_window_that_is_too_slow_shrinks_to_the_minimum() {
        let mut sizing = WindowSizing::default();
        let shrink = |sizing: &mut WindowSizing| sizing.shrink(Lsn(0), Lsn(0));
        assert_eq!(shrink(&mut sizing), SizingStep::Smaller);
        assert_eq!(size(&sizing), (8 << 20, 6250));
        assert_eq!(shrink(&mut sizing), SizingStep::Smaller);
        assert_eq!(size(&sizing), (1 << 20, 1000));
        assert_eq!(shrink(&mut sizing), SizingStep::Impossible);
    }

    #[test]
    fn a_search_reads_one_transaction_and_then_halves_its_windows() {
        let steps = std::iter::successors(Some(TransactionSearch::new(20)), |search| search.next());
        let rows: Vec<i32> = steps.map(|search| search.rows).collect();
        assert_eq!(rows, [1, 10, 5, 2, 1]);
    }

    #[test]
    fn a_stretched_window_first_shrinks_to_the_size_without_stretching() {
        let (mut sizing, confirmed) = (WindowSizing::default(), Lsn(1 << 30));
        assert_eq!(sizing.shrink(confirmed, Lsn(0)), SizingStep::Smaller);
        assert_eq!(
            sizing.next_window(confirmed, END, Lsn(0)).upto,
            confirmed.plus(128 << 20)
        );
        assert_eq!(sizing.shrink(confirmed, Lsn(0)), SizingStep::Smaller);
        assert_eq!(
            sizing.next_window(confirmed, END, Lsn(0)).upto,
            confirmed.plus(8 << 20)
        );
    }

    /// The ends of windows of a server that decodes much log again.
    ///
    /// It decodes 400 MiB again before each window, in two seconds.
    /// New log takes `new_cost` times as long per byte. Each invocation has seven seconds for reading.
    /// The windows have no row of the slot's database.
    fn windows_after_much_repeated_log(new_cost: u32, invocations: usize) -> Vec<u64> {
        const AGAIN: u64 = 400 << 20;
        let mut sizing = WindowSizing::default();
        let (mut confirmed, mut ends) = (Lsn(AGAIN), Vec::new());
        for _ in 0..invocations {
            let mut left = Duration::from_secs(7);
            while left > Duration::from_millis(3500)
                || !sizing.is_too_late(AGAIN, sizing.decode_timeout(left))
            {
                let restart = Lsn(confirmed.0 - AGAIN);
                let upto = sizing.next_window(confirmed, END, restart).upto;
                let new_bytes = upto.bytes_since(confirmed);
                let again_time = Duration::from_secs(2);
                let time = again_time + (again_time * new_cost).mul_f64(new_bytes as f64 / AGAIN as f64);
                let limit = sizing.decode_timeout(left);
                left = left.saturating_sub(time.min(limit));
                if time > limit {
                    if sizing.shrink(confirmed, restart) != SizingStep::Smaller {
                        break;
                    }
                    continue;
                }
                let decoded = DecodedLog {
                    again_bytes: AGAIN,
                    new_bytes,
                    time,
                };
                sizing.adjust_empty(decoded, left);
                confirmed = upto;
                ends.push(upto.0);
            }
        }
        ends
    }

    #[test]
    fn a_short_log_does_not_make_a_later_window_too_late() {
        let mut sizing = WindowSizing::default();
        let short = DecodedLog {
            again_bytes: 100,
            new_bytes: 100,
            time: Duration::from_millis(50),
        };
        sizing.adjust_empty(short, MINUTE);
        assert!(!sizing.is_too_late(100 << 20, Duration::from_secs(1)));
        let long = DecodedLog {
            again_bytes: 100 << 20,
            time: Duration::from_secs(2),
            ..short
        };
        for _ in 0..8 {
            sizing.adjust_empty(long, MINUTE);
        }
        assert!(sizing.is_too_late(100 << 20, Duration::from_millis(2900)));
        assert!(!sizing.is_too_late(100 << 20, Duration::from_millis(3100)));
    }

    #[test]
    fn much_repeated_log_does_not_make_windows_small() {
        for (new_cost, mib) in [(1, 30), (3, 15), (10, 4)] {
            let ends = windows_after_much_repeated_log(new_cost, 40);
            let (first, last) = (ends[0], ends[ends.len() - 1]);
            let mean = (last - first) / (ends.len() as u64 - 1);
            assert!(
                mean > mib << 20,
                "{new_cost}: {} windows of {mean} bytes",
                ends.len()
            );
            // Few windows exceed their time.
            assert!(
                ends.len() > 40,
                "{new_cost}: {} windows in 40 invocations",
                ends.len()
            );
        }
    }
}
