//! Interleaved transactions arrive in commit order.
//!
//! The log has their rows in another order.

use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::positions::SlotPositions;

crate::scenarios![
    rows_arrive_in_commit_order_and_not_in_log_order,
    rows_logged_before_the_checkpoint_and_committed_after_it_arrive,
];

/// Writes two interleaved transactions.
///
/// If `ticks` is set, a tick follows each step. The first to begin is the last to commit. Before its commit
/// it emits a non-transactional message.
async fn interleave(fixture: &Fixture, ticks: bool) {
    fixture.sql("create table log (n int)").await;
    let (long, short) = (fixture.connect().await, fixture.connect().await);
    for (client, sql) in [
        (&long, "begin; insert into log values (3)"),
        (&short, "insert into log values (1)"),
        (
            &long,
            "insert into log values (4); select pg_logical_emit_message(false, 'aside', 'now')",
        ),
        (&short, "insert into log values (2)"),
        (&long, "insert into log values (5); commit"),
        (&short, "insert into log values (6)"),
    ] {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        if ticks {
            fixture.tick().await;
            SlotPositions::read(fixture).await;
        }
    }
}

/// Asserts that all rows arrive once and in commit order.
///
/// The log has the rows in another order.
async fn assert_in_order_of_commits(fixture: &Fixture) {
    let delivery = fixture.compare(&["log"]).await;
    assert_eq!(delivery.duplicates(), 0);
    let rows: Vec<_> = delivery
        .arrivals
        .iter()
        .filter(|it| it.event().op == "c")
        .collect();
    let numbers: Vec<Value> = rows.iter().map(|it| it.json()["after"]["n"].clone()).collect();
    assert_eq!(json!(numbers), json!([1, 2, 3, 4, 5, 6]));
    let logged = |it: &&scenarios::consumer::Arrival| it.position[17..33].to_owned();
    assert!(
        !rows.iter().map(logged).is_sorted(),
        "the log has the rows in commit order: the test is void"
    );
    let messages: Vec<_> = delivery
        .arrivals
        .iter()
        .filter(|it| it.event().op == "m")
        .collect();
    assert_eq!(messages.len(), 1);
    assert!(
        rows[0].position < messages[0].position && messages[0].position < rows[2].position,
        "the message is not between the first commit and the last: {}",
        messages[0].position
    );
}

async fn rows_arrive_in_commit_order_and_not_in_log_order() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).env("KEYLESS", "table").build().await;
        interleave(&fixture, false).await;
        fixture.drain().await;
        assert_in_order_of_commits(&fixture).await;
    })
    .await;
}

async fn rows_logged_before_the_checkpoint_and_committed_after_it_arrive() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).env("KEYLESS", "table").build().await;
        interleave(&fixture, true).await;
        fixture.drain().await;
        assert_in_order_of_commits(&fixture).await;
    })
    .await;
}
