//! How much to peek at once. Every peek decodes again from the slot's `restart_lsn`, which moves seldom, so few large
//! windows cost least; but a window must fit into the time that is left, and the server keeps its result in temporary files.

use std::time::Duration;

use crate::lsn::Lsn;

/// A range of the write-ahead log, read by one peek.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Up to here: every record that starts before it is examined, unless the row bound is met first. Never beyond the
    /// flush position.
    pub upto: Lsn,
    /// Rows after which the server stops, at the next end of a transaction.
    pub rows: i32,
    /// Rows that the stream has, and that the server need not send.
    pub sent_prefix: Option<SentPrefix>,
}

/// The beginning of a large transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentPrefix {
    /// The transaction's id.
    pub xid: u32,
    /// Its changes whose `lsn` is smaller are known.
    pub before: Lsn,
}

/// Sizes windows by what the last ones cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSizing {
    wal_bytes: u64,
    rows: i32,
    /// Whether a window needs most of an invocation's time.
    patient: bool,
    /// Whether a window may be as large as what is read again for it.
    stretch: bool,
}

/// What to do about a window that did not fit into its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizingStep {
    /// Try a smaller one.
    Smaller,
    /// Give it nearly all of an invocation's time.
    NextInvocation,
    /// It had that, and a smaller one would not help.
    Impossible,
}

const WAL_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;
const ROWS: std::ops::RangeInclusive<i32> = 1_000..=2_000_000;

impl Default for WindowSizing {
    /// Small enough for a second or two on a small instance, whatever the log holds.
    fn default() -> Self {
        WindowSizing {
            wal_bytes: 128 << 20,
            rows: 100_000,
            patient: false,
            stretch: true,
        }
    }
}

impl WindowSizing {
    /// The next window, from `confirmed` towards `readable`, of a slot that is decoded from `restart`. What is read again on the way to
    /// it costs as much as what is new, so the window is at least as large, unless that was too slow.
    pub fn next_window(&self, confirmed: Lsn, readable: Lsn, restart: Lsn) -> Window {
        let again = match self.stretch {
            true => confirmed.bytes_since(restart).min(*WAL_BYTES.end()),
            false => 0,
        };
        Window {
            upto: readable.min(confirmed.plus(self.wal_bytes.max(again))),
            rows: self.rows,
            sent_prefix: None,
        }
    }

    /// How long the server may take to decode a window, which it does before it sends the first row: half of the time that is left, so
    /// that a smaller one can still be tried, or where that was not enough, nearly all.
    pub fn decode_timeout(&self, left: Duration) -> Duration {
        match self.patient {
            true => left * 9 / 10,
            false => left / 2,
        }
    }

    /// Takes in what a window cost that was as large as this pace allows. The next should take a quarter of the time that
    /// is left, within half a second to thirty seconds; it grows and shrinks by four at most, since a cost seen once may be
    /// chance.
    pub fn adjust(&mut self, took: Duration, left: Duration) {
        self.patient = took > (took + left) / 3;
        self.stretch = !self.patient;
        let target = (left / 4).clamp(Duration::from_millis(500), Duration::from_secs(30));
        let factor = (target.as_secs_f64() / took.as_secs_f64().max(0.001)).clamp(0.25, 4.0);
        self.scale(factor);
    }

    /// A window did not fit into its time: the next is not stretched, or a sixteenth of it, since an invocation has time for few attempts.
    pub fn shrink(&mut self, confirmed: Lsn, restart: Lsn) -> SizingStep {
        let before = *self;
        match self.stretch && confirmed.bytes_since(restart) > self.wal_bytes {
            true => self.stretch = false,
            false => self.scale(1.0 / 16.0),
        }
        let smaller = before != *self;
        match (smaller, std::mem::replace(&mut self.patient, true)) {
            (true, _) => SizingStep::Smaller,
            (false, false) => SizingStep::NextInvocation,
            (false, true) => SizingStep::Impossible,
        }
    }

    fn scale(&mut self, factor: f64) {
        // The casts saturate, and the bounds hold both numbers.
        self.wal_bytes =
            ((self.wal_bytes as f64 * factor) as u64).clamp(*WAL_BYTES.start(), *WAL_BYTES.end());
        self.rows = ((f64::from(self.rows) * factor) as i32).clamp(*ROWS.start(), *ROWS.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const END: Lsn = Lsn(u64::MAX);

    /// How large a window is where nothing is read again.
    fn size(pace: &WindowSizing) -> (u64, i32) {
        let window = pace.next_window(Lsn(0), END, Lsn(0));
        (window.upto.0, window.rows)
    }

    #[test]
    fn a_window_never_reaches_beyond_what_may_be_read() {
        let pace = WindowSizing::default();
        assert_eq!(pace.next_window(Lsn(100), Lsn(200), Lsn(100)).upto, Lsn(200));
        assert_eq!(
            pace.next_window(Lsn(100), END, Lsn(100)).upto,
            Lsn(100 + (128 << 20))
        );
    }

    #[test]
    fn a_window_is_at_least_as_large_as_what_is_read_again_for_it() {
        let pace = WindowSizing::default();
        assert_eq!(pace.next_window(Lsn(1 << 30), END, Lsn(0)).upto, Lsn(2 << 30));
        assert_eq!(
            pace.next_window(Lsn(1 << 40), END, Lsn(0)).upto,
            Lsn((1 << 40) + (4 << 30))
        );
    }

    #[test]
    fn windows_grow_while_they_are_quick_and_shrink_when_they_are_not() {
        let mut pace = WindowSizing::default();
        pace.adjust(Duration::from_millis(10), MINUTE);
        assert_eq!(size(&pace), (512 << 20, 400_000));
        assert_eq!(pace.decode_timeout(MINUTE), MINUTE / 2);
        pace.adjust(MINUTE, Duration::from_secs(4));
        assert_eq!(size(&pace), (128 << 20, 100_000));
        assert_eq!(pace.decode_timeout(MINUTE), MINUTE * 9 / 10);
    }

    #[test]
    fn a_window_that_is_too_slow_becomes_smaller_until_nothing_helps() {
        let mut pace = WindowSizing::default();
        let too_slow = |pace: &mut WindowSizing| pace.shrink(Lsn(0), Lsn(0));
        assert_eq!(too_slow(&mut pace), SizingStep::Smaller);
        assert_eq!(size(&pace), (8 << 20, 6250));
        assert_eq!(too_slow(&mut pace), SizingStep::Smaller);
        assert_eq!(size(&pace), (1 << 20, 1000));
        assert_eq!(too_slow(&mut pace), SizingStep::Impossible);
    }

    #[test]
    fn where_most_is_read_again_the_window_is_first_no_longer_stretched() {
        let (mut pace, confirmed) = (WindowSizing::default(), Lsn(1 << 30));
        assert_eq!(pace.shrink(confirmed, Lsn(0)), SizingStep::Smaller);
        assert_eq!(
            pace.next_window(confirmed, END, Lsn(0)).upto,
            confirmed.plus(128 << 20)
        );
        assert_eq!(pace.shrink(confirmed, Lsn(0)), SizingStep::Smaller);
        assert_eq!(
            pace.next_window(confirmed, END, Lsn(0)).upto,
            confirmed.plus(8 << 20)
        );
    }
}
