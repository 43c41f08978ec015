//! A transaction of any size fits the memory of a small function.

use scenarios::fixture::{Fixture, Plugin};

crate::scenarios![
    a_transaction_of_a_hundred_megabytes_passes_through_pgoutput,
    a_transaction_of_a_hundred_megabytes_passes_through_wal2json,
    a_transaction_of_a_hundred_megabytes_passes_through_aggregates,
    a_large_transaction_is_decoded_once_by_pgoutput,
    a_large_transaction_is_decoded_once_by_test_decoding,
    a_large_transaction_after_many_others_passes,
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

async fn a_large_transaction_is_decoded_once_by_pgoutput() {
    let decodings = decodings_of_large_transaction(Plugin::Pgoutput, 0).await;
    assert!(decodings < 1.5, "decoded {decodings} times");
}

async fn a_large_transaction_is_decoded_once_by_test_decoding() {
    let decodings = decodings_of_large_transaction(Plugin::TestDecoding, 0).await;
    assert!(decodings < 1.5, "decoded {decodings} times");
}

/// Its commit is not among the thousand that the server sends first.
async fn a_large_transaction_after_many_others_passes() {
    let decodings = decodings_of_large_transaction(Plugin::Pgoutput, 1_100).await;
    assert!((1.5..2.5).contains(&decodings), "decoded {decodings} times");
}

/// Sends a large transaction after `others` of one row.
///
/// Its rows exceed the memory of the function. Returns the bytes that the server decoded for the drains, as a
/// multiple of one decoding.
async fn decodings_of_large_transaction(plugin: Plugin, others: usize) -> f64 {
    let fixture = Fixture::builder(plugin).shards(4).build().await;
    fixture
        .sql("create table big (id int primary key, what text)")
        .await;
    fixture.drain().await;
    fixture
        .sql(&format!(
            "do $$ begin
               for i in 1..{others} loop insert into big values (-i, 'small'); commit; end loop;
             end $$"
        ))
        .await;
    fixture
        .sql("insert into big select i, repeat('x', 400) from generate_series(1, 30000) i")
        .await;
    let slot = &fixture.slot;
    fixture.copy_slot(&format!("{slot}_once")).await;
    fixture
        .sql(&format!("select pg_stat_reset_replication_slot('{slot}')"))
        .await;
    let options = match plugin {
        Plugin::Pgoutput => "'proto_version', '1', 'publication_names', 'spillway'",
        _ => "'include-xids', '1'",
    };
    fixture
        .sql(&format!(
            "select count(*) from pg_logical_slot_peek_binary_changes('{slot}_once', null, null, {options})"
        ))
        .await;
    fixture.drain().await;
    let rows = 30_000 + others;
    assert_eq!(fixture.compare(&["big"]).await.changes().len(), rows);
    let decoded = async |slot: String| -> f64 {
        let sql = format!("select total_bytes from pg_stat_replication_slots where slot_name = '{slot}'");
        let bytes = fixture.value(&sql).await.expect("the slot has statistics");
        let bytes = bytes.parse().expect("a number");
        assert!(bytes > 0.0, "the server counted nothing");
        bytes
    };
    decoded(slot.clone()).await / decoded(format!("{slot}_once")).await
}
