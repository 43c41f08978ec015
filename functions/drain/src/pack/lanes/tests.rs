use proptest::prelude::*;

use super::*;
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::encode::Event;
use crate::pack::Acknowledgements;

const LIMITS: RequestLimits = RequestLimits {
    records: 500,
    bytes: 10 << 20,
};

const KPL: Aggregation = Aggregation::Kpl { bytes: 1000 };

fn lanes(aggregation: Aggregation) -> (Lanes, Acknowledgements, Instant) {
    (
        Lanes::new(aggregation, ShardMap::even(1)),
        Acknowledgements::new(Lsn(0).into()),
        Instant::now(),
    )
}

fn event(acknowledgements: &mut Acknowledgements, n: u64, key: &str, barrier: bool) -> QueuedEvent {
    let span = acknowledgements.begin();
    acknowledgements.add_event(span);
    acknowledgements.commit(span, Lsn(n));
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
        missing_bytes: 0,
        row_hash: None,
    };
    QueuedEvent {
        event,
        span,
        change_positions: 1,
        stream: 0,
    }
}

/// The numbers of a record's events.
fn numbers(record: &Record) -> Vec<u64> {
    record
        .events()
        .iter()
        .map(|event| event.event.position.commit_end.0)
        .collect()
}

fn request_numbers(request: &[Record]) -> Vec<u64> {
    request.iter().flat_map(numbers).collect()
}

#[test]
fn a_request_holds_one_event_of_a_key() {
    let (mut lanes, mut acknowledgements, now) = lanes(Aggregation::None);
    for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
        lanes.push(event(&mut acknowledgements, n, key, false));
    }
    let request = lanes.next_request(now, LIMITS, false, |_| 1);
    assert_eq!(request_numbers(&request), [1, 3]);
    assert!(lanes.next_request(now, LIMITS, false, |_| 1).is_empty());
    for record in request {
        lanes.acknowledge(now, record);
    }
    assert_eq!(
        request_numbers(&lanes.next_request(now, LIMITS, false, |_| 1)),
        [2]
    );
}

#[test]
fn a_request_keeps_its_limits_and_a_larger_event_has_a_request_of_its_own() {
    let (mut lanes, mut acknowledgements, now) = lanes(Aggregation::None);
    for n in 0..5 {
        lanes.push(event(&mut acknowledgements, n, &n.to_string(), false));
    }
    for (records, bytes, expected) in [(2, 1000, &[0, 1][..]), (2, 21, &[2]), (2, 1, &[3]), (2, 22, &[4])] {
        assert_eq!(
            request_numbers(&lanes.next_request(now, RequestLimits { records, bytes }, false, |_| 1)),
            expected,
            "{bytes}"
        );
    }
}

#[test]
fn the_records_of_the_longest_lane_are_counted_while_it_is_sent() {
    let (mut lanes, mut acknowledgements, now) = lanes(Aggregation::None);
    for (n, key) in [(1, "a"), (2, "hot"), (3, "hot"), (4, "hot"), (5, "b")] {
        lanes.push(event(&mut acknowledgements, n, key, false));
    }
    let mut lengths = Vec::new();
    while !lanes.is_empty() {
        lengths.push(lanes.records_of_longest_lane());
        for record in lanes.next_request(now, LIMITS, false, |_| 1) {
            lanes.acknowledge(now, record);
        }
    }
    assert_eq!(lengths, [3, 2, 1]);
    // An aggregate of 1,000 bytes has room for many events.
    let (mut lanes, mut acknowledgements, _) = self::lanes(KPL);
    for n in 0..20 {
        lanes.push(event(&mut acknowledgements, n, "hot", false));
    }
    assert_eq!(lanes.records_of_longest_lane(), 1);
}

#[test]
fn a_retried_event_delays_only_its_own_lane() {
    let (mut lanes, mut acknowledgements, now) = lanes(Aggregation::None);
    for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
        lanes.push(event(&mut acknowledgements, n, key, false));
    }
    let mut request = lanes.next_request(now, LIMITS, false, |_| 1);
    lanes.retry(now, request.remove(0), |_| Duration::from_secs(1));
    lanes.acknowledge(now, request.remove(0));
    assert!(lanes.next_request(now, LIMITS, false, |_| 1).is_empty());
    assert_eq!(lanes.next_retry(), Some(now + Duration::from_secs(1)));
    assert_eq!(
        request_numbers(&lanes.next_request(now + Duration::from_secs(1), LIMITS, false, |_| 1)),
        [1]
    );
}

#[test]
fn a_shard_that_throttles_pauses_and_the_others_continue() {
    let (mut acknowledgements, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(Aggregation::None, ShardMap::even(2));
    let keys: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let shard = |key: &String| ShardMap::even(2).shard_number(HashKey::of(key));
    for (n, key) in (0..).zip(&keys) {
        lanes.push(event(&mut acknowledgements, n, key, false));
    }
    let request = lanes.next_request(now, LIMITS, false, |_| 1);
    let refused = request.iter().filter(|record| record.shard() == 0).count();
    for record in request {
        match record.shard() {
            0 => lanes.retry(now, record, |_| Duration::ZERO),
            _ => drop(lanes.acknowledge(now, record)),
        }
    }
    let pause = Duration::from_millis(100);
    lanes.pause_shard(now, 0, (refused, refused), |_| pause);
    let rest = lanes.next_request(now, LIMITS, false, |_| 1);
    assert!(!rest.is_empty() && rest.iter().all(|record| record.shard() == 1));
    assert_eq!(lanes.next_retry(), Some(now + pause));
    // The oldest events are sent first, in at most half as many records as were refused.
    let again = lanes.next_request(now + pause, LIMITS, false, |_| 1);
    let first_shard: Vec<u64> = (0..)
        .zip(&keys)
        .filter(|(_, key)| shard(key) == 0)
        .map(|(n, _)| n)
        .collect();
    let again: Vec<u64> = again
        .iter()
        .filter(|record| record.shard() == 0)
        .flat_map(numbers)
        .collect();
    assert!((1..=refused / 2).contains(&again.len()), "{again:?}");
    assert_eq!(again, first_shard[..again.len()]);
}

#[test]
fn a_barrier_waits_for_all_events_before_it_and_delays_all_after_it() {
    for aggregation in [Aggregation::None, KPL] {
        let (mut lanes, mut acknowledgements, now) = lanes(aggregation);
        for (n, key, barrier) in [
            (1, "a", false),
            (2, "t", true),
            (3, "b", false),
            (4, "t", true),
            (5, "c", false),
        ] {
            lanes.push(event(&mut acknowledgements, n, key, barrier));
        }
        for expected in 1..=5 {
            assert!(lanes.has_full_request(LIMITS, 4) || aggregation == Aggregation::None);
            let mut request = lanes.next_request(now, LIMITS, true, |_| 1);
            assert_eq!(request_numbers(&request), [expected]);
            assert!(lanes.next_request(now, LIMITS, true, |_| 1).is_empty());
            lanes.acknowledge(now, request.remove(0));
            if expected == 4 {
                // No barrier is left, and the last event is small.
                assert!(!lanes.has_full_request(LIMITS, 4));
                let mut last = lanes.next_request(now, LIMITS, false, |_| 1);
                assert_eq!(request_numbers(&last), [5]);
                lanes.acknowledge(now, last.remove(0));
                break;
            }
        }
        assert!(lanes.is_empty());
        lanes.push(event(&mut acknowledgements, 6, "d", false));
        let last = lanes.next_request(now, LIMITS, false, |_| 1);
        assert_eq!(request_numbers(&last), [6]);
    }
}

#[test]
fn a_request_waits_for_full_aggregates_also_of_one_shard() {
    // The first events make each shard sendable. Each later event has 13 bytes.
    let key = |n: u64| if n < 100 { n.to_string() } else { "hot".into() };
    for (shards, expected) in [(8, 380..420), (1, 60..85)] {
        let (mut lanes, mut acknowledgements, _) = lanes(KPL);
        lanes.reshard(0, ShardMap::even(shards));
        let first_full = (0..420).find(|n| {
            lanes.push(event(&mut acknowledgements, *n, &key(*n), false));
            lanes.has_full_request(LIMITS, 4)
        });
        assert!(expected.contains(&first_full.unwrap()), "{first_full:?}");
    }
}

#[test]
fn an_aggregate_has_the_keys_of_one_shard_up_to_its_limit() {
    let (mut acknowledgements, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(KPL, ShardMap::even(4));
    (0..400).for_each(|n| lanes.push(event(&mut acknowledgements, n, &format!("key {n}"), false)));
    let request = lanes.next_request(now, LIMITS, true, |_| 1);
    assert_eq!(request.len(), 4, "one record of each shard");
    for record in &request {
        let size = record.data().len() + record.partition_key().len();
        assert_eq!(record.bytes(), size);
        assert!((950..=1000).contains(&size), "{size}");
        for event in record.events() {
            assert_eq!(
                ShardMap::even(4).shard_number(HashKey::of(&event.event.partition_key)),
                record.shard()
            );
        }
    }
    assert!(
        lanes.next_request(now, LIMITS, false, |_| 1).is_empty(),
        "each shard has a record in flight"
    );
}

#[test]
fn an_event_as_large_as_an_aggregate_is_a_record_of_its_own() {
    let (mut lanes, mut acknowledgements, now) = lanes(KPL);
    for (n, size) in [(1, 5000), (2, 980), (3, 10)] {
        let mut event = event(&mut acknowledgements, n, "k", false);
        event.event.data = vec![b'x'; size];
        lanes.push(event);
    }
    for (n, size) in [(1, 5000), (2, 980), (3, 10)] {
        let mut request = lanes.next_request(now, LIMITS, false, |_| 1);
        assert_eq!(request_numbers(&request), [n]);
        assert_eq!(request[0].data(), vec![b'x'; size]);
        lanes.acknowledge(now, request.remove(0));
    }
}

#[test]
fn waiting_events_are_queued_again_after_a_resharding() {
    let (mut acknowledgements, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(KPL, ShardMap::even(3));
    for n in 0..300 {
        lanes.push(event(&mut acknowledgements, n, &format!("key {}", n % 50), false));
    }
    let mut acknowledged = Vec::new();
    for shards in [2, 7, 1] {
        let request = lanes.next_request(now, LIMITS, false, |_| 1);
        for (index, record) in request.into_iter().enumerate() {
            match index % 2 {
                0 => lanes.retry(now, record, |_| Duration::from_secs(9)),
                _ => {
                    acknowledged.extend(numbers(&record));
                    lanes.acknowledge(now, record);
                }
            }
        }
        lanes.reshard(0, ShardMap::even(shards));
        assert_eq!(lanes.shards().of(0).len(), usize::try_from(shards).unwrap());
    }
    while !lanes.is_empty() {
        for record in lanes.next_request(now, LIMITS, false, |_| 1) {
            acknowledged.extend(numbers(&record));
            lanes.acknowledge(now, record);
        }
    }
    assert_eq!(acknowledged.len(), 300);
    for key in 0..50 {
        let of_key: Vec<u64> = acknowledged.iter().copied().filter(|n| n % 50 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

#[test]
fn a_resharding_keeps_the_pauses_of_the_other_streams() {
    let (mut acknowledgements, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(Aggregation::None, ShardMap::even(1));
    lanes.add_stream(ShardMap::even(1));
    for n in 0..4 {
        let mut event = event(&mut acknowledgements, n, &format!("key {n}"), false);
        event.stream = (n % 2) as usize;
        lanes.push(event);
    }
    let later = now + Duration::from_secs(5);
    for shard in 0..2 {
        lanes.pause_shard(now, shard, (2, 2), |_| Duration::from_secs(5));
    }
    lanes.reshard(0, ShardMap::even(3));
    let sent = |lanes: &mut Lanes, now| -> Vec<usize> {
        let request = lanes.next_request(now, LIMITS, false, |_| 1);
        request.iter().map(Record::stream).collect()
    };
    assert_eq!(sent(&mut lanes, now), [0, 0]);
    assert_eq!((sent(&mut lanes, now), lanes.next_retry()), (vec![], Some(later)));
    assert_eq!(sent(&mut lanes, later), [1, 1]);
}

/// Lanes of two streams under random pushes, requests, answers and reshardings.
struct RandomRun {
    lanes: Lanes,
    acknowledgements: Acknowledgements,
    random: fastrand::Rng,
    now: Instant,
    /// The partition key of each event, and whether it is a barrier.
    keys: Vec<(u8, bool)>,
    pushed: usize,
    in_flight: Vec<Record>,
    /// The numbers of the acknowledged events, in the order of acknowledgement.
    acknowledged: Vec<u64>,
}

impl RandomRun {
    fn new(keys: Vec<(u8, bool)>, seed: u64, aggregated: bool) -> Self {
        let aggregation = match aggregated {
            true => Aggregation::Kpl { bytes: 150 },
            false => Aggregation::None,
        };
        let mut lanes = Lanes::new(aggregation, ShardMap::even(3));
        lanes.add_stream(ShardMap::even(2));
        RandomRun {
            lanes,
            acknowledgements: Acknowledgements::new(Lsn(0).into()),
            random: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            keys,
            pushed: 0,
            in_flight: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    fn roll(&mut self) -> u8 {
        self.random.u8(..)
    }

    fn is_done(&self) -> bool {
        self.pushed == self.keys.len() && self.lanes.is_empty()
    }

    fn push_next(&mut self) {
        if self.pushed < self.keys.len() && self.roll() & 1 == 0 {
            let (key, barrier) = self.keys[self.pushed];
            let number = self.pushed as u64;
            let mut event = event(&mut self.acknowledgements, number, &key.to_string(), barrier);
            event.event.data = vec![0; usize::from(self.roll() % 160)];
            event.stream = usize::from(key % 2);
            self.lanes.push(event);
            self.pushed += 1;
        }
    }

    /// Starts a request, and checks its limits and its records.
    fn send(&mut self) -> Result<(), TestCaseError> {
        self.now += Duration::from_millis(10);
        if self.roll() & 1 != 0 {
            return Ok(());
        }
        let full = self.roll() & 1 == 0 && self.pushed < self.keys.len();
        let limits = RequestLimits {
            records: 3,
            bytes: 300,
        };
        let request = self.lanes.next_request(self.now, limits, full, |_| 1);
        let bytes: usize = request.iter().map(Record::bytes).sum();
        prop_assert!(request.len() <= 1 || (request.len() <= 3 && bytes <= 300));
        for record in &request {
            prop_assert_eq!(record.stream(), request[0].stream());
            prop_assert_eq!(record.bytes(), record.data().len() + record.partition_key().len());
            prop_assert!(!record.is_aggregate() || record.bytes() <= 150);
            let events = record.events().iter();
            let mut keys = events.map(|event| HashKey::of(&event.event.partition_key));
            let shards = self.lanes.shards();
            prop_assert!(keys.all(|key| shards.number(record.stream(), key) == record.shard()));
            prop_assert!(
                record
                    .events()
                    .iter()
                    .all(|event| event.stream == record.stream())
            );
        }
        self.in_flight.extend(request);
        Ok(())
    }

    /// Checks that no two records in flight belong to one lane.
    fn check_lanes_in_flight(&self) -> Result<(), TestCaseError> {
        let mut lanes: Vec<_> = self.in_flight.iter().map(|record| record.lane).collect();
        lanes.sort();
        lanes.dedup();
        prop_assert_eq!(
            lanes.len(),
            self.in_flight.len(),
            "two records of one lane are in flight"
        );
        Ok(())
    }

    /// Answers one record, or reshards a stream while none is in flight.
    fn answer(&mut self) {
        if self.in_flight.is_empty() {
            if self.roll() < 20 {
                let shards = 1 + u128::from(self.roll() % 5);
                let stream = usize::from(self.roll() % 2);
                self.lanes.reshard(stream, ShardMap::even(shards));
            }
            return;
        }
        let index = usize::from(self.roll()) % self.in_flight.len();
        let record = self.in_flight.swap_remove(index);
        let (now, shard) = (self.now, record.shard());
        match self.roll() {
            0..60 => {
                let delay = |failures| Duration::from_millis(u64::from(failures) * 7);
                self.lanes.retry(now, record, delay);
            }
            60..90 => {
                self.lanes.retry(now, record, |_| Duration::ZERO);
                let pause = |throttles| Duration::from_millis(u64::from(throttles) * 5);
                self.lanes.pause_shard(now, shard, (1, 1), pause);
            }
            _ => {
                self.acknowledged.extend(numbers(&record));
                self.lanes.acknowledge(now, record);
                self.lanes.raise_limit(shard);
            }
        }
    }

    /// Checks that every event was acknowledged, and in the right order.
    fn check_result(&self) -> Result<(), TestCaseError> {
        let lanes = &self.lanes;
        prop_assert_eq!((lanes.memory(), lanes.sendable, lanes.full_aggregates), (0, 0, 0));
        prop_assert_eq!(self.acknowledged.len(), self.keys.len());
        for (index, number) in self.acknowledged.iter().enumerate() {
            for later in &self.acknowledged[index + 1..] {
                let (a, b) = (self.keys[*number as usize], self.keys[*later as usize]);
                let may_overtake = !(a.0 == b.0 || a.1 || b.1);
                prop_assert!(
                    number < later || may_overtake,
                    "{} was acknowledged before {}",
                    number,
                    later
                );
            }
        }
        Ok(())
    }
}

proptest! {
    /// Failures and reshardings do not change the order.
    ///
    /// Events of a key are acknowledged in the order in which they were pushed. No two records of a lane are
    /// in flight, no event overtakes a barrier, and every event is acknowledged. Each request is within its
    /// limits, and has records of one stream. Each aggregate is within its size. All keys of a record belong
    /// to its shard, and its bytes are those of its data and partition key.
    #[test]
    fn failures_and_reshardings_keep_the_order(
        keys in prop::collection::vec((0u8..6, prop::bool::weighted(0.05)), 1..120),
        seed: u64,
        aggregated: bool,
    ) {
        let mut run = RandomRun::new(keys, seed, aggregated);
        for step in 0u32.. {
            prop_assert!(step < 100_000, "the run does not end");
            run.push_next();
            run.send()?;
            run.check_lanes_in_flight()?;
            run.answer();
            if run.is_done() {
                break;
            }
        }
        run.check_result()?;
    }
}
