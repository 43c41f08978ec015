//! Third-party consumers of our formats end with the rows of PostgreSQL.
//!
//! They read our stream unchanged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::consumer::Delivery;
use scenarios::consumer::event::timeless;
use scenarios::consumer::third_party::ThirdPartyConsumer;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

crate::scenarios![
    flink_reads_the_debezium_envelope,
    paimon_reads_the_messages_of_dms,
    paimon_reads_the_dms_envelope,
    aws_kinesis_agg_finds_the_events_in_aggregates,
];

/// Table with the columns in which formats differ.
///
/// The whole old row is in the log: Flink refuses an update without it, from Debezium and from us.
const TABLE: &str = r#"
    create table t (id int primary key, name text, price numeric(24, 4), ratio float8, paid boolean,
        at timestamptz,
        photo bytea, doc jsonb, tags text[]);
    alter table t replica identity full"#;

/// Columns of the table as users of Flink declare them.
const FLINK: &str = "ROW<id INT, name STRING, price DECIMAL(24, 4), ratio DOUBLE, paid BOOLEAN, \
                     `at` TIMESTAMP_LTZ(6), photo BYTES, doc STRING, tags ARRAY<STRING>>";

/// Transactions of inserts, updates, deletes, changed keys and nulls.
///
/// One number has more digits than a `double` can hold.
const CHANGES: &[&str] = &[
    r#"insert into t values
        (1, 'Zoë "q" \ 😀', 12345678901234567890.1234, -2.5e-300, true, '2024-02-29 12:34:56.789+02',
         '\x00ff', '{"a": [1, null]}',
            '{"x y",null,""}'),
        (2, '', -0.0001, 1e300, false, '1969-12-31 23:59:59.999999+00', '', '"text"', '{}'),
        (3, null, null, null, null, null, null, null, null)"#,
    "insert into t (id, name, price) select i, 'row ' || i, i / 8.0 from generate_series(10, 300) i",
    "update t set name = null, price = price + 1 where id = 1; update t set name = 'now' where id = 3",
    "update t set ratio = id / 3.0, doc = '{}' where id % 3 = 0",
    "delete from t where id % 5 = 0",
    "update t set id = id + 1000 where id % 7 = 0",
    "delete from t where id = 1014; insert into t (id, name) values (1014, 'again')",
];

/// Query for rows that only PostgreSQL or only the consumer has.
///
/// The consumer's rows are JSON in the form of one of the programs.
const DIFFERENCES: &str = "
    with consumed as (
        select id, name, price, ratio, paid, at, decode(photo, $2) as photo, doc::jsonb, tags
        from unnest($1::text[]) as line, jsonb_to_record(line::jsonb) as r(id int, name text, price numeric,
            ratio float8, paid boolean, at timestamptz, photo text, doc text, tags text[]))
    select 'only in PostgreSQL: ' || r::text as difference from (table t except all table consumed) r
    union all select 'only in the stream: ' || r::text from (table consumed except all table t) r";

/// Query for the rows of a changelog.
///
/// Each line of the changelog adds or removes a whole row.
const CHANGELOG: &str = "
    select (line::jsonb -> 'row')::text as row_text,
           sum(case when line::jsonb ->> 'kind' in ('+I', '+U') then 1 else -1 end) as copies
    from unnest($1::text[]) as line group by line::jsonb -> 'row'
    having sum(case when line::jsonb ->> 'kind' in ('+I', '+U') then 1 else -1 end) <> 0";

/// Query for the row of each key's last line.
///
/// It omits rows that moved to another key.
const LAST: &str = "
    select row::text as row_text from (
        select distinct on (line::jsonb -> 'row' ->> 'id')
           line::jsonb -> 'row' as row, line::jsonb ->> 'kind' as kind
        from unnest($1::text[]) with ordinality as l(line, at)
        order by line::jsonb -> 'row' ->> 'id', at desc) last
    where kind = '+I' and row ->> 'id' <> all ($2)";

async fn flink_reads_the_debezium_envelope() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture.sql(TABLE).await;
        for sql in CHANGES {
            fixture.sql(sql).await;
        }
        // wal2json sends these as null.
        if plugin != Plugin::Wal2json {
            fixture
                .sql("update t set ratio = 'NaN' where id = 1; update t set ratio = '-Infinity' where id = 2")
                .await;
        }
        fixture.drain().await;
        let lines = ThirdPartyConsumer::Debezium(FLINK)
            .read(&fixture.kinesis, &fixture.stream)
            .await;
        let client = fixture.connect().await;
        let left = client.query(CHANGELOG, &[&lines]).await.unwrap();
        let copies = |row: &tokio_postgres::Row| row.get::<_, i64>("copies");
        let wrong = left.iter().map(copies).find(|copies| *copies != 1);
        assert_eq!(wrong, None, "copies of a row that is left");
        let rows: Vec<String> = left.iter().map(|row| row.get("row_text")).collect();
        assert_same(&client, &rows, "base64").await;
    })
    .await;
}

/// Asserts that the consumer has the rows of PostgreSQL.
///
/// `bytes` is the encoding of a bytea.
async fn assert_same(client: &tokio_postgres::Client, rows: &[String], bytes: &str) {
    let differences = client.query(DIFFERENCES, &[&rows, &bytes]).await.unwrap();
    let differences: Vec<String> = differences
        .iter()
        .take(10)
        .map(|row| row.get("difference"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(rows.len() > 100, "only {} rows", rows.len());
}

/// Messages from the documentation of AWS.
///
/// They are the known case that the next scenario compares with.
async fn paimon_reads_the_messages_of_dms() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let message = |operation: &str, data: Value| {
        let metadata = json!({"timestamp": "2024-07-29T00:59:07.686557Z", "record-type": "data",
            "operation": operation,
            "partition-key-type": "primary-key", "schema-name": "public",
            "table-name": "t", "transaction-id": 1});
        json!({"data": data, "metadata": metadata})
    };
    let control = json!({"control": {}, "metadata": {"record-type": "control", "operation": "drop-table"}});
    let messages = [
        message("load", json!({"id": 1, "n": 0.5})),
        control,
        message("insert", json!({"id": 2})),
        message("update", json!({"id": 2, "n": 7})),
        message("delete", json!({"id": 1})),
    ];
    for message in messages {
        kinesis.put("s", "k", format!("{message}\n").as_bytes()).await;
    }
    let lines = ThirdPartyConsumer::Dms.read(&kinesis, "s").await;
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let row = |kind: &str, row: Value| json!({"kind": kind, "table": "public.t", "row": row});
    let expected = [
        row("+I", json!({"id": "1", "n": "0.5"})),
        row("+I", json!({"id": "2"})),
        row("-D", json!({"id": "2", "n": "7"})),
        row("+I", json!({"id": "2", "n": "7"})),
        row("-D", json!({"id": "1"})),
    ];
    assert_eq!(lines, expected);
}

/// Compares Paimon's rows, except under keys that changed.
///
/// Paimon ignores `before-image`, from DMS and from us. It keeps the row under its old key, too. The
/// comparison skips those keys, which no row reuses here.
async fn paimon_reads_the_dms_envelope() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin).env("ENVELOPE", "dms").build().await;
        fixture.sql(TABLE).await;
        for sql in CHANGES {
            fixture.sql(sql).await;
        }
        fixture.drain().await;
        let mut left = Vec::new();
        for shard in fixture.kinesis.shards(&fixture.stream).await {
            let each = |_: &str, data: &[u8]| {
                let message: Value = serde_json::from_slice(data).unwrap();
                left.extend(message["before-image"]["id"].as_i64().map(|id| id.to_string()));
            };
            fixture
                .kinesis
                .read_shard(&fixture.stream, shard.shard_id(), each)
                .await;
        }
        assert!(left.len() > 20, "only {} keys were left", left.len());
        let lines = ThirdPartyConsumer::Dms
            .read(&fixture.kinesis, &fixture.stream)
            .await;
        let client = fixture.connect().await;
        let rows = client.query(LAST, &[&lines, &left]).await.unwrap();
        let rows: Vec<String> = rows.iter().map(|row| row.get("row_text")).collect();
        assert_same(&client, &rows, "hex").await;
    })
    .await;
}

/// Two slots with the same changes, drained into two streams: one with aggregates and one without.
async fn aws_kinesis_agg_finds_the_events_in_aggregates() {
    Plugin::each(|plugin| async move {
        let mut fixture = Fixture::builder(plugin)
            .shards(4)
            .env("SOURCE_NAME", "one")
            .build()
            .await;
        let (slot, stream) = (format!("{}_kpl", fixture.slot), format!("{}_kpl", fixture.stream));
        fixture.copy_slot(&slot).await;
        fixture.sql(TABLE).await;
        for sql in CHANGES {
            fixture.sql(sql).await;
        }
        fixture.drain().await;
        let single = fixture.compare(&["t"]).await;

        fixture.kinesis.create_stream(&stream, 4).await;
        for (name, value) in [("SLOT_NAME", &slot), ("STREAM_NAME", &stream)] {
            fixture.function.set(name, value).await;
        }
        fixture.function.set("AGGREGATION", "kpl").await;
        fixture.drain().await;
        let lines = ThirdPartyConsumer::Deaggregator
            .read(&fixture.kinesis, &stream)
            .await;
        fixture.kinesis.delete_stream(&stream).await;
        fixture.ssm.delete(&format!("/spillway/{slot}"));

        let mut aggregated = Delivery::default();
        for line in &lines {
            let line: Value = serde_json::from_str(line).unwrap();
            let data = STANDARD.decode(line["data"].as_str().unwrap()).unwrap();
            aggregated.add_event(line["partition_key"].as_str().unwrap(), &data);
            assert_eq!(line["aggregated"], true);
        }
        aggregated.assert_promise();
        assert_eq!(events(&aggregated), events(&single));
        assert!(lines.len() > 400, "only {} events", lines.len());
    })
    .await;
}

/// Key and event of each arrival, in position order.
///
/// The event lacks the time at which it was read.
fn events(delivery: &Delivery) -> Vec<(String, Option<Value>)> {
    let arrivals = delivery.arrivals.iter();
    let mut events: Vec<(&str, String, Option<Value>)> = arrivals
        .map(|it| (it.position.as_str(), it.partition_key.clone(), timeless(&it.data)))
        .collect();
    events.sort_by(|one, other| one.0.cmp(other.0));
    events.into_iter().map(|(_, key, event)| (key, event)).collect()
}
