//! Clusters of servers, and slots that restart inside a transaction.

use std::time::Duration;

use scenarios::fixture::Fixture;
use scenarios::postgres::PostgresSettings;
use scenarios::postgres::cluster::Cluster;
use scenarios::wait;
use tokio_postgres::Client;

/// Limit for the wait until a slot's restart position moves.
const LIMIT: Duration = Duration::from_secs(30);

/// A running cluster of servers of this version.
pub(crate) async fn start_cluster(version: u32) -> Cluster {
    Cluster::start(PostgresSettings {
        version: Some(version),
        ..PostgresSettings::default()
    })
    .await
}

/// Moves the slot's restart position into an open transaction.
///
/// `step` advances the slot. The table `t` needs a column `id`; its rows do not change. The returned
/// connection has a second open transaction. With no open transaction, the server could start to decode
/// without a stored snapshot.
pub(crate) async fn restart_slot_mid_transaction<F: Future<Output = ()>>(
    fixture: &Fixture,
    step: impl Fn() -> F,
) -> Client {
    let first = fixture.connect().await;
    first
        .batch_execute("begin; insert into t (id) values (-1)")
        .await
        .unwrap();
    let began = fixture.value("select pg_current_wal_insert_lsn()").await.unwrap();
    fixture.sql("checkpoint").await;
    step().await;
    let second = fixture.connect().await;
    second
        .batch_execute("begin; insert into t (id) values (-2)")
        .await
        .unwrap();
    first.batch_execute("rollback").await.unwrap();
    let slot = &fixture.slot;
    let restarts =
        format!("select restart_lsn >= '{began}' from pg_replication_slots where slot_name = '{slot}'");
    wait::until(
        "the slot restarts after the start of the first transaction",
        LIMIT,
        || async {
            fixture.sql("checkpoint").await;
            step().await;
            fixture.value(&restarts).await.as_deref() == Some("t")
        },
    )
    .await;
    second
}
