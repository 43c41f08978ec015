//! A backlog of others' changes, of which a peek gives no row, and which takes longer to decode than an invocation has: it is
//! passed piece by piece, and what is ours behind it arrives.

use std::time::Duration;

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::positions::SlotPositions;

crate::scenarios![a_filtered_backlog_longer_than_an_invocation_is_passed];

/// What an invocation is given; it reads for less.
const SHORT: Duration = Duration::from_secs(4);
/// Invocations within which the backlog must pass.
const TICKS: u32 = 40;
/// Parts of log, each of which [`write`] writes, that are more than an invocation passes on any machine.
const MOST: u32 = 256;

/// Log that is slow to decode: many subtransactions, each in a file of its own when memory is short.
async fn write(fixture: &Fixture) {
    fixture.sql(
        "do $$ begin
            for transaction in 1..8 loop
                for part in 1..100 loop
                    begin insert into others values (part, null); exception when division_by_zero then null; end;
                end loop;
                insert into others values (0, repeat('x', 1000000));
                commit;
            end loop;
        end $$",
    )
    .await;
    // From here decoding can begin again.
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
    // So much that one invocation does not pass it: how much that is, this machine at this moment decides.
    let mut more = 8;
    let passed = loop {
        assert!(
            more <= MOST,
            "one invocation passes {more} parts of log: this shows nothing"
        );
        for _ in 0..more {
            write(&fixture).await;
        }
        let first = fixture.function.invoke(&json!({}), SHORT).await;
        SlotPositions::read(&fixture).await;
        if !is_through(&first) {
            break first;
        }
        more *= 2;
    };
    println!("{more} parts of log: {passed:?}");
    fixture.sql("insert into ours values (1)").await;
    for tick in 0.. {
        assert!(tick < TICKS, "{TICKS} invocations did not pass it");
        let outcome = fixture.function.invoke(&json!({}), SHORT).await;
        SlotPositions::read(&fixture).await;
        if is_through(&outcome) {
            break;
        }
    }
    assert_eq!(fixture.compare(&["ours"]).await.changes().len(), 1);
}

/// Whether an invocation found nothing more.
fn is_through(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answer(report) => report["stopped"] == "empty",
        // Beside others, even the smallest window may take too long for once. The next tick begins where
        // this one did.
        Outcome::Error { kind, .. } if ["OutOfTime", "PeekTimeout"].contains(&kind.as_str()) => false,
        _ => panic!("it should have answered: {outcome:?}"),
    }
}
