//! The rate of records to one shard.
//!
//! A shard accepts 1,000 records and 1 MiB a second from all its producers together (Kinesis quotas). So its
//! *load* is measured in seconds of a shard. The load of a record is 1/1,000 s, or its size in MiB as
//! seconds, whichever is larger.
//!
//! The rate has no limit until the shard refuses at least 5 % of its records in a request. From then on, the
//! limit is a curve over time around a base, which is the accepted load. The limit starts below the base.
//! After [`RECOVERY`] it is just below the base. Later it may exceed the base, up to [`MAX_LIMIT`], because
//! other producers may have stopped. The curve is similar to that of TCP CUBIC (RFC 9438), with a steeper
//! end. The limit is near the base for most of the time. Therefore, the shard refuses few records.
//!
//! The accepted load shows the capacity of the shard only if enough records were sent. So the base is at
//! least the former limit times the accepted part of the load. One refused record reduces it by a quarter at
//! most. A limit that is too low would slow all shards, because they share the memory.
//!
//! At the first refusal, there is no former limit. If little was sent, the highest limit takes its place.
//! Otherwise the base is the accepted load and half of the refused record: the capacity is between the
//! accepted load and its sum with that record. Other requests may be in flight at a refusal. So the base also
//! grows with what the shard accepts in the same second.

use std::time::{Duration, Instant};

/// Bytes that a shard accepts in a second.
///
/// The developer guide of Kinesis calls this quota 1 MB in some versions, and 1 MiB in others. If it is 1 MB,
/// the curve finds the lower capacity.
const BYTES: f64 = 1_048_576.0;
/// Records that a shard accepts in a second.
const RECORDS: f64 = 1_000.0;

/// Time until the curve reaches its plateau, a little below the base.
const RECOVERY: Duration = Duration::from_secs(10);
/// The part of the base at which the curve is flat.
const PLATEAU: f64 = 0.97;
/// Distance of the first limit below the plateau.
const REDUCTION: f64 = 0.03;
/// Distance of the limit above the plateau after two times [`RECOVERY`].
///
/// The distance grows with the third power of time, because other producers may have stopped. After three
/// times [`RECOVERY`], the limit is [`MAX_LIMIT`] for any base.
const GROWTH: f64 = 0.2;
/// Lowest limit.
const MIN_LIMIT: f64 = 0.1;
/// Highest limit, a little below the quota.
///
/// For a shard that has refused records, a higher limit would only cause more refusals.
const MAX_LIMIT: f64 = 0.97;
/// Maximum load that one refused record counts for.
///
/// A record of several MB has more load than a shard accepts in a second. Even a nearly idle shard may refuse
/// it.
const MAX_REFUSED_LOAD: f64 = 0.25;
/// Minimum load that shows a shard's capacity at its first refusal.
///
/// It is the load of the last one to two seconds.
const MIN_MEASURABLE_LOAD: f64 = 0.5;
/// Longest extra pause, in seconds.
///
/// A pause lasts at most this long, plus the time that the missing allowance takes at the highest limit. It
/// is bounded because the limit may grow during the pause.
const MAX_PAUSE: f64 = 1.0;
/// Load that may be sent at once.
const BURST: f64 = 0.05;
/// Smallest refused part of a request that sets or lowers the limit.
///
/// A smaller part may be chance.
const MIN_REFUSED_PART: f64 = 0.05;

/// The rate of one shard.
#[derive(Debug, Default)]
pub(super) struct ShardRate {
    accepted: LoadWindow,
    refused: LoadWindow,
    /// Load of the last refused record, at most [`MAX_REFUSED_LOAD`].
    refused_load: f64,
    /// Time at which the last record was sent.
    sent_at: Option<Instant>,
    /// At the last accepted record: the time since a record was sent.
    answer_time: Duration,
    /// `None` until the shard has refused at least [`MIN_REFUSED_PART`] of a request.
    limit: Option<RateLimit>,
}

/// A limit, with the load that may be sent now.
#[derive(Debug)]
struct RateLimit {
    /// Load on which the curve is based.
    ///
    /// It is the larger of two: the load that was accepted in the second of the refusal, and the former limit
    /// reduced by the refused part.
    base: f64,
    /// Whether the limit has reached [`MAX_LIMIT`] since `since`.
    has_recovered: bool,
    /// Time of the last refusal that set it.
    since: Instant,
    /// Load that may be sent.
    ///
    /// It is negative after a record with a larger load than the allowance.
    allowance: f64,
    updated: Instant,
}

/// Load of the present second and of the second before.
#[derive(Debug, Default)]
struct LoadWindow {
    second: Option<Instant>,
    current: f64,
    previous: f64,
}

/// The load of a record of this size.
fn load(bytes: usize) -> f64 {
    (bytes as f64 / BYTES).max(1.0 / RECORDS)
}

impl ShardRate {
    /// Whether a limit is below its maximum since the last refusal.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| !limit.has_recovered)
    }

    /// Bytes that a shard accepts at its full quota until an answer.
    ///
    /// A quarter is added, because the times of answers differ. The measured time is correct only while the
    /// shard has one record in flight.
    pub(super) fn bytes_until_answer(&self) -> usize {
        (self.answer_time.as_secs_f64() * 1.25 * BYTES) as usize
    }

    /// Counts a record that is sent.
    ///
    /// Returns the time at which the next record may be sent; `None` if it may be sent now.
    pub(super) fn spend(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        self.sent_at = Some(now);
        let limit = self.limit.as_mut()?;
        let rate = limit.rate(now);
        let elapsed = now.saturating_duration_since(limit.updated).as_secs_f64();
        limit.allowance = (limit.allowance + elapsed * rate).min(BURST) - load(bytes);
        limit.updated = now;
        // The pause lasts until half of the burst is available. Then one request can have several small
        // records.
        let missing = BURST / 2.0 - limit.allowance;
        let pause = (missing / rate).min(missing / MAX_LIMIT + MAX_PAUSE);
        (limit.allowance < 0.0).then(|| now + Duration::from_secs_f64(pause))
    }

    /// Counts a record that the shard accepted.
    pub(super) fn accept(&mut self, now: Instant, bytes: usize) {
        self.accepted.add(now, load(bytes));
        let sent_at = self.sent_at.unwrap_or(now);
        self.answer_time = now.saturating_duration_since(sent_at);
        if let Some(limit) = &mut self.limit {
            limit.has_recovered |= limit.rate(now) >= MAX_LIMIT;
            // This record was in flight at the refusal.
            if self.accepted.second.is_some_and(|second| second <= limit.since) {
                limit.base = limit.base.max(self.accepted.current).min(1.0);
            }
        }
    }

    /// Counts a record that the shard refused.
    ///
    /// At most [`MAX_REFUSED_LOAD`] of its load stays charged to the allowance.
    pub(super) fn refuse_record(&mut self, now: Instant, bytes: usize) {
        let refused = load(bytes).min(MAX_REFUSED_LOAD);
        self.refused.add(now, refused);
        self.refused_load = refused;
        if let Some(limit) = &mut self.limit {
            limit.allowance += load(bytes) - refused;
        }
    }

    /// Adapts the limit, after the shard refused some of `sent` records.
    ///
    /// Returns the time at which the shard is expected to accept records again; `None` if it is unknown.
    pub(super) fn refuse(&mut self, now: Instant, sent: usize, refused: usize) -> Option<Instant> {
        if (refused as f64) < MIN_REFUSED_PART * sent as f64 {
            return None;
        }
        // Requests that were sent before the last refusal may be refused, too. Their answers show nothing
        // new.
        if let Some(limit) = &self.limit
            && now.saturating_duration_since(limit.since) < Duration::from_millis(500)
        {
            return None;
        }
        let allowance = self.limit.as_ref().map_or(0.0, |limit| limit.allowance);
        let kept = self.former_limit(now) * self.accepted_part(now);
        let uncertain = self.limit.as_ref().map_or(self.refused_load / 2.0, |_| 0.0);
        let accepted = self.accepted.last_second(now) + uncertain;
        self.limit = Some(RateLimit {
            base: accepted.max(kept).clamp(MIN_LIMIT, 1.0),
            has_recovered: false,
            since: now,
            allowance: allowance.min(0.0),
            updated: now,
        });
        // Each second has its own quota. The quota of this second is used up, so the shard accepts records
        // again in the next second.
        let second = self.accepted.second.filter(|_| self.accepted.current > 0.0);
        second.map(|second| second + Duration::from_secs(1))
    }

    /// The limit that a refusal lowers.
    ///
    /// At the first refusal, there is no former limit. The result is then the highest limit if less than
    /// [`MIN_MEASURABLE_LOAD`] was sent: so little load shows no capacity. Otherwise it is 0, so the base is
    /// the accepted load.
    fn former_limit(&mut self, now: Instant) -> f64 {
        let sent = self.accepted.recent(now) + self.refused.recent(now);
        let first = if sent < MIN_MEASURABLE_LOAD {
            MAX_LIMIT
        } else {
            0.0
        };
        self.limit.as_ref().map_or(first, |limit| limit.rate(now))
    }

    /// The part of the recent load that the shard did not refuse.
    ///
    /// If less load was sent than a shard accepts in a second, the refused load is divided by the load of a
    /// whole second.
    fn accepted_part(&mut self, now: Instant) -> f64 {
        let (accepted, refused) = (self.accepted.recent(now), self.refused.recent(now));
        1.0 - refused / (accepted + refused).max(1.0)
    }
}

impl RateLimit {
    /// The load that may be sent in a second.
    fn rate(&self, now: Instant) -> f64 {
        let recovery = RECOVERY.as_secs_f64();
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        let from_plateau = (elapsed - recovery) / recovery;
        let scale = if from_plateau < 0.0 { REDUCTION } else { GROWTH };
        (self.base * PLATEAU + scale * from_plateau.powi(3)).clamp(MIN_LIMIT, MAX_LIMIT)
    }
}

impl LoadWindow {
    fn roll(&mut self, now: Instant) {
        let Some(second) = self.second else {
            self.second = Some(now);
            return;
        };
        let elapsed = now.saturating_duration_since(second);
        if elapsed >= Duration::from_secs(1) {
            let is_next = elapsed < Duration::from_secs(2);
            self.previous = if is_next { self.current } else { 0.0 };
            self.current = 0.0;
            self.second = Some(if is_next {
                second + Duration::from_secs(1)
            } else {
                now
            });
        }
    }

    fn add(&mut self, now: Instant, load: f64) {
        self.roll(now);
        self.current += load;
    }

    /// The load of the last one to two seconds.
    fn recent(&mut self, now: Instant) -> f64 {
        self.roll(now);
        self.current + self.previous
    }

    fn last_second(&mut self, now: Instant) -> f64 {
        self.roll(now);
        let elapsed = self.second.map_or(0.0, |second| (now - second).as_secs_f64());
        self.current + self.previous * (1.0 - elapsed).max(0.0)
    }
}

#[cfg(test)]
mod tests {
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
                let until = rate.refuse(now, sent, failed).unwrap_or(now);
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
        let decimal = |_| 1_000_000.0 / BYTES;
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
        rate.refuse(now, 100, 1);
        assert_eq!(rate.spend(now, 1_000), None);
    }

    #[test]
    fn the_first_limit_counts_what_was_in_flight_at_the_refusal() {
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
        rate.refuse(refused, 2, 1);
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
        rate.refuse(now, 1, 1);
        let base = rate.limit.as_ref().unwrap().base;
        assert!((base - 3.5 * load(bytes)).abs() < 1e-9, "{base}");
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
        rate.refuse(first, 1, 1);
        assert!(limit_at(&rate, first) > 0.9);
        // Nothing was sent for two seconds, and then two records.
        let later = first + Duration::from_secs(2);
        rate.spend(later, 124_000);
        rate.accept(later, 124_000);
        rate.spend(later, 124_000);
        rate.refuse_record(later, 124_000);
        rate.refuse(later, 1, 1);
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
            rate.refuse(now, records, records);
            let limit = rate.limit.as_ref().unwrap().rate(now);
            assert!(limit > 0.65, "{records} records of {bytes} bytes: {limit}");
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
                let refused = rate.refuse(now, 1, 1).unwrap_or(now);
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
}
