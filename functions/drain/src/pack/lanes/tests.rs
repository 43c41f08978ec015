use proptest::prelude::*;

use super::*;
use crate::lsn::Lsn;
use crate::pack::Acknowledgements;
use crate::position::Position;

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

fn event(ledger: &mut Acknowledgements, n: u64, key: &str, barrier: bool) -> QueuedEvent {
    let transaction = ledger.begin();
    ledger.add_event(transaction);
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
    QueuedEvent { event, transaction }
}

/// The events of a record, by number.
fn numbers(record: &Record) -> Vec<u64> {
    record
        .events()
        .iter()
        .map(|event| event.event.position.commit_end.0)
        .collect()
}

fn order(request: &[Record]) -> Vec<u64> {
    request.iter().flat_map(numbers).collect()
}

#[test]
fn a_request_holds_one_event_of_a_key() {
    let (mut lanes, mut ledger, now) = lanes(Aggregation::None);
    for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
        lanes.push(event(&mut ledger, n, key, false));
    }
    let request = lanes.next_request(now, LIMITS, false);
    assert_eq!(order(&request), [1, 3]);
    assert!(lanes.next_request(now, LIMITS, false).is_empty());
    for record in request {
        lanes.acknowledge(record);
    }
    assert_eq!(order(&lanes.next_request(now, LIMITS, false)), [2]);
}

#[test]
fn a_request_keeps_to_its_limits_and_a_larger_event_goes_alone() {
    let (mut lanes, mut ledger, now) = lanes(Aggregation::None);
    for n in 0..5 {
        lanes.push(event(&mut ledger, n, &n.to_string(), false));
    }
    for (records, bytes, taken) in [(2, 1000, &[0, 1][..]), (2, 21, &[2]), (2, 1, &[3]), (2, 22, &[4])] {
        assert_eq!(
            order(&lanes.next_request(now, RequestLimits { records, bytes }, false)),
            taken,
            "{bytes}"
        );
    }
}

#[test]
fn a_refused_event_waits_and_holds_only_its_own_lane() {
    let (mut lanes, mut ledger, now) = lanes(Aggregation::None);
    for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
        lanes.push(event(&mut ledger, n, key, false));
    }
    let mut request = lanes.next_request(now, LIMITS, false);
    lanes.retry(now, request.remove(0), |_| Duration::from_secs(1));
    lanes.acknowledge(request.remove(0));
    assert!(lanes.next_request(now, LIMITS, false).is_empty());
    assert_eq!(lanes.next_retry(), Some(now + Duration::from_secs(1)));
    assert_eq!(
        order(&lanes.next_request(now + Duration::from_secs(1), LIMITS, false)),
        [1]
    );
}

#[test]
fn a_shard_that_throttles_pauses_and_the_others_go_on() {
    let (mut ledger, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(Aggregation::None, ShardMap::even(2));
    let keys: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let shard = |key: &String| ShardMap::even(2).shard_number(HashKey::of(key));
    for (n, key) in (0..).zip(&keys) {
        lanes.push(event(&mut ledger, n, key, false));
    }
    let request = lanes.next_request(now, LIMITS, false);
    let refused = request.iter().filter(|record| record.shard() == 0).count();
    for record in request {
        match record.shard() {
            0 => lanes.retry(now, record, |_| Duration::ZERO),
            _ => lanes.acknowledge(record),
        }
    }
    let pause = Duration::from_millis(100);
    lanes.pause_shard(now, 0, refused, |_| pause);
    let rest = lanes.next_request(now, LIMITS, false);
    assert!(!rest.is_empty() && rest.iter().all(|record| record.shard() == 1));
    assert_eq!(lanes.next_retry(), Some(now + pause));
    // The oldest first, and half of what was too much.
    let again = lanes.next_request(now + pause, LIMITS, false);
    let of_first: Vec<u64> = (0..)
        .zip(&keys)
        .filter(|(_, key)| shard(key) == 0)
        .map(|(n, _)| n)
        .collect();
    let again: Vec<u64> = again
        .iter()
        .filter(|record| record.shard() == 0)
        .flat_map(numbers)
        .collect();
    assert_eq!(again, of_first[..refused / 2]);
}

#[test]
fn a_barrier_waits_for_all_before_it_and_holds_all_after_it() {
    for aggregation in [Aggregation::None, KPL] {
        let (mut lanes, mut ledger, now) = lanes(aggregation);
        for (n, key, barrier) in [
            (1, "a", false),
            (2, "t", true),
            (3, "b", false),
            (4, "t", true),
            (5, "c", false),
        ] {
            lanes.push(event(&mut ledger, n, key, barrier));
        }
        for expected in 1..=5 {
            assert!(lanes.has_full_request(LIMITS) || aggregation == Aggregation::None);
            let mut request = lanes.next_request(now, LIMITS, true);
            assert_eq!(order(&request), [expected]);
            assert!(lanes.next_request(now, LIMITS, true).is_empty());
            lanes.acknowledge(request.remove(0));
            if expected == 4 {
                // Nothing is barred any more, and what is left is small.
                assert!(!lanes.has_full_request(LIMITS));
                let mut last = lanes.next_request(now, LIMITS, false);
                assert_eq!(order(&last), [5]);
                lanes.acknowledge(last.remove(0));
                break;
            }
        }
        assert!(lanes.is_empty());
        lanes.push(event(&mut ledger, 6, "d", false));
        assert_eq!(order(&lanes.next_request(now, LIMITS, false)), [6]);
    }
}

#[test]
fn an_aggregate_holds_the_keys_of_one_shard_up_to_its_size() {
    let (mut ledger, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(KPL, ShardMap::even(4));
    for n in 0..400 {
        lanes.push(event(&mut ledger, n, &format!("key {n}"), false));
        assert_eq!(lanes.has_full_request(LIMITS), lanes.full > 0);
    }
    let request = lanes.next_request(now, LIMITS, true);
    assert_eq!(request.len(), 4, "one of each shard");
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
        lanes.next_request(now, LIMITS, false).is_empty(),
        "one of a shard is under way"
    );
}

#[test]
fn an_event_at_the_size_of_an_aggregate_goes_alone_and_as_it_is() {
    let (mut lanes, mut ledger, now) = lanes(KPL);
    for (n, size) in [(1, 5000), (2, 980), (3, 10)] {
        let mut event = event(&mut ledger, n, "k", false);
        event.event.data = vec![b'x'; size];
        lanes.push(event);
    }
    for (n, size) in [(1, 5000), (2, 980), (3, 10)] {
        let mut request = lanes.next_request(now, LIMITS, false);
        assert_eq!(order(&request), [n]);
        assert_eq!(request[0].data(), vec![b'x'; size]);
        lanes.acknowledge(request.remove(0));
    }
}

#[test]
fn what_waits_lines_up_anew_when_the_stream_is_resharded() {
    let (mut ledger, now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
    let mut lanes = Lanes::new(KPL, ShardMap::even(3));
    for n in 0..300 {
        lanes.push(event(&mut ledger, n, &format!("key {}", n % 50), false));
    }
    let mut arrived = Vec::new();
    for shards in [2, 7, 1] {
        let request = lanes.next_request(now, LIMITS, false);
        for (at, record) in request.into_iter().enumerate() {
            match at % 2 {
                0 => lanes.retry(now, record, |_| Duration::from_secs(9)),
                _ => {
                    arrived.extend(numbers(&record));
                    lanes.acknowledge(record);
                }
            }
        }
        lanes.reshard(ShardMap::even(shards));
        assert_eq!(lanes.map().len(), usize::try_from(shards).unwrap());
    }
    while !lanes.is_empty() {
        for record in lanes.next_request(now, LIMITS, false) {
            arrived.extend(numbers(&record));
            lanes.acknowledge(record);
        }
    }
    assert_eq!(arrived.len(), 300);
    for key in 0..50 {
        let of_key: Vec<u64> = arrived.iter().copied().filter(|n| n % 50 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

proptest! {
    /// Whatever fails, whenever, and however the stream is resharded meanwhile: each key's events are acknowledged in the
    /// order in which they were pushed, no two records of a lane are under way, nothing crosses a barrier, and all arrives. Each
    /// request keeps to its limits, each aggregate to its size, and a record holds the keys of its shard and the bytes it counts.
    #[test]
    fn order_holds_whatever_fails(
        keys in prop::collection::vec((0u8..6, prop::bool::weighted(0.05)), 1..120),
        seed: u64,
        aggregated: bool,
    ) {
        let (mut ledger, mut now) = (Acknowledgements::new(Lsn(0).into()), Instant::now());
        let mut lanes = Lanes::new(if aggregated { Aggregation::Kpl { bytes: 150 } } else { Aggregation::None }, ShardMap::even(3));
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut roll = move || dice.u8(..);
        let mut arrived: Vec<u64> = Vec::new();
        let mut under_way: Vec<Record> = Vec::new();
        let mut next = 0;
        for step in 0u32.. {
            prop_assert!(step < 100_000, "stuck");
            if next < keys.len() && roll() & 1 == 0 {
                let (key, barrier) = keys[next];
                let mut event = event(&mut ledger, next as u64, &key.to_string(), barrier);
                event.event.data = vec![0; usize::from(roll() % 160)];
                lanes.push(event);
                next += 1;
            }
            now += Duration::from_millis(10);
            if roll() & 1 == 0 {
                let full = roll() & 1 == 0 && next < keys.len();
                let request = lanes.next_request(now, RequestLimits { records: 3, bytes: 300 }, full);
                let bytes: usize = request.iter().map(Record::bytes).sum();
                prop_assert!(request.len() <= 1 || (request.len() <= 3 && bytes <= 300));
                for record in &request {
                    prop_assert_eq!(record.bytes(), record.data().len() + record.partition_key().len());
                    prop_assert!(!record.is_aggregate() || record.bytes() <= 150);
                    let mut keys = record.events().iter().map(|event| HashKey::of(&event.event.partition_key));
                    prop_assert!(keys.all(|key| lanes.map().shard_number(key) == record.shard()));
                }
                under_way.extend(request);
            }
            let mut busy: Vec<_> = under_way.iter().map(|record| record.lane).collect();
            busy.sort();
            busy.dedup();
            prop_assert_eq!(busy.len(), under_way.len(), "two of one lane under way");
            if !under_way.is_empty() {
                let record = under_way.swap_remove(usize::from(roll()) % under_way.len());
                let shard = record.shard();
                match roll() {
                    0..60 => lanes.retry(now, record, |n| Duration::from_millis(u64::from(n) * 7)),
                    60..90 => {
                        lanes.retry(now, record, |_| Duration::ZERO);
                        lanes.pause_shard(now, shard, 1, |n| Duration::from_millis(u64::from(n) * 5));
                    }
                    _ => {
                        arrived.extend(numbers(&record));
                        lanes.acknowledge(record);
                        lanes.raise_share(shard);
                    }
                }
            } else if roll() < 20 {
                lanes.reshard(ShardMap::even(1 + u128::from(roll() % 5)));
            }
            if next == keys.len() && lanes.is_empty() {
                break;
            }
        }
        prop_assert_eq!((lanes.memory(), lanes.sendable_records(), lanes.full), (0, 0, 0));
        prop_assert_eq!(arrived.len(), keys.len());
        for (at, n) in arrived.iter().enumerate() {
            for later in &arrived[at + 1..] {
                let (a, b) = (keys[*n as usize], keys[*later as usize]);
                prop_assert!(n < later || !(a.0 == b.0 || a.1 || b.1), "{} arrived before {}", n, later);
            }
        }
    }
}
