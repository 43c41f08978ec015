//! Checks of every PutRecords in the other scenarios: the limits of Kinesis, and one record in flight per
//! key.

use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::fault_proxy::{FaultProxy, FaultSide};
use scenarios::aws::kinesis::{Kinesis, Limits};

use crate::support::kinesis_producer::{aggregate, client, put, record};

crate::scenarios![
    a_fake_stream_refuses_requests_beyond_the_limits_of_kinesis,
    a_key_with_two_records_in_flight_is_noticed,
];

async fn a_fake_stream_refuses_requests_beyond_the_limits_of_kinesis() {
    let settings = FakeKinesisSettings {
        record_kib: 2048,
        ..FakeKinesisSettings::default()
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
}

async fn a_key_with_two_records_in_flight_is_noticed() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let proxy = FaultProxy::open(kinesis.endpoint()).await;
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

    // The first request is held. Its caller times out and sends it again.
    let mut held = proxy.hold("PutRecords", FaultSide::Request);
    let first = tokio::spawn({
        let (client, one) = (client.clone(), one.clone());
        async move { put(&client, vec![record("a", &one)]).await }
    });
    held.wait_until_held().await;
    let later = aggregate(&[("a", b"3")]);
    put(&client, vec![record("a", &one)]).await.unwrap();
    assert_eq!(
        proxy.put_log().shared_keys.len(),
        1,
        "the key is not reported once"
    );
    put(&client, vec![record("a", &later)]).await.unwrap();
    assert!(
        proxy.put_log().shared_keys.contains("a"),
        "a later record of the key is reported"
    );
    held.release();
    first.await.unwrap().unwrap();
}
