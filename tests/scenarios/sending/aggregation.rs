//! Aggregates: a consumer that splits them gets every event, those of one key in order.
//!
//! This holds when records fail, and when the stream is resharded during a drain. The number of records is
//! far smaller than the number of events.

use std::time::Duration;

use scenarios::aws::fault_proxy::FaultSide;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use serde_json::json;

use crate::support::backlog;
use crate::support::reshard::reshard;

crate::scenarios![
    every_event_arrives_in_aggregates,
    aggregates_contain_every_envelope,
    failed_aggregates_keep_the_order_of_each_key,
    a_reshard_during_a_drain_loses_no_event,
    a_truncate_is_a_barrier_for_aggregates_too,
];

async fn fixture(plugin: Plugin, shards: i32) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .shards(shards)
        .env("AGGREGATION", "kpl")
        .build()
        .await;
    backlog::create(&fixture).await;
    fixture
}

async fn every_event_arrives_in_aggregates() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin, 3).await;
        backlog::write(&fixture, 1, 2_000, 300).await;
        let report = fixture.tick().await;
        assert_eq!(report["stopped"], "empty", "{report}");
        assert_eq!(backlog::compare(&fixture).await.duplicates(), 0);
        let (records, events) = (
            report["records"].as_u64().unwrap(),
            report["events"].as_u64().unwrap(),
        );
        assert!(records * 20 < events, "{records} records for {events} events");
    })
    .await;
}

async fn aggregates_contain_every_envelope() {
    for (envelope, tombstones) in [("debezium", "true"), ("dms", "false"), ("wal2json", "false")] {
        let fixture = Fixture::builder(Plugin::Pgoutput)
            .shards(3)
            .env("AGGREGATION", "kpl")
            .env("ENVELOPE", envelope)
            .env("TOMBSTONES_ON_DELETE", tombstones)
            .build()
            .await;
        backlog::create(&fixture).await;
        backlog::write(&fixture, 80, 1_000, 100).await;
        fixture.drain().await;
        let delivery = fixture.compare(&[backlog::TABLE]).await;
        let deletes = delivery
            .arrivals
            .iter()
            .filter(|arrival| arrival.event().op == "d")
            .count();
        let expected = if tombstones == "true" { deletes } else { 0 };
        assert_eq!(
            delivery.tombstones.len(),
            expected,
            "{envelope}: a tombstone is an event without data"
        );
        assert!(delivery.aggregates > 0);
    }
}

async fn failed_aggregates_keep_the_order_of_each_key() {
    for seed in [1, 2] {
        let fixture = fixture(Plugin::Pgoutput, 4).await;
        backlog::write(&fixture, 50 + seed, 3_000, 150).await;
        fixture.kinesis_proxy.flaky(u64::from(seed), 40);
        let reports = fixture.drain().await;
        assert!(reports.iter().any(|report| report["retried"].as_u64() > Some(0)));
        backlog::compare(&fixture).await;
    }
}

async fn a_reshard_during_a_drain_loses_no_event() {
    let fixture = fixture(Plugin::Pgoutput, 3).await;
    // So few that no aggregate is full: the first request, which is held, has one of each shard.
    backlog::write(&fixture, 60, 900, 300).await;
    let proxy = &fixture.kinesis_proxy;
    let mut held = proxy.hold_with_retries("PutRecords", FaultSide::Request);
    let event = json!({});
    let (outcome, ()) = tokio::join!(fixture.function.invoke(&event, DEADLINE), async {
        held.wait_until_held().await;
        reshard(&fixture.kinesis, &fixture.stream).await;
        held.release();
    });
    let report = outcome.answer();
    assert_eq!(report["stopped"], "empty", "{report}");
    // The aggregates of the merged shards are in place. That of the split shard has keys of both halves.
    assert_eq!(report["retried"], 1, "{report}");
    let delivery = backlog::compare(&fixture).await;
    assert!(
        delivery.dropped > 0,
        "no aggregate was in flight during the reshard"
    );
    assert_eq!(
        fixture.kinesis_proxy.requests("ListShards"),
        2,
        "ListShards is called at the start, and once more for the new shards"
    );
    // The next tick of the same sandbox uses the new shards.
    backlog::write(&fixture, 61, 500, 300).await;
    let report = fixture.tick().await;
    assert_eq!(report["retried"], 0, "{report}");
    backlog::compare(&fixture).await;
}

async fn a_truncate_is_a_barrier_for_aggregates_too() {
    let fixture = fixture(Plugin::Pgoutput, 4).await;
    for round in 0..3 {
        fixture
            .sql("insert into t select id, 0, 'x' from generate_series(1, 500) as id")
            .await;
        fixture.sql("truncate t").await;
        fixture
            .sql(&format!(
                "insert into t select id, {round}, 'y' from generate_series(1, 500) as id"
            ))
            .await;
        fixture
            .sql(match round {
                2 => "select 1",
                _ => "delete from t",
            })
            .await;
    }
    fixture.kinesis_proxy.inject(
        "PutRecords",
        scenarios::aws::fault_proxy::Fault::Delay(Duration::from_millis(3)),
    );
    fixture.drain().await;
    fixture.compare(&[backlog::TABLE]).await;
}
