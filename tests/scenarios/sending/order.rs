//! Order under failures of requests and records: every event arrives, those of one key in order.
//!
//! Requests respect the limits of PutRecords, and no key has two records in flight. A throttling stream
//! delays the drain and does not fail it.

use std::time::Duration;

use scenarios::aws::fault_proxy::{Fault, FaultProxy, FaultSide};
use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::fixture::{Fixture, Plugin};

use crate::support::backlog;
use crate::support::reports::reported_sum;

crate::scenarios![
    failed_records_keep_the_order_of_their_keys,
    failed_requests_keep_the_order_of_their_keys,
    a_request_without_an_answer_is_sent_again_in_order,
    a_table_that_gets_a_key_keeps_its_order,
    one_hot_key_keeps_its_order,
    large_events_fill_requests_up_to_their_limit_of_bytes,
    throttling_delays_a_drain_and_does_not_fail_it,
    a_throttled_encryption_key_is_no_limit_of_a_shard,
];

/// Drains a backlog through the fault proxy, and checks its events.
///
/// Returns the number of retried records.
async fn drain_and_compare(fixture: &Fixture) -> usize {
    let reports = fixture.drain().await;
    backlog::compare(fixture).await;
    reported_sum(&reports, "retried")
}

async fn failed_records_keep_the_order_of_their_keys() {
    // Each play mostly pauses after failures, so they run in parallel. A key that often fails has fewer
    // changes.
    let plays = [(1, 5, 1_500), (2, 30, 1_500), (3, 60, 600)].map(|(seed, percent, changes)| {
        tokio::spawn(async move {
            let fixture = Fixture::builder(Plugin::Pgoutput).shards(4).build().await;
            backlog::create(&fixture).await;
            backlog::write(&fixture, 10 + seed, changes, 150).await;
            fixture.kinesis_proxy.flaky(u64::from(seed), percent);
            assert!(
                drain_and_compare(&fixture).await > 0,
                "seed {seed}: no record was sent again"
            );
        })
    });
    for play in plays {
        play.await.unwrap();
    }
}

/// Plans a fault for each of the next requests: two in three pass, with a delay, and the others fail in every
/// way.
fn inject_random_faults(proxy: &FaultProxy, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let throttled = || Fault::refuse("ProvisionedThroughputExceededException", "Rate exceeded");
    for _ in 0..120 {
        let fault = match random.u8(..12) {
            0 => Fault::internal(),
            1 => throttled(),
            2 => Fault::CutAnswer,
            3 => Fault::CutRequest,
            _ => Fault::Delay(Duration::from_millis(random.u64(..8))),
        };
        proxy.inject_once("PutRecords", fault);
    }
}

async fn failed_requests_keep_the_order_of_their_keys() {
    let plays = [4, 5, 6].map(|seed| {
        tokio::spawn(async move {
            let fixture = Fixture::builder(Plugin::Pgoutput).shards(4).build().await;
            backlog::create(&fixture).await;
            backlog::write(&fixture, 20, 1_500, 120).await;
            inject_random_faults(&fixture.kinesis_proxy, seed);
            fixture.kinesis_proxy.flaky(seed, 10);
            assert!(
                drain_and_compare(&fixture).await > 0,
                "seed {seed}: no record was sent again"
            );
            fixture.consume().await.duplicates()
        })
    });
    let mut duplicates = 0;
    for play in plays {
        duplicates += play.await.unwrap();
    }
    assert!(duplicates > 0, "a cut answer made no duplicates");
}

/// Request whose answer arrives after the function's timeout.
///
/// The answer is held for longer than the function waits. The function cannot know that the records were put.
async fn a_request_without_an_answer_is_sent_again_in_order() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 25, 300, 20).await;
    let held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Answer);
    assert!(drain_and_compare(&fixture).await > 0, "no record was sent again");
    assert!(
        fixture.consume().await.duplicates() > 0,
        "records without an answer were not sent again"
    );
    drop(held);
}

/// Table that gets a key after its first row.
///
/// The rows have the lane of the table first, and the lanes of their keys later.
async fn a_table_that_gets_a_key_keeps_its_order() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("KEYLESS", "table")
        .build()
        .await;
    fixture.sql("create table t (id int, n int)").await;
    fixture.sql("insert into t values (1, 1)").await;
    fixture.sql("alter table t add primary key (id)").await;
    fixture.sql("update t set n = 2").await;
    fixture.kinesis_proxy.inject_once("PutRecords", Fault::internal());
    fixture.drain().await;
    let requests = fixture.kinesis_proxy.put_log().requests;
    let keys: Vec<Vec<&str>> = requests
        .iter()
        .map(|request| request.records.iter().map(|(key, _)| key.as_str()).collect())
        .collect();
    let (table, row) = ("public.t", r#"{"id":1}"#);
    assert_eq!(
        keys,
        [vec![table], vec![table], vec![row]],
        "the keys of the requests are wrong"
    );
}

async fn one_hot_key_keeps_its_order() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 30, 150, 1).await;
    fixture.kinesis_proxy.flaky(7, 30);
    drain_and_compare(&fixture).await;
}

async fn large_events_fill_requests_up_to_their_limit_of_bytes() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    fixture
        .sql("insert into t select id, 0, repeat('x', 100000) from generate_series(1, 200) as id")
        .await;
    // With slow requests, rows that the server sends slowly wait for each other.
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_secs(1)));
    drain_and_compare(&fixture).await;
    let log = fixture.kinesis_proxy.put_log();
    let fullest = log.requests.iter().map(|request| request.bytes()).max();
    assert!(fullest > Some(4 << 20), "the requests are small: {fullest:?}");
}

async fn throttling_delays_a_drain_and_does_not_fail_it() {
    let kinesis = Kinesis::start(Limits::Enforced).await;
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .shards(1)
        .on_kinesis(kinesis)
        .build()
        .await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 40, 1_000, 1_000).await;
    fixture
        .sql("insert into t select id, 0, repeat('x', 3000) from generate_series(10001, 13000) as id")
        .await;
    let report = fixture.tick().await;
    assert_eq!(report["stopped"], "empty", "{report}");
    assert!(
        report["throttled"].as_u64() > Some(0),
        "one shard accepted more than 1 MiB a second: {report}"
    );
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(delivery.changes().len(), backlog::events(&fixture).await);
}

/// With more shards, KMS would throttle as before.
async fn a_throttled_encryption_key_is_no_limit_of_a_shard() {
    let fixture = backlog::fixture_with_backlog().await;
    let refusal = Fault::refuse("KMSThrottlingException", "Rate exceeded");
    fixture.kinesis_proxy.inject_once("PutRecords", refusal);
    let reports = fixture.drain().await;
    backlog::compare(&fixture).await;
    assert_eq!(reported_sum(&reports, "throttled"), 0);
    assert!(reported_sum(&reports, "retried") > 0);
}
