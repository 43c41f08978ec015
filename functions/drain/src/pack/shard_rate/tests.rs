use super::*;

/// The part of its limit that a shard accepts in a second.
type Capacity = fn(u64) -> f64;

/// A shard that accepts `capacity` of its limit in each second.
///
/// The seconds are counted from 0, the start of the simulation.
struct SimulatedShard {
    capacity: Capacity,
    second: u64,
    used: f64,
}

impl SimulatedShard {
    fn accepts(&mut self, at: Duration, bytes: usize) -> bool {
        if at.as_secs() != self.second {
            (self.second, self.used) = (at.as_secs(), 0.0);
        }
        let is_accepted = self.used + load(bytes) <= (self.capacity)(self.second);
        self.used += if is_accepted { load(bytes) } else { 0.0 };
        is_accepted
    }
}

/// Sends requests of up to 20 records every 10 ms, for `time`.
///
/// Returns the used part of the capacity, and the refused part of the records.
fn send(capacity: Capacity, bytes: usize, time: Duration) -> (f64, f64) {
    let (start, step) = (Instant::now(), Duration::from_millis(10));
    let (mut rate, mut shard) = (
        ShardRate::default(),
        SimulatedShard {
            capacity,
            second: 0,
            used: 0.0,
        },
    );
    let (mut at, mut free) = (Duration::ZERO, start);
    let (mut accepted, mut refused) = (0usize, 0usize);
    // An aggregate is the only record of its shard in a request.
    let most = if bytes > 100_000 { 1 } else { 20 };
    while at < time {
        let now = start + at;
        let (mut sent, mut failed) = (0, 0);
        while sent < most && free <= now {
            sent += 1;
            free = free.max(rate.spend(now, bytes).unwrap_or(now));
            if shard.accepts(at, bytes) {
                rate.accept(now, bytes);
            } else {
                failed += 1;
                rate.refuse_record(now, bytes);
            }
        }
        if failed > 0 {
            let until = rate.adapt_limit(now, sent, failed).unwrap_or(now);
            free = free.max(until).max(now + Duration::from_millis(100));
        }
        accepted += sent - failed;
        refused += failed;
        at += step;
    }
    let capacity: f64 = (0..time.as_secs()).map(capacity).sum();
    (
        accepted as f64 * load(bytes) / capacity,
        refused as f64 / (accepted + refused) as f64,
    )
}

#[test]
fn a_busy_shard_is_nearly_fully_used_and_refuses_few_records() {
    let (all, less) = (|_| 1.0, |_| 0.4);
    // If other producers use a part of the quota, the limit needs some time to reach the rest.
    let decimal = |_| 1_000_000.0 / SHARD_BYTES_PER_SECOND;
    let cases: [(Capacity, usize, f64); 7] = [
        (all, 200, 0.9),
        (all, 250_000, 0.9),
        (all, 5_000, 0.9),
        (decimal, 5_000, 0.9),
        (decimal, 74_400, 0.9),
        (less, 200, 0.85),
        (less, 20_000, 0.85),
    ];
    for (capacity, bytes, least) in cases {
        let (used, refused) = send(capacity, bytes, Duration::from_secs(30));
        let case = format!("{bytes} bytes, {} of a shard", capacity(0));
        assert!(used > least, "{case}: {used:.3} of the capacity");
        assert!(refused < 0.05, "{case}: {refused:.3} refused");
    }
}

#[test]
fn a_limit_follows_the_capacity_that_other_producers_leave() {
    for bytes in [200, 20_000, 74_400, 131_000] {
        let capacity = |second| if (15..30).contains(&second) { 0.3 } else { 1.0 };
        let (used, refused) = send(capacity, bytes, Duration::from_secs(60));
        assert!(used > 0.65, "{bytes} bytes: {used:.3} of the capacity");
        assert!(refused < 0.05, "{bytes} bytes: {refused:.3} refused");
    }
}

#[test]
fn a_shard_that_refuses_nothing_has_no_limit() {
    let (mut rate, now) = (ShardRate::default(), Instant::now());
    assert!((0..100_000).all(|_| rate.spend(now, 1_000).is_none()));
    // A single refused record of a hundred sets no limit.
    rate.adapt_limit(now, 100, 1);
    assert_eq!(rate.spend(now, 1_000), None);
}

#[test]
fn the_first_limit_counts_records_in_flight_at_the_refusal() {
    let (mut rate, start) = (ShardRate::default(), Instant::now());
    let answer = |rate: &mut ShardRate, at, records| {
        for _ in 0..records {
            rate.spend(at, 500);
            rate.accept(at, 500);
        }
    };
    answer(&mut rate, start, 750);
    let refused = start + Duration::from_millis(400);
    rate.refuse_record(refused, 500);
    rate.adapt_limit(refused, 2, 1);
    answer(&mut rate, start + Duration::from_millis(420), 200);
    // The records of the next second do not show the capacity of the former one.
    answer(&mut rate, start + Duration::from_millis(1_010), 990);
    let base = rate.limit.as_ref().unwrap().base;
    assert!((0.949..0.952).contains(&base), "{base}");
}

#[test]
fn the_first_limit_is_between_the_accepted_load_and_that_with_the_refused_record() {
    let (mut rate, now) = (ShardRate::default(), Instant::now());
    let bytes = 248_000;
    for _ in 0..3 {
        rate.spend(now, bytes);
        rate.accept(now, bytes);
    }
    rate.refuse_record(now, bytes);
    rate.adapt_limit(now, 1, 1);
    let base = rate.limit.as_ref().unwrap().base;
    assert!((base - 3.5 * load(bytes)).abs() < 1e-9, "{base}");
}

#[test]
fn a_first_second_that_others_used_up_does_not_starve_the_shard() {
    let (mut rate, now) = (ShardRate::default(), Instant::now());
    for _ in 0..250 {
        rate.spend(now, 4_000);
        rate.refuse_record(now, 4_000);
    }
    rate.adapt_limit(now, 250, 250);
    let limit_at = |rate: &ShardRate, at| rate.limit.as_ref().unwrap().rate(at);
    assert!(limit_at(&rate, now) > 0.6, "{}", limit_at(&rate, now));
    // The next refusal does not count these records again.
    let next = now + Duration::from_millis(600);
    rate.refuse_record(next, 4_000);
    rate.adapt_limit(next, 1, 1);
    assert!(limit_at(&rate, next) > 0.6, "{}", limit_at(&rate, next));
}

#[test]
fn aggregates_are_sized_for_the_limit_and_stay_small() {
    let (mut rate, start) = (ShardRate::default(), Instant::now());
    let answer = |rate: &mut ShardRate, at: Instant| {
        rate.spend(at, 74_400);
        rate.accept(at + Duration::from_millis(100), 74_400);
        rate.bytes_until_answer()
    };
    assert_eq!(answer(&mut rate, start), 131_072);
    for _ in 0..6 {
        rate.refuse_record(start, 248_000);
    }
    rate.adapt_limit(start, 6, 6);
    let limit = rate
        .limit
        .as_ref()
        .unwrap()
        .rate(start + Duration::from_millis(100));
    let expected = (131_072.0 * limit) as usize;
    assert_eq!(answer(&mut rate, start), expected);
    // The limit is at its highest again.
    rate.accept(start + 10 * RECOVERY, 74_400);
    assert!(rate.is_limited());
}

#[test]
fn a_refusal_after_a_quiet_second_does_not_lower_the_limit_much() {
    let (mut rate, start) = (ShardRate::default(), Instant::now());
    for step in 0..8 {
        let at = start + Duration::from_millis(125) * step;
        rate.spend(at, 124_000);
        rate.accept(at, 124_000);
    }
    let limit_at = |rate: &ShardRate, at| rate.limit.as_ref().unwrap().rate(at);
    let first = start + Duration::from_millis(999);
    rate.refuse_record(first, 124_000);
    rate.adapt_limit(first, 1, 1);
    assert!(limit_at(&rate, first) > 0.9);
    // Nothing was sent for two seconds, and then two records.
    let later = first + Duration::from_secs(2);
    rate.spend(later, 124_000);
    rate.accept(later, 124_000);
    rate.spend(later, 124_000);
    rate.refuse_record(later, 124_000);
    rate.adapt_limit(later, 1, 1);
    assert!(limit_at(&rate, later) > 0.75, "{}", limit_at(&rate, later));
}

#[test]
fn the_first_refusal_lowers_the_highest_limit_by_the_refused_part() {
    let now = Instant::now();
    for (bytes, records) in [(124_000, 1), (1_000_000, 1), (1_000, 60)] {
        let mut rate = ShardRate::default();
        for _ in 0..records {
            rate.spend(now, bytes);
            rate.refuse_record(now, bytes);
        }
        rate.adapt_limit(now, records, records);
        let limit = rate.limit.as_ref().unwrap().rate(now);
        assert!(limit > 0.65, "{records} records of {bytes} bytes: {limit}");
    }
}

#[test]
fn a_refusal_at_the_limit_pauses_its_shard_only_briefly() {
    for (records, expected) in [(13, 90..=110), (5, 690..=710)] {
        let (mut rate, start) = (ShardRate::default(), Instant::now());
        rate.refuse_record(start, 74_400);
        rate.adapt_limit(start, 1, 1);
        let refused = start + Duration::from_millis(4_300);
        let step = Duration::from_secs(1) / records;
        for at in (0..)
            .map(|number| start + step * number)
            .take_while(|at| *at < refused)
        {
            rate.spend(at, 74_400);
            rate.accept(at, 74_400);
        }
        let former = rate.limit.as_ref().unwrap().rate(refused);
        rate.refuse_record(refused, 74_400);
        let pause = rate.adapt_limit(refused, 1, 1).unwrap() - refused;
        // The capacity is measured in whole aggregates, which is less exact than the limit.
        let base = rate.limit.as_ref().unwrap().base;
        assert_eq!(
            base == former,
            records == 13,
            "{records} records a second: {base}"
        );
        assert!(
            expected.contains(&pause.as_millis()),
            "{records} records a second: {pause:?}"
        );
    }
}

#[test]
fn a_refused_large_record_pauses_its_shard_for_its_own_time_and_two_seconds_at_most() {
    for megabytes in [1, 5, 10] {
        let (mut rate, mut now) = (ShardRate::default(), Instant::now());
        let bytes = megabytes * 1_000_000;
        // Other producers use up the quota of three seconds.
        for _ in 0..3 {
            let until = rate.spend(now, bytes).unwrap_or(now);
            rate.refuse_record(now, bytes);
            let refused = rate.adapt_limit(now, 1, 1).unwrap_or(now);
            let longest = Duration::from_secs(2) + Duration::from_millis(1_100) * megabytes as u32;
            assert!(
                until.max(refused) - now <= longest,
                "{megabytes} MB: {:?}",
                until.max(refused) - now
            );
            now += Duration::from_secs(1);
        }
    }
}
