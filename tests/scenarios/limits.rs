//! Requests and records are filled to the limits of Kinesis and not beyond: of the stream as it is, not as streams are by
//! default. A stream that cannot be used is refused by name before anything is sent.

use scenarios::double::{Double, Settings};
use scenarios::gate::Fault;
use scenarios::lab::{Lab, Plugin};
use serde_json::{Value, json};

use crate::refusal::tick_fails;

crate::scenarios![
    requests_hold_as_many_records_as_kinesis_takes,
    requests_hold_as_many_bytes_as_kinesis_takes,
    records_are_as_large_as_their_stream_takes,
    partition_keys_over_256_characters_are_hashed,
    a_stream_that_does_not_look_at_partition_keys_is_refused_or_accepted_as_configured,
    a_stream_that_is_deleted_is_missing_and_one_that_is_created_is_awaited,
    a_call_that_is_denied_is_named,
    an_expired_token_is_told_as_such,
];

async fn on_double(settings: Settings) -> Lab {
    Lab::plan(Plugin::Pgoutput).on_double(settings).build().await
}

/// Each request's records and bytes, as they came.
fn requests(double: &Double) -> Vec<(usize, usize)> {
    let requests = double.seen().requests;
    requests
        .iter()
        .map(|request| (request.records.len(), request.bytes()))
        .collect()
}

async fn requests_hold_as_many_records_as_kinesis_takes() {
    for waiting in [499, 500, 501] {
        let lab = on_double(Settings::default()).await;
        lab.sql("create table t (id int primary key)").await;
        lab.sql(&format!("insert into t select generate_series(1, {waiting})"))
            .await;
        lab.drain().await;
        assert_eq!(lab.compare(&["public.t"]).await.changes().len(), waiting);
        let records: Vec<usize> = requests(lab.double())
            .iter()
            .map(|(records, _)| *records)
            .collect();
        assert_eq!(records.iter().sum::<usize>(), waiting, "{records:?}");
        assert!(records.iter().all(|records| *records <= 500), "{records:?}");
        let full = waiting >= 500;
        assert_eq!(
            records.contains(&500),
            full,
            "{waiting} were waiting: {records:?}"
        );
    }
}

/// The bytes that a row of table `t (id int primary key, x text)` has beside its text, with an `id` of two digits.
async fn envelope(settings: Settings) -> usize {
    let lab = on_double(settings).await;
    lab.sql("create table t (id int primary key, x text); insert into t values (10, '')")
        .await;
    lab.drain().await;
    lab.double().seen().requests[0].bytes()
}

async fn requests_hold_as_many_bytes_as_kinesis_takes() {
    let (limit, ten) = (10 << 20, 11);
    let envelope = envelope(Settings::default()).await;
    for more in [-1, 0, 1] {
        let lab = on_double(Settings::default()).await;
        lab.sql("create table t (id int primary key, x text)").await;
        let text = (limit / ten) - envelope;
        // Ten of one length, and one that brings them to the sum.
        let last = (limit - (ten - 1) * (text + envelope) - envelope).saturating_add_signed(more);
        lab.sql(&format!(
            "insert into t select id, repeat('x', case id when 20 then {last} else {text} end)
             from generate_series(10, 20) as id"
        ))
        .await;
        lab.drain().await;
        assert_eq!(lab.compare(&["public.t"]).await.changes().len(), ten);
        let requests = requests(lab.double());
        let all: usize = requests.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(all, limit.saturating_add_signed(more), "{requests:?}");
        let expected = if more > 0 { 2 } else { 1 };
        assert_eq!(requests.len(), expected, "{more}: {requests:?}");
    }
}

async fn records_are_as_large_as_their_stream_takes() {
    for record_kib in [1024, 2048] {
        let settings = Settings {
            record_kib,
            ..Settings::default()
        };
        let (limit, envelope) = (record_kib << 10, envelope(settings).await);
        for more in [-1, 0, 1] {
            let lab = on_double(settings).await;
            lab.sql("create table t (id int primary key, x text)").await;
            let text = (limit - envelope).saturating_add_signed(more);
            lab.sql(&format!("insert into t values (10, repeat('x', {text}))"))
                .await;
            if more <= 0 {
                lab.drain().await;
                assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
                continue;
            }
            let parts = [
                "public.t",
                "key hash",
                &(limit + 1).to_string(),
                &limit.to_string(),
            ];
            tick_fails(&lab, "Oversize", &parts).await;
            assert_eq!(requests(lab.double()), [], "nothing was sent");
        }
    }
}

async fn partition_keys_over_256_characters_are_hashed() {
    let lab = on_double(Settings::default()).await;
    lab.sql("create table t (k text primary key)").await;
    // `{"k":""}` has 8 characters.
    let keys = [255, 256, 257].map(|characters: usize| "é".repeat(characters - 8));
    for key in &keys {
        lab.sql(&format!("insert into t values ('{key}')")).await;
    }
    lab.drain().await;
    let delivery = lab.compare(&["public.t"]).await;
    let changes = delivery.changes();
    let found: Vec<&str> = changes.iter().map(|it| it.partition_key.as_str()).collect();
    let whole = |key: &str| json!({ "k": key }).to_string();
    assert_eq!(found[..2], [whole(&keys[0]), whole(&keys[1])]);
    assert_eq!(
        found[2].len(),
        64,
        "the SHA-256 of one that is too long: {}",
        found[2]
    );
}

async fn a_stream_that_does_not_look_at_partition_keys_is_refused_or_accepted_as_configured() {
    let settings = Settings {
        distribution: "AUTO",
        ..Settings::default()
    };
    let mut lab = on_double(settings).await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    let parts = [lab.stream.as_str(), "AUTO", "AUTO_DISTRIBUTION"];
    tick_fails(&lab, "StreamUnusable", &parts).await;
    assert_eq!(lab.double().requests("PutRecords"), 0);
    lab.function.set("AUTO_DISTRIBUTION", "accept").await;
    lab.drain().await;
    assert_eq!(lab.double().counts().put, 1);
}

async fn a_stream_that_is_deleted_is_missing_and_one_that_is_created_is_awaited() {
    let lab = on_double(Settings {
        status: "CREATING",
        ..Settings::default()
    })
    .await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    tick_fails(&lab, "StreamUnavailable", &[&lab.stream, "CREATING"]).await;
    lab.double().set_status("DELETING");
    tick_fails(&lab, "StreamMissing", &[&lab.stream]).await;
    for status in ["UPDATING", "ACTIVE"] {
        lab.double().set_status(status);
        assert_eq!(lab.tick().await["stopped"], "empty");
    }
    assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
}

fn refused(kind: &str) -> Fault {
    Fault::refuse(kind, "the scenario refuses it")
}

async fn a_call_that_is_denied_is_named() {
    let mut lab = on_double(Settings::default()).await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    for operation in ["PutRecords", "DescribeStreamSummary", "ListShards"] {
        let aggregation = if operation == "ListShards" { "kpl" } else { "none" };
        lab.function.set("AGGREGATION", aggregation).await;
        lab.kinesis_gate
            .always(operation, refused("AccessDeniedException"));
        let right = format!("kinesis:{operation}");
        tick_fails(&lab, "StreamDenied", &[&lab.stream, &right]).await;
        lab.kinesis_gate.clear();
    }
    lab.drain().await;
    assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
}

async fn an_expired_token_is_told_as_such() {
    let lab = on_double(Settings::default()).await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    for operation in ["PutRecords", "DescribeStreamSummary"] {
        lab.kinesis_gate.next(operation, refused("ExpiredTokenException"));
    }
    let outcome: Value = match lab.invoke(json!({})).await {
        scenarios::function::Outcome::Answer(report) => report,
        scenarios::function::Outcome::Error { kind, message } => {
            assert_eq!(kind, "StreamDenied", "{message}");
            assert!(message.contains("credentials"), "{message}");
            lab.kinesis_gate.clear();
            lab.tick().await
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        outcome["stopped"], "empty",
        "what passes by itself is tried again"
    );
    assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
}
