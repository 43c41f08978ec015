//! The consumer of other scenarios reports every broken promise, and nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scenarios::aws::aggregate::{self, SubRecord};
use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::hash_range::{HashRange, hash_of};
use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::consumer::Delivery;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::consumer::oracle::{self, ComparedRows};
use scenarios::postgres::Postgres;
use serde_json::{Value, json};

use crate::support::kinesis_producer::{aggregate, client, put, record};

crate::scenarios![
    a_consumer_rebuilds_rows_and_drops_duplicates,
    a_backfilled_row_counts_unless_a_newer_event_exists,
    a_repair_removes_rows_that_it_did_not_read,
    a_consumer_notices_a_broken_promise,
    the_oracle_compares_every_type_in_its_event_form,
    a_malformed_aggregate_is_an_error,
    a_consumer_splits_aggregates_and_drops_one_that_spans_shards,
];

/// Event of table `public.t` at this transaction and index.
fn event(commit: u32, index: u32, op: &str, before: Value, after: Value) -> Vec<u8> {
    let position = format!("{commit:016x}.{commit:016x}.{index:08x}");
    let source = json!({"schema": "public", "table": "t", "position": position});
    json!({"op": op, "before": before, "after": after, "source": source, "ts_ms": fastrand::u32(..)})
        .to_string()
        .into_bytes()
}

/// Create of the row with this `id`, in this transaction.
fn create_event(commit: u32, id: u32) -> Vec<u8> {
    event(
        commit,
        0,
        "c",
        Value::Null,
        json!({"id": id, "big": null, "n": 0}),
    )
}

/// Puts an event of the row `id` into the stream `s`.
async fn put_row_event(kinesis: &Kinesis, id: u32, data: &[u8]) {
    kinesis.put("s", &json!({"id": id}).to_string(), data).await;
}

/// Puts a create and an update of row 1, both twice.
async fn put_duplicates(kinesis: &Kinesis) {
    let create = event(1, 0, "c", Value::Null, json!({"id": 1, "big": "stays", "n": 1}));
    let after = json!({"id": 1, "big": UNAVAILABLE, "n": 2});
    let update = event(2, 0, "u", Value::Null, after);
    for data in [&create, &update, &create, &update] {
        put_row_event(kinesis, 1, data).await;
    }
}

/// Puts a change of key 1 to key 9.
async fn put_key_change(kinesis: &Kinesis) {
    let delete = event(3, 0, "d", json!({"id": 1}), Value::Null);
    put_row_event(kinesis, 1, &delete).await;
    let after = json!({"id": 9, "big": UNAVAILABLE, "n": 3});
    put_row_event(kinesis, 9, &event(3, 1, "c", Value::Null, after)).await;
}

async fn a_consumer_rebuilds_rows_and_drops_duplicates() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 3).await;
    put_duplicates(&kinesis).await;
    put_key_change(&kinesis).await;
    put_row_event(&kinesis, 5, &create_event(4, 5)).await;
    let delivery = Delivery::read(&kinesis, "s").await;
    delivery.assert_promise();
    assert_eq!((delivery.duplicates(), delivery.changes().len()), (2, 5));
    assert_eq!(delivery.counts()["public.t"], 5);
    let rebuilt = delivery.rebuild();
    assert_eq!(rebuilt.disagreements, Vec::<String>::new());
    let table = &rebuilt.tables["public.t"];
    assert_eq!(table.len(), 2);
    assert_eq!(
        Value::from(table.keyed[r#"{"id":9}"#].row.clone()),
        json!({"id": 9, "big": "stays", "n": 3})
    );

    let truncate = event(6, 0, "t", Value::Null, Value::Null);
    kinesis.put("s", "public.t", &truncate).await;
    put_row_event(&kinesis, 6, &create_event(7, 6)).await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    assert_eq!(rebuilt.disagreements, Vec::<String>::new());
    assert_eq!(
        rebuilt.tables["public.t"].len(),
        1,
        "the truncate did not remove the earlier rows"
    );
}

/// Rows that a consumer rebuilds from events of `public.t`.
///
/// Each event has the key of its row. Other events have a key of their own.
fn rebuilt(events: &[Vec<u8>]) -> Vec<Value> {
    let mut delivery = Delivery::default();
    for data in events {
        let event: Value = serde_json::from_slice(data).unwrap();
        let row = [&event["after"], &event["before"]]
            .into_iter()
            .find(|row| !row.is_null());
        let key = row.map_or_else(|| "other".to_owned(), |row| json!({"id": row["id"]}).to_string());
        delivery.add_event(&key, data);
    }
    delivery.assert_promise();
    let rebuilt = delivery.rebuild();
    assert_eq!(rebuilt.disagreements, Vec::<String>::new());
    let mut rows: Vec<Value> = rebuilt.tables["public.t"]
        .rows()
        .cloned()
        .map(Value::from)
        .collect();
    rows.sort_by_key(|row| row["id"].as_i64());
    rows
}

async fn a_backfilled_row_counts_unless_a_newer_event_exists() {
    let unavailable = UNAVAILABLE;
    let rows = rebuilt(&[
        event(
            1,
            0,
            "u",
            Value::Null,
            json!({"id": 1, "big": unavailable, "n": 1}),
        ),
        event(
            2,
            0,
            "u",
            Value::Null,
            json!({"id": 2, "big": unavailable, "n": 1}),
        ),
        event(2, 1, "d", json!({"id": 3}), Value::Null),
        // From a key that was not read yet.
        event(3, 0, "d", json!({"id": 90}), Value::Null),
        event(
            3,
            1,
            "c",
            Value::Null,
            json!({"id": 4, "big": unavailable, "n": 1}),
        ),
        event(5, 0, "r", Value::Null, json!({"id": 1, "big": "read", "n": 1})),
        event(5, 1, "r", Value::Null, json!({"id": 2, "big": "read", "n": 1})),
        event(5, 2, "r", Value::Null, json!({"id": 4, "big": "read", "n": 1})),
        event(
            6,
            0,
            "u",
            Value::Null,
            json!({"id": 2, "big": unavailable, "n": 2}),
        ),
        event(7, 0, "d", json!({"id": 1}), Value::Null),
        event(5, 0, "r", Value::Null, json!({"id": 1, "big": "read", "n": 1})),
    ]);
    let expected = [
        json!({"id": 2, "big": "read", "n": 2}),
        json!({"id": 4, "big": "read", "n": 1}),
    ];
    assert_eq!(rows, expected);
}

async fn a_repair_removes_rows_that_it_did_not_read() {
    let content = json!({"control": "repaired", "since": format!("{:016x}", 5), "tables": ["public.t"]});
    let message = json!({"prefix": "spillway.repaired", "content": STANDARD.encode(content.to_string())});
    let source = json!({"position": format!("{:016x}.{:016x}.{:08x}", 9, 9, 0)});
    let control = json!({"op": "m", "source": source, "message": message}).to_string();
    let events = [
        event(1, 0, "c", Value::Null, json!({"id": 1})),
        event(1, 1, "c", Value::Null, json!({"id": 2})),
        event(5, 0, "u", Value::Null, json!({"id": 3})),
        event(7, 0, "r", Value::Null, json!({"id": 2})),
        event(7, 1, "r", Value::Null, json!({"id": 4})),
        event(11, 0, "c", Value::Null, json!({"id": 5})),
    ];
    let expected = [2, 3, 4, 5].map(|id| json!({"id": id}));
    // A control event in another shard may be read before the rows that it concerns.
    for place in [0, 5, 6] {
        let mut events = events.to_vec();
        events.insert(place, control.clone().into_bytes());
        assert_eq!(rebuilt(&events), expected);
    }
}

async fn a_consumer_notices_a_broken_promise() {
    let kinesis = Kinesis::start(Limits::Off).await;
    let cases = [
        (
            "order",
            "out of order",
            event(1, 0, "c", Value::Null, json!({"id": 1})),
        ),
        (
            "sameness",
            "has different events",
            event(2, 0, "c", Value::Null, json!({"id": 1, "n": 2})),
        ),
        (
            "placement",
            "has the wrong partition key",
            event(3, 0, "c", Value::Null, json!({"id": 2})),
        ),
        ("envelope", "not an event", b"{}".to_vec()),
    ];
    for (stream, complaint, data) in cases {
        kinesis.create_stream(stream, 1).await;
        let good = event(2, 0, "c", Value::Null, json!({"id": 1}));
        kinesis.put(stream, r#"{"id":1}"#, &good).await;
        Delivery::read(&kinesis, stream).await.assert_promise();
        kinesis.put(stream, r#"{"id":1}"#, &data).await;
        let broken = Delivery::read(&kinesis, stream).await.violations();
        assert!(
            broken.iter().any(|it| it.contains(complaint)),
            "{stream}: {broken:?}"
        );
    }
}

/// SQL of a table `t` with every type, and of its row.
const TYPES_SQL: &str = r#"
    create type mood as enum ('ok'); create type pair as (a int, b text); create domain small as int;
    create table t (id int primary key, b bool, f float8, n numeric, by bytea, j jsonb, d date, dn date,
        ts timestamp, tz timestamptz, ti time, tt timetz, iv interval, ch char(4), m mood, p pair,
        pp pair[],
        s small, ia int[], ta text[], "Ünï" text, g int generated always as (id * 2) stored);
    insert into t values (1, true, 1e20, 'NaN', '\x00ff', '{"a": 1}', '2024-02-29', 'infinity',
        '2024-02-29 12:34:56.789', '2024-02-29 12:34:56+02', '12:34:56.5', '12:34:56+02',
        '1 day 2 h', 'ab',
        'ok', '(1,"x y")', '{"(1,a)"}', 3, '{{1,2},{3,null}}', '{}', null)"#;

/// Row of [`TYPES_SQL`] in the form of an event.
fn row_of_types() -> Value {
    json!({
        "id": 1, "b": true, "f": 1e20, "n": "NaN", "by": "AP8=", "j": "{\"a\": 1}",
        "d": "2024-02-29Z", "dn": "infinity", "ts": "2024-02-29T12:34:56.789Z",
        "tz": "2024-02-29T10:34:56.000000Z", "ti": "12:34:56.5Z", "tt": "10:34:56Z",
        "iv": "P0Y0M1DT2H0M0S", "ch": "ab  ", "m": "ok", "p": "(1,\"x y\")", "pp": ["(1,a)"],
        "s": 3, "ia": [[1, 2], [3, null]], "ta": [], "Ünï": null,
    })
}

async fn the_oracle_compares_every_type_in_its_event_form() {
    let postgres = Postgres::shared().await;
    let database = scenarios::unique("types");
    postgres.create_database(&database).await;
    let client = postgres.admin(&database).await;
    client.batch_execute(TYPES_SQL).await.unwrap();
    let mut row = row_of_types();
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    put_row_event(&kinesis, 1, &event(1, 0, "c", Value::Null, row.clone())).await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    for rows in [ComparedRows::All, ComparedRows::Changed] {
        let compared = oracle::compare(&client, "public.t", &rebuilt, rows).await;
        compared.assert_equal();
        assert_eq!(compared.rows, 1);
    }
    row["ia"] = json!([1, 2, 3, 4]);
    put_row_event(&kinesis, 1, &event(2, 0, "u", Value::Null, row)).await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    let compared = oracle::compare(&client, "public.t", &rebuilt, ComparedRows::All).await;
    assert!(
        compared.differences.len() == 1 && compared.differences[0].contains("ia"),
        "{compared:?}"
    );
    client
        .batch_execute("insert into t (id) values (2)")
        .await
        .unwrap();
    for (rows, differences) in [(ComparedRows::All, 2), (ComparedRows::Changed, 1)] {
        let compared = oracle::compare(&client, "t", &rebuilt, rows).await;
        assert_eq!(compared.differences.len(), differences);
    }
    drop(client);
    postgres.drop_database(&database).await;
}

async fn a_malformed_aggregate_is_an_error() {
    let long = "x".repeat(300);
    let good = aggregate(&[("a", b"1"), (&long, long.as_bytes()), ("a", b"")]);
    let read = |partition_key, data| SubRecord {
        partition_key,
        explicit_hash_key: None,
        data,
    };
    let expected = vec![read("a", &b"1"[..]), read(&long, long.as_bytes()), read("a", b"")];
    assert_eq!(aggregate::split(&good), Ok(Some(expected)));
    assert_eq!(
        aggregate::split(b"{}"),
        Ok(None),
        "a plain record is taken for an aggregate"
    );
    assert_eq!(aggregate::split(b""), Ok(None));
    assert!(
        aggregate::split(&good[..good.len() - 1]).is_err(),
        "a cut aggregate is accepted"
    );
    assert!(
        aggregate::split(&good[..10]).is_err(),
        "an aggregate without an MD5 is accepted"
    );
    let mut other = good.clone();
    other[6] ^= 1;
    let error = aggregate::split(&other).unwrap_err().to_string();
    assert!(error.contains("MD5"), "{error}");
    let none = aggregate::split(&aggregate(&[])).unwrap_err().to_string();
    assert!(none.contains("no records"), "{none}");
}

/// Partition key whose hash is in `range`.
fn key_in(range: HashRange) -> String {
    let mut keys = (0..).map(|number: u32| format!("key {number}"));
    keys.find(|key| range.contains(hash_of(key))).unwrap()
}

async fn a_consumer_splits_aggregates_and_drops_one_that_spans_shards() {
    let at = |at: u32| event(at, 0, "c", Value::Null, json!({"id": at}));
    let [lower, upper] = HashRange::ALL.halves().map(key_in);
    let (one, two, three) = (at(1), at(2), at(3));
    let packed = aggregate(&[(&lower, &one), (&lower, b""), (&lower, &three)]);
    let mixed = aggregate(&[(&lower, &one), (&upper, &two)]);
    let records = || {
        let plain = record(&upper, &at(4));
        vec![
            record(&lower, &packed),
            record(&lower, &mixed),
            plain,
            record("tombstone", b""),
        ]
    };
    let fake_kinesis = FakeKinesis::open("s", FakeKinesisSettings::default()).await;
    put(&client(fake_kinesis.endpoint()), records()).await.unwrap();
    let emulator = Kinesis::start(Limits::Off).await;
    emulator.create_stream("s", 2).await;
    put(emulator.client(), records()).await.unwrap();
    for read in [
        Delivery::from_fake(&fake_kinesis),
        Delivery::read(&emulator, "s").await,
    ] {
        read.assert_promise();
        assert_eq!(
            (read.records, read.aggregates, read.dropped, read.tombstones.len()),
            (4, 2, 2, 2)
        );
        let keys: Vec<_> = read.arrivals.iter().map(|it| it.partition_key.as_str()).collect();
        assert_eq!(keys, [&lower, &lower, &upper]);
    }
}
