//! A backlog of others' changes, of which a peek gives no row, and which takes longer to decode than an invocation has: it is
//! passed piece by piece, and what is ours behind it arrives.

use std::time::{Duration, Instant};

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use serde_json::json;

use crate::support::positions::SlotPositions;

crate::scenarios![a_backlog_of_others_that_takes_longer_than_an_invocation_is_passed];

/// What an invocation is given; it reads for less.
const SHORT: Duration = Duration::from_secs(4);
/// Invocations that must do.
const TICKS: u32 = 40;

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

/// How long one peek of all of it takes.
async fn whole(fixture: &Fixture) -> Duration {
    let began = Instant::now();
    let sql = format!(
        "select count(*) from pg_logical_slot_peek_binary_changes('{}_whole', null, null,
             'proto_version', '1', 'publication_names', 'spillway')",
        fixture.slot
    );
    // A session that begins now has what was set for the database.
    let count = fixture.connect().await.query_one(&sql, &[]).await;
    let count = count.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(count.get::<_, i64>(0), 0, "none of it is ours");
    began.elapsed()
}

async fn a_backlog_of_others_that_takes_longer_than_an_invocation_is_passed() {
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
    fixture
        .sql(&format!(
            "select pg_create_logical_replication_slot('{}_whole', 'pgoutput')",
            fixture.slot
        ))
        .await;
    fixture.tick().await;
    let (mut written, mut more) = (0, 4);
    loop {
        for _ in 0..more {
            write(&fixture).await;
        }
        written += more;
        let took = whole(&fixture).await;
        if took >= SHORT {
            break;
        }
        // What seems to be lacking, and a little.
        let wanted = f64::from(written) * (SHORT.as_secs_f64() * 1.1 / took.as_secs_f64()).min(8.0);
        more = (wanted as u32).saturating_sub(written).max(1);
    }
    fixture.sql("insert into ours values (1)").await;

    let mut ticks = 0;
    loop {
        ticks += 1;
        let outcome = fixture.function.invoke(&json!({}), SHORT).await;
        SlotPositions::read(&fixture).await;
        match &outcome {
            Outcome::Answer(report) if report["stopped"] == "empty" => break,
            Outcome::Answer(_) => {}
            // Beside others, even the smallest window may take too long for once. The next tick begins where this one did.
            Outcome::Error { kind, .. } if kind == "PeekTimeout" => {}
            _ => panic!("it should have answered: {outcome:?}"),
        }
        assert!(ticks < TICKS, "{TICKS} invocations did not pass it: {outcome:?}");
    }
    assert!(ticks > 1, "one invocation passed it: this shows nothing");
    assert_eq!(fixture.compare(&["ours"]).await.changes().len(), 1);
}
