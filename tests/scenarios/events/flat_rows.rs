//! Flat rows: each kind of event has a flat form, from the log and from a backfill, with each plugin.

use std::collections::BTreeSet;

use scenarios::consumer::Delivery;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, run_backfill};

crate::scenarios![each_kind_of_event_has_a_flat_form];

/// Payloads of all events, in the order of their positions.
fn payloads(delivery: &Delivery) -> Vec<Value> {
    let changes = delivery.changes().into_iter();
    changes
        .map(|change| {
            let mut event = change.json();
            match event.get("payload") {
                Some(_) => event["payload"].take(),
                None => event,
            }
        })
        .collect()
}

/// The events with this operation.
fn of_operation<'e>(events: &'e [Value], op: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["__op"] == op).collect()
}

async fn each_kind_of_event_has_a_flat_form() {
    for schemas in ["false", "true"] {
        Plugin::each(move |plugin| async move {
            let builder = Fixture::builder(plugin)
                .env("UNWRAP", "true")
                .env("SCHEMAS_ENABLE", schemas)
                .env("TOMBSTONES_ON_DELETE", "true");
            let sql = "create table t (id int primary key, __op text, large text);
                 alter table t alter large set storage external;
                 create table keyless (n int); alter table keyless replica identity full;
                 create table emptied (id int primary key);
                 insert into t select i, 'column', repeat('x', 3000) from generate_series(1, 9) i";
            let fixture = fixture_with_tables(builder, sql).await;
            fixture
                .sql("update t set __op = 'changed' where id = 1; update t set id = 20 where id = 2")
                .await;
            fixture.sql("delete from t where id = 3").await;
            fixture
                .sql("insert into keyless values (1), (1); update keyless set n = 2")
                .await;
            fixture.sql("insert into emptied values (1)").await;
            fixture.sql("truncate emptied").await;
            fixture
                .sql("select pg_logical_emit_message(true, 'said', 'it')")
                .await;
            fixture.drain().await;
            run_backfill(&fixture, json!({"action": "backfill", "tables": ["public.t"]})).await;
            let delivery = fixture.compare(&["t", "keyless", "emptied"]).await;
            let events = payloads(&delivery);
            assert_flat(&events);
            let update = of_operation(&events, "u")[0];
            assert_eq!((&update["id"], &update["___op"]), (&json!(1), &json!("changed")));
            assert_eq!(
                (&update["large"], &update["__unchanged"]),
                (&json!(UNAVAILABLE), &json!(["large"]))
            );
            assert_eq!(of_operation(&events, "r").len(), 8);
            let deletes = of_operation(&events, "d");
            let keys: BTreeSet<i64> = deletes.iter().filter_map(|event| event["id"].as_i64()).collect();
            assert_eq!(keys, BTreeSet::from([2, 3]));
            let tombstones = delivery.tombstones.len();
            // The updates of rows without a key are deletes and creates, too.
            assert_eq!((deletes.len(), tombstones), (4, 4));
            let truncates = of_operation(&events, "t");
            assert_eq!(truncates.len(), 1);
            assert_eq!(truncates[0]["__table"], "emptied");
            let messages = of_operation(&events, "m");
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0]["__message_prefix"], "said");
        })
        .await;
    }
}

/// Each event has the added fields, and says what it is.
fn assert_flat(events: &[Value]) {
    for event in events {
        let op = event["__op"].as_str().expect("an event has an operation");
        let deleted = match op {
            "d" => json!("true"),
            "t" | "m" => Value::Null,
            _ => json!("false"),
        };
        assert_eq!(event["__deleted"], deleted, "{event}");
        for name in ["__table", "__schema", "__db", "__name", "__position"] {
            assert!(event[name].is_string(), "{name} in {event}");
        }
        for name in ["__lsn", "__ts_ms", "__source_ts_ms"] {
            assert!(event[name].is_i64(), "{name} in {event}");
        }
    }
    let positions: Vec<&str> = events
        .iter()
        .filter_map(|event| event["__position"].as_str())
        .collect();
    assert!(positions.is_sorted(), "{positions:?}");
}
