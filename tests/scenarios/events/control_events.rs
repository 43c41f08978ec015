//! Control events: consumers act on them, so only the function's own look like one.
//!
//! Every role may write a logical message with any prefix.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scenarios::consumer::Delivery;
use scenarios::consumer::event::Envelope;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::json;

use crate::support::backfill::{fixture_with_tables, run_backfill};
use crate::support::versions::with_each_plugin;

crate::scenarios![a_forged_control_event_is_an_ordinary_message_in_each_envelope];

crate::version_scenarios![
    a_forged_control_event_arrives_as_a_message_that_says_so,
    messages_that_look_like_markers_and_watermarks_are_no_changes,
];

const FORGED: [&str; 3] = ["spillway.repaired", "spillway.gap_accepted", "spillway.later"];

/// Content that would make a consumer remove all rows.
const CONTENT: &str = r#"{"control":"repaired","since":"ffffffffffffffff","tables":["public.t"]}"#;

/// Prefixes and contents of the messages in the stream.
fn messages(delivery: &Delivery) -> Vec<(String, String)> {
    let of = |change: &scenarios::consumer::Arrival| {
        let event = change.event();
        let message = event.message?;
        let content = match event.envelope {
            Envelope::Wal2json => message.content,
            Envelope::Debezium | Envelope::Dms => {
                String::from_utf8(STANDARD.decode(message.content).ok()?).ok()?
            }
        };
        Some((message.prefix, content))
    };
    delivery.changes().into_iter().filter_map(of).collect()
}

/// Writes every forged message, inside and outside of a transaction.
async fn write_forged(fixture: &Fixture) {
    for prefix in FORGED {
        for transactional in [true, false] {
            let sql = format!("select pg_logical_emit_message({transactional}, '{prefix}', '{CONTENT}')");
            fixture.sql(&sql).await;
        }
    }
}

async fn assert_forged_are_ordinary(builder: FixtureBuilder) {
    let fixture = fixture_with_tables(builder, "create table t (id int primary key)").await;
    fixture.sql("insert into t select generate_series(1, 5)").await;
    write_forged(&fixture).await;
    fixture
        .sql("select pg_logical_emit_message(true, 'outbox', 'plain')")
        .await;
    fixture.drain().await;
    // Also while a backfill waits for its watermark, and before its own control event.
    fixture.sql("insert into t values (6)").await;
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    write_forged(&fixture).await;
    fixture.drain().await;
    let delivery = fixture.compare(&["t"]).await;
    let found = messages(&delivery);
    for prefix in FORGED {
        let marked = (format!("foreign.{prefix}"), CONTENT.to_owned());
        let count = found.iter().filter(|message| **message == marked).count();
        assert_eq!(count, 4, "{prefix}: {found:#?}");
    }
    assert!(found.contains(&("outbox".to_owned(), "plain".to_owned())));
    let own: Vec<&String> = found
        .iter()
        .map(|(prefix, _)| prefix)
        .filter(|prefix| prefix.starts_with("spillway."))
        .collect();
    assert_eq!(own, ["spillway.repaired"], "the repair's own event, once");
}

async fn a_forged_control_event_arrives_as_a_message_that_says_so(version: u32) {
    with_each_plugin(version, assert_forged_are_ordinary).await;
}

async fn a_forged_control_event_is_an_ordinary_message_in_each_envelope() {
    for (name, value) in [
        ("ENVELOPE", "debezium"),
        ("ENVELOPE", "dms"),
        ("ENVELOPE", "wal2json"),
        ("UNWRAP", "true"),
        ("SCHEMAS_ENABLE", "true"),
    ] {
        assert_forged_are_ordinary(Fixture::builder(Plugin::Pgoutput).env(name, value)).await;
    }
}

async fn messages_that_look_like_markers_and_watermarks_are_no_changes(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = fixture_with_tables(builder, "create table t (id int primary key)").await;
        fixture.sql("insert into t values (1)").await;
        fixture.drain().await;
        let write = async || {
            for prefix in ["spillway.marker", "spillway.watermark"] {
                for transactional in [true, false] {
                    let sql = format!("select pg_logical_emit_message({transactional}, '{prefix}', '7')");
                    fixture.sql(&sql).await;
                }
            }
        };
        write().await;
        let report = fixture.tick().await;
        assert_eq!(report["changes"], 0, "{report}");
        assert_eq!(report["stopped"], "empty", "{report}");
        write().await;
        run_backfill(&fixture, json!({"action": "backfill", "tables": ["public.t"]})).await;
        write().await;
        fixture.sql("insert into t values (2)").await;
        fixture.drain().await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(messages(&delivery), []);
    })
    .await;
}
