//! The fake_kinesis of Kinesis does what Kinesis does and no emulator, and a consumer reads aggregates as KCL reads them.

use std::time::Duration;

use scenarios::aggregate::{self, SubRecord};
use scenarios::consumer::Delivery;
use scenarios::fake_kinesis::{FakeKinesis, Faults, Settings};
use scenarios::fault_proxy::FaultProxy;
use scenarios::hash_range::{HashRange, hash_of};
use scenarios::kinesis::{Kinesis, Limits};

use crate::support::kinesis_producer::{aggregate, client, put, record};

crate::scenarios![
    an_aggregate_is_read_strictly,
    a_consumer_takes_aggregates_apart_and_drops_one_that_is_not_all_of_its_shard,
    a_double_keeps_to_the_limits_of_its_stream,
    a_double_places_records_by_hash_and_moves_them_when_it_is_resharded,
    a_double_throttles_a_shard_that_has_had_its_second,
    a_double_fails_requests_and_records_as_drawn,
    a_gate_takes_ten_mebibytes_for_an_emulator_that_takes_five,
    a_gate_notices_keys_in_flight_inside_of_aggregates,
];

async fn an_aggregate_is_read_strictly() {
    let long = "x".repeat(300);
    let good = aggregate(&[("a", b"1"), (&long, long.as_bytes()), ("a", b"")]);
    let read = |partition_key, data| SubRecord {
        partition_key,
        explicit_hash_key: None,
        data,
    };
    let expected = vec![read("a", &b"1"[..]), read(&long, long.as_bytes()), read("a", b"")];
    assert_eq!(aggregate::split(&good), Ok(Some(expected)));
    assert_eq!(aggregate::split(b"{}"), Ok(None), "a record of its own");
    assert_eq!(aggregate::split(b""), Ok(None));
    assert!(aggregate::split(&good[..good.len() - 1]).is_err(), "cut off");
    assert!(aggregate::split(&good[..10]).is_err(), "no place for an MD5");
    let mut other = good.clone();
    other[6] ^= 1;
    let error = aggregate::split(&other).unwrap_err().to_string();
    assert!(error.contains("MD5"), "{error}");
    let none = aggregate::split(&aggregate(&[])).unwrap_err().to_string();
    assert!(none.contains("no records"), "{none}");
}

/// A partition key whose hash lies in `range`.
fn key_in(range: HashRange) -> String {
    let mut keys = (0..).map(|number: u32| format!("key {number}"));
    keys.find(|key| range.contains(hash_of(key))).unwrap()
}

/// An event at the given place of the log.
fn event(at: u32) -> Vec<u8> {
    let position = format!("{at:016x}.{at:016x}.00000000");
    let source = serde_json::json!({"schema": "public", "table": "t", "position": position});
    serde_json::json!({"op": "c", "after": {"id": at}, "source": source})
        .to_string()
        .into_bytes()
}

async fn a_consumer_takes_aggregates_apart_and_drops_one_that_is_not_all_of_its_shard() {
    let [lower, upper] = HashRange::ALL.halves().map(key_in);
    let (one, two, three) = (event(1), event(2), event(3));
    let packed = aggregate(&[(&lower, &one), (&lower, b""), (&lower, &three)]);
    let mixed = aggregate(&[(&lower, &one), (&upper, &two)]);
    let records = || {
        let plain = record(&upper, &event(4));
        vec![
            record(&lower, &packed),
            record(&lower, &mixed),
            plain,
            record("tombstone", b""),
        ]
    };
    let fake_kinesis = FakeKinesis::open("s", Settings::default()).await;
    put(&client(fake_kinesis.endpoint()), records()).await.unwrap();
    let emulator = Kinesis::start(Limits::Off).await;
    emulator.create_stream("s", 2).await;
    put(emulator.client(), records()).await.unwrap();
    for read in [Delivery::of(&fake_kinesis), Delivery::read(&emulator, "s").await] {
        read.assert_promise();
        assert_eq!(
            (read.records, read.aggregates, read.dropped, read.tombstones.len()),
            (4, 2, 2, 2)
        );
        let keys: Vec<_> = read.arrivals.iter().map(|it| it.partition_key.as_str()).collect();
        assert_eq!(keys, [&lower, &lower, &upper]);
    }
}

async fn a_double_keeps_to_the_limits_of_its_stream() {
    let settings = Settings {
        record_kib: 2048,
        ..Settings::default()
    };
    let fake_kinesis = FakeKinesis::open("s", settings).await;
    let client = client(fake_kinesis.endpoint());
    let many = |records: usize, bytes: usize| {
        let data = vec![0; bytes - 1];
        (0..records).map(|_| record("k", &data)).collect::<Vec<_>>()
    };
    let five = |more: usize| [many(4, 2 << 20), many(1, (2 << 20) - 1000), many(1, 1000 + more)].concat();
    for good in [
        many(500, 2),
        many(1, 2 << 20),
        five(0),
        vec![record(&"é".repeat(256), b"x")],
    ] {
        assert!(put(&client, good).await.unwrap().iter().all(Result::is_ok));
    }
    let bad = [
        many(501, 2),
        many(1, (2 << 20) + 1),
        five(1),
        vec![record(&"é".repeat(257), b"x")],
        vec![record("", b"x")],
    ];
    for bad in bad {
        let error = put(&client, bad).await.unwrap_err();
        assert!(error.contains("ValidationException"), "{error}");
    }
    let other = client
        .list_shards()
        .stream_name("other")
        .send()
        .await
        .unwrap_err();
    assert!(
        other.into_service_error().is_resource_not_found_exception(),
        "it has one stream"
    );
    let summary = client
        .describe_stream_summary()
        .stream_name("s")
        .send()
        .await
        .unwrap();
    let summary = summary.stream_description_summary.unwrap();
    assert_eq!(summary.max_record_size_in_kib(), Some(2048));
}

async fn a_double_places_records_by_hash_and_moves_them_when_it_is_resharded() {
    let settings = Settings {
        page: 2,
        faults: Faults {
            stale_maps: 2,
            ..Faults::default()
        },
        ..Settings::default()
    };
    let fake_kinesis = FakeKinesis::open("s", settings).await;
    let client = client(fake_kinesis.endpoint());
    let [lower, upper] = HashRange::ALL.halves();
    let keys = [lower, upper].map(|half| half.halves().map(key_in)).concat();
    let place = async || {
        let records = keys.iter().map(|key| record(key, key.as_bytes())).collect();
        let placed = put(&client, records).await.unwrap();
        let last = |id: Result<String, String>| id.unwrap().as_bytes()[19] - b'0';
        placed.into_iter().map(last).collect::<Vec<_>>()
    };
    let listed = async || {
        let mut page = client.list_shards().stream_name("s").send().await.unwrap();
        let mut shards = page.shards().len();
        while let Some(token) = page.next_token {
            page = client.list_shards().next_token(token).send().await.unwrap();
            shards += page.shards().len();
        }
        shards
    };
    assert_eq!((place().await, listed().await), (vec![0, 0, 1, 1], 2));
    fake_kinesis.split(0);
    assert_eq!(place().await, [2, 3, 1, 1]);
    assert_eq!(
        [listed().await, listed().await, listed().await],
        [2, 2, 4],
        "it tells twice what was"
    );
    fake_kinesis.merge(1);
    assert_eq!(place().await, [2, 4, 4, 4]);
    let by_hash = record("any", b"x");
    let by_hash = aws_sdk_kinesis::types::PutRecordsRequestEntry::builder()
        .set_data(Some(by_hash.data))
        .partition_key("any")
        .explicit_hash_key("0")
        .build();
    let placed = put(&client, vec![by_hash.unwrap()]).await.unwrap();
    assert_eq!(placed, [Ok("shardId-000000000002".to_owned())]);
    let mut read = Vec::new();
    fake_kinesis.read(|_, key, _| read.push(key.to_owned()));
    let of_upper: Vec<_> = read.iter().filter(|key| **key == keys[3]).collect();
    assert_eq!((read.len(), of_upper.len()), (13, 3));
}

async fn a_double_throttles_a_shard_that_has_had_its_second() {
    let settings = Settings {
        throughput: true,
        shards: 1,
        ..Settings::default()
    };
    let fake_kinesis = FakeKinesis::open("s", settings).await;
    let large = vec![0; 400_000];
    let records = (0..3).map(|_| record("k", &large)).collect();
    let answered = put(&client(fake_kinesis.endpoint()), records).await.unwrap();
    let throttled = Err("ProvisionedThroughputExceededException".to_owned());
    assert_eq!(answered.iter().filter(|it| **it == throttled).count(), 1);
}

async fn a_double_fails_requests_and_records_as_drawn() {
    let faults = Faults {
        seed: 1,
        throttled_records: 0.1,
        failed_records: 0.1,
        throttled_requests: 0.1,
        failed_requests: 0.2,
        cut_answers: 0.1,
        cut_requests: 0.1,
        short_answers: 0.1,
        slow_requests: 0.5,
        slowest: Duration::from_millis(1),
        reshards: 0.1,
        stale_maps: 0,
    };
    let fake_kinesis = FakeKinesis::open(
        "s",
        Settings {
            faults,
            ..Settings::default()
        },
    )
    .await;
    let client = client(fake_kinesis.endpoint());
    let (mut errors, mut codes, mut short, mut told) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..200 {
        let records = (0..20).map(|number| record(&number.to_string(), b"x")).collect();
        match put(&client, records).await {
            Ok(answers) => {
                short += usize::from(answers.len() < 20);
                told += answers.iter().flatten().count() as u64;
                codes.extend(answers.into_iter().filter_map(Result::err));
            }
            Err(error) => errors.push(error),
        }
    }
    let counts = fake_kinesis.counts();
    assert!(counts.put > told, "some arrived of which nobody was told");
    assert!(short > 5 && counts.reshards > 5, "{short} {counts:?}");
    for code in ["ProvisionedThroughputExceededException", "InternalFailure"] {
        assert!(codes.iter().filter(|it| *it == code).count() > 50, "{code}");
        assert!(
            errors.iter().filter(|it| it.contains(code)).count() > 5,
            "{code} for a whole request"
        );
    }
    let cut = errors.iter().filter(|it| it.contains("DispatchFailure")).count();
    assert!((10..80).contains(&cut), "{cut} connections were cut");
}

async fn a_gate_takes_ten_mebibytes_for_an_emulator_that_takes_five() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 4).await;
    let proxy = FaultProxy::before_emulator(kinesis.endpoint(), Kinesis::MOST_BYTES).await;
    let client = client(proxy.endpoint());
    let data = vec![b'x'; (1 << 20) - 10];
    let records = || (0..10).map(|key| record(&key.to_string(), &data)).collect();
    assert!(put(&client, records()).await.unwrap().iter().all(Result::is_ok));
    proxy.flaky(1, 50);
    let answered = put(&client, records()).await.unwrap();
    let put = answered.iter().flatten().count();
    assert!((1..10).contains(&put), "{answered:?}");
    assert_eq!(Delivery::read(&kinesis, "s").await.foreign.len(), 10 + put);
    proxy.put_log().assert_within_limits();
    assert!(
        proxy.put_log().requests[0].bytes() > 2 * Kinesis::MOST_BYTES - 200,
        "as it was sent"
    );
}

async fn a_gate_notices_keys_in_flight_inside_of_aggregates() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let proxy = FaultProxy::before(kinesis.endpoint()).await;
    let client = client(proxy.endpoint());
    let one = aggregate(&[("a", b"1"), ("b", b"1"), ("a", b"2")]);
    put(&client, vec![record("a", &one), record("c", b"1")])
        .await
        .unwrap();
    proxy.put_log().assert_within_limits();
    let other = aggregate(&[("d", b"1"), ("b", b"2")]);
    put(&client, vec![record("a", &one), record("d", &other)])
        .await
        .unwrap();
    let shared = proxy.put_log().shared_keys;
    assert_eq!(shared.into_iter().collect::<Vec<_>>(), ["b"]);

    // The first is held, and its caller gives up and sends it again.
    let mut held = proxy.hold("PutRecords", scenarios::fault_proxy::Side::Request);
    let first = tokio::spawn({
        let (client, one) = (client.clone(), one.clone());
        async move { put(&client, vec![record("a", &one)]).await }
    });
    held.reached().await;
    let later = aggregate(&[("a", b"3")]);
    put(&client, vec![record("a", &one)]).await.unwrap();
    assert_eq!(proxy.put_log().shared_keys.len(), 1, "the same once more");
    put(&client, vec![record("a", &later)]).await.unwrap();
    assert!(
        proxy.put_log().shared_keys.contains("a"),
        "a later one of the same key"
    );
    held.release();
    first.await.unwrap().unwrap();
}
