//! The consumers of `examples/consumers` end with the rows of PostgreSQL.
//!
//! The streams contain what a consumer must expect:
//!
//! - updates that change a key, and updates that leave a large value untouched;
//! - a truncate;
//! - rows of a backfill;
//! - aggregated records, a reshard and duplicates;
//! - an accepted gap and its repair, in some scenarios;
//! - a record that Spillway did not write.
//!
//! The consumer fails once at some records. Some batches that succeeded are sent to it again. KCL reads the
//! stream while it is resharded, after its first worker was killed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use aws_sdk_kinesis::types::Shard;
use scenarios::consumer::example::{ExampleConsumer, ExampleFigures, read_with_spark};
use scenarios::consumer::kcl::{KclProgress, KclWorker};
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::consumer::rebuild::RebuiltTables;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::{ADMIN, Postgres};
use serde_json::json;
use tokio_postgres::Client;

use crate::support::backfill::{fixture_with_tables, run_backfill};
use crate::support::duplicates::send_without_checkpoint;
use crate::support::gap::{accept_gap, advance_slot};
use crate::support::reshard::reshard;

crate::scenarios![
    a_lambda_function_with_duckdb_has_the_rows_of_postgresql,
    a_lambda_function_with_merge_has_the_rows_of_postgresql,
    iceberg_tables_have_the_rows_of_postgresql,
    two_sources_with_the_same_tables_and_keys_stay_apart,
    rows_with_the_partition_key_of_a_customer_keep_their_keys,
];
crate::long_scenarios![
    kcl_has_the_rows_of_postgresql_from_records_of_one_event,
    kcl_has_the_rows_of_postgresql_from_aggregates,
    spark_has_the_rows_of_postgresql,
];

/// Tables, filled before the slot exists. The last, `log`, is empty and has no key.
const TABLES: &str = r#"
    create table t (id int primary key, n int, body text, price numeric(24, 4), ratio float8, paid boolean,
        at timestamptz, tags text[]);
    alter table t alter body set storage external;
    create table u (id bigint primary key, v text);
    create schema "Shop";
    create table "Shop"."Order.Line" (a int, b text, v text, primary key (a, b));
    create table log (line text);
    grant usage on schema "Shop" to public;
    grant select on "Shop"."Order.Line" to public;
    insert into t select i, 0, repeat(md5(i::text), 100), i / 8.0, i / 3.0, i % 2 = 0, now(), array['a', null]
        from generate_series(1, 60) i;
    insert into u select i, 'old' from generate_series(1, 40) i;
    insert into "Shop"."Order.Line" select i, 'x "y" ' || i, null from generate_series(1, 20) i"#;

const COMPARED: [&str; 4] = ["t", "u", r#""Shop"."Order.Line""#, "log"];

/// Transactions with untouched large values and changed keys.
///
/// Some of the old keys are used again at once.
const CHANGES: &[&str] = &[
    "insert into t (id, n, body) select i, 1, repeat(md5(i::text), 200) from generate_series(101, 160) i",
    "update t set n = n + 1",
    "update t set id = id + 1000 where id % 3 = 0; update t set n = n + 1",
    "insert into t (id, n, body) select id - 1000, 7, repeat('again', 800) from t
        where id > 1000 and id % 2 = 0",
    "update t set id = id + 5000 where id > 1000 and id % 9 = 0; update t set n = n + 1 where id > 5000",
    "delete from t where id % 7 = 0; insert into t (id, n) values (7, 100), (14, 100)",
    "insert into log select 'line ' || i % 10 from generate_series(1, 50) i",
    r#"update "Shop"."Order.Line" set v = 'é' where a > 5; delete from "Shop"."Order.Line" where a = 3"#,
];

/// Writes everything into a stream of three shards, and reshards it.
async fn write(fixture: &Fixture) {
    write_before_reshard(fixture).await;
    reshard(&fixture.kinesis, &fixture.stream).await;
    write_after_reshard(fixture).await;
}

async fn write_before_reshard(fixture: &Fixture) {
    let (first, others) = CHANGES.split_at(2);
    for sql in first {
        fixture.sql(sql).await;
    }
    fixture.drain().await;
    for sql in others {
        fixture.sql(sql).await;
    }
    send_without_checkpoint(fixture).await;
    fixture
        .sql("update u set v = 'new' where id % 2 = 0; insert into u values (100, 'live')")
        .await;
    let tables = ["public.t", "public.u", r#""Shop"."Order.Line""#];
    run_backfill(
        fixture,
        json!({"action": "backfill", "tables": tables, "chunk_rows": 30}),
    )
    .await;
    fixture.sql("truncate u").await;
    fixture
        .sql("insert into u select i, 'after' from generate_series(20, 60) i")
        .await;
    fixture.drain().await;
}

async fn write_after_reshard(fixture: &Fixture) {
    fixture
        .sql("update t set n = n + 1; update t set id = -id where id < 40")
        .await;
    fixture
        .sql(
            "update u set v = null where id > 50; delete from t where id between -10 and -1;
             insert into t (id, n, body) select -id, 9, repeat('reused', 700) from t
                where id between -39 and -20",
        )
        .await;
    fixture.drain().await;
}

/// Loses changes in an accepted gap, and repairs the tables.
async fn lose_and_repair(fixture: &Fixture) {
    fixture
        .sql(
            r#"delete from t where id % 5 = 0; update t set n = -1 where id % 4 = 0;
             insert into t (id, n, body) values (9000, 1, repeat('lost', 2000));
             delete from "Shop"."Order.Line" where a > 15; delete from u where id < 30"#,
        )
        .await;
    let confirmed = advance_slot(fixture).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    let tables = ["public.t", "public.u", r#""Shop"."Order.Line""#];
    run_backfill(
        fixture,
        json!({"action": "backfill", "repair": true, "tables": tables}),
    )
    .await;
    fixture.sql("update t set n = n + 1 where id % 2 = 0").await;
    fixture.drain().await;
}

async fn compare(fixture: &Fixture, source: &str, sources: &BTreeMap<String, RebuiltTables>) {
    let client = fixture.connect().await;
    let tables = sources
        .get(source)
        .unwrap_or_else(|| panic!("no rows of {source}"));
    for table in COMPARED {
        let compared = oracle::compare(&client, table, tables, ComparedRows::All).await;
        compared.assert_equal();
        assert!(compared.rows > 10, "{table} has only {} rows", compared.rows);
    }
}

/// Reads the stream with an example, and compares the rows.
///
/// The options are those of `event_source.py`.
async fn consume(
    fixture: &Fixture,
    folder: &str,
    options: &[&str],
    variables: &[(String, String)],
) -> ExampleFigures {
    let mut example = ExampleConsumer::start(folder, options, variables);
    example.send(&fixture.kinesis, &fixture.stream).await;
    let (figures, sources) = example.finish().await;
    compare(fixture, &fixture.slot, &sources).await;
    assert_eq!(figures.given_up, 1, "only the foreign record is refused");
    figures
}

/// Fixture whose stream has everything except a gap.
///
/// The stream also has a record that is not from Spillway.
async fn written(builder: FixtureBuilder) -> Fixture {
    let fixture = fixture_with_tables(builder.shards(3), TABLES).await;
    write(&fixture).await;
    let delivery = fixture.compare(&["t", "u"]).await;
    assert!(
        delivery.duplicates() > 100,
        "{} duplicates",
        delivery.duplicates()
    );
    put_foreign_record(&fixture).await;
    fixture
}

async fn put_foreign_record(fixture: &Fixture) {
    let data = b"not an event of Spillway";
    fixture.kinesis.put(&fixture.stream, "foreign", data).await;
}

/// Option that changes the order of shards, batches and failures.
fn seed(seed: u32) -> String {
    format!("--seed={seed}")
}

async fn a_lambda_function_with_duckdb_has_the_rows_of_postgresql() {
    // An aggregate has many events, so there are few records.
    Plugin::each(|plugin| compare_in_duckdb(plugin, "kpl", "--fails=0.3", 1..=1)).await;
    compare_in_duckdb(Plugin::Pgoutput, "none", "--fails=0.05", 2..=3).await;
}

async fn compare_in_duckdb(plugin: Plugin, aggregation: &str, fails: &str, seeds: RangeInclusive<u32>) {
    let fixture = written(Fixture::builder(plugin).env("AGGREGATION", aggregation)).await;
    let in_memory = [("DUCKDB_FILE".to_owned(), ":memory:".to_owned())];
    for number in seeds {
        let options = [&seed(number), fails];
        let figures = consume(&fixture, "lambda_duckdb", &options, &in_memory).await;
        assert!(figures.partial > 0 && figures.sent_again > 0, "{figures:?}");
    }
    // Compared before this: a repair reads all rows again, and hides earlier faults of a consumer.
    lose_and_repair(&fixture).await;
    consume(&fixture, "lambda_duckdb", &[fails], &in_memory).await;
}

async fn rows_with_the_partition_key_of_a_customer_keep_their_keys() {
    let builder = Fixture::builder(Plugin::Pgoutput).env("PARTITION_KEYS", "public.u:v;Shop.*:b");
    let fixture = fixture_with_tables(builder.env("AGGREGATION", "kpl").shards(3), TABLES).await;
    write(&fixture).await;
    put_foreign_record(&fixture).await;
    let variables = [
        ("DUCKDB_FILE".to_owned(), ":memory:".to_owned()),
        (
            "ROW_KEYS".to_owned(),
            json!({"public.u": ["id"], "Shop.Order.Line": ["a", "b"]}).to_string(),
        ),
    ];
    for number in 1..=2 {
        consume(
            &fixture,
            "lambda_duckdb",
            &[&seed(number), "--fails=0.3"],
            &variables,
        )
        .await;
    }
}

/// PostgreSQL is the warehouse, too: it has `merge` since version 15.
async fn a_lambda_function_with_merge_has_the_rows_of_postgresql() {
    let fixture = written(Fixture::builder(Plugin::Pgoutput).env("AGGREGATION", "kpl")).await;
    let warehouse = scenarios::unique("warehouse");
    let server = Postgres::shared().await;
    server.create_database(&warehouse).await;
    let variables = server.environment(&warehouse).into_iter().chain([
        ("PGUSER".to_owned(), ADMIN.0.to_owned()),
        ("PGPASSWORD".to_owned(), ADMIN.1.to_owned()),
        ("DUCKDB_FILE".to_owned(), ":memory:".to_owned()),
    ]);
    let variables: Vec<(String, String)> = variables.collect();
    let options = ["--store=merge", "--fails=0.3"];
    consume(&fixture, "lambda_duckdb", &options, &variables).await;
    server.drop_database(&warehouse).await;
}

async fn iceberg_tables_have_the_rows_of_postgresql() {
    let fixture = written(Fixture::builder(Plugin::Pgoutput).env("AGGREGATION", "kpl")).await;
    let folder = std::env::temp_dir().join(scenarios::unique("warehouse"));
    let variables = [("WAREHOUSE".to_owned(), folder.to_string_lossy().into_owned())];
    consume(&fixture, "iceberg", &["--fails=0.3"], &variables).await;
    let _ = std::fs::remove_dir_all(&folder);
}

async fn kcl_has_the_rows_of_postgresql_from_records_of_one_event() {
    compare_in_kcl("none").await;
}

async fn kcl_has_the_rows_of_postgresql_from_aggregates() {
    compare_in_kcl("kpl").await;
}

/// Compares the rows of KCL workers with those of PostgreSQL.
///
/// One worker is killed while it reads. A second worker reads while the stream is
/// resharded, and is stopped later.
async fn compare_in_kcl(aggregation: &str) {
    let builder = Fixture::builder(Plugin::Pgoutput).env("AGGREGATION", aggregation);
    let fixture = fixture_with_tables(builder.shards(3), TABLES).await;
    let (kinesis, stream) = (&fixture.kinesis, &fixture.stream);
    let database = scenarios::unique("kcl");
    let server = Postgres::shared().await;
    server.create_database(&database).await;
    let url = format!(
        "jdbc:postgresql://127.0.0.1:{}/{database}?user={}&password={}",
        server.port(),
        ADMIN.0,
        ADMIN.1
    );
    let start = || KclWorker::start(kinesis, stream, &database, &url);

    write_before_reshard(&fixture).await;
    kinesis.put(stream, "foreign", b"not an event of Spillway").await;
    let killed = start().await;
    let stores = |progress: &[KclProgress]| !progress.is_empty();
    killed.wait_until("a worker stores events", stores).await;
    let before = killed.kill().await;

    let resharded = start().await;
    wait_for_last_records(&resharded, &before, &fixture).await;
    reshard(kinesis, stream).await;
    write_after_reshard(&fixture).await;
    wait_for_last_records(&resharded, &before, &fixture).await;
    assert_parents_before_children(&resharded.progress(), &kinesis.shards(stream).await);
    let warehouse = server.admin(&database).await;
    compare(&fixture, &fixture.slot, &kcl_rows(&warehouse).await).await;

    // Compared before this: a repair reads all rows again, and hides earlier faults of a consumer.
    lose_and_repair(&fixture).await;
    wait_for_last_records(&resharded, &before, &fixture).await;
    resharded.stop().await;
    compare(&fixture, &fixture.slot, &kcl_rows(&warehouse).await).await;
    let query = "select convert_from(data, 'UTF8') as data from refused";
    let refused = warehouse.query(query, &[]).await.unwrap();
    let refused: Vec<String> = refused.iter().map(|row| row.get("data")).collect();
    assert_eq!(refused, ["not an event of Spillway"]);
    server.drop_database(&database).await;
}

/// Waits until the last record of each shard is stored.
///
/// This worker or the one before it stored the record.
async fn wait_for_last_records(worker: &KclWorker, before: &[KclProgress], fixture: &Fixture) {
    let mut last = Vec::new();
    for shard in fixture.kinesis.shards(&fixture.stream).await {
        let shard = shard.shard_id().to_owned();
        if let Some(through) = fixture
            .kinesis
            .last_sequence_number(&fixture.stream, &shard)
            .await
        {
            last.push(KclProgress::Stored { shard, through });
        }
    }
    let has_all =
        |progress: &[KclProgress]| last.iter().all(|it| progress.contains(it) || before.contains(it));
    worker.wait_until("the worker stores all events", has_all).await;
}

fn assert_parents_before_children(progress: &[KclProgress], shards: &[Shard]) {
    let first = |wanted: &dyn Fn(&KclProgress) -> bool| progress.iter().position(wanted);
    for child in shards {
        let id = child.shard_id();
        let begin = first(&|it| matches!(it, KclProgress::Stored { shard, .. } if shard == id));
        for parent in [child.parent_shard_id(), child.adjacent_parent_shard_id()]
            .into_iter()
            .flatten()
        {
            let end = first(&|it| matches!(it, KclProgress::Ended { shard } if shard == parent));
            assert!(
                end.is_some() && end < begin,
                "{id} before {parent}:\n{progress:?}"
            );
        }
    }
}

/// Rows that the example in Java stored, by source.
async fn kcl_rows(warehouse: &Client) -> BTreeMap<String, RebuiltTables> {
    let query =
        "select source_name, schema_name || '.' || table_name as table_name, row_key, data::text as data,
                row_key = position as is_keyless
         from rows where not deleted";
    let mut sources: BTreeMap<String, RebuiltTables> = BTreeMap::new();
    for row in warehouse.query(query, &[]).await.unwrap() {
        let text = |column: &str| row.get::<_, String>(column);
        let (source, table, key) = (text("source_name"), text("table_name"), text("row_key"));
        let data = serde_json::from_str(&text("data")).unwrap();
        let is_keyless: bool = row.get("is_keyless");
        let key = (!is_keyless).then_some(key.as_str());
        sources.entry(source).or_default().add_row(&table, key, data);
    }
    sources
}

/// Two sources in one stream, both with a gap and a repair.
///
/// A repair of one must not remove rows of the other.
async fn two_sources_with_the_same_tables_and_keys_stay_apart() {
    let one = Fixture::builder(Plugin::Wal2json)
        .shards(3)
        .env("AGGREGATION", "kpl")
        .env("SOURCE_NAME", "one");
    let other = Fixture::builder(Plugin::Pgoutput)
        .version(17)
        .env("AGGREGATION", "kpl")
        .env("SOURCE_NAME", "other");
    let (one, mut other) = tokio::join!(
        fixture_with_tables(one, TABLES),
        fixture_with_tables(other, TABLES)
    );
    other.kinesis.delete_stream(&other.stream).await;
    other.stream.clone_from(&one.stream);
    other.function.set("STREAM_NAME", &one.stream).await;
    write(&one).await;
    for sql in CHANGES {
        other.sql(sql).await;
    }
    let tables = ["public.t", "public.u", r#""Shop"."Order.Line""#];
    run_backfill(&other, json!({"action": "backfill", "tables": tables})).await;
    assert_apart(&one, &other, "lambda_duckdb").await;
    lose_and_repair(&one).await;
    lose_and_repair(&other).await;
    assert_apart(&one, &other, "lambda_duckdb").await;
    assert_apart(&one, &other, "iceberg").await;
}

/// Compares the tables of both sources, which share a stream.
async fn assert_apart(one: &Fixture, other: &Fixture, folder: &str) {
    let warehouse = std::env::temp_dir().join(scenarios::unique("warehouse"));
    let variables = [
        ("DUCKDB_FILE".to_owned(), ":memory:".to_owned()),
        ("WAREHOUSE".to_owned(), warehouse.to_string_lossy().into_owned()),
    ];
    // With Iceberg, each batch writes files again, so batches are large.
    let mut example = ExampleConsumer::start(folder, &[&seed(1), "--batch=400"], &variables);
    example.send(&one.kinesis, &one.stream).await;
    let (_, sources) = example.finish().await;
    compare(one, "one", &sources).await;
    compare(other, "other", &sources).await;
    let _ = std::fs::remove_dir_all(&warehouse);
}

async fn spark_has_the_rows_of_postgresql() {
    for aggregation in ["none", "kpl"] {
        let fixture = written(Fixture::builder(Plugin::Pgoutput).env("AGGREGATION", aggregation)).await;
        let (refused, sources) = read_with_spark(&fixture.kinesis, &fixture.stream).await;
        compare(&fixture, &fixture.slot, &sources).await;
        assert_eq!(refused, 1, "only the foreign record is refused");
        lose_and_repair(&fixture).await;
        let (_, sources) = read_with_spark(&fixture.kinesis, &fixture.stream).await;
        compare(&fixture, &fixture.slot, &sources).await;
    }
}
