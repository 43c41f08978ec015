//! Lanes: queues of events that must stay in order, with at most one record in flight each.
//!
//! A stream and a hash key identify a lane. Without aggregation, a lane has one partition key, and its hash
//! key is that of the partition key. With aggregation, a record has many partition keys. So a lane has all
//! keys of one shard, and its hash key is the first one of the shard's range.
//!
//! When a record is sent, its events leave the queue of the lane. If the record fails, they return to the
//! head of the queue. A lane has at most one record in flight. So no later event overtakes an earlier one
//! after a partly failed request or a lost answer.
//!
//! A barrier is an event that waits until all events before it are acknowledged. All events after it wait for
//! the barrier. Examples are a truncate, the event of a row that changes its lane, and the first event after
//! a change of a table's key.
//!
//! The lanes of a shard share its [`ShardPacing`]. After a resharding, all waiting events are queued again.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::lane::Lane;
use super::outstanding::{OutstandingEvent, OutstandingEvents};
use super::record::{Aggregation, LaneKey, QueuedEvent, Record, RequestLimits};
use super::shard_pacing::ShardPacing;
use super::shards::{HashKey, ShardMap};
use super::stream_shards::{MAIN_STREAM, StreamShards};
use crate::base::position::Position;

/// All lanes of a drain.
#[derive(Debug)]
pub struct Lanes {
    aggregation: Aggregation,
    shards: StreamShards,
    lanes: FxHashMap<LaneKey, Lane>,
    /// The pacing of each shard, by its number.
    pacings: Vec<ShardPacing>,
    /// Lanes whose last record failed, with the times of their next attempts.
    delayed: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    /// Shards that pause, each with the end of its pause.
    paused: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Barriers that have no lane yet, and the events behind them.
    behind_barrier: VecDeque<QueuedEvent>,
    /// Whether a barrier is not acknowledged yet.
    has_barrier: bool,
    /// Records of all shards that could be sent now.
    sendable: usize,
    /// Full aggregates of the shards that could send now.
    full_aggregates: usize,
    /// Records in flight.
    in_flight: usize,
    /// Number of events that wait in lanes or are in flight.
    in_lanes: usize,
    memory: usize,
    /// The longest known lane, and the number of its shard.
    ///
    /// Another lane may be longer: a lane is compared with this one only when an event is added to it.
    longest: Option<(LaneKey, usize)>,
    /// Position of the last event that was queued.
    queued_to: Option<Position>,
    /// Whether the positions have ascended since the lanes were last empty.
    is_ascending: bool,
}

impl Lanes {
    /// Empty lanes of a stream.
    pub fn new(aggregation: Aggregation, map: ShardMap) -> Self {
        Lanes {
            aggregation,
            pacings: ShardPacing::list(map.len()),
            shards: StreamShards::new(map),
            lanes: FxHashMap::default(),
            delayed: BinaryHeap::new(),
            paused: BinaryHeap::new(),
            behind_barrier: VecDeque::new(),
            has_barrier: false,
            sendable: 0,
            full_aggregates: 0,
            in_flight: 0,
            in_lanes: 0,
            memory: 0,
            longest: None,
            queued_to: None,
            is_ascending: true,
        }
    }

    /// The shards that records are assigned to.
    pub fn shards(&self) -> &StreamShards {
        &self.shards
    }

    /// Adds a stream. Streams are numbered from 0, in the order of adding.
    pub fn add_stream(&mut self, map: ShardMap) {
        self.pacings.extend(ShardPacing::list(map.len()));
        self.shards.add(map);
    }

    /// Queues an event after all earlier events of its lane.
    pub fn push(&mut self, event: QueuedEvent) {
        let position = event.event.position;
        // A window may be read again after all its events are acknowledged. So any position may follow while
        // the lanes are empty.
        self.is_ascending = self.is_empty() || (self.is_ascending && self.queued_to <= Some(position));
        self.queued_to = Some(position);
        self.memory += event.memory();
        if self.has_barrier || event.event.barrier {
            self.has_barrier = true;
            self.behind_barrier.push_back(event);
            self.release_barriers();
        } else {
            self.add(event);
        }
    }

    /// The records of the next request, oldest first.
    ///
    /// Empty if no record may be sent now. No two records belong to one lane. All records belong to one
    /// stream: that of [`Lanes::next_stream`] with `min_records`, or else that of the oldest sendable record.
    /// With `full`, only shards with a full aggregate send, and the stream is that of their oldest record.
    /// `full` has no effect without aggregation. It has none while there is a barrier, either.
    pub fn next_request(
        &mut self,
        now: Instant,
        limits: RequestLimits,
        full: bool,
        min_records: impl Fn(usize) -> usize,
    ) -> Vec<Record> {
        self.end_delays(now);
        let full = full && !self.has_barrier && self.aggregation != Aggregation::None;
        let next_position = |pacing: &ShardPacing| match full {
            true if pacing.full_aggregates() == 0 => None,
            _ => pacing.next_position(),
        };
        let ready = |(shard, pacing)| Some(Reverse((next_position(pacing)?, shard)));
        let mut shards: BinaryHeap<_> = self.pacings.iter().enumerate().filter_map(ready).collect();
        let oldest = || {
            shards
                .peek()
                .map(|Reverse((_, shard))| self.shards.stream(*shard))
        };
        let stream = if full { None } else { self.next_stream(min_records) };
        if let Some(stream) = stream.or_else(oldest) {
            let numbers = self.shards.numbers(stream);
            shards.retain(|Reverse((_, shard))| numbers.contains(shard));
        }
        let (mut request, mut bytes) = (Vec::new(), 0);
        while request.len() < limits.records {
            let Some(Reverse((_, shard))) = shards.pop() else {
                break;
            };
            let Some(lane) = self.pacings[shard].first_lane() else {
                continue;
            };
            let room = limits.bytes.saturating_sub(bytes);
            if !request.is_empty() && self.max_record_bytes(lane) > room {
                break;
            }
            self.pacings[shard].start_first();
            if let Some(record) = self.next_record(lane, shard) {
                bytes += record.bytes();
                let pause = self.pacings[shard].spend(now, record.bytes());
                self.paused.extend(pause.map(|until| Reverse((until, shard))));
                request.push(record);
            }
            self.update_counts(shard);
            let position = next_position(&self.pacings[shard]);
            shards.extend(position.map(|position| Reverse((position, shard))));
        }
        self.in_flight += request.len();
        request
    }

    /// Removes an acknowledged record. The next event of its lane may then be sent.
    ///
    /// Returns the events of the record.
    pub fn acknowledge(&mut self, now: Instant, record: Record) -> Vec<QueuedEvent> {
        let key = record.lane;
        let shard = self.end_flight(&record);
        self.pacings[shard].count_stored(now, record.bytes());
        let events = record.into_events();
        for event in &events {
            self.memory -= event.memory();
            self.in_lanes -= 1;
        }
        if let Entry::Occupied(mut lane) = self.lanes.entry(key) {
            lane.get_mut().failures = 0;
            match lane.get().waiting.front() {
                Some(next) => self.pacings[shard].add_ready(next.event.position, key),
                None => drop(lane.remove()),
            }
        }
        self.update_counts(shard);
        self.release_barriers();
        events
    }

    /// Queues the events of a failed record again.
    ///
    /// The stream refused the record, or its outcome is unknown. Its events are queued before all waiting
    /// events of the lane. `delay` computes the time until the next attempt from the number of consecutive
    /// failures.
    pub fn retry(&mut self, now: Instant, record: Record, delay: impl FnOnce(u32) -> Duration) {
        let lane = self.lanes.entry(record.lane).or_default();
        lane.failures += 1;
        let at = now + delay(lane.failures);
        self.queue_again(at, record);
    }

    /// Queues the events of a throttled record again.
    ///
    /// A throttle does not count as a failure of the lane. [`Lanes::pause_shard`] sets the time of the next
    /// attempt.
    pub fn retry_throttled(&mut self, now: Instant, record: Record) {
        self.pacings[record.shard()].count_refused(now, record.bytes());
        self.queue_again(now, record);
    }

    /// Queues the events of a record again. They may be sent from `at` on.
    fn queue_again(&mut self, at: Instant, record: Record) {
        let key = record.lane;
        let shard = self.end_flight(&record);
        self.lanes
            .entry(key)
            .or_default()
            .push_front(record.into_events());
        self.delayed.push(Reverse((at, key)));
        self.update_counts(shard);
    }

    /// Raises a shard's limit of records in flight, after a full success.
    pub fn raise_limit(&mut self, shard: usize) {
        self.pacings[shard].raise_max_in_flight();
        self.update_counts(shard);
    }

    /// Pauses all lanes of a shard that refused records.
    ///
    /// The request had `records` records for the shard, and the shard refused `refused` of them. `pause`
    /// computes the shortest pause from the number of consecutive throttled answers.
    pub fn pause_shard(
        &mut self,
        now: Instant,
        shard: usize,
        (records, refused): (usize, usize),
        pause: impl FnOnce(u32) -> Duration,
    ) {
        let pacing = &mut self.pacings[shard];
        let (throttles, least) = pacing.apply_throttle(now, records, refused);
        let until = now + pause(throttles).max(least);
        pacing.pause(until);
        self.paused.push(Reverse((until, shard)));
        self.update_counts(shard);
    }

    /// Replaces the shard map of a stream.
    ///
    /// The events of all lanes are queued again, in the order of their positions. Waiting barriers and the
    /// events after them continue to wait. The shards of this stream start without a limited rate or a pause.
    ///
    /// # Panics
    /// A record is in flight: later events could overtake its events.
    pub fn reshard(&mut self, stream: usize, map: ShardMap) {
        assert_eq!(
            self.in_flight, 0,
            "lanes change only while no record is in flight"
        );
        let mut waiting: Vec<QueuedEvent> = Vec::with_capacity(self.in_lanes);
        waiting.extend(self.lanes.drain().flat_map(|(_, lane)| lane.waiting));
        // Events with the same position are in one lane. The sort is stable, so they keep their order.
        waiting.sort_by_key(|event| event.event.position);
        let before = self.shards.numbers(stream);
        self.shards.replace(stream, map);
        self.pacings
            .splice(before, ShardPacing::list(self.shards.of(stream).len()));
        self.delayed.clear();
        self.paused.clear();
        (self.sendable, self.full_aggregates) = (0, 0);
        for (shard, pacing) in self.pacings.iter_mut().enumerate() {
            let paused_until = pacing.clear_lanes().map(|until| Reverse((until, shard)));
            self.paused.extend(paused_until);
        }
        self.longest = None;
        waiting.into_iter().for_each(|event| self.queue(event));
    }

    /// Time at which the next delay or pause ends; `None` without one.
    pub fn next_retry(&self) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse((at, _))| *at);
        let paused = self.paused.peek().map(|Reverse((at, _))| *at);
        delayed.into_iter().chain(paused).min()
    }

    /// The stream of the next request.
    ///
    /// Only streams with at least `min_records` sendable records count. Of these, it is the stream with the
    /// oldest sendable record. Only [`Lanes::next_request`] ends delays and pauses: records whose delay or
    /// pause is over are sendable only after that call.
    pub fn next_stream(&self, min_records: impl Fn(usize) -> usize) -> Option<usize> {
        if self.shards.streams() == 1 {
            return (self.sendable >= min_records(MAIN_STREAM)).then_some(MAIN_STREAM);
        }
        let oldest = |stream: usize| {
            let pacings = &self.pacings[self.shards.numbers(stream)];
            Some((ShardPacing::oldest(pacings, min_records(stream))?, stream))
        };
        let streams = (0..self.shards.streams()).filter_map(oldest);
        streams.min().map(|(_, stream)| stream)
    }

    /// Whether a request should be sent without waiting for more events.
    ///
    /// Without aggregation, it must have as many records as allowed. With aggregation, `min_full` full
    /// aggregates must be sendable. If fewer records are sendable, each must be a full aggregate. With
    /// aggregation and a barrier, one sendable record is enough: no event can be added to it.
    pub fn has_full_request(&self, limits: RequestLimits, min_full: usize) -> bool {
        match self.aggregation {
            Aggregation::None => {
                self.sendable >= limits.records && self.next_stream(|_| limits.records).is_some()
            }
            Aggregation::Kpl { .. } if self.sendable == 0 => false,
            Aggregation::Kpl { .. } => {
                self.has_barrier || self.full_aggregates >= self.sendable.min(min_full)
            }
        }
    }

    /// All events that are not acknowledged: the waiting events and `in_flight`.
    ///
    /// `None` if events were not queued in the order of their positions. The position of the last event then
    /// does not show which events were queued.
    pub fn outstanding<I>(&self, in_flight: I) -> Option<OutstandingEvents>
    where
        I: Iterator<Item = OutstandingEvent>,
    {
        let in_lanes = self.lanes.values().flat_map(|lane| &lane.waiting);
        let waiting = in_lanes.chain(&self.behind_barrier).map(QueuedEvent::outstanding);
        self.is_ascending.then(|| OutstandingEvents {
            events: in_flight.chain(waiting).collect(),
            queued_to: self.queued_to,
        })
    }

    /// Whether no event waits or is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_lanes == 0 && self.behind_barrier.is_empty()
    }

    /// Approximate memory of all events in bytes, including those in flight.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The lane of an event, and the number of its shard.
    fn lane_of(&self, queued: &QueuedEvent) -> (LaneKey, usize) {
        let stream = queued.stream;
        let hash_key = HashKey::of(&queued.event.partition_key);
        let shard = self.shards.number(stream, hash_key);
        let hash_key = match self.aggregation {
            Aggregation::None => hash_key,
            Aggregation::Kpl { .. } => self.shards.shard(shard).first,
        };
        (LaneKey { stream, hash_key }, shard)
    }

    /// Most bytes of a lane's next record.
    fn max_record_bytes(&self, lane: LaneKey) -> usize {
        let lane = self.lanes.get(&lane);
        lane.map_or(0, |lane| lane.max_record_bytes(self.aggregation))
    }

    /// Adds a new event to its lane, and counts it.
    fn add(&mut self, event: QueuedEvent) {
        self.in_lanes += 1;
        self.queue(event);
    }

    /// Queues an event in its lane.
    fn queue(&mut self, event: QueuedEvent) {
        let (key, shard) = self.lane_of(&event);
        // Only a new lane becomes ready here. In an existing lane, the event waits for those before it.
        let lane = self.lanes.entry(key).or_insert_with(|| {
            self.pacings[shard].add_ready(event.event.position, key);
            Lane::with_space_for_one()
        });
        lane.push(event);
        let records = lane.records(self.pacings[shard].aggregation(self.aggregation));
        if self.longest != Some((key, shard)) && records > self.records_of_longest_lane() {
            self.longest = Some((key, shard));
        }
        self.update_counts(shard);
    }

    /// Records that wait in the longest known lane; approximate with aggregation.
    ///
    /// They are sent one by one.
    pub fn records_of_longest_lane(&self) -> usize {
        self.longest_lane().map_or(0, |(lane, pacing)| {
            lane.records(pacing.aggregation(self.aggregation))
        })
    }

    /// Whether the longest known lane's events can be sent within `time`.
    pub fn can_send_longest_lane_within(&self, now: Instant, time: Duration) -> bool {
        self.longest_lane()
            .is_none_or(|(lane, pacing)| pacing.can_accept_within(lane.bytes, now, time))
    }

    fn longest_lane(&self) -> Option<(&Lane, &ShardPacing)> {
        let (key, shard) = self.longest?;
        Some((self.lanes.get(&key)?, &self.pacings[shard]))
    }

    /// The next record of a lane. Its events leave the queue.
    fn next_record(&mut self, key: LaneKey, shard: usize) -> Option<Record> {
        let aggregation = self.pacings[shard].aggregation(self.aggregation);
        let lane = self.lanes.get_mut(&key)?;
        lane.next_record(key, shard, aggregation)
    }

    /// Counts a record as no longer in flight. Returns the number of its shard.
    fn end_flight(&mut self, record: &Record) -> usize {
        self.in_flight -= 1;
        self.pacings[record.shard()].end_flight();
        record.shard()
    }

    /// Updates the counts of a shard after a change of its lanes.
    fn update_counts(&mut self, shard: usize) {
        let pacing = &mut self.pacings[shard];
        let (sendable, full) = (pacing.sendable(), pacing.full_aggregates());
        // Without aggregation, no lane is looked up: there are many.
        let first = pacing
            .first_lane()
            .filter(|_| self.aggregation != Aggregation::None);
        let lane = first.and_then(|key| self.lanes.get(&key));
        let aggregation = pacing.aggregation(self.aggregation);
        pacing.update_counts(lane.map_or(0, |lane| lane.full_aggregates(aggregation)));
        self.sendable = self.sendable - sendable + pacing.sendable();
        self.full_aggregates = self.full_aggregates - full + pacing.full_aggregates();
    }

    /// Adds events of `behind_barrier` to their lanes, as far as possible.
    ///
    /// A barrier is added once all events before it are acknowledged. Events after it are added once the
    /// barrier is acknowledged.
    fn release_barriers(&mut self) {
        while self.has_barrier {
            let Some(first) = self.behind_barrier.front() else {
                // The barrier itself may still be in flight.
                self.has_barrier = self.in_lanes > 0;
                return;
            };
            // The lanes have the events before the next barrier, or one barrier alone. In both cases, the
            // queue waits for their acknowledgement.
            if self.in_lanes > 0 {
                return;
            }
            if first.event.barrier {
                if let Some(barrier) = self.behind_barrier.pop_front() {
                    self.add(barrier);
                }
                return;
            }
            while let Some(event) = self.behind_barrier.pop_front_if(|event| !event.event.barrier) {
                self.add(event);
            }
            if self.behind_barrier.is_empty() {
                self.has_barrier = false;
            }
        }
    }

    /// Ends the delays and pauses whose time is over.
    fn end_delays(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.delayed.pop() else {
                return;
            };
            if let Some(event) = self.lanes.get(&key).and_then(|lane| lane.waiting.front()) {
                let (_, shard) = self.lane_of(event);
                self.pacings[shard].add_ready(event.event.position, key);
                self.update_counts(shard);
            }
        }
        while self.paused.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, shard))) = self.paused.pop() else {
                return;
            };
            self.pacings[shard].end_pause(now);
            self.update_counts(shard);
        }
    }
}

#[cfg(test)]
mod tests;
