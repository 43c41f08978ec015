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

/// A server that decodes much log again before each window.
///
/// It takes 5 ms per MiB.
#[derive(Debug, Clone, Copy)]
struct RepeatingServer {
    /// How many times as long new log takes as repeated log.
    new_cost: u32,
    /// 0 if the log has no row of the slot's database.
    rows_per_mib: u64,
    /// Repeated log before each window, in MiB.
    again_mib: u64,
    /// The time for reading of an invocation.
    reading_time: Duration,
}

impl RepeatingServer {
    /// The log that an invocation reads, in MiB: the mean of forty.
    fn mib_per_invocation(self) -> u64 {
        let again = self.again_mib << 20;
        let again_time = Duration::from_millis(5 * self.again_mib);
        let mut sizing = WindowSizing::default();
        let mut confirmed = Lsn(again);
        for _ in 0..40 {
            let mut left = self.reading_time;
            while left > self.reading_time / 2 || !sizing.is_too_late(again, sizing.decode_timeout(left)) {
                let restart = Lsn(confirmed.0 - again);
                let window = sizing.next_window(confirmed, END, restart);
                let row_bound = (window.rows as u64) << 20;
                let row_bound = row_bound.checked_div(self.rows_per_mib).unwrap_or(u64::MAX);
                let new_bytes = window.upto.bytes_since(confirmed).min(row_bound);
                let new_time = (again_time * self.new_cost).mul_f64(new_bytes as f64 / again as f64);
                let (time, limit) = (again_time + new_time, sizing.decode_timeout(left));
                left = left.saturating_sub(time.min(limit));
                if time > limit {
                    match sizing.shrink(confirmed, restart) {
                        SizingStep::Smaller => continue,
                        _ => break,
                    }
                }
                let decoded = DecodedLog {
                    again_bytes: again,
                    new_bytes,
                    time,
                };
                match self.rows_per_mib {
                    0 => sizing.adjust_empty(decoded, left),
                    _ => sizing.adjust(decoded, time, left),
                }
                confirmed = confirmed.plus(new_bytes);
            }
        }
        (confirmed.bytes_since(Lsn(again)) >> 20) / 40
    }
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
    let servers = [
        (400, 7, 0, 1, 110),
        (400, 7, 0, 3, 80),
        (400, 7, 0, 10, 10),
        (400, 5, 0, 3, 28),
        (400, 5, 100, 3, 28),
        (400, 7, 5_000, 3, 80),
        (400, 7, 5_000, 10, 24),
        (80, 7, 1_000, 10, 45),
        (60, 7, 1_000, 30, 16),
    ];
    for (again_mib, reading_time, rows_per_mib, new_cost, least) in servers {
        let server = RepeatingServer {
            new_cost,
            rows_per_mib,
            again_mib,
            reading_time: Duration::from_secs(reading_time),
        };
        let mib = server.mib_per_invocation();
        assert!(mib >= least, "{server:?}: {mib} MiB");
    }
}
