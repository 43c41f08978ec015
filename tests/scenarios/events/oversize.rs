//! An event that exceeds a record of the stream stops the drain.
//!
//! The drain stops before the transaction of the event. All earlier changes have arrived and are confirmed.
//! No later change is sent.

use scenarios::fixture::{Fixture, Plugin};

use crate::support::positions::SlotPositions;

crate::scenarios![
    an_event_larger_than_a_record_stops_the_drain_before_it,
    a_row_too_large_for_the_memory_stops_the_drain_before_it,
];

/// Error message of a drain with an oversize row.
///
/// The table gets a small row, a row with a text of `bytes`, and another small row. The drain must send the
/// first row, and stop at the second.
async fn assert_refused(plugin: Plugin, bytes: usize) -> String {
    let fixture = Fixture::builder(plugin)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key, large text)")
        .await;
    fixture.sql("insert into t values (1, 'small')").await;
    fixture
        .sql(&format!("insert into t values (2, repeat('x', {bytes}))"))
        .await;
    fixture.sql("insert into t values (3, 'small')").await;
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "Oversize", "{message}");
    let before = SlotPositions::read(&fixture).await;
    assert_eq!(
        before.confirmed,
        before.checkpoint,
        "the slot is not at the checkpoint: {}",
        fixture.function.log().join("\n")
    );
    let (again, _) = fixture.failing_tick().await;
    // The second tick may have confirmed more log: that of other databases, before the transaction.
    let after = SlotPositions::read(&fixture).await;
    assert_eq!((again.as_str(), after.confirmed), ("Oversize", after.checkpoint));
    let delivery = fixture.consume().await;
    let keys: Vec<_> = delivery
        .changes()
        .iter()
        .map(|it| it.json()["after"]["id"].clone())
        .collect();
    assert_eq!(keys, [1], "not exactly the first row arrived, once");
    let peak = fixture.function.peak_memory_bytes();
    assert!(peak < 128 << 20, "{plugin:?} took {peak} bytes: {message}");
    message
}

async fn an_event_larger_than_a_record_stops_the_drain_before_it() {
    for plugin in Plugin::ALL {
        let message = assert_refused(plugin, 1 << 20).await;
        for part in ["public.t", "1048576", "key hash"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

async fn a_row_too_large_for_the_memory_stops_the_drain_before_it() {
    for plugin in Plugin::ALL {
        let message = assert_refused(plugin, 150 << 20).await;
        for part in ["public.t", "157286", "key hash", "OVERSIZE=omit", "TABLES"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
