//! One large transaction, drained by many invocations.
//!
//! With `VALUE_MEGABYTES` the transaction is a single row with one value of that size, and `OVERSIZE=omit`.
//!
//! Variables: `MEGABYTES` (1100) is its size, `DEADLINE` (60) the seconds of an invocation, `MEMORY` (128)
//! the MiB of the function; `PLUGIN` (`pgoutput`) and `AGGREGATION` (`none`).
//!
//! Every change must arrive once, with the position that the server's own peek has. The exit status is 1 when
//! one is lost or duplicated, or when the function needed more memory.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::consumer::event::Event;
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::query::rows;
use scenarios::postgres::sql_text::{create_slot_sql, drop_slot_sql};
use scenarios::variables::number;
use serde_json::json;

/// Bytes of the text in a row.
const ROW: u64 = 2000;

pub(crate) fn main() -> ExitCode {
    scenarios::block_on(run())
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

async fn run() -> ExitCode {
    let rows = number("MEGABYTES", 1100) * 1_000_000 / ROW;
    let deadline = Duration::from_secs(number("DEADLINE", 60));
    let memory = number("MEMORY", 128);
    let plugin = setting("PLUGIN", "pgoutput");
    let plugin = Plugin::from_name(&plugin).unwrap_or_else(|| panic!("PLUGIN={plugin} is unknown"));
    let fixture = fixture(plugin, memory).await;
    let value = number("VALUE_MEGABYTES", 0);
    if value > 0 {
        return drain_value(fixture, value, deadline, memory).await;
    }
    // A slot of test_decoding has the position of each change, whichever plugin the function reads.
    let oracle = format!("{}_oracle", fixture.slot);
    fixture.sql(&create_slot_sql(&oracle, "test_decoding")).await;
    println!(
        "{}: one transaction of {rows} rows of {ROW} bytes, invocations of {} s, a function of {memory} MiB",
        plugin.name(),
        deadline.as_secs()
    );
    fixture
        .sql(&format!(
            "alter table big alter what set storage external;
             insert into big select i, rpad(i::text, {ROW}, 'x') from generate_series(1, {rows}) i"
        ))
        .await;
    let began = Instant::now();
    drain(&fixture, deadline).await;
    let seconds = began.elapsed().as_secs_f64();
    let peak = fixture.function.peak_memory_bytes() >> 20;

    let mut arrived = arrived(&fixture).await;
    arrived.sort_unstable();
    let all = arrived.len();
    arrived.dedup();
    let expected = expected(&fixture, &oracle).await;
    fixture.sql(&drop_slot_sql(&oracle)).await;
    let is_lost = |position: &&String| arrived.binary_search(position).is_err();
    let lost = expected.iter().filter(is_lost).count();
    let (duplicates, foreign) = (all - arrived.len(), arrived.len() + lost - expected.len());
    println!(
        "{all} events in {seconds:.0} s: {lost} lost, {duplicates} duplicates, {foreign} unknown to the \
         server; peak memory {peak} MiB"
    );
    match lost + duplicates + foreign {
        0 if peak < memory => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Drains one row with one value of so many megabytes.
async fn drain_value(mut fixture: Fixture, megabytes: u64, deadline: Duration, memory: u64) -> ExitCode {
    fixture.function.set("OVERSIZE", "omit").await;
    println!(
        "{}: one value of {megabytes} MB, a function of {memory} MiB",
        fixture.plugin.name()
    );
    fixture
        .sql(&format!(
            "alter table big alter what set storage external;
             insert into big values (1, repeat('x', {}))",
            megabytes * 1_000_000
        ))
        .await;
    let began = Instant::now();
    drain(&fixture, deadline).await;
    let (seconds, events) = (began.elapsed().as_secs_f64(), arrived(&fixture).await.len());
    let peak = fixture.function.peak_memory_bytes() >> 20;
    println!("{events} events in {seconds:.0} s; peak memory {peak} MiB");
    match events == 1 && peak < memory {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Drained fixture with the empty table `big`.
///
/// The function has `memory` MiB.
async fn fixture(plugin: Plugin, memory: u64) -> Fixture {
    let mut fixture = Fixture::builder(plugin)
        .shards(4)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory.to_string())
        .env("AGGREGATION", &setting("AGGREGATION", "none"))
        .build()
        .await;
    // Without the fault proxy, whose log would keep all data in memory a second time.
    let endpoint = fixture.kinesis.endpoint().to_owned();
    fixture.function.set("AWS_ENDPOINT_URL_KINESIS", &endpoint).await;
    fixture
        .sql("create table big (id int primary key, what text)")
        .await;
    fixture.drain().await;
    fixture
}

/// Ticks until the slot is empty.
async fn drain(fixture: &Fixture, deadline: Duration) {
    for invocation in 1.. {
        let report = fixture.function.invoke(&json!({}), deadline).await.answer();
        println!("{invocation:3} {report}");
        // After a cancelled statement the server may keep the slot active for a while. In service a tick is a
        // minute later.
        if report["stopped"] == "busy" {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        if report["stopped"] == "empty" {
            return;
        }
        assert!(invocation < 100, "a hundred invocations were not enough");
    }
}

/// Positions of all events in the stream.
async fn arrived(fixture: &Fixture) -> Vec<String> {
    let mut arrived = Vec::new();
    for shard in fixture.kinesis.shards(&fixture.stream).await {
        let mut add = |_: &str, data: &[u8]| match scenarios::aws::aggregate::split(data) {
            Ok(Some(records)) => arrived.extend(records.iter().map(|record| position(record.data))),
            _ => arrived.push(position(data)),
        };
        fixture
            .kinesis
            .read_shard(&fixture.stream, shard.shard_id(), &mut add)
            .await;
    }
    arrived
}

fn position(data: &[u8]) -> String {
    Event::parse(data).map_or_else(|reason| reason, |event| event.source.position)
}

/// Positions of all inserts in order, peeked from the oracle's slot.
async fn expected(fixture: &Fixture, oracle: &str) -> Vec<String> {
    let client = fixture.connect().await;
    let sql = format!(
        "select (lsn - '0/0')::int8 as lsn, left(data, 5) = 'table' as is_change
         from pg_logical_slot_peek_changes('{oracle}', null, null) where left(data, 5) in ('table', 'COMMI')"
    );
    let (mut expected, mut open) = (Vec::new(), Vec::new());
    for row in rows(&client, &sql, &[]).await {
        let lsn: i64 = row.get("lsn");
        if row.get("is_change") {
            open.push(lsn);
            continue;
        }
        // Changes of one WAL record have the same LSN and count up.
        let mut last = (0, 0u32);
        for change in open.drain(..) {
            last = (change, if last.0 == change { last.1 + 1 } else { 0 });
            expected.push(format!("{lsn:016x}.{change:016x}.{:08x}", last.1));
        }
    }
    expected
}
