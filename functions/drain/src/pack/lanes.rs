//! Lanes: what must stay in order waits in one queue, and of each queue at most one event is under way.
//!
//! A lane is a partition key. An event leaves its lane when it was acknowledged; until then nothing later of the lane is
//! sent, so neither a partly failed request nor one whose answer was lost lets a later event overtake. A barrier (a
//! truncate) empties the road: everything before it is acknowledged first, everything after it waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::TransactionId;
use crate::encode::Event;
use crate::position::Position;

/// What one request may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes of data and partition keys together. One event that is larger goes alone.
    pub bytes: usize,
}

/// An event on its way, and the transaction it counts for.
#[derive(Debug, PartialEq)]
pub struct Parcel {
    /// What is sent.
    pub event: Event,
    /// Whom its acknowledgement belongs to.
    pub transaction: TransactionId,
}

impl Parcel {
    /// Bytes that count against a request.
    pub fn request_bytes(&self) -> usize {
        self.event.data.len() + self.event.partition_key.len()
    }

    /// Bytes that it occupies here, about: its data, its key in three places, and its structures' and queue's share.
    fn memory(&self) -> usize {
        self.event.data.capacity() + 3 * self.event.partition_key.len() + 320
    }
}

/// What became of one parcel of a request.
#[derive(Debug, PartialEq)]
pub enum Settled {
    /// The stream has it.
    Acknowledged(Parcel),
    /// The stream refused it, or its fate is unknown: it goes again, before anything later of its lane.
    Again(Parcel),
}

/// A lane exists while something of it waits or is under way. It is named in `ready` when its first parcel may go, in
/// `backing_off` when that must wait, and in neither while a parcel is under way.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Parcel>,
    /// Failures in a row.
    failures: u32,
}

/// All lanes of a drain.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<String, Lane>,
    /// Lanes that may send, the one with the oldest parcel first: what is acknowledged counts only when all before it is.
    ready: BinaryHeap<Reverse<(Position, String)>>,
    /// Lanes whose first parcel failed, until they may try again.
    backing_off: BinaryHeap<Reverse<(Instant, String)>>,
    /// What came behind a barrier, the barrier first.
    held: VecDeque<Parcel>,
    /// Whether a barrier is waiting or under way.
    barred: bool,
    /// Parcels in lanes or under way; not those in `held`.
    outstanding: usize,
    memory: usize,
}

impl Lanes {
    /// Puts a parcel behind everything that came before it in its lane.
    pub fn push(&mut self, parcel: Parcel) {
        self.memory += parcel.memory();
        if self.barred || parcel.event.barrier {
            self.barred = true;
            self.held.push_back(parcel);
            self.lift_barriers();
        } else {
            self.enter(parcel);
        }
    }

    /// Takes parcels of different lanes for one request, oldest first; empty when none may go now.
    pub fn take(&mut self, now: Instant, limits: Limits) -> Vec<Parcel> {
        self.wake(now);
        let (mut request, mut bytes) = (Vec::new(), 0);
        while request.len() < limits.records {
            let Some(Reverse((_, key))) = self.ready.peek() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(key) else {
                break;
            };
            let Some(size) = lane.waiting.front().map(Parcel::request_bytes) else {
                break;
            };
            if !request.is_empty() && bytes + size > limits.bytes {
                break;
            }
            bytes += size;
            request.extend(lane.waiting.pop_front());
            self.ready.pop();
        }
        request
    }

    /// Takes the outcome of a parcel. A refused one waits `backoff(failures in a row)` before its lane goes on.
    pub fn settle(&mut self, now: Instant, settled: Settled, backoff: impl FnOnce(u32) -> Duration) {
        match settled {
            Settled::Acknowledged(parcel) => {
                self.memory -= parcel.memory();
                self.outstanding -= 1;
                let key = parcel.event.partition_key;
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.failures = 0;
                    match lane.waiting.front() {
                        Some(next) => self.ready.push(Reverse((next.event.position, key))),
                        None => drop(self.lanes.remove(&key)),
                    }
                }
                self.lift_barriers();
            }
            Settled::Again(parcel) => {
                let key = parcel.event.partition_key.clone();
                let lane = self.lanes.entry(key.clone()).or_default();
                lane.waiting.push_front(parcel);
                lane.failures += 1;
                self.backing_off
                    .push(Reverse((now + backoff(lane.failures), key)));
            }
        }
    }

    /// When the first lane that backs off may try again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.backing_off.peek().map(|Reverse((at, _))| *at)
    }

    /// Lanes that may send now, those whose backoff ends now not counted.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.outstanding == 0 && self.held.is_empty()
    }

    /// Bytes that all parcels occupy, those under way included.
    pub fn memory(&self) -> usize {
        self.memory
    }

    fn enter(&mut self, parcel: Parcel) {
        self.outstanding += 1;
        let key = &parcel.event.partition_key;
        if let Some(lane) = self.lanes.get_mut(key) {
            // Its turn comes when the ones before it are through.
            lane.waiting.push_back(parcel);
            return;
        }
        self.ready.push(Reverse((parcel.event.position, key.clone())));
        self.lanes.insert(
            key.clone(),
            Lane {
                waiting: VecDeque::from([parcel]),
                ..Lane::default()
            },
        );
    }

    /// Lets held parcels in: a barrier when the road is empty, and what follows it when it is through.
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
            while self.held.front().is_some_and(|parcel| !parcel.event.barrier) {
                if let Some(parcel) = self.held.pop_front() {
                    self.enter(parcel);
                }
            }
            if self.held.is_empty() {
                self.barred = false;
            }
        }
    }

    fn wake(&mut self, now: Instant) {
        while self.backing_off.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.backing_off.pop() else {
                return;
            };
            if let Some(parcel) = self.lanes.get(&key).and_then(|lane| lane.waiting.front()) {
                self.ready.push(Reverse((parcel.event.position, key)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;
    use crate::pack::Ledger;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        records: 500,
        bytes: 5 << 20,
    };

    fn parcel(ledger: &mut Ledger, n: u64, key: &str, barrier: bool) -> Parcel {
        let transaction = ledger.begin();
        ledger.add(transaction);
        ledger.commit(transaction, Lsn(n));
        let position = Position {
            commit_end: Lsn(n),
            lsn: Lsn(n),
            index: 0,
        };
        let event = Event {
            position,
            partition_key: key.to_owned(),
            barrier,
            relation: None,
            data: vec![0; 10],
        };
        Parcel { event, transaction }
    }

    fn order(request: &[Parcel]) -> Vec<u64> {
        request
            .iter()
            .map(|parcel| parcel.event.position.commit_end.0)
            .collect()
    }

    #[test]
    fn a_request_holds_one_parcel_of_a_lane() {
        let (mut lanes, mut ledger, now) = (Lanes::default(), Ledger::new(Lsn(0)), Instant::now());
        for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
            lanes.push(parcel(&mut ledger, n, key, false));
        }
        let request = lanes.take(now, LIMITS);
        assert_eq!(order(&request), [1, 3]);
        assert!(lanes.take(now, LIMITS).is_empty());
        for parcel in request {
            lanes.settle(now, Settled::Acknowledged(parcel), |_| Duration::ZERO);
        }
        assert_eq!(order(&lanes.take(now, LIMITS)), [2]);
    }

    #[test]
    fn a_request_keeps_to_its_limits_and_a_larger_event_goes_alone() {
        let (mut lanes, mut ledger, now) = (Lanes::default(), Ledger::new(Lsn(0)), Instant::now());
        for n in 0..5 {
            lanes.push(parcel(&mut ledger, n, &n.to_string(), false));
        }
        assert_eq!(
            order(&lanes.take(
                now,
                Limits {
                    records: 2,
                    bytes: 1000
                }
            )),
            [0, 1]
        );
        assert_eq!(
            order(&lanes.take(
                now,
                Limits {
                    records: 2,
                    bytes: 21
                }
            )),
            [2]
        );
        assert_eq!(order(&lanes.take(now, Limits { records: 2, bytes: 1 })), [3]);
        assert_eq!(
            order(&lanes.take(
                now,
                Limits {
                    records: 2,
                    bytes: 22
                }
            )),
            [4]
        );
    }

    #[test]
    fn a_refused_parcel_waits_and_holds_only_its_own_lane() {
        let (mut lanes, mut ledger, now) = (Lanes::default(), Ledger::new(Lsn(0)), Instant::now());
        for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
            lanes.push(parcel(&mut ledger, n, key, false));
        }
        let mut request = lanes.take(now, LIMITS);
        lanes.settle(now, Settled::Again(request.remove(0)), |_| Duration::from_secs(1));
        lanes.settle(now, Settled::Acknowledged(request.remove(0)), |_| Duration::ZERO);
        assert!(lanes.take(now, LIMITS).is_empty());
        assert_eq!(lanes.next_retry(), Some(now + Duration::from_secs(1)));
        assert_eq!(order(&lanes.take(now + Duration::from_secs(1), LIMITS)), [1]);
    }

    #[test]
    fn a_barrier_waits_for_all_before_it_and_holds_all_after_it() {
        let (mut lanes, mut ledger, now) = (Lanes::default(), Ledger::new(Lsn(0)), Instant::now());
        for (n, key, barrier) in [
            (1, "a", false),
            (2, "t", true),
            (3, "b", false),
            (4, "t", true),
            (5, "c", false),
        ] {
            lanes.push(parcel(&mut ledger, n, key, barrier));
        }
        for expected in 1..=5 {
            let mut request = lanes.take(now, LIMITS);
            assert_eq!(order(&request), [expected]);
            assert!(lanes.take(now, LIMITS).is_empty());
            lanes.settle(now, Settled::Acknowledged(request.remove(0)), |_| Duration::ZERO);
        }
        assert!(lanes.is_empty());
        lanes.push(parcel(&mut ledger, 6, "d", false));
        assert_eq!(order(&lanes.take(now, LIMITS)), [6]);
    }

    proptest! {
        /// Whatever fails, whenever: each lane's parcels are acknowledged in the order in which they were pushed, no two of
        /// a lane are under way, nothing crosses a barrier, and everything arrives.
        #[test]
        fn order_holds_whatever_fails(
            keys in prop::collection::vec((0u8..6, prop::bool::weighted(0.05)), 1..120),
            mut dice in prop::collection::vec(0u8..=255, 64),
        ) {
            let (mut lanes, mut ledger, start) = (Lanes::default(), Ledger::new(Lsn(0)), Instant::now());
            let mut roll = move || { dice.rotate_left(1); dice[0] };
            let mut arrived: Vec<u64> = Vec::new();
            let mut under_way: Vec<Parcel> = Vec::new();
            let mut now = start;
            let mut next = 0;
            for step in 0u32.. {
                prop_assert!(step < 100_000, "stuck");
                if next < keys.len() && roll() & 1 == 0 {
                    let (key, barrier) = keys[next];
                    lanes.push(parcel(&mut ledger, next as u64, &key.to_string(), barrier));
                    next += 1;
                }
                now += Duration::from_millis(10);
                if roll() & 1 == 0 {
                    under_way.extend(lanes.take(now, Limits { records: 3, bytes: 1 << 20 }));
                }
                let mut busy: Vec<_> = under_way.iter().map(|parcel| &parcel.event.partition_key).collect();
                busy.sort();
                busy.dedup();
                prop_assert_eq!(busy.len(), under_way.len(), "two of one lane under way");
                if !under_way.is_empty() {
                    let parcel = under_way.swap_remove(usize::from(roll()) % under_way.len());
                    if roll() < 80 {
                        lanes.settle(now, Settled::Again(parcel), |n| Duration::from_millis(u64::from(n) * 7));
                    } else {
                        arrived.push(parcel.event.position.commit_end.0);
                        lanes.settle(now, Settled::Acknowledged(parcel), |_| Duration::ZERO);
                    }
                }
                if next == keys.len() && lanes.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(lanes.memory(), 0);
            prop_assert_eq!(arrived.len(), keys.len());
            for (at, n) in arrived.iter().enumerate() {
                for later in &arrived[at + 1..] {
                    let (a, b) = (keys[*n as usize], keys[*later as usize]);
                    prop_assert!(n < later || !(a.0 == b.0 || a.1 || b.1), "{} arrived before {}", n, later);
                }
            }
        }
    }
}
