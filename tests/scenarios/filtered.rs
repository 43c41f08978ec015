//! Backlog of filtered changes that takes longer to decode than an invocation has.
//!
//! A peek returns no row of it. Several invocations pass it piece by piece, and the published change after it
//! arrives.

use std::time::{Duration, Instant};

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::positions::SlotPositions;

crate::scenarios![a_filtered_backlog_longer_than_an_invocation_is_passed];

/// Deadline of an invocation; it reads for less.
const SHORT: Duration = Duration::from_secs(4);
/// Invocations within which the backlog must pass.
const MAX_TICKS: u32 = 40;
/// Parts of log, each written by [`write`], that no machine decodes in the time of two invocations.
const MAX_PARTS: u32 = 256;

/// Writes log that is slow to decode.
///
/// It has many subtransactions, and each becomes a file when memory is short.
async fn write(fixture: &Fixture) {
    fixture
        .sql(
            "do $$ begin
            for transaction in 1..8 loop
                for part in 1..100 loop
                    begin insert into others values (part, null);
                          exception when division_by_zero then null; end;
                end loop;
                insert into others values (0, repeat('x', 1000000));
                commit;
            end loop;
        end $$",
        )
        .await;
    // Decoding can restart from here.
    fixture.sql("checkpoint").await;
}

async fn a_filtered_backlog_longer_than_an_invocation_is_passed() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    let database = &fixture.database;
    fixture
        .sql("create table ours (id int primary key); create table others (n int, what text)")
        .await;
    fixture
        .sql("alter table others alter what set storage external; create publication spillway for table ours")
        .await;
    fixture
        .sql(&format!(
            "alter database {database} set logical_decoding_work_mem = '64kB'"
        ))
        .await;
    fixture.create_slot().await;
    fixture.tick().await;
    // The size that takes so long depends on the machine and its load.
    let mut parts = 0;
    while decode_time(&fixture).await < SHORT * 2 {
        assert!(
            parts < MAX_PARTS,
            "the server decodes {parts} parts in an invocation: the test is void"
        );
        for _ in 0..8 {
            write(&fixture).await;
        }
        parts += 8;
    }
    fixture.sql("insert into ours values (1)").await;
    for tick in 0.. {
        assert!(
            tick < MAX_TICKS,
            "{MAX_TICKS} invocations did not pass the backlog"
        );
        let outcome = fixture.function.invoke(&json!({}), SHORT).await;
        SlotPositions::read(&fixture).await;
        if reached_end(&outcome) {
            break;
        }
    }
    assert_eq!(fixture.compare(&["ours"]).await.changes().len(), 1);
}

/// Time in which the server decodes the whole backlog.
async fn decode_time(fixture: &Fixture) -> Duration {
    let start = Instant::now();
    let peek = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes('{}', null, null, \
             'proto_version', '1', 'publication_names', 'spillway')",
        fixture.slot
    );
    fixture.sql(&peek).await;
    start.elapsed()
}

/// Whether an invocation reached the end of the slot.
fn reached_end(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answer(report) => report["stopped"] == "empty",
        // Beside other load, even the smallest window may take too long. The next tick starts at the same
        // position.
        Outcome::Error { kind, .. } if ["OutOfTime", "PeekTimeout"].contains(&kind.as_str()) => false,
        _ => panic!("the invocation has no answer: {outcome:?}"),
    }
}
