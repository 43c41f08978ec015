//! A transaction that is larger than an invocation passes through several, each of which goes on where the one before stopped:
//! what arrives is what one would have sent, once, or again from the last stored place when one was killed.

use std::time::Duration;

use scenarios::aws::aggregate;
use scenarios::aws::fault_proxy::Fault;
use scenarios::aws::kinesis::Kinesis;
use scenarios::consumer::{Arrival, Delivery};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::positions::{SlotPositions, wait_until_sessions_end};

crate::scenarios![
    a_pgoutput_transaction_over_several_invocations_arrives_unchanged,
    a_wal2json_transaction_over_several_invocations_arrives_unchanged,
    a_kill_inside_a_pgoutput_transaction_resumes_at_the_checkpoint,
    a_kill_inside_a_wal2json_transaction_resumes_at_the_checkpoint,
];

/// The smallest function that Lambda offers, in bytes.
const MEMORY: u64 = 128 << 20;
/// What an invocation is given: enough for the server to decode the transaction, and not for the stream to take it.
const SHORT: Duration = Duration::from_secs(7);
const ROWS: usize = 22_000;
/// Rows that may be in the stream at a deadline although the checkpoint does not count them, at most.
///
/// The checkpoint counts whole sections of 1 MiB, and each of the two shards may have one aggregate of
/// 256 KiB whose answer is under way. A row has at least 960 bytes.
const MOST_UNCOUNTED: usize = ((1 << 20) + 2 * (256 << 10)) / 960;
/// Errors of an invocation whose servers answered too late.
const TRANSIENT: [&str; 3] = ["CheckpointUnavailable", "OutOfTime", "PeekTimeout"];
/// Invocations within which the transaction must pass.
const MOST_TICKS: usize = 30;

async fn a_pgoutput_transaction_over_several_invocations_arrives_unchanged() {
    pass(Plugin::Pgoutput).await;
}

async fn a_wal2json_transaction_over_several_invocations_arrives_unchanged() {
    pass(Plugin::Wal2json).await;
}

async fn a_kill_inside_a_pgoutput_transaction_resumes_at_the_checkpoint() {
    killed(Plugin::Pgoutput).await;
}

async fn a_kill_inside_a_wal2json_transaction_resumes_at_the_checkpoint() {
    killed(Plugin::Wal2json).await;
}

/// A slot behind which a transaction of thirty megabytes lies, and a small one; a second slot as the first; and a stream of two
/// shards, each of which takes an aggregate of 256 KiB in a fifth of a second.
async fn fixture(plugin: Plugin) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AGGREGATION", "kpl")
        .env("PROVIDE_TRANSACTION_METADATA", "true")
        .build()
        .await;
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(200)));
    fixture
        .sql("create table big (id int primary key, what text)")
        .await;
    fixture.drain().await;
    let copy = format!(
        "select pg_copy_logical_replication_slot('{0}', '{0}_whole')",
        fixture.slot
    );
    fixture.sql(&copy).await;
    fixture
        .sql(&format!(
            "insert into big select i, repeat(md5(i::text), 30) from generate_series(1, {ROWS}) i"
        ))
        .await;
    fixture.sql("insert into big values (0, 'behind it')").await;
    fixture
}

/// What one invocation sends of the second slot, to a stream that takes all.
async fn in_one_go(fixture: &Fixture) -> Delivery {
    let name = format!("{}_whole", fixture.slot);
    let kinesis = Kinesis::shared().await;
    kinesis.create_stream(&name, 4).await;
    let mut other = fixture.function.second_instance();
    other.set("SLOT_NAME", &name).await;
    other.set("STREAM_NAME", &name).await;
    other.set("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()).await;
    let report = other.invoke(&json!({}), 2 * DEADLINE).await.answer();
    assert_eq!(report["stopped"], "empty", "{report}");
    let delivery = Delivery::read(kinesis, &name).await;
    kinesis.delete_stream(&name).await;
    fixture.ssm.delete(&format!("/spillway/{name}")).await;
    delivery
}

/// Where each change stands, in which lane, and what it says. Only the slot's name differs otherwise.
fn gist(delivery: &Delivery) -> Vec<(String, String, Value)> {
    let gist = |it: &&Arrival| {
        let event = it.json();
        (
            it.position.clone(),
            it.partition_key.clone(),
            json!([event["op"], event["after"], event["transaction"]]),
        )
    };
    delivery.changes().iter().map(gist).collect()
}

/// How often each row of `big` arrived, by its id, which is its place in the transaction.
///
/// Read from partition keys alone: the events are large, and each tick needs this.
async fn arrivals(fixture: &Fixture) -> Vec<usize> {
    let mut arrivals = vec![0; ROWS + 1];
    let mut count = |key: &str| {
        let id = key
            .strip_prefix(r#"{"id":"#)
            .and_then(|rest| rest.strip_suffix('}'));
        let id: usize = id
            .and_then(|id| id.parse().ok())
            .unwrap_or_else(|| panic!("{key} is no key of a row"));
        arrivals[id] += 1;
    };
    for shard in fixture.kinesis.shards(&fixture.stream).await {
        let each = |key: &str, data: &[u8]| match aggregate::split(data) {
            Ok(Some(records)) => records.iter().for_each(|record| count(record.partition_key)),
            Ok(None) => count(key),
            Err(error) => panic!("{key}: {error}"),
        };
        fixture
            .kinesis
            .read_shard(&fixture.stream, shard.shard_id(), each)
            .await;
    }
    arrivals
}

/// Rows of the transaction that the checkpoint counts as sent; `None` when it stands between transactions.
async fn stored_rows(fixture: &Fixture) -> Option<usize> {
    let checkpoint = fixture.checkpoint().await.unwrap_or_default();
    let rows = checkpoint["progress"]["rows"].as_u64()?;
    Some(usize::try_from(rows).expect("a count fits"))
}

/// Short ticks until one finds nothing more; their reports.
///
/// No tick sends a row that the checkpoint before it counts. Records in flight at a deadline or at a kill are
/// beyond that row, and only they may be sent twice.
async fn drained(fixture: &Fixture) -> Vec<Value> {
    let mut reports: Vec<Value> = Vec::new();
    let mut stored = stored_rows(fixture).await.unwrap_or(0);
    let mut before = arrivals(fixture).await;
    for _ in 0..MOST_TICKS {
        let report = match fixture.function.invoke(&json!({}), SHORT).await {
            Outcome::Answer(report) => Some(report),
            // On a busy machine the servers may answer too late. The next tick goes on from the checkpoint.
            Outcome::Error { kind, .. } if TRANSIENT.contains(&kind.as_str()) => None,
            other => panic!("it should have answered: {other:?}"),
        };
        SlotPositions::read(fixture).await;
        let after = arrivals(fixture).await;
        let again = (1..=stored).find(|id| after[*id] != before[*id]);
        assert_eq!(
            again, None,
            "{stored} rows are stored as sent, and row {again:?} was sent again: {report:?}"
        );
        let counted = stored_rows(fixture).await;
        stored = counted.unwrap_or(0).max(stored);
        let arrived = after[1..].iter().take_while(|times| **times > 0).count();
        assert!(
            arrived >= stored,
            "{stored} rows are stored as sent, and {arrived} are there"
        );
        before = after;
        let Some(report) = report else { continue };
        if let Some(counted) = counted {
            assert!(
                arrived - counted <= MOST_UNCOUNTED,
                "{arrived} rows are there, and {counted} count: {report}"
            );
        }
        let is_last = report["stopped"] == "empty";
        reports.push(report);
        if is_last {
            return reports;
        }
    }
    panic!("{MOST_TICKS} invocations did not pass it: {reports:#?}")
}

async fn pass(plugin: Plugin) {
    let fixture = fixture(plugin).await;
    let reports = drained(&fixture).await;
    println!("{}: {} invocations", plugin.name(), reports.len());
    assert!(
        reports.len() > 2,
        "it takes several invocations, or shows nothing: {reports:#?}"
    );
    let peak = fixture.function.peak_memory_bytes();
    assert!((1..MEMORY).contains(&peak), "{} MiB were resident", peak >> 20);

    let delivery = fixture.compare(&["big"]).await;
    assert_eq!(delivery.changes().len(), ROWS + 1);
    println!("{} of them twice", delivery.duplicates());
    assert!(
        gist(&delivery) == gist(&in_one_go(&fixture).await),
        "one invocation sends other events"
    );
}

async fn killed(plugin: Plugin) {
    let fixture = fixture(plugin).await;
    let before = SlotPositions::read(&fixture).await;
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        wait::until("a part of it is stored as sent", DEADLINE, || async {
            // With no rows, only where it ends is known.
            stored_rows(&fixture).await > Some(0)
        })
        .await;
        fixture.function.kill9().await;
    });
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(&fixture).await;
    assert_eq!(
        SlotPositions::read(&fixture).await.confirmed,
        before.confirmed,
        "a part of a transaction does not move the slot"
    );
    let stored = stored_rows(&fixture).await;
    let stored = stored.unwrap_or_else(|| panic!("{}", fixture.function.log().join("\n")));
    assert!((1..ROWS).contains(&stored), "{stored}");

    let reports = drained(&fixture).await;
    let delivery = fixture.compare(&["big"]).await;
    println!(
        "{}: killed after {stored}, then {} invocations; {} rows twice",
        plugin.name(),
        reports.len(),
        delivery.duplicates()
    );
    assert_eq!(delivery.changes().len(), ROWS + 1);
    assert!(
        gist(&delivery) == gist(&in_one_go(&fixture).await),
        "one invocation sends other events"
    );
}
