//! The pacing of one shard: which of its lanes may send, and how many records at once.
//!
//! A shard accepts 1,000 records and 1 MiB a second, and refuses each record beyond that. After a refusal,
//! sending to the whole shard pauses. If only the lanes of the refused records paused, the other lanes would
//! send younger events before older ones. That would not help: the acknowledged position advances only past
//! events whose earlier events are all acknowledged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::record::{Aggregation, LaneKey};
use super::shard_rate::ShardRate;
use crate::base::position::Position;

/// Lower bound of [`ShardPacing::max_in_flight`].
const MIN_IN_FLIGHT: usize = 25;

/// Upper bound of [`ShardPacing::max_in_flight`].
///
/// If each answer takes 30 ms, these are eight times the quota of a shard. More would only cause more
/// refusals: a shard that has reached its quota refuses all of them.
const MAX_IN_FLIGHT: usize = 250;

/// Least bytes of a full aggregate, after the shard has refused records.
///
/// They fill three put units of 25 KB. Larger aggregates would be refused more often: a shard accepts only a
/// few of them in a second, and refuses the last one if it arrives a few milliseconds early. After each
/// refusal, sending to the shard pauses.
const LIMITED_AGGREGATE_BYTES: usize = 74_400;

/// The pacing of one shard.
#[derive(Debug)]
pub(super) struct ShardPacing {
    /// Lanes that may send. The lane with the oldest event is first.
    ///
    /// The acknowledged position advances only past the oldest events.
    ready: BinaryHeap<Reverse<(Position, LaneKey)>>,
    in_flight: usize,
    /// Records that may be in flight.
    ///
    /// A throttled answer sets the number to half of the records that were sent, or to half of its former
    /// value if that is less. An answer without a refusal doubles it. It stays between [`MIN_IN_FLIGHT`] and
    /// [`MAX_IN_FLIGHT`].
    max_in_flight: usize,
    rate: ShardRate,
    /// Consecutive throttled answers.
    throttles: u32,
    /// The end of the pause; `None` while the shard does not pause.
    paused_until: Option<Instant>,
    /// Records that could be sent at the last update.
    sendable: usize,
    /// Full aggregates that waited in the first lane at the last update.
    full_aggregates: usize,
}

impl Default for ShardPacing {
    fn default() -> Self {
        ShardPacing {
            ready: BinaryHeap::new(),
            in_flight: 0,
            max_in_flight: MAX_IN_FLIGHT,
            rate: ShardRate::default(),
            throttles: 0,
            paused_until: None,
            sendable: 0,
            full_aggregates: 0,
        }
    }
}

impl ShardPacing {
    /// The pacing of each of `shards` shards, without a limit.
    pub(super) fn list(shards: usize) -> Vec<Self> {
        (0..shards).map(|_| ShardPacing::default()).collect()
    }

    /// The position of the oldest event that these shards may send now.
    ///
    /// `None` if fewer than `least` records could be sent at the last update.
    pub(super) fn oldest(pacings: &[Self], least: usize) -> Option<Position> {
        let records: usize = pacings.iter().map(ShardPacing::sendable).sum();
        let positions = pacings.iter().filter_map(ShardPacing::next_position);
        positions.min().filter(|_| records >= least)
    }

    /// Adds a lane that may send. `position` is that of its oldest event.
    pub(super) fn add_ready(&mut self, position: Position, lane: LaneKey) {
        self.ready.push(Reverse((position, lane)));
    }

    /// Removes all lanes. The limits and the pause stay.
    ///
    /// Returns the end of the pause; `None` while the shard does not pause.
    pub(super) fn clear_lanes(&mut self) -> Option<Instant> {
        self.ready.clear();
        (self.sendable, self.full_aggregates) = (0, 0);
        self.paused_until
    }

    /// The lane that sends next.
    pub(super) fn first_lane(&self) -> Option<LaneKey> {
        self.ready.peek().map(|Reverse((_, lane))| *lane)
    }

    /// The position of the oldest event that may be sent now.
    pub(super) fn next_position(&self) -> Option<Position> {
        let may_send = self.sendable_now() > 0;
        let first = self.ready.peek().map(|Reverse((position, _))| *position);
        first.filter(|_| may_send)
    }

    /// Counts a record of the first lane as in flight. The lane is no longer ready.
    pub(super) fn start_first(&mut self) {
        self.ready.pop();
        self.in_flight += 1;
    }

    /// The packing of the next record: `usual`, or smaller aggregates.
    ///
    /// With aggregation, a shard is one lane, so one record is in flight. After a refusal, an aggregate has
    /// the bytes that the shard is expected to accept until the answer: at least [`LIMITED_AGGREGATE_BYTES`],
    /// at most those of `usual`.
    pub(super) fn aggregation(&self, usual: Aggregation) -> Aggregation {
        match usual {
            Aggregation::Kpl { bytes } if self.rate.is_limited() => Aggregation::Kpl {
                bytes: LIMITED_AGGREGATE_BYTES
                    .max(self.rate.bytes_until_answer())
                    .min(bytes),
            },
            _ => usual,
        }
    }

    /// Whether the shard accepts these bytes within `time`. True while it has refused nothing.
    pub(super) fn can_accept_within(&self, bytes: usize, now: Instant, time: Duration) -> bool {
        self.rate
            .bytes_within(now, time)
            .is_none_or(|limit| bytes <= limit)
    }

    /// Counts the bytes of a record that is sent.
    ///
    /// Returns the end of the pause, if the shard pauses after this record.
    pub(super) fn spend(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let until = self.rate.spend(now, bytes)?;
        self.pause(until);
        Some(until)
    }

    /// Counts a record that the shard stored.
    pub(super) fn count_stored(&mut self, now: Instant, bytes: usize) {
        self.rate.accept(now, bytes);
    }

    /// Counts a record that the shard refused because of its quota.
    pub(super) fn count_refused(&mut self, now: Instant, bytes: usize) {
        self.rate.refuse_record(now, bytes);
    }

    /// Counts a record as no longer in flight.
    pub(super) fn end_flight(&mut self) {
        self.in_flight -= 1;
    }

    /// Doubles the records that may be in flight.
    ///
    /// The last answer had no refusal.
    pub(super) fn raise_max_in_flight(&mut self) {
        self.throttles = 0;
        self.max_in_flight = (self.max_in_flight * 2).min(MAX_IN_FLIGHT);
    }

    /// Halves the records that may be in flight, and adapts the rate.
    ///
    /// The shard refused `refused` of `records` records.
    ///
    /// Returns the number of consecutive throttled answers, and the shortest time of a pause.
    pub(super) fn apply_throttle(&mut self, now: Instant, records: usize, refused: usize) -> (u32, Duration) {
        let until = self.rate.adapt_limit(now, records, refused);
        let least = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.max_in_flight = (self.max_in_flight.min(records) / 2).max(MIN_IN_FLIGHT);
        self.throttles += 1;
        (self.throttles, least)
    }

    /// Pauses the shard until this time. A pause that ends later stays.
    pub(super) fn pause(&mut self, until: Instant) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Ends the pause if its time is over.
    pub(super) fn end_pause(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
    }

    /// Updates the counts. `full_aggregates` are those that wait in the first lane.
    pub(super) fn update_counts(&mut self, full_aggregates: usize) {
        self.sendable = self.sendable_now();
        self.full_aggregates = if self.sendable > 0 { full_aggregates } else { 0 };
    }

    /// Records that could be sent at the last update.
    pub(super) fn sendable(&self) -> usize {
        self.sendable
    }

    /// Full aggregates that waited in the first lane at the last update.
    ///
    /// 0 if the shard could not send.
    pub(super) fn full_aggregates(&self) -> usize {
        self.full_aggregates
    }

    fn sendable_now(&self) -> usize {
        match self.paused_until {
            Some(_) => 0,
            None => self
                .ready
                .len()
                .min(self.max_in_flight.saturating_sub(self.in_flight)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_refused_records_gets_smaller_aggregates() {
        let (mut pacing, now) = (ShardPacing::default(), Instant::now());
        let usual = Aggregation::Kpl { bytes: 248_000 };
        assert_eq!(pacing.aggregation(usual), usual);
        pacing.apply_throttle(now, 4, 1);
        assert_eq!(pacing.aggregation(usual), Aggregation::Kpl { bytes: 74_400 });
        let small = Aggregation::Kpl { bytes: 1_000 };
        assert_eq!(pacing.aggregation(small), small);
        assert_eq!(pacing.aggregation(Aggregation::None), Aggregation::None);
    }

    #[test]
    fn late_answers_make_the_aggregates_of_a_limited_shard_larger() {
        let (mut pacing, now) = (ShardPacing::default(), Instant::now());
        let usual = Aggregation::Kpl { bytes: 248_000 };
        pacing.apply_throttle(now, 4, 1);
        for (millis, expected) in [(20, 74_400), (120, 143_440), (500, 248_000), (20, 74_400)] {
            pacing.spend(now, 74_400);
            pacing.count_stored(now + Duration::from_millis(millis), 74_400);
            assert_eq!(
                pacing.aggregation(usual),
                Aggregation::Kpl { bytes: expected },
                "{millis} ms"
            );
        }
    }

    #[test]
    fn a_limited_shard_accepts_what_its_limit_allows_in_a_time() {
        let (mut pacing, now) = (ShardPacing::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(
            pacing.can_accept_within(usize::MAX, now, second),
            "it has no limit"
        );
        for _ in 0..10 {
            pacing.spend(now, 50_000);
            pacing.count_stored(now, 50_000);
        }
        pacing.spend(now, 50_000);
        pacing.count_refused(now, 50_000);
        pacing.apply_throttle(now, 1, 1);
        assert!(pacing.can_accept_within(400_000, now, second));
        assert!(!pacing.can_accept_within(700_000, now, second));
        assert!(pacing.can_accept_within(700_000, now, second * 2));
    }
}
