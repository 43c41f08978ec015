//! The SQL of `examples/consumers/flink_sql` ends with the rows of PostgreSQL.
//!
//! The stream has duplicates, changed keys, untouched large values, a truncate, rows of a backfill and a
//! reshard. Flink reads its events from a file, in any order.

use scenarios::consumer::event::UNAVAILABLE;
use scenarios::consumer::third_party::ThirdPartyConsumer;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, run_backfill};
use crate::support::duplicates::send_without_checkpoint;
use crate::support::gap::{accept_gap, advance_slot};
use crate::support::reshard::reshard;

crate::long_scenarios![
    flink_has_the_rows_of_postgresql,
    paimon_tables_have_the_rows_of_postgresql,
];

/// Table of the example, and another that the SQL must ignore.
///
/// Both have rows from before the slot.
const TABLES: &str = "
    create table orders (
        id bigint primary key, customer text, amount numeric(12, 2), placed timestamptz, body text);
    alter table orders alter body set storage external;
    create table other (id bigint primary key, customer text);
    insert into orders select i, 'old', i / 8.0, now(), repeat(md5(i::text), 100)
        from generate_series(1, 60) i;
    insert into other select i, 'other' from generate_series(1, 60) i";

/// Transactions up to the truncate, with untouched large values.
///
/// All rows are gone at the end. Later transactions use some of the keys again.
const BEFORE_TRUNCATE: &[&str] = &[
    "insert into orders select i, 'new', 1, now(), repeat(md5(i::text), 200)
        from generate_series(101, 160) i",
    "update orders set amount = amount + 1; delete from orders where id % 7 = 0",
    "truncate orders",
];

/// Transactions after the truncate.
///
/// The rows with the keys 101 to 140 get the keys 1101 to 1140. These updates do not change the large values.
const AFTER_TRUNCATE: &[&str] = &[
    "insert into orders select i, 'é \"q\"', i / 4.0, '2024-02-29 12:34:56.789012+02',
        repeat(md5(i::text), 150)
        from generate_series(50, 140) i",
    "update orders set customer = 'twice', amount = 9999999999.99 where id % 2 = 0",
    "update orders set id = id + 1000 where id > 100; update orders set customer = 'moved' where id > 1100",
    "insert into orders select i, 'again', null, null, repeat('again', 800) from generate_series(101, 110) i",
    "delete from orders where id % 9 = 0; insert into orders (id, customer) values (54, 'back'), (63, null)",
    "update orders set body = repeat('rewritten', 500) where id % 11 = 0;
        update orders set body = null where id = 64",
];

/// Finds the rows that only PostgreSQL or only Flink has.
///
/// If Flink does not know a large value, the other columns of the row must be equal.
const DIFFERENCES: &str = "
    with consumed as (
        select id, customer, amount, placed, body
        from unnest($1::text[]) as line, jsonb_to_record(line::jsonb) as r(source_name text, id bigint,
            customer text, amount numeric, placed timestamptz, body text)
        where source_name = $2),
    unknown as (select id from consumed where body = '__debezium_unavailable_value'),
    expected as (
        select id, customer, amount, placed,
            case when id in (table unknown) then '__debezium_unavailable_value' else body end as body
        from orders)
    select 'only in PostgreSQL: ' || left(r::text, 200) as difference
    from (table expected except all table consumed) r
    union all
    select 'only in Flink: ' || left(r::text, 200) from (table consumed except all table expected) r";

/// Writes everything into a stream of three shards, and reshards it.
async fn write(fixture: &Fixture) {
    for sql in BEFORE_TRUNCATE {
        fixture.sql(sql).await;
    }
    // The first tick stores a checkpoint before it sends.
    fixture.drain().await;
    let (first, others) = AFTER_TRUNCATE.split_at(3);
    for sql in first {
        fixture.sql(sql).await;
    }
    send_without_checkpoint(fixture).await;
    reshard(&fixture.kinesis, &fixture.stream).await;
    for sql in others {
        fixture.sql(sql).await;
    }
    fixture.drain().await;
    let delivery = fixture.compare(&["orders"]).await;
    assert!(
        delivery.duplicates() > 100,
        "{} duplicates",
        delivery.duplicates()
    );
}

/// Runs this backfill, with a change after it.
async fn backfill(fixture: &Fixture, event: Value) {
    run_backfill(fixture, event).await;
    fixture
        .sql("update orders set customer = 'after the backfill' where id % 4 = 0")
        .await;
    fixture.drain().await;
}

/// Reads the stream and compares. Returns the keys of the rows whose large value is not known.
async fn compare(fixture: &Fixture, flink: ThirdPartyConsumer<'_>) -> Vec<i64> {
    let lines = flink.read(&fixture.kinesis, &fixture.stream).await;
    let client = fixture.connect().await;
    let differences = client.query(DIFFERENCES, &[&lines, &fixture.slot]).await.unwrap();
    let differences: Vec<String> = differences
        .iter()
        .take(10)
        .map(|row| row.get("difference"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(lines.len() > 60, "only {} rows", lines.len());
    let rows = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    rows.filter(|row: &Value| row["body"] == UNAVAILABLE)
        .map(|row| row["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Compares Flink's table with that of PostgreSQL.
///
/// A changed key loses its untouched large value, as the example's README says.
async fn flink_has_the_rows_of_postgresql() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput).shards(3), TABLES).await;
    let tables = ["public.orders", "public.other"];
    backfill(
        &fixture,
        json!({"action": "backfill", "tables": tables, "chunk_rows": 30}),
    )
    .await;
    write(&fixture).await;
    let unknown = compare(&fixture, ThirdPartyConsumer::FlinkSql).await;
    assert!(
        !unknown.is_empty() && unknown.iter().all(|id| *id > 1100),
        "{unknown:?}"
    );
}

/// Compares Paimon's table with that of PostgreSQL, also after a gap.
///
/// The repair of the gap sends the large values again.
async fn paimon_tables_have_the_rows_of_postgresql() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Wal2json).shards(3), TABLES).await;
    write(&fixture).await;
    fixture
        .sql("delete from orders where id % 5 = 0; update orders set amount = -1 where id % 3 = 0")
        .await;
    let confirmed = advance_slot(&fixture).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    let tables = ["public.orders", "public.other"];
    backfill(
        &fixture,
        json!({"action": "backfill", "repair": true, "tables": tables}),
    )
    .await;
    let folder = std::env::temp_dir().join(scenarios::unique("lake"));
    let unknown = compare(&fixture, ThirdPartyConsumer::FlinkSqlToPaimon(&folder)).await;
    assert!(unknown.is_empty(), "{unknown:?}");
    let _ = std::fs::remove_dir_all(&folder);
}
