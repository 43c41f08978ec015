//! A transaction of any size fits the memory of a small function.

use scenarios::fixture::{Fixture, Plugin};

crate::scenarios![
    a_transaction_of_a_hundred_megabytes_passes_through_pgoutput,
    a_transaction_of_a_hundred_megabytes_passes_through_wal2json,
    a_transaction_of_a_hundred_megabytes_passes_through_aggregates,
];

/// Memory of the smallest function that Lambda offers, in bytes.
const MEMORY: u64 = 128 << 20;
/// Rows whose events are larger than the memory.
const ROWS: usize = 160_000;

async fn a_transaction_of_a_hundred_megabytes_passes_through_pgoutput() {
    assert_fits(Plugin::Pgoutput, "none").await;
}

async fn a_transaction_of_a_hundred_megabytes_passes_through_wal2json() {
    assert_fits(Plugin::Wal2json, "none").await;
}

async fn a_transaction_of_a_hundred_megabytes_passes_through_aggregates() {
    assert_fits(Plugin::Pgoutput, "kpl").await;
}

async fn assert_fits(plugin: Plugin, aggregation: &str) {
    let mut fixture = Fixture::builder(plugin)
        .shards(4)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AGGREGATION", aggregation)
        .build()
        .await;
    // The function bypasses the fault proxy, which would keep a second copy of all records in memory.
    let endpoint = fixture.kinesis.endpoint().to_owned();
    fixture.function.set("AWS_ENDPOINT_URL_KINESIS", &endpoint).await;
    fixture
        .sql("create table big (id int primary key, what text)")
        .await;
    fixture
        .sql(&format!(
            "insert into big select i, repeat(md5(i::text), 12) from generate_series(1, {ROWS}) i"
        ))
        .await;
    let reports = fixture.drain().await;
    let peak = fixture.function.peak_memory_bytes();
    println!(
        "{}, {aggregation}: peak of {} MiB, {}",
        plugin.name(),
        peak >> 20,
        reports[0]
    );
    assert!((1..MEMORY).contains(&peak), "{} MiB were resident", peak >> 20);
    assert_eq!(fixture.compare(&["big"]).await.changes().len(), ROWS);
}
