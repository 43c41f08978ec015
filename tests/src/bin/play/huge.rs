//! One transaction of `MEGABYTES` (1100) through invocations of `DEADLINE` (60) seconds each, in a function
//! of `MEMORY` (128) MiB, with `PLUGIN` (`pgoutput`) and `AGGREGATION` (`none`). Every change must arrive,
//! with the position that the server's own peek tells. Exits with 1 when one did not, when one came twice, or
//! when the function's memory was not enough.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::consumer::event::Event;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::json;

use crate::seeds::number;

/// Bytes of a row's text.
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
    let plugin = Plugin::from_name(&plugin).unwrap_or_else(|| panic!("PLUGIN={plugin} is none of ours"));
    let mut fixture = Fixture::builder(plugin)
        .shards(4)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory.to_string())
        .env("AGGREGATION", &setting("AGGREGATION", "none"))
        .build()
        .await;
    // Past the fault proxy, which would keep all this in our memory a second time.
    let endpoint = fixture.kinesis.endpoint().to_owned();
    fixture.function.set("AWS_ENDPOINT_URL_KINESIS", &endpoint).await;
    fixture
        .sql("create table big (id int primary key, what text)")
        .await;
    fixture.drain().await;
    // What tells where the server puts each change, whichever plugin the function reads.
    let oracle = format!("{}_oracle", fixture.slot);
    fixture
        .sql(&format!(
            "select pg_create_logical_replication_slot('{oracle}', 'test_decoding')"
        ))
        .await;
    println!(
        "{}: one transaction of {rows} rows of {ROW} bytes, invocations of {} s, a function of {memory} MiB",
        plugin.name(),
        deadline.as_secs()
    );
    fixture.sql(&format!(
        "alter table big alter what set storage external; insert into big select i, rpad(i::text, {ROW}, 'x') from generate_series(1, {rows}) i"
    ))
    .await;
    let began = Instant::now();
    for invocation in 1.. {
        let report = fixture.function.invoke(&json!({}), deadline).await.answer();
        println!("{invocation:3} {report}");
        // A server that was told to stop may take a while to let the slot go; a tick comes each minute.
        if report["stopped"] == "busy" {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        if report["stopped"] == "empty" {
            break;
        }
        assert!(invocation < 100, "a hundred invocations were not enough");
    }
    let took = began.elapsed();
    let peak = fixture.function.peak_memory_bytes() >> 20;

    let mut arrived = Vec::new();
    for shard in fixture.kinesis.shards(&fixture.stream).await {
        let mut take = |_: &str, data: &[u8]| match scenarios::aws::aggregate::split(data) {
            Ok(Some(records)) => arrived.extend(records.iter().map(|record| position(record.data))),
            _ => arrived.push(position(data)),
        };
        fixture
            .kinesis
            .read_shard(&fixture.stream, shard.shard_id(), &mut take)
            .await;
    }
    arrived.sort_unstable();
    let all = arrived.len();
    arrived.dedup();
    let expected = expected(&fixture, &oracle).await;
    fixture
        .sql(&format!("select pg_drop_replication_slot('{oracle}')"))
        .await;
    let lost = expected
        .iter()
        .filter(|position| arrived.binary_search(position).is_err())
        .count();
    let (duplicates, foreign) = (all - arrived.len(), arrived.len() + lost - expected.len());
    println!(
        "{all} events in {:.0} s: {lost} lost, {duplicates} came twice, {foreign} have other positions than the server's; at most {peak} MiB were resident",
        took.as_secs_f64()
    );
    match lost + duplicates + foreign {
        0 if peak < memory => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn position(data: &[u8]) -> String {
    Event::parse(data).map_or_else(|reason| reason, |event| event.source.position)
}

/// The positions of all inserts, in order, from a peek of our own.
async fn expected(fixture: &Fixture, oracle: &str) -> Vec<String> {
    let client = fixture.connect().await;
    let sql = format!(
        "select (lsn - '0/0')::int8, left(data, 1) from pg_logical_slot_peek_changes('{oracle}', null, null) where left(data, 5) in ('table', 'COMMI')"
    );
    let (mut expected, mut open) = (Vec::new(), Vec::new());
    for row in client.query(&sql, &[]).await.expect("the oracle answers") {
        let (lsn, head): (i64, &str) = (row.get(0), row.get(1));
        if head == "t" {
            open.push(lsn);
            continue;
        }
        let mut last = (0, 0u32);
        for change in open.drain(..) {
            last = (change, if last.0 == change { last.1 + 1 } else { 0 });
            expected.push(format!("{lsn:016x}.{change:016x}.{:08x}", last.1));
        }
    }
    expected
}
