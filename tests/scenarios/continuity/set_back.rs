//! A server restored from an older copy of its disk is detected.
//!
//! A snapshot is such a copy. Name and timeline are the same. The checkpoint is wrong for this server,
//! whether or not its log has grown beyond the checkpoint since.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::PostgresSettings;
use scenarios::wait;
use serde_json::json;

use crate::support::backlog;
use crate::support::expected_errors::assert_tick_fails;
use crate::support::positions::checkpoint_lsn;

crate::scenarios![
    a_restored_server_behind_the_checkpoint_has_diverged,
    a_restored_server_beyond_the_checkpoint_lacks_the_marker,
    an_older_restored_server_beyond_the_checkpoint_lacks_the_marker,
    a_restored_server_without_a_transaction_that_was_sent_in_part_lacks_the_marker,
];

/// Log that is larger than a window, in rows of one megabyte.
const FAR: u32 = 150;

/// Fixture with a drained slot on a restored server, and its checkpoint.
///
/// The server is back at an older copy of its disk. `others` is the number of megabytes that others wrote in
/// the lost log.
async fn set_back(others: u32) -> (Fixture, String) {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(PostgresSettings::default())
        .without_slot()
        .build()
        .await;
    backlog::create(&fixture).await;
    fixture
        .sql("create table others (what text); alter table others alter what set storage external")
        .await;
    fixture.sql("create publication spillway for table t").await;
    fixture.create_slot().await;
    backlog::write(&fixture, 1, 100, 20).await;
    fixture.drain().await;
    fixture.postgres.crash().await;
    fixture.postgres.copy_data();
    fixture.postgres.restart().await;
    backlog::write(&fixture, 2, 2_000, 20).await;
    write_unpublished(&fixture, others).await;
    fixture.drain().await;
    let checkpoint = checkpoint_lsn(&fixture).await;
    fixture.postgres.crash().await;
    fixture.postgres.restore_data();
    fixture.postgres.restart().await;
    (fixture, checkpoint)
}

/// Writes this many megabytes into a table that is not published.
async fn write_unpublished(fixture: &Fixture, megabytes: u32) {
    fixture
        .sql(&format!(
            "insert into others select repeat('x', 1000000) from generate_series(1, {megabytes})"
        ))
        .await;
}

async fn a_restored_server_behind_the_checkpoint_has_diverged() {
    let (fixture, checkpoint) = set_back(0).await;
    let confirmed = fixture.confirmed_flush().await;
    for _ in 0..2 {
        assert_tick_fails(
            &fixture,
            "Divergence",
            &[&fixture.slot, &checkpoint, &confirmed, "accept the gap"],
        )
        .await;
    }
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
}

async fn a_restored_server_beyond_the_checkpoint_lacks_the_marker() {
    assert_marker_missing(0).await;
}

async fn an_older_restored_server_beyond_the_checkpoint_lacks_the_marker() {
    assert_marker_missing(FAR).await;
}

/// Asserts that a restored server lacks the marker.
///
/// The log of the server has grown beyond the checkpoint. By their positions alone, the new changes would
/// count as sent.
async fn assert_marker_missing(others: u32) {
    let (fixture, checkpoint) = set_back(others).await;
    backlog::write(&fixture, 3, 4_000, 20).await;
    write_unpublished(&fixture, others).await;
    let beyond = format!("select pg_current_wal_flush_lsn() > '{checkpoint}'");
    assert_eq!(
        fixture.value(&beyond).await.as_deref(),
        Some("t"),
        "its log did not overtake the checkpoint"
    );
    for _ in 0..2 {
        assert_tick_fails(&fixture, "MarkerMissing", &[&fixture.slot, &checkpoint]).await;
    }
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
}

/// The stream has rows of a transaction that the server lacks.
///
/// The checkpoint is before the transaction. The first new transaction gets the transaction's xid.
async fn a_restored_server_without_a_transaction_that_was_sent_in_part_lacks_the_marker() {
    let large = "insert into big select i, repeat('y', 960) from generate_series(1, 40000) i";
    let small = "do $$ begin for i in 1..16000 loop insert into big values (i, repeat('z', 1900)); commit; \
                 end loop; end $$";
    for others in ["", large, small] {
        let fixture = Fixture::builder(Plugin::Pgoutput)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AGGREGATION", "kpl")
            .on_new_server(PostgresSettings::default())
            .build()
            .await;
        let slow = Fault::Delay(Duration::from_millis(300));
        fixture.kinesis_proxy.inject("PutRecords", slow);
        fixture
            .sql("create table big (id int primary key, what text)")
            .await;
        fixture.drain().await;
        fixture.postgres.crash().await;
        fixture.postgres.copy_data();
        fixture.postgres.restart().await;
        let lost = "insert into big select i, repeat(md5(i::text), 30) from generate_series(1, 22000) i";
        fixture.sql(lost).await;
        let is_in_part = async || {
            let checkpoint = fixture.checkpoint().await.unwrap_or_default();
            checkpoint["progress"]["rows"].as_u64() > Some(0)
        };
        let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
            wait::until("a section is in the checkpoint", DEADLINE, is_in_part).await;
            fixture.function.kill9().await;
        });
        assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
        let checkpoint = fixture.checkpoint().await;
        fixture.postgres.crash().await;
        fixture.postgres.restore_data();
        fixture.postgres.restart().await;
        fixture.kinesis_proxy.clear();
        fixture.connect().await.batch_execute(others).await.unwrap();
        assert_tick_fails(&fixture, "MarkerMissing", &[&fixture.slot]).await;
        assert_eq!(fixture.checkpoint().await, checkpoint);
    }
}
