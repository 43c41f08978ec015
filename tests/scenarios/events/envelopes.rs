//! Each envelope has the same changes from each plugin: a consumer rebuilds the tables of PostgreSQL from it.
//!
//! Also the parts that only one envelope has: tombstones, the transaction block, table definitions.

use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::consumer::{Arrival, Delivery};
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::sql_text::WAL2JSON_OPTIONS;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::backfill::{fixture_with_tables, reported_state, start_event, tick_until_finished};
use crate::support::type_values::{OWN_TYPES, VALUES};

crate::scenarios![
    a_consumer_rebuilds_the_tables_from_each_envelope,
    a_row_that_changes_its_key_is_in_order_for_both_keys,
    the_wal2json_envelope_is_wal2json_output_with_a_position,
    a_tombstone_follows_its_delete_on_its_lane,
    the_transaction_block_counts_the_changes,
    decimal_and_time_modes_match_debezium,
    table_definitions_precede_their_changes,
    partition_keys_follow_partition_by,
    each_envelope_contains_messages,
    a_definition_that_was_not_delivered_is_announced_again,
];

/// Envelopes other than that of Debezium, which all other scenarios use.
const OTHERS: [&str; 2] = ["dms", "wal2json"];

/// Variables of each other form: an envelope, flat rows, and schemas.
const OTHER_FORMS: [&[(&str, &str)]; 5] = [
    &[("ENVELOPE", "dms")],
    &[("ENVELOPE", "wal2json")],
    &[("UNWRAP", "true"), ("TOMBSTONES_ON_DELETE", "true")],
    &[("SCHEMAS_ENABLE", "true")],
    &[("UNWRAP", "true"), ("SCHEMAS_ENABLE", "true")],
];

fn builder_of_form(plugin: Plugin, form: &[(&str, &str)]) -> FixtureBuilder {
    let builder = Fixture::builder(plugin);
    form.iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value))
}

fn builder(plugin: Plugin, envelope: &str) -> FixtureBuilder {
    Fixture::builder(plugin).env("ENVELOPE", envelope)
}

/// Whether the list type in an array's schema can hold this value.
///
/// Otherwise the event has the text of the array.
fn fits_schema(value: &str) -> bool {
    let is_array = value.contains('{');
    !(value.contains("{{") || is_array && value.contains("NaN"))
}

async fn a_consumer_rebuilds_the_tables_from_each_envelope() {
    for form in OTHER_FORMS {
        Plugin::each(move |plugin| async move {
            let fixture = builder_of_form(plugin, form).build().await;
            let has_schemas = form.contains(&("SCHEMAS_ENABLE", "true"));
            let fits = |value: &str| !has_schemas || fits_schema(value);
            let tried: Vec<_> = VALUES.iter().filter(|(_, value, _)| fits(value)).collect();
            let columns: Vec<String> = (0..tried.len()).map(|at| format!("c{at}")).collect();
            let typed: Vec<String> = columns
                .iter()
                .zip(&tried)
                .map(|(name, (kind, ..))| format!("{name} {kind}"))
                .collect();
            let values: Vec<&str> = tried.iter().map(|(_, value, _)| *value).collect();
            fixture
                .sql(&format!(
                    "{OWN_TYPES} create table every (id int primary key, {});
                 create table large (id int primary key, n int, body text, rest text);
                 create table keyless (n int, what text); alter table keyless replica identity full;
                 create table emptied (id int primary key)",
                    typed.join(", ")
                ))
                .await;
            let (names, values) = (columns.join(", "), values.join(", "));
            fixture
                .sql(&format!(
                    "insert into every values (1, {values}), (3, {values});
                                  insert into every (id) values (2)"
                ))
                .await;
            fixture
                .sql(&format!(
                    "update every set ({names}) = (select {names} from every where id = 1) where id = 2;
                 delete from every where id = 3"
                ))
                .await;
            fixture.sql(
                "insert into large select i, i, repeat(md5(i::text), 1000), 'r' from generate_series(1, 3) i;
                 update large set n = 10 where id = 1; update large set rest = null where id = 2;
                 update large set id = 30, n = 5 where id = 3; delete from large where id = 2",
            )
            .await;
            fixture
                .sql("insert into keyless values (1, 'a'), (1, 'a'), (2, null)")
                .await;
            fixture
                .sql("update keyless set what = 'b' where n = 2; delete from keyless where n = 1")
                .await;
            fixture.sql("insert into emptied values (1), (2)").await;
            fixture.sql("truncate emptied").await;
            fixture.sql("insert into emptied values (2), (3)").await;
            fixture.drain().await;
            fixture.compare(&["every", "large", "keyless", "emptied"]).await;
        })
        .await;
    }
}

async fn a_row_that_changes_its_key_is_in_order_for_both_keys() {
    // The form of an event does not depend on the plugin, so the plugins take turns.
    let forms = OTHER_FORMS.into_iter().zip(Plugin::ALL.into_iter().cycle());
    // Most of the time, failed records wait for their next attempts. So the forms run at once.
    let runs = forms.map(|(form, plugin)| async move {
        let fixture = builder_of_form(plugin, form).shards(4).build().await;
        fixture.sql("create table t (id int primary key, n int)").await;
        fixture
            .sql("insert into t select i, 0 from generate_series(1, 20) i")
            .await;
        for round in 1..=2 {
            fixture
                .sql(&format!(
                    "update t set n = {round}; update t set id = id + 100; update t set n = n + 10;
                     update t set id = id - 99 where id <> 120;
                     update t set id = 1 where id = 120"
                ))
                .await;
        }
        fixture.kinesis_proxy.flaky(3, 20);
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    });
    runs.collect::<JoinSet<_>>().join_all().await;
}

/// Output of wal2json, compared with that of a second slot.
///
/// The envelope has this output and a position.
async fn the_wal2json_envelope_is_wal2json_output_with_a_position() {
    Plugin::each(|plugin| async move {
        // The second slot would return the markers, too.
        let fixture = builder(plugin, "wal2json").env("MARKERS", "off").build().await;
        let slot = "select pg_create_logical_replication_slot(current_database() || '_w', 'wal2json')";
        fixture.sql(slot).await;
        fixture
            .sql(
                r#"create table t (a int, "B c" text, n numeric(10,2), f float8, ok bool, raw bytea,
                at timestamptz(3), day date, tags text[], v varchar(9), c char(4), b bit(3),
                i interval, primary key (a, "B c"));
               insert into t values (1, 'x "y"', 1.5, 1e300, true, '\xdead', '2024-02-29 12:34:56.789+00',
                 '2024-02-29', '{a,"b c"}', 'v', 'c', '101', '1 day');
               update t set n = 2; update t set a = 2; insert into t (a, "B c") values (3, '');
               delete from t where a = 3;
               select pg_logical_emit_message(true, 'said', 'it'); truncate t"#,
            )
            .await;
        fixture.drain().await;
        let sql = "set intervalstyle = 'iso_8601'; set timezone = 'UTC'";
        fixture.sql(sql).await;
        let rows = fixture
            .value(&format!(
                "select json_agg(data)
                 from pg_logical_slot_get_changes(current_database() || '_w', null, null,
                     {WAL2JSON_OPTIONS}, 'include-transaction', 'false')"
            ))
            .await
            .unwrap();
        fixture
            .sql("select pg_drop_replication_slot(current_database() || '_w')")
            .await;
        let rows: Vec<String> = serde_json::from_str(&rows).unwrap();
        let delivery = fixture.consume().await;
        let ours = delivery.changes().into_iter().map(|it| {
            let text = String::from_utf8(it.data.clone()).unwrap();
            text.split(r#","position":""#).next().unwrap().to_owned() + "}"
        });
        assert_eq!(ours.collect::<Vec<_>>(), rows);
    })
    .await;
}

async fn a_tombstone_follows_its_delete_on_its_lane() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("TOMBSTONES_ON_DELETE", "true")
            .build()
            .await;
        fixture.sql("create table t (id int primary key, n int)").await;
        let sql = "insert into t values (1, 0), (2, 0); delete from t where id = 1;
                   update t set id = 3 where id = 2";
        fixture.sql(sql).await;
        fixture.sql("insert into t values (1, 1)").await;
        let reports = fixture.drain().await;
        assert_eq!(reports[0]["events"], 8);
        let delivery = fixture.compare(&["t"]).await;
        let mut keys: Vec<&str> = delivery.tombstones.iter().map(|(_, key)| key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, [r#"{"id":1}"#, r#"{"id":2}"#]);
        for (arrivals, key) in &delivery.tombstones {
            let of_key = |it: &&Arrival| it.partition_key == *key;
            let last = delivery.arrivals[..*arrivals].iter().rev().find(of_key);
            assert_eq!(
                last.map(|it| it.event().op),
                Some("d".to_owned()),
                "the event before the tombstone of {key} is not its delete"
            );
        }
    })
    .await;
}

async fn the_transaction_block_counts_the_changes() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("PROVIDE_TRANSACTION_METADATA", "true")
            .build()
            .await;
        fixture
            .sql("create table t (id int primary key); create table u (id int primary key)")
            .await;
        let start = fixture.checkpoint().await;
        fixture
            .sql("insert into t values (1), (2); insert into u values (1); update t set id = 3 where id = 1")
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let blocks: Vec<Value> = delivery
            .changes()
            .iter()
            .map(|it| it.json()["transaction"].clone())
            .collect();
        let counts: Vec<(u64, u64)> = blocks
            .iter()
            .map(|block| {
                (
                    block["total_order"].as_u64().unwrap(),
                    block["data_collection_order"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(counts, [(1, 1), (2, 2), (3, 1), (4, 3), (5, 4)]);
        for (block, change) in blocks.iter().zip(delivery.changes()) {
            let source = change.json()["source"].clone();
            assert_eq!(block["id"], format!("{}:{}", source["txId"], source["lsn"]));
        }
        assert!(start.is_none());
    })
    .await;
}

async fn decimal_and_time_modes_match_debezium() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("DECIMAL_HANDLING_MODE", "precise")
            .env("TIME_PRECISION_MODE", "adaptive")
            .build()
            .await;
        fixture
            .sql(
                "create domain price as numeric(12,2);
             create table t (id int primary key, a numeric(10,4), b numeric, c price, d date, e time(3),
               f time, g timestamp(3), h timestamp,
               i timestamptz, j numeric(10,2)[])",
            )
            .await;
        fixture
            .sql(
                "insert into t values (1, 12.345, 1.10, -1, '2024-02-29', '12:34:56.789', '12:34:56.789',
             '2024-02-29 12:34:56.789',
             '2024-02-29 12:34:56.789001', '2024-02-29 12:34:56+02', '{1.10,null}')",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let expected = json!({"id": 1, "a": "AeI6", "b": {"scale": 1, "value": "Cw=="}, "c": "nA==",
            "d": 19782, "e": 45_296_789, "f": 45_296_789_000i64, "g": 1_709_210_096_789i64,
            "h": 1_709_210_096_789_001i64, "i": "2024-02-29T10:34:56.000000Z",
            "j": ["bg==", null]});
        assert_eq!(delivery.of_table("public.t")[0]["after"], expected);
    })
    .await;
}

async fn table_definitions_precede_their_changes() {
    Plugin::each(|plugin| async move {
        let fixture = builder(plugin, "dms").shards(4).build().await;
        let sql = "create table t (id int primary key, a varchar(9));
                   insert into t select i, 'x' from generate_series(1, 50) i";
        fixture.sql(sql).await;
        fixture.drain().await;
        // The sandbox has cached the table by now.
        fixture.sql("insert into t values (51, 'y')").await;
        let sql = "alter table t add b numeric(10,2);
                   insert into t select i, 'x', 1.5 from generate_series(52, 99) i";
        fixture.sql(sql).await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        let definitions: Vec<(Value, Value)> = delivery
            .definitions
            .iter()
            .map(|(_, it)| it.json())
            .map(|it| {
                (
                    it["metadata"]["operation"].clone(),
                    it["control"]["table-def"].clone(),
                )
            })
            .collect();
        let (id, a) = (
            json!({"type": "INT32", "nullable": false}),
            json!({"type": "STRING", "length": 9, "nullable": true}),
        );
        let b = match plugin {
            // It sends no modifiers, and the transaction itself may have written rows with another one.
            Plugin::TestDecoding => json!({"type": "NUMERIC", "nullable": true}),
            _ => json!({"type": "NUMERIC", "precision": 10, "scale": 2, "nullable": true}),
        };
        let first = json!({"columns": {"id": id, "a": a}, "primary-key": ["id"]});
        let second = json!({"columns": {"id": id, "a": a, "b": b}, "primary-key": ["id"]});
        let mut expected = vec![(json!("create-table"), first), (json!("change-columns"), second)];
        if definitions[0].0 != "create-table" {
            // Shards are read one after another, so the definitions may arrive in any order.
            expected.reverse();
        }
        assert_eq!(definitions, expected);
        for (_, definition) in &delivery.definitions {
            let described = delivery
                .changes()
                .into_iter()
                .find(|it| it.position == definition.position);
            assert!(described.is_some(), "a definition has no position of a change");
        }
    })
    .await;
}

async fn partition_keys_follow_partition_by() {
    for envelope in ["debezium", "dms", "wal2json"] {
        for by in ["table", "transaction"] {
            let fixture = builder(Plugin::Pgoutput, envelope)
                .env("PARTITION_BY", by)
                .build()
                .await;
            fixture
                .sql("create table t (id int primary key); create table u (id int)")
                .await;
            fixture
                .sql("insert into t values (1), (2); insert into u values (1)")
                .await;
            fixture.sql("insert into t values (3)").await;
            fixture.drain().await;
            let delivery = fixture.consume().await;
            let keys = |delivery: &Delivery| -> Vec<String> {
                delivery
                    .changes()
                    .iter()
                    .map(|it| it.partition_key.clone())
                    .collect()
            };
            let keys = keys(&delivery);
            match by {
                "table" => assert_eq!(keys, ["public.t", "public.t", "public.u", "public.t"]),
                _ => {
                    let commits = delivery.changes();
                    for (key, change) in keys.iter().zip(commits) {
                        let transaction = change.event().source.transaction.unwrap();
                        let commit = change.position.split('.').next().unwrap();
                        assert_eq!(*key, format!("{transaction}.{commit}"));
                    }
                    assert!(keys[0] == keys[2] && keys[2] != keys[3]);
                }
            }
        }
    }
}

async fn each_envelope_contains_messages() {
    for envelope in OTHERS {
        Plugin::each(move |plugin| async move {
            let fixture = builder(plugin, envelope).build().await;
            let sql = "select pg_logical_emit_message(true, 'in', 'a');
                       select pg_logical_emit_message(false, 'out', 'b')";
            fixture.sql(sql).await;
            fixture.drain().await;
            let delivery = fixture.consume().await;
            let said: Vec<(String, Value)> = delivery
                .changes()
                .iter()
                .map(|it| (it.event().op, it.json()))
                .map(|(op, json)| match envelope {
                    "dms" => (op, json["control"]["message"]["prefix"].clone()),
                    _ => (op, json["prefix"].clone()),
                })
                .collect();
            assert_eq!(
                said,
                [("m".to_owned(), json!("out")), ("m".to_owned(), json!("in"))]
            );
        })
        .await;
    }
}

/// DMS announces a table before its first row. An announcement counts once it is delivered.
async fn a_definition_that_was_not_delivered_is_announced_again() {
    let definitions = async |fixture: &Fixture| -> usize {
        let definitions = fixture.consume().await.definitions;
        let operations = definitions
            .iter()
            .map(|(_, definition)| definition.json()["metadata"]["operation"].clone());
        operations.filter(|operation| operation == "create-table").count()
    };
    let big = "create table t (id int primary key, body text);
               insert into t values (1, repeat('x', 2000000))";
    let fixture = fixture_with_tables(builder(Plugin::Pgoutput, "dms").env("OVERSIZE", "fail"), big).await;
    let report = fixture.invoke(start_event(&["public.t"], 10)).await.answer();
    assert_eq!(reported_state(&report), "failed", "{report}");
    assert_eq!(definitions(&fixture).await, 0);
    fixture.sql("insert into t values (2, 'small')").await;
    fixture.drain().await;
    assert_eq!(definitions(&fixture).await, 1, "after a row that was too large");

    let small = "create table t (id int primary key); insert into t select generate_series(1, 5)";
    let fixture = fixture_with_tables(builder(Plugin::Pgoutput, "dms"), small).await;
    fixture.kinesis_proxy.inject("PutRecords", Fault::CutRequest);
    let event = start_event(&["public.t"], 10);
    let outcome = fixture.function.invoke(&event, Duration::from_secs(5)).await;
    assert!(!matches!(outcome, Outcome::Exited(_)), "{outcome:?}");
    assert_eq!(definitions(&fixture).await, 0);
    fixture.kinesis_proxy.clear();
    let report = fixture.tick().await;
    tick_until_finished(&fixture, report).await;
    assert!(
        definitions(&fixture).await > 0,
        "after an invocation without answers"
    );
}
