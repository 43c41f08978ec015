//! Transaction that takes several invocations, each of which resumes at the checkpoint.
//!
//! The stream has the events of a single invocation, each once. After a kill, changes beyond the checkpoint
//! are sent again.

use std::time::Duration;

use scenarios::aws::aggregate;
use scenarios::aws::fault_proxy::Fault;
use scenarios::aws::kinesis::Kinesis;
use scenarios::consumer::{Arrival, Delivery};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::LATE;
use crate::support::positions::{SlotPositions, wait_until_sessions_end};

crate::scenarios![
    a_pgoutput_transaction_over_several_invocations_arrives_unchanged,
    a_wal2json_transaction_over_several_invocations_arrives_unchanged,
    a_kill_inside_a_pgoutput_transaction_resumes_at_the_checkpoint,
    a_kill_inside_a_wal2json_transaction_resumes_at_the_checkpoint,
    tables_of_a_resumed_transaction_are_not_each_others_partitions,
    a_plan_reads_a_changed_transaction_from_its_beginning,
];

/// Memory of the smallest function that Lambda offers, in bytes.
const MEMORY: u64 = 128 << 20;
/// Deadline of an invocation: enough for the server to decode the transaction, and too short for the stream
/// to accept it.
const SHORT: Duration = Duration::from_secs(7);
const ROWS: usize = 22_000;
/// Limit of rows in the stream that the checkpoint does not count.
///
/// It is the limit at a deadline. The checkpoint counts whole sections of 1 MiB, and each of the two shards
/// may have one unacknowledged aggregate of 256 KiB. A row has at least 960 bytes.
const MAX_UNCOUNTED: usize = ((1 << 20) + 2 * (256 << 10)) / 960;
/// Limit of invocations for the transaction.
const MAX_TICKS: usize = 30;

async fn a_pgoutput_transaction_over_several_invocations_arrives_unchanged() {
    assert_arrives_unchanged(Plugin::Pgoutput).await;
}

async fn a_wal2json_transaction_over_several_invocations_arrives_unchanged() {
    assert_arrives_unchanged(Plugin::Wal2json).await;
}

async fn a_kill_inside_a_pgoutput_transaction_resumes_at_the_checkpoint() {
    assert_resumes_after_kill(Plugin::Pgoutput).await;
}

async fn a_kill_inside_a_wal2json_transaction_resumes_at_the_checkpoint() {
    assert_resumes_after_kill(Plugin::Wal2json).await;
}

/// Fixture with empty tables, a drained slot and its copy.
///
/// The stream has two shards, each of which accepts an aggregate of 256 KiB in 200 ms.
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
        .sql("create table big (id int primary key, what text); create table keyless (what text)")
        .await;
    fixture.drain().await;
    fixture.copy_slot(&format!("{}_whole", fixture.slot)).await;
    fixture
}

/// Inserts the rows from 1 on into `big`.
fn insert_rows() -> String {
    format!("insert into big select i, repeat(md5(i::text), 30) from generate_series(1, {ROWS}) i")
}

/// Fixture whose slot has a large and a small transaction.
///
/// The large one has thirty megabytes.
async fn fixture_with_transactions(plugin: Plugin) -> Fixture {
    let fixture = fixture(plugin).await;
    fixture.sql(&insert_rows()).await;
    fixture.sql("insert into big values (0, 'behind it')").await;
    fixture
}

/// Delivery of the slot's copy in one invocation, into a fast stream.
async fn drain_in_one_invocation(fixture: &Fixture) -> Delivery {
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
    fixture.ssm.delete(&format!("/spillway/{name}"));
    delivery
}

/// Position, partition key and content of each change. The other fields differ by the name of the slot.
fn positions_and_content(delivery: &Delivery) -> Vec<(String, String, Value)> {
    let content = |it: &&Arrival| {
        let event = it.json();
        (
            it.position.clone(),
            it.partition_key.clone(),
            json!([event["op"], event["after"], event["transaction"]]),
        )
    };
    delivery.changes().iter().map(content).collect()
}

/// Number of arrivals of each row of `big`, by its id.
///
/// The id is the place of the row in the transaction. Only partition keys are read: the events are large, and
/// each tick needs this.
async fn arrivals(fixture: &Fixture) -> Vec<usize> {
    let mut arrivals = vec![0; ROWS + 1];
    let mut count = |key: &str| {
        let id = key
            .strip_prefix(r#"{"id":"#)
            .and_then(|rest| rest.strip_suffix('}'));
        let id: usize = id
            .and_then(|id| id.parse().ok())
            .unwrap_or_else(|| panic!("{key} is not the key of a row"));
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

/// Rows of a transaction that the checkpoint counts as sent.
///
/// `None` between transactions.
async fn stored_rows(fixture: &Fixture) -> Option<usize> {
    let checkpoint = fixture.checkpoint().await.unwrap_or_default();
    let rows = checkpoint["progress"]["rows"].as_u64()?;
    Some(usize::try_from(rows).expect("a count fits"))
}

/// Reports of short ticks until the slot is empty.
///
/// A tick that was late has its error instead of a report. No tick sends a row that the checkpoint before it
/// counts. Only records in flight at a deadline or at a kill may be sent twice, and they are beyond that row.
async fn tick_until_empty(fixture: &Fixture) -> Vec<Value> {
    let mut reports: Vec<Value> = Vec::new();
    let mut stored = stored_rows(fixture).await.unwrap_or(0);
    let mut before = arrivals(fixture).await;
    for _ in 0..MAX_TICKS {
        let report = match fixture.function.invoke(&json!({}), SHORT).await {
            Outcome::Answer(report) => report,
            // On a busy machine the servers may answer too late. The next tick resumes at the checkpoint.
            Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) => json!({"error": kind}),
            other => panic!("the invocation has no answer: {other:?}"),
        };
        SlotPositions::read(fixture).await;
        let after = arrivals(fixture).await;
        let again = (1..=stored).find(|id| after[*id] != before[*id]);
        assert_eq!(
            again, None,
            "the checkpoint counts {stored} rows, and row {again:?} was sent again: {report:?}"
        );
        let counted = stored_rows(fixture).await;
        stored = counted.unwrap_or(0).max(stored);
        let arrived = after[1..].iter().take_while(|times| **times > 0).count();
        assert!(
            arrived >= stored,
            "the checkpoint counts {stored} rows, and {arrived} arrived"
        );
        before = after;
        if let (Some(counted), None) = (counted, report.get("error")) {
            assert!(
                arrived - counted <= MAX_UNCOUNTED,
                "{arrived} rows arrived, and the checkpoint counts {counted}: {report}"
            );
        }
        let is_last = report["stopped"] == "empty";
        reports.push(report);
        if is_last {
            return reports;
        }
    }
    panic!("{MAX_TICKS} invocations did not pass the transaction: {reports:#?}")
}

async fn assert_arrives_unchanged(plugin: Plugin) {
    let fixture = fixture_with_transactions(plugin).await;
    let reports = tick_until_empty(&fixture).await;
    println!("{}: {} invocations", plugin.name(), reports.len());
    assert!(
        reports.len() > 2,
        "the transaction took too few invocations, the test is void: {reports:#?}"
    );
    let peak = fixture.function.peak_memory_bytes();
    assert!((1..MEMORY).contains(&peak), "{} MiB were resident", peak >> 20);

    let delivery = fixture.compare(&["big"]).await;
    assert_eq!(delivery.changes().len(), ROWS + 1);
    println!("{} of them twice", delivery.duplicates());
    assert!(
        positions_and_content(&delivery) == positions_and_content(&drain_in_one_invocation(&fixture).await),
        "the events differ from those of one invocation"
    );
}

async fn assert_resumes_after_kill(plugin: Plugin) {
    let fixture = fixture_with_transactions(plugin).await;
    let before = SlotPositions::read(&fixture).await;
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        wait::until("the checkpoint counts some rows", DEADLINE, || async {
            // Without rows, only the end of the transaction is known.
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
        "a part of a transaction moved the slot"
    );
    let stored = stored_rows(&fixture).await;
    let stored = stored.unwrap_or_else(|| panic!("{}", fixture.function.log().join("\n")));
    assert!((1..ROWS).contains(&stored), "{stored}");

    let reports = tick_until_empty(&fixture).await;
    let delivery = fixture.compare(&["big"]).await;
    println!(
        "{}: killed after {stored}, then {} invocations; {} rows twice",
        plugin.name(),
        reports.len(),
        delivery.duplicates()
    );
    assert_eq!(delivery.changes().len(), ROWS + 1);
    assert!(
        positions_and_content(&delivery) == positions_and_content(&drain_in_one_invocation(&fixture).await),
        "the events differ from those of one invocation"
    );
}

/// A plan counts the whole transaction, as a drain would send it.
///
/// Its rows change if the plugin's options or the published tables change. The test changes the stored hash
/// instead.
async fn a_plan_reads_a_changed_transaction_from_its_beginning() {
    let fixture = fixture_with_transactions(Plugin::Pgoutput).await;
    for _ in 0..MAX_TICKS {
        if stored_rows(&fixture).await > Some(0) {
            break;
        }
        fixture.function.invoke(&json!({}), SHORT).await;
    }
    let sent = stored_rows(&fixture).await.unwrap_or(0);
    assert!(sent > 0, "no invocation stopped inside of the transaction");
    let planned_changes =
        || async { fixture.invoke(json!({"action": "plan"})).await.answer()["changes"].clone() };
    assert_eq!(planned_changes().await, json!(ROWS - sent + 1));

    let mut checkpoint = fixture.checkpoint().await.expect("a checkpoint is stored");
    checkpoint["progress"]["hash"] = json!("0".repeat(32));
    fixture.put_checkpoint(&checkpoint).await;
    assert_eq!(planned_changes().await, json!(ROWS + 1));
}

/// A resumed window omits the rows that were sent.
///
/// It keeps the descriptions of their tables. So the descriptions of two tables are adjacent, as those of a
/// root and its partition are.
async fn tables_of_a_resumed_transaction_are_not_each_others_partitions() {
    let fixture = fixture(Plugin::Pgoutput).await;
    fixture.sql("create table other (code text primary key)").await;
    let transaction = format!(
        "insert into big values (0, 'first'); insert into other values ('between');
         insert into keyless values ('between'); {}; delete from big where id < 10",
        insert_rows()
    );
    fixture.sql(&transaction).await;
    let mut resumed = 0;
    for _ in 0..MAX_TICKS {
        resumed += usize::from(stored_rows(&fixture).await > Some(1));
        match fixture.function.invoke(&json!({}), SHORT).await {
            Outcome::Answer(report) if report["stopped"] == "empty" => break,
            Outcome::Answer(_) => {}
            Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) => {}
            other => panic!("the invocation has no answer: {other:?}"),
        }
    }
    assert!(
        resumed > 0,
        "no invocation resumed the transaction, the test is void"
    );
    let delivery = fixture.compare(&["big", "other", "keyless"]).await;
    let changes = delivery.changes();
    let deletes = changes.iter().filter(|it| it.event().op == "d");
    let (keys, old_rows): (Vec<&str>, Vec<Value>) = deletes
        .map(|it| (it.partition_key.as_str(), it.json()["before"].clone()))
        .unzip();
    let expected: Vec<Value> = (0..10).map(|id| json!({"id": id})).collect();
    assert_eq!(old_rows.len(), expected.len(), "{old_rows:?}");
    for old in &expected {
        assert!(old_rows.contains(old), "{old} is missing in {old_rows:?}");
        // With the other table as its partition, this table would have no key.
        assert!(
            keys.contains(&old.to_string().as_str()),
            "{old} is missing in {keys:?}"
        );
    }
}
