//! Requests and records reach the limits of Kinesis, and never exceed them.
//!
//! The limits are those of the stream, not the defaults. An unusable stream is refused with an error before
//! anything is sent.

use std::time::Duration;

use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::PostgresSettings;
use serde_json::json;

use crate::support::expected_errors::assert_tick_fails;

crate::scenarios![
    requests_have_as_many_records_as_kinesis_accepts,
    requests_have_as_many_bytes_as_kinesis_accepts,
    records_are_as_large_as_their_stream_accepts,
    partition_keys_over_256_characters_are_hashed,
    a_stream_that_ignores_partition_keys_is_refused_unless_accepted,
    a_deleted_stream_is_missing_and_a_new_stream_is_awaited,
    a_denied_call_is_named,
    an_expired_token_is_named,
];

async fn on_fake_kinesis(settings: FakeKinesisSettings) -> Fixture {
    Fixture::builder(Plugin::Pgoutput)
        .on_fake_kinesis(settings)
        .build()
        .await
}

/// Number of records and bytes of each request, in arrival order.
fn requests(fake_kinesis: &FakeKinesis) -> Vec<(usize, usize)> {
    let requests = fake_kinesis.put_log().requests;
    requests
        .iter()
        .map(|request| (request.records.len(), request.bytes()))
        .collect()
}

async fn requests_have_as_many_records_as_kinesis_accepts() {
    for waiting in [499, 500, 501] {
        let fixture = on_fake_kinesis(FakeKinesisSettings::default()).await;
        fixture.sql("create table t (id int primary key)").await;
        let full = waiting >= 500;
        let mut is_full = false;
        // A server that pauses between its rows makes two requests of them.
        for round in 0..if full { 20 } else { 1 } {
            let (from, before) = (round * waiting, requests(fixture.fake_kinesis()).len());
            fixture
                .sql(&format!(
                    "insert into t select {from} + generate_series(1, {waiting})"
                ))
                .await;
            fixture.drain().await;
            let records: Vec<usize> = requests(fixture.fake_kinesis())[before..]
                .iter()
                .map(|(records, _)| *records)
                .collect();
            assert!(records.iter().sum::<usize>() >= waiting, "{records:?}");
            assert!(records.iter().all(|records| *records <= 500), "{records:?}");
            is_full = records.contains(&500);
            if is_full {
                break;
            }
        }
        assert_eq!(is_full, full, "{waiting} records were waiting");
        fixture.compare(&["public.t"]).await;
    }
}

/// Fixture with a new server, and the overhead of an event.
///
/// The overhead is the bytes of the event besides the text of its row. Positions and transaction ids of a new
/// server do not get another digit during the test, so the length of an event follows from that of its row.
/// The row is of `(id int primary key, x text)`, with an id and a table name of two characters.
async fn fixture_and_envelope_bytes(settings: FakeKinesisSettings) -> (Fixture, usize) {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(PostgresSettings::default())
        .on_fake_kinesis(settings)
        // A marker would move the slot, which must stay where it is.
        .env("MARKERS", "off")
        // Room for several full requests at once.
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")
        .build()
        .await;
    fixture.sql("create table t0 (id int primary key, x text)").await;
    // The first event of a slot is shorter, because no event precedes it.
    for id in [10, 11] {
        fixture.sql(&format!("insert into t0 values ({id}, '')")).await;
        fixture.drain().await;
    }
    let envelope = requests(fixture.fake_kinesis())[1].1;
    (fixture, envelope)
}

async fn requests_have_as_many_bytes_as_kinesis_accepts() {
    let settings = FakeKinesisSettings {
        record_kib: 2048,
        ..FakeKinesisSettings::default()
    };
    let (fixture, envelope) = fixture_and_envelope_bytes(settings).await;
    // With slow requests, rows that the server sends slowly wait for each other. Only the first requests are
    // then not full.
    let delay = Fault::Delay(Duration::from_millis(300));
    fixture.kinesis_proxy.inject("PutRecords", delay);
    let tenth = (10 << 20) / 10;
    for (table, bytes, fit) in [("t1", tenth - 1, 10), ("t2", tenth, 10), ("t3", tenth + 1, 9)] {
        let (rows, before) = (80, fixture.fake_kinesis().put_log().requests.len());
        let text = bytes - envelope;
        fixture
            .sql(&format!("create table {table} (id int primary key, x text)"))
            .await;
        fixture.sql(&format!(
            "insert into {table} select id, repeat('x', {text}) from generate_series(10, 9 + {rows}) as id"
        ))
        .await;
        fixture.drain().await;
        let requests = requests(fixture.fake_kinesis()).split_off(before);
        let all: (usize, usize) = requests
            .iter()
            .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        // A request that is answered late is sent again.
        assert!(all.0 >= rows && all.1 == all.0 * bytes, "{requests:?}");
        let fullest = requests.iter().map(|(records, _)| *records).max();
        assert_eq!(fullest, Some(fit), "records of {bytes} bytes: {requests:?}");
    }
    fixture.compare(&["public.t1", "public.t2", "public.t3"]).await;
}

async fn records_are_as_large_as_their_stream_accepts() {
    for record_kib in [1024, 2048] {
        let settings = FakeKinesisSettings {
            record_kib,
            ..FakeKinesisSettings::default()
        };
        let (fixture, envelope) = fixture_and_envelope_bytes(settings).await;
        let (limit, before) = (record_kib << 10, requests(fixture.fake_kinesis()).len());
        for (table, bytes) in [("t1", limit - 1), ("t2", limit), ("t3", limit + 1)] {
            let text = bytes - envelope;
            fixture
                .sql(&format!("create table {table} (id int primary key, x text)"))
                .await;
            fixture
                .sql(&format!("insert into {table} values (10, repeat('x', {text}))"))
                .await;
            if bytes <= limit {
                fixture.drain().await;
            }
        }
        let (size, most) = ((limit + 1).to_string(), limit.to_string());
        assert_tick_fails(&fixture, "Oversize", &["public.t3", "key hash", &size, &most]).await;
        // The operator may raise the limit of the stream meanwhile.
        assert_eq!(fixture.failing_tick().await.0, "Oversize");
        let described = fixture.kinesis_proxy.requests("DescribeStreamSummary");
        assert_eq!(fixture.failing_tick().await.0, "Oversize");
        assert!(fixture.kinesis_proxy.requests("DescribeStreamSummary") > described);
        let sent = requests(fixture.fake_kinesis()).split_off(before);
        assert_eq!(
            sent,
            [(1, limit - 1), (1, limit)],
            "a refused record was sent, or an accepted one was not"
        );
        fixture.compare(&["public.t1", "public.t2"]).await;
    }
}

async fn partition_keys_over_256_characters_are_hashed() {
    let fixture = on_fake_kinesis(FakeKinesisSettings::default()).await;
    fixture.sql("create table t (k text primary key)").await;
    // `{"k":""}` has 8 characters.
    let keys = [255, 256, 257].map(|characters: usize| "é".repeat(characters - 8));
    for key in &keys {
        fixture.sql(&format!("insert into t values ('{key}')")).await;
    }
    fixture.drain().await;
    let delivery = fixture.compare(&["public.t"]).await;
    let changes = delivery.changes();
    let found: Vec<&str> = changes.iter().map(|it| it.partition_key.as_str()).collect();
    let whole = |key: &str| json!({ "k": key }).to_string();
    assert_eq!(found[..2], [whole(&keys[0]), whole(&keys[1])]);
    assert_eq!(
        found[2].len(),
        64,
        "the long key is not replaced by its SHA-256: {}",
        found[2]
    );
}

async fn a_stream_that_ignores_partition_keys_is_refused_unless_accepted() {
    let settings = FakeKinesisSettings {
        distribution: "AUTO",
        ..FakeKinesisSettings::default()
    };
    let mut fixture = on_fake_kinesis(settings).await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    let parts = [fixture.stream.as_str(), "AUTO", "AUTO_DISTRIBUTION"];
    assert_tick_fails(&fixture, "StreamUnusable", &parts).await;
    assert_eq!(fixture.fake_kinesis().requests("PutRecords"), 0);
    fixture.function.set("AUTO_DISTRIBUTION", "accept").await;
    fixture.drain().await;
    assert_eq!(fixture.fake_kinesis().counts().put, 1);
    // A consumer would drop events from aggregates in other shards, so this pair of settings is always
    // refused.
    fixture.function.set("AGGREGATION", "kpl").await;
    assert_tick_fails(
        &fixture,
        "StreamUnusable",
        &[fixture.stream.as_str(), "AGGREGATION=none"],
    )
    .await;
}

async fn a_deleted_stream_is_missing_and_a_new_stream_is_awaited() {
    let fixture = on_fake_kinesis(FakeKinesisSettings {
        status: "CREATING",
        ..FakeKinesisSettings::default()
    })
    .await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    assert_tick_fails(&fixture, "StreamUnavailable", &[&fixture.stream, "created"]).await;
    fixture.fake_kinesis().set_status("DELETING");
    assert_tick_fails(&fixture, "StreamMissing", &[&fixture.stream]).await;
    for status in ["UPDATING", "ACTIVE"] {
        fixture.fake_kinesis().set_status(status);
        assert_eq!(fixture.tick().await["stopped"], "empty");
    }
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);
}

fn refusal(kind: &str) -> Fault {
    Fault::refuse(kind, "the scenario refuses it")
}

async fn a_denied_call_is_named() {
    let mut fixture = on_fake_kinesis(FakeKinesisSettings::default()).await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    for operation in ["PutRecords", "DescribeStreamSummary", "ListShards"] {
        let aggregation = if operation == "ListShards" { "kpl" } else { "none" };
        fixture.function.set("AGGREGATION", aggregation).await;
        fixture
            .kinesis_proxy
            .inject(operation, refusal("AccessDeniedException"));
        assert_tick_fails(
            &fixture,
            "StreamDenied",
            &[&fixture.stream, "kinesis:", operation],
        )
        .await;
        fixture.kinesis_proxy.clear();
    }
    fixture.drain().await;
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);
}

async fn an_expired_token_is_named() {
    let fixture = on_fake_kinesis(FakeKinesisSettings::default()).await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    let expired = || refusal("ExpiredTokenException");
    fixture
        .kinesis_proxy
        .inject_once("DescribeStreamSummary", expired());
    assert_tick_fails(&fixture, "StreamDenied", &[&fixture.stream, "credentials"]).await;
    // A transient error is retried at once. Kinesis refuses a signature with the time of a wrong clock.
    let codes = [
        "ExpiredTokenException",
        "InvalidSignatureException",
        "RequestTimeTooSkewed",
    ];
    for (code, id) in codes.into_iter().zip(1..) {
        if id > 1 {
            fixture.sql(&format!("insert into t values ({id})")).await;
        }
        fixture.kinesis_proxy.inject_once("PutRecords", refusal(code));
        let before = fixture.kinesis_proxy.requests("PutRecords");
        assert_eq!(fixture.tick().await["records"], 1, "{code}");
        assert_eq!(fixture.kinesis_proxy.requests("PutRecords"), before + 2, "{code}");
    }
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 3);
}
