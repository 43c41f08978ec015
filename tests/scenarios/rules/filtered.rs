//! A large backlog of filtered changes does not block the slot.
//!
//! The decoding of the backlog takes longer than an invocation has. A peek returns no row of it. Several
//! invocations pass it piece by piece. The published change after it arrives.

use std::time::{Duration, Instant};

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::backfill::LATE;
use crate::support::positions::SlotPositions;

crate::scenarios![a_filtered_backlog_longer_than_an_invocation_is_passed];

/// Time of an invocation. Its last part is not for reading.
const SHORT: Duration = Duration::from_secs(4);
/// Invocations within which the backlog must pass.
const MAX_TICKS: u32 = 40;
/// Most transactions of the backlog. No machine decodes so many in one invocation.
const MAX_TRANSACTIONS: u32 = 4096;

/// Commits changes that are slow to decode. For each one, the row filter hashes 40 MB.
async fn write(fixture: &Fixture, transactions: u32) {
    fixture
        .sql(&format!(
            "do $$ begin
                for transaction in 1..{transactions} loop
                    insert into others values (40000000, repeat('x', 1000000));
                    commit;
                end loop;
            end $$"
        ))
        .await;
    // Decoding can restart from here.
    fixture.sql("checkpoint").await;
}

async fn a_filtered_backlog_longer_than_an_invocation_is_passed() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture
        .sql("create table ours (id int primary key); create table others (length int, what text)")
        .await;
    fixture
        .sql(
            "alter table others alter what set storage external;
             create publication spillway for table ours, others where (md5(repeat('x', length)) = '')
                 with (publish = 'insert')",
        )
        .await;
    fixture.create_slot().await;
    fixture.tick().await;
    // How many transactions exceed an invocation depends on the machine and its load.
    let mut transactions = 32;
    write(&fixture, transactions).await;
    while decode_time(&fixture).await < SHORT * 3 / 2 {
        assert!(
            transactions < MAX_TRANSACTIONS,
            "the server decodes {transactions} transactions in an invocation: the test is void"
        );
        write(&fixture, transactions).await;
        transactions *= 2;
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
    let peek = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes('{}', null, null, \
             'proto_version', '1', 'publication_names', 'spillway')",
        fixture.slot
    );
    let start = Instant::now();
    fixture.sql(&peek).await;
    start.elapsed()
}

/// Whether an invocation reached the end of the slot.
fn reached_end(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answer(report) => report["stopped"] == "empty",
        // Under other load, even the smallest window may take too long. The next tick starts at the same
        // position.
        Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) => false,
        _ => panic!("the invocation has no answer: {outcome:?}"),
    }
}
