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
//! least the former limit times the accepted part of the load. One refused record reduces the base by a
//! quarter at most. If the accepted load was nearly the limit, the base is the former limit. A load consists
//! of whole records, so it is less exact than the limit. The limit of one shard must not be too low: all
//! shards share the memory, so they would wait for this shard.
//!
//! At the first refusal, there is no former limit. If little was sent, or nearly nothing was accepted, the
//! highest limit takes its place. Otherwise the base is the accepted load, and half of the refused record is
//! added: the whole record was too much. Other requests may be in flight at a refusal. So the base also grows
//! with what the shard accepts in the same second.

use std::time::{Duration, Instant};

use super::shards::{SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND};

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
/// Smallest recent load that shows a shard's capacity at its first refusal.
///
/// The recent load is that of the last one to two seconds.
const MIN_MEASURABLE_LOAD: f64 = 0.5;
/// Longest extra pause, in seconds.
///
/// A pause lasts at most this long, plus the time that the missing allowance takes at the highest limit. It
/// is bounded because the limit may grow during the pause.
const MAX_EXTRA_PAUSE: f64 = 1.0;
/// Load that may be sent at once.
///
/// This load and [`MAX_LIMIT`] add up to the quota of a second. One record may exceed it.
const BURST: f64 = 0.03;
/// Part of the limit from which a load counts as the limit.
const NEAR_LIMIT_PART: f64 = 0.9;
/// Smallest refused part of a request that sets or lowers the limit.
///
/// A smaller part may be chance.
const MIN_REFUSED_PART: f64 = 0.05;

/// The rate of one shard.
#[derive(Debug, Default)]
pub(super) struct ShardRate {
    accepted: RecentLoad,
    refused: RecentLoad,
    /// Load of the last refused record, at most [`MAX_REFUSED_LOAD`].
    refused_load: f64,
    /// Time at which the last record was sent.
    sent_at: Option<Instant>,
    /// Bytes of the limit during one answer, plus a quarter.
    ///
    /// The quarter is added because the times of answers differ. The time of an answer is correct only while
    /// the shard has one record in flight.
    answer_bytes: usize,
    /// `None` until the shard has refused at least [`MIN_REFUSED_PART`] of a request.
    limit: Option<RateLimit>,
}

/// A limit, with the load that may be sent now.
#[derive(Debug)]
struct RateLimit {
    /// Load on which the curve is based.
    ///
    /// It is at least the load that was accepted in the last second. It is also at least the former limit
    /// times the accepted part of the load. Records in flight at the refusal may raise it.
    base: f64,
    /// Time of the last refusal that set it.
    refused_at: Instant,
    /// Load that may be sent.
    ///
    /// It is negative after a record with a larger load than the allowance.
    allowance: f64,
    /// Time of `allowance`. Since then, it has grown at the limit.
    allowance_at: Instant,
}

/// Load of the present second and of the second before.
#[derive(Debug, Default)]
struct RecentLoad {
    second: Option<Instant>,
    current: f64,
    previous: f64,
}

/// The load of a record of this size.
fn load(bytes: usize) -> f64 {
    (bytes as f64 / SHARD_BYTES_PER_SECOND).max(1.0 / SHARD_RECORDS_PER_SECOND)
}

impl ShardRate {
    /// Whether the rate has a limit: the shard has refused records.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Bytes that the shard accepts within `time`, by its limit.
    ///
    /// `None` while the shard has no limit.
    pub(super) fn bytes_within(&self, now: Instant, time: Duration) -> Option<usize> {
        let limit = self.limit.as_ref()?;
        Some((limit.rate(now) * SHARD_BYTES_PER_SECOND * time.as_secs_f64()) as usize)
    }

    /// Bytes that the shard is expected to accept until the next answer.
    pub(super) fn bytes_until_answer(&self) -> usize {
        self.answer_bytes
    }

    /// Counts a record that is sent.
    ///
    /// Returns the time at which the next record may be sent; `None` if it may be sent now.
    pub(super) fn spend(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        self.sent_at = Some(now);
        let limit = self.limit.as_mut()?;
        let rate = limit.rate(now);
        let elapsed = now.saturating_duration_since(limit.allowance_at).as_secs_f64();
        limit.allowance = (limit.allowance + elapsed * rate).min(BURST) - load(bytes);
        limit.allowance_at = now;
        // The pause lasts until half of the burst is available. Then one request can have several small
        // records.
        let missing = BURST / 2.0 - limit.allowance;
        let pause = (missing / rate).min(missing / MAX_LIMIT + MAX_EXTRA_PAUSE);
        (limit.allowance < 0.0).then(|| now + Duration::from_secs_f64(pause))
    }

    /// Counts a record that the shard accepted.
    pub(super) fn accept(&mut self, now: Instant, bytes: usize) {
        self.accepted.add(now, load(bytes));
        let sent_at = self.sent_at.unwrap_or(now);
        let answer_time = now.saturating_duration_since(sent_at).as_secs_f64();
        let rate = self.limit.as_ref().map_or(1.0, |limit| limit.rate(now));
        self.answer_bytes = (answer_time * 1.25 * SHARD_BYTES_PER_SECOND * rate) as usize;
        if let Some(limit) = &mut self.limit {
            // This record was in flight at the refusal.
            if self
                .accepted
                .second
                .is_some_and(|second| second <= limit.refused_at)
            {
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
    pub(super) fn adapt_limit(&mut self, now: Instant, sent: usize, refused: usize) -> Option<Instant> {
        if (refused as f64) < MIN_REFUSED_PART * sent as f64 {
            return None;
        }
        // Requests that were sent before the last refusal may be refused, too. Their answers show nothing
        // new.
        if let Some(limit) = &self.limit
            && now.saturating_duration_since(limit.refused_at) < Duration::from_millis(500)
        {
            return None;
        }
        let accepted = self.accepted.last_second(now);
        let base = match &self.limit {
            Some(limit) if self.is_near(limit, now, accepted) => limit.rate(now),
            Some(limit) => accepted.max(limit.rate(now) * self.accepted_part(now)),
            None => self.first_base(now, accepted),
        };
        let pause_end = self.pause_end(now, accepted);
        let allowance = self.limit.as_ref().map_or(0.0, |limit| limit.allowance);
        self.limit = Some(RateLimit {
            base: base.clamp(MIN_LIMIT, 1.0),
            refused_at: now,
            allowance: allowance.min(0.0),
            allowance_at: now,
        });
        pause_end
    }

    /// Whether the shard accepted nearly its limit in the last second.
    ///
    /// The refused record counts as accepted, because only this record was too much.
    fn is_near(&self, limit: &RateLimit, now: Instant, accepted: f64) -> bool {
        accepted + self.refused_load >= NEAR_LIMIT_PART * limit.rate(now)
    }

    /// The time at which the shard is expected to accept records again.
    ///
    /// Each second has its own quota, and that of the present second is used up. `accepted` is the load of
    /// the last second. If it is nearly the limit with the refused record, the second of the shard ends soon.
    /// Otherwise the second is assumed to be that of the accepted records. `None` if it has none.
    fn pause_end(&self, now: Instant, accepted: f64) -> Option<Instant> {
        if self
            .limit
            .as_ref()
            .is_some_and(|limit| self.is_near(limit, now, accepted))
        {
            return Some(now + Duration::from_secs_f64(self.refused_load + BURST));
        }
        let second = self.accepted.second.filter(|_| self.accepted.current > 0.0);
        second.map(|second| second + Duration::from_secs(1))
    }

    /// The base of the first limit.
    ///
    /// If less than [`MIN_MEASURABLE_LOAD`] was sent, or nearly nothing was accepted, the accepted load shows
    /// no capacity: another producer may have used up this second. Then the base is the highest limit without
    /// the refused part, of which at most [`MAX_REFUSED_LOAD`] counts. Later refusals do not count the same
    /// load again.
    fn first_base(&mut self, now: Instant, accepted: f64) -> f64 {
        let (recent, refused) = (self.accepted.recent(now), self.refused.recent(now));
        let measured = accepted + self.refused_load / 2.0;
        if recent + refused >= MIN_MEASURABLE_LOAD && recent >= MIN_LIMIT {
            return measured;
        }
        self.refused = RecentLoad::default();
        measured.max(MAX_LIMIT * (1.0 - refused.min(MAX_REFUSED_LOAD)))
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
        let elapsed = now.saturating_duration_since(self.refused_at).as_secs_f64();
        let from_plateau = (elapsed - recovery) / recovery;
        let scale = if from_plateau < 0.0 { REDUCTION } else { GROWTH };
        (self.base * PLATEAU + scale * from_plateau.powi(3)).clamp(MIN_LIMIT, MAX_LIMIT)
    }
}

impl RecentLoad {
    /// Begins a new second if the present one is over.
    fn advance(&mut self, now: Instant) {
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
        self.advance(now);
        self.current += load;
    }

    /// The load of the last one to two seconds.
    fn recent(&mut self, now: Instant) -> f64 {
        self.advance(now);
        self.current + self.previous
    }

    /// The load of the last second.
    ///
    /// The load of the second before is assumed to be evenly distributed over it.
    fn last_second(&mut self, now: Instant) -> f64 {
        self.advance(now);
        let elapsed = self.second.map_or(0.0, |second| (now - second).as_secs_f64());
        self.current + self.previous * (1.0 - elapsed).max(0.0)
    }
}

#[cfg(test)]
mod tests;
