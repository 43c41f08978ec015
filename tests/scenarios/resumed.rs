//! A transaction that is larger than an invocation passes through several, each of which goes on where the one before stopped:
//! what arrives is what one would have sent, once, or again from the last stored place when one was killed.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::aws::kinesis::Kinesis;
use scenarios::consumer::{Arrival, Delivery};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::positions::{SlotPositions, wait_until_sessions_end};

crate::scenarios![
    a_transaction_of_pgoutput_that_takes_several_invocations_arrives_as_if_it_took_one,
    a_transaction_of_wal2json_that_takes_several_invocations_arrives_as_if_it_took_one,
    killed_inside_of_a_transaction_of_pgoutput_it_goes_on_where_the_checkpoint_says,
    killed_inside_of_a_transaction_of_wal2json_it_goes_on_where_the_checkpoint_says,
];

/// The smallest function that Lambda offers, in bytes.
const MEMORY: u64 = 128 << 20;
/// What an invocation is given: enough for the server to decode the transaction, and not for the stream to take it.
const SHORT: Duration = Duration::from_secs(9);
const ROWS: usize = 30_000;

async fn a_transaction_of_pgoutput_that_takes_several_invocations_arrives_as_if_it_took_one() {
    pass(Plugin::Pgoutput).await;
}

async fn a_transaction_of_wal2json_that_takes_several_invocations_arrives_as_if_it_took_one() {
    pass(Plugin::Wal2json).await;
}

async fn killed_inside_of_a_transaction_of_pgoutput_it_goes_on_where_the_checkpoint_says() {
    killed(Plugin::Pgoutput).await;
}

async fn killed_inside_of_a_transaction_of_wal2json_it_goes_on_where_the_checkpoint_says() {
    killed(Plugin::Wal2json).await;
}

/// A slot behind which a transaction of forty megabytes lies, and a small one; a second slot as the first; and a stream of two
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

fn changes(report: &Value) -> usize {
    let changes = report["changes"]
        .as_u64()
        .and_then(|changes| usize::try_from(changes).ok());
    changes.unwrap_or_else(|| panic!("a report tells of changes: {report}"))
}

/// Ticks that are short, until one finds nothing more.
async fn drained(fixture: &Fixture) -> Vec<Value> {
    let mut reports: Vec<Value> = Vec::new();
    while reports.last().is_none_or(|last| last["stopped"] != "empty") {
        assert!(reports.len() < 30, "{reports:#?}");
        reports.push(fixture.function.invoke(&json!({}), SHORT).await.answer());
        SlotPositions::read(fixture).await;
    }
    reports
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
    // Once, but for what was still under way when an invocation's time was over: on a machine that stutters, a few requests.
    let twice = delivery.duplicates();
    println!("{twice} of them twice");
    assert!(twice < ROWS / 10, "{twice} arrived twice: {reports:#?}");
    assert!(
        gist(&delivery) == gist(&in_one_go(&fixture).await),
        "one invocation sends other events"
    );
}

async fn killed(plugin: Plugin) {
    let fixture = fixture(plugin).await;
    let before = SlotPositions::read(&fixture).await;
    let progress = async || fixture.checkpoint().await.unwrap_or_default()["progress"].clone();
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        wait::until("a part of it is stored as sent", DEADLINE, || async {
            // With no rows, only where it ends is known.
            progress().await["rows"].as_u64() > Some(0)
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
    let stored = progress().await["rows"]
        .as_u64()
        .and_then(|rows| usize::try_from(rows).ok());
    let stored = stored.unwrap_or_else(|| panic!("{}", fixture.function.log().join("\n")));
    assert!((1..ROWS).contains(&stored), "{stored}");

    let reports = drained(&fixture).await;
    let sent: usize = reports.iter().map(changes).sum();
    println!("{}: killed after {stored}, then {sent} were sent", plugin.name());
    assert_eq!(
        sent,
        ROWS + 1 - stored,
        "what is stored as sent is not sent again: {reports:#?}"
    );
    let delivery = fixture.compare(&["big"]).await;
    assert_eq!(delivery.changes().len(), ROWS + 1);
    assert!(
        gist(&delivery) == gist(&in_one_go(&fixture).await),
        "one invocation sends other events"
    );
}
