//! Lanes: what must stay in order waits in one queue, and of each queue at most one record is under way.
//!
//! A lane is a place on the stream's ring: that of one partition key, or with aggregation that of a shard, since then one
//! record holds many keys. Events leave their lane when they were acknowledged; until then nothing later of the lane is
//! sent, so neither a partly failed request nor one whose answer was lost lets a later event overtake. A barrier (a
//! truncate) empties the road: everything before it is acknowledged first, everything after it waits.
//!
//! The lanes of a shard share its [`flow`](super::shard_pacing). When the stream was resharded, [`Lanes::reshard`] lines all that
//! waits up anew.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::record::{Aggregation, QueuedEvent, Record, RequestLimits};
use super::shard_pacing::ShardPacing;
use super::shards::{HashKey, ShardMap};
use crate::encode::Event;

/// A lane exists while something of it waits or is under way. It is named in its flow's `ready` when its first event may go,
/// in `resting` when that must wait, and in neither while a record is under way.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<QueuedEvent>,
    /// Of all that waits.
    bytes: usize,
    /// Failures in a row.
    failures: u32,
}

/// All lanes of a drain.
#[derive(Debug)]
pub struct Lanes {
    aggregation: Aggregation,
    map: ShardMap,
    lanes: HashMap<HashKey, Lane>,
    /// One for each shard of the map.
    flows: Vec<ShardPacing>,
    /// Lanes whose first record failed, until they may try again.
    resting: BinaryHeap<Reverse<(Instant, HashKey)>>,
    /// Flows that pause, until they go on.
    pausing: BinaryHeap<Reverse<(Instant, usize)>>,
    /// What came behind a barrier, the barrier first.
    held: VecDeque<QueuedEvent>,
    /// Whether a barrier is waiting or under way.
    barred: bool,
    /// Records that the flows could send now, and how many of these are as large as they get.
    sendable: usize,
    full: usize,
    /// Records under way.
    under_way: usize,
    /// Parcels in lanes or under way; not those in `held`.
    outstanding: usize,
    memory: usize,
}

impl Lanes {
    /// Empty lanes of a stream.
    pub fn new(aggregation: Aggregation, map: ShardMap) -> Self {
        Lanes {
            aggregation,
            flows: (0..map.len()).map(|_| ShardPacing::default()).collect(),
            map,
            lanes: HashMap::new(),
            resting: BinaryHeap::new(),
            pausing: BinaryHeap::new(),
            held: VecDeque::new(),
            barred: false,
            sendable: 0,
            full: 0,
            under_way: 0,
            outstanding: 0,
            memory: 0,
        }
    }

    /// The shards that records are meant for.
    pub fn map(&self) -> &ShardMap {
        &self.map
    }

    /// Puts an event behind everything that came before it in its lane.
    pub fn push(&mut self, event: QueuedEvent) {
        self.memory += event.memory();
        if self.barred || event.event.barrier {
            self.barred = true;
            self.held.push_back(event);
            self.lift_barriers();
        } else {
            self.enter(event);
        }
    }

    /// Takes records of different lanes for one request, oldest first; empty when none may go now. With `full`, only
    /// aggregates that are as large as they get.
    pub fn next_request(&mut self, now: Instant, limits: RequestLimits, full: bool) -> Vec<Record> {
        self.wake(now);
        let full = full && !self.barred && self.aggregation != Aggregation::None;
        let next = |flow: &ShardPacing| match full {
            true if flow.full() == 0 => None,
            _ => flow.next(),
        };
        let mut flows: BinaryHeap<_> = self
            .flows
            .iter()
            .enumerate()
            .filter_map(|(number, flow)| Some(Reverse((next(flow)?, number))))
            .collect();
        let (mut request, mut bytes) = (Vec::new(), 0);
        while request.len() < limits.records {
            let Some(Reverse((_, number))) = flows.pop() else {
                break;
            };
            let Some(lane) = self.flows[number].first() else {
                continue;
            };
            let room = limits.bytes.saturating_sub(bytes);
            if !request.is_empty() && self.most_bytes(lane) > room {
                break;
            }
            self.flows[number].depart();
            request.extend(
                self.depart(lane, number)
                    .inspect(|record| bytes += record.bytes()),
            );
            self.recount(number);
            flows.extend(next(&self.flows[number]).map(|position| Reverse((position, number))));
        }
        self.under_way += request.len();
        request
    }

    /// A record has arrived; its lane goes on.
    pub fn acknowledge(&mut self, record: Record) {
        let key = record.lane;
        let number = self.arrive(&record);
        for event in record.into_events() {
            self.memory -= event.memory();
            self.outstanding -= 1;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.failures = 0;
            match lane.waiting.front() {
                Some(next) => self.flows[number].line_up(next.event.position, key),
                None => drop(self.lanes.remove(&key)),
            }
        }
        self.recount(number);
        self.lift_barriers();
    }

    /// A record was refused, or its fate is unknown: its events go again, before anything later of their lane, after
    /// `rest(failures in a row)`.
    pub fn retry(&mut self, now: Instant, record: Record, rest: impl FnOnce(u32) -> Duration) {
        let key = record.lane;
        let number = self.arrive(&record);
        let lane = self.lanes.entry(key).or_default();
        for event in record.into_events().into_iter().rev() {
            lane.bytes += event.bytes();
            lane.waiting.push_front(event);
        }
        lane.failures += 1;
        self.resting.push(Reverse((now + rest(lane.failures), key)));
        self.recount(number);
    }

    /// A shard took all of an answer's records that were meant for it.
    pub fn raise_share(&mut self, shard: usize) {
        self.flows[shard].quicken();
        self.recount(shard);
    }

    /// A shard takes no more at the moment, when it was sent so many `records`: all its lanes pause for `pause(throttled
    /// answers in a row)`.
    pub fn pause_shard(
        &mut self,
        now: Instant,
        shard: usize,
        records: usize,
        pause: impl FnOnce(u32) -> Duration,
    ) {
        let flow = &mut self.flows[shard];
        let until = now + pause(flow.slow_down(records));
        flow.pause(until);
        self.pausing.push(Reverse((until, shard)));
        self.recount(shard);
    }

    /// The stream's shards are others now: lines up anew, in the order of positions, all that waits.
    ///
    /// # Panics
    /// A record is under way: its events could be overtaken.
    pub fn reshard(&mut self, map: ShardMap) {
        assert_eq!(self.under_way, 0, "lanes change only while nothing is under way");
        let mut waiting: Vec<QueuedEvent> = Vec::with_capacity(self.outstanding);
        waiting.extend(self.lanes.drain().flat_map(|(_, lane)| lane.waiting));
        // Stable: what shares a position came in one lane, in its order.
        waiting.sort_by_key(|event| event.event.position);
        self.flows = (0..map.len()).map(|_| ShardPacing::default()).collect();
        self.map = map;
        self.resting.clear();
        self.pausing.clear();
        (self.sendable, self.full) = (0, 0);
        for event in waiting {
            self.line_up(event);
        }
    }

    /// When something that waits because of a failure or of throttling may go.
    pub fn next_retry(&self) -> Option<Instant> {
        let resting = self.resting.peek().map(|Reverse((at, _))| *at);
        let pausing = self.pausing.peek().map(|Reverse((at, _))| *at);
        resting.into_iter().chain(pausing).min()
    }

    /// Records that could go now; what rests or pauses until now is not counted.
    pub fn sendable_records(&self) -> usize {
        self.sendable
    }

    /// Whether a request of what could go now would be as full as it gets, or need not become so.
    pub fn has_full_request(&self, limits: RequestLimits) -> bool {
        match self.aggregation {
            Aggregation::None => self.sendable >= limits.records,
            Aggregation::Kpl { .. } => self.full > 0 || (self.barred && self.sendable > 0),
        }
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.outstanding == 0 && self.held.is_empty()
    }

    /// Bytes that all events occupy, those under way included.
    pub fn memory(&self) -> usize {
        self.memory
    }

    fn lane_of(&self, event: &Event) -> (HashKey, usize) {
        let place = HashKey::of(&event.partition_key);
        let shard = self.map.shard_number(place);
        match self.aggregation {
            Aggregation::None => (place, shard),
            Aggregation::Kpl { .. } => (self.map.shard(shard).first, shard),
        }
    }

    /// Bytes that the next record of a lane cannot exceed.
    fn most_bytes(&self, lane: HashKey) -> usize {
        let first = self.lanes.get(&lane).and_then(|lane| lane.waiting.front());
        let first = first.map_or(0, QueuedEvent::bytes);
        match self.aggregation {
            Aggregation::None => first,
            Aggregation::Kpl { bytes } => first.max(bytes),
        }
    }

    fn enter(&mut self, event: QueuedEvent) {
        self.outstanding += 1;
        self.line_up(event);
    }

    fn line_up(&mut self, event: QueuedEvent) {
        let (key, number) = self.lane_of(&event.event);
        // In a lane that exists its turn comes when the ones before it are through.
        let lane = self.lanes.entry(key).or_insert_with(|| {
            self.flows[number].line_up(event.event.position, key);
            // Most lanes never hold more than one.
            Lane {
                waiting: VecDeque::with_capacity(1),
                ..Lane::default()
            }
        });
        lane.bytes += event.bytes();
        lane.waiting.push_back(event);
        self.recount(number);
    }

    /// The next record of a lane.
    fn depart(&mut self, key: HashKey, number: usize) -> Option<Record> {
        let lane = self.lanes.get_mut(&key)?;
        let record = Record::of(&mut lane.waiting, key, number, self.aggregation)?;
        lane.bytes -= record.events().iter().map(QueuedEvent::bytes).sum::<usize>();
        Some(record)
    }

    /// A record is no longer under way. Returns the number of its flow.
    fn arrive(&mut self, record: &Record) -> usize {
        self.under_way -= 1;
        self.flows[record.shard()].arrive();
        record.shard()
    }

    /// Brings the sums up to date with a flow that changed.
    fn recount(&mut self, number: usize) {
        let flow = &mut self.flows[number];
        let (sendable, full) = (flow.sendable(), flow.full());
        let most = match self.aggregation {
            Aggregation::None => usize::MAX,
            Aggregation::Kpl { bytes } => bytes,
        };
        let lane = flow.first().and_then(|key| self.lanes.get(&key));
        let is_full = lane.is_some_and(|lane| lane.bytes >= most);
        flow.count(is_full);
        self.sendable = self.sendable - sendable + flow.sendable();
        self.full = self.full - full + flow.full();
    }

    /// Lets held events in: a barrier when the road is empty, and what follows it when it is through.
    fn lift_barriers(&mut self) {
        while self.barred {
            let Some(first) = self.held.front() else {
                // The barrier itself may still be under way.
                self.barred = self.outstanding > 0;
                return;
            };
            // A barrier waits for all before it, and what follows a barrier waits for that, which is then alone on the road.
            if self.outstanding > 0 {
                return;
            }
            if first.event.barrier {
                if let Some(barrier) = self.held.pop_front() {
                    self.enter(barrier);
                }
                return;
            }
            while self.held.front().is_some_and(|event| !event.event.barrier) {
                if let Some(event) = self.held.pop_front() {
                    self.enter(event);
                }
            }
            if self.held.is_empty() {
                self.barred = false;
            }
        }
    }

    fn wake(&mut self, now: Instant) {
        while self.resting.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.resting.pop() else {
                return;
            };
            if let Some(event) = self.lanes.get(&key).and_then(|lane| lane.waiting.front()) {
                let (_, number) = self.lane_of(&event.event);
                self.flows[number].line_up(event.event.position, key);
                self.recount(number);
            }
        }
        while self.pausing.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, number))) = self.pausing.pop() else {
                return;
            };
            self.flows[number].go_on(now);
            self.recount(number);
        }
    }
}

#[cfg(test)]
mod tests;
