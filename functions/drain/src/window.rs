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
    pub known: Option<Known>,
}

/// The beginning of a large transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The transaction's id.
    pub xid: u32,
    /// Its changes whose `lsn` is smaller are known.
    pub before: Lsn,
}

/// Sizes windows by what the last ones cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    wal_bytes: u64,
    rows: i32,
    timed_out: bool,
}

const WAL_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;
const ROWS: std::ops::RangeInclusive<i32> = 1_000..=2_000_000;

impl Default for Pace {
    /// Small enough for a second or two on a small instance, whatever the log holds.
    fn default() -> Self {
        Pace {
            wal_bytes: 128 << 20,
            rows: 100_000,
            timed_out: false,
        }
    }
}

impl Pace {
    /// The next window, from `confirmed` towards `flush`.
    pub fn window(&self, confirmed: Lsn, flush: Lsn) -> Window {
        Window {
            upto: flush.min(confirmed.plus(self.wal_bytes)),
            rows: self.rows,
            known: None,
        }
    }

    /// How long the server may take to decode a window, which it does before it sends the first row: at first half of the time that is
    /// left, so that a smaller one can still be tried; once one was too slow, nearly all.
    pub fn patience(&self, left: Duration) -> Duration {
        match self.timed_out {
            true => left * 9 / 10,
            false => left / 2,
        }
    }

    /// Takes in what a window cost that was as large as this pace allows. The next should take a quarter of the time that
    /// is left, within half a second to thirty seconds; it grows and shrinks by four at most, since a cost seen once may be
    /// chance.
    pub fn learn(&mut self, took: Duration, left: Duration) {
        self.timed_out = false;
        let target = (left / 4).clamp(Duration::from_millis(500), Duration::from_secs(30));
        let factor = (target.as_secs_f64() / took.as_secs_f64().max(0.001)).clamp(0.25, 4.0);
        self.scale(factor);
    }

    /// A window did not fit into its time: tries a sixteenth, since an invocation has time for few such attempts. False when it is as
    /// small as it gets.
    pub fn shrink(&mut self) -> bool {
        let before = (self.wal_bytes, self.rows);
        self.timed_out = true;
        self.scale(1.0 / 16.0);
        before != (self.wal_bytes, self.rows)
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

    #[test]
    fn a_window_never_reaches_beyond_the_flush_position() {
        let pace = Pace::default();
        assert_eq!(pace.window(Lsn(100), Lsn(200)).upto, Lsn(200));
        assert_eq!(pace.window(Lsn(100), Lsn(u64::MAX)).upto, Lsn(100 + (128 << 20)));
    }

    #[test]
    fn windows_grow_while_they_are_quick_and_shrink_when_they_are_not() {
        let mut pace = Pace::default();
        pace.learn(Duration::from_millis(10), Duration::from_secs(60));
        assert_eq!(
            pace.window(Lsn(0), Lsn(u64::MAX)),
            Window {
                upto: Lsn(512 << 20),
                rows: 400_000,
                known: None
            }
        );
        pace.learn(Duration::from_secs(60), Duration::from_secs(4));
        assert_eq!(
            pace.window(Lsn(0), Lsn(u64::MAX)),
            Window {
                upto: Lsn(128 << 20),
                rows: 100_000,
                known: None
            }
        );
        let minute = Duration::from_secs(60);
        assert_eq!(pace.patience(minute), minute / 2);
        let mut shrunk = 0;
        while pace.shrink() {
            shrunk += 1;
        }
        assert_eq!(shrunk, 2);
        assert_eq!(pace.patience(minute), minute * 9 / 10);
        assert_eq!(
            pace.window(Lsn(0), Lsn(u64::MAX)),
            Window {
                upto: Lsn(1 << 20),
                rows: 1000,
                known: None
            }
        );
    }
}
