//! A logical message of any size passes. Every role can write one.
//!
//! Its event omits the parts that exceed a record, and lists them. This holds for each value of `OVERSIZE`.

use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::reports::reported_sum;
use crate::support::small_function::{assert_memory, small_function};
use crate::support::versions::pgoutput;

crate::scenarios![
    messages_of_any_size_pass_without_their_content,
    each_envelope_names_the_omitted_content,
    a_prefix_of_any_size_is_omitted_and_named,
    messages_of_any_size_pass_on_14,
    messages_of_any_size_pass_on_18,
];

/// Fixture for the smallest function, with an empty table.
async fn fixture(builder: FixtureBuilder) -> Fixture {
    small_function(builder, "create table t (id int primary key)").await
}

/// A logical message in its event.
#[derive(Debug, PartialEq)]
struct MessageEvent {
    prefix: Value,
    content: Value,
    /// Names of the omitted parts; null without one.
    omitted: Value,
}

/// The messages in position order.
async fn messages(fixture: &Fixture) -> Vec<MessageEvent> {
    let delivery = fixture.consume().await;
    let changes = delivery.changes();
    let messages = changes
        .iter()
        .map(|it| it.json())
        .filter(|event| event["op"] == "m");
    messages
        .map(|event| MessageEvent {
            prefix: event["message"]["prefix"].clone(),
            content: event["message"]["content"].clone(),
            omitted: event["source"]["omitted"].clone(),
        })
        .collect()
}

/// Asserts that messages of 2 MB, 20 MB and 64 MB pass.
///
/// They are inside and outside of transactions, between rows. Two rows of pgoutput are at the bound of 4 MiB,
/// above which a row arrives in slices: the message has 19 bytes more than its content.
async fn assert_messages_pass(builder: FixtureBuilder) {
    let fixture = fixture(builder).await;
    fixture
        .sql(
            "insert into t values (1); select pg_logical_emit_message(true, 'small', 'a');
             select pg_logical_emit_message(true, 'in', repeat('x', 2000000));
             select pg_logical_emit_message(true, 'edge', repeat('x', 4194304 - 19));
             select pg_logical_emit_message(true, 'edge', repeat('x', 4194304 - 18));
             select pg_logical_emit_message(true, 'in', repeat('x', 64000000)); insert into t values (2)",
        )
        .await;
    fixture
        .sql("select pg_logical_emit_message(false, 'out', repeat('x', 2000000))")
        .await;
    fixture
        .sql("select pg_logical_emit_message(false, 'out', repeat('x', 20000000))")
        .await;
    fixture.sql("insert into t values (3)").await;
    let reports = fixture.drain().await;
    assert_eq!(reported_sum(&reports, "omitted"), 6, "{reports:?}");
    let small = MessageEvent {
        prefix: json!("small"),
        content: json!("YQ=="),
        omitted: Value::Null,
    };
    let large = |prefix: &str| MessageEvent {
        prefix: json!(prefix),
        content: json!(UNAVAILABLE),
        omitted: json!(["content"]),
    };
    assert_eq!(
        messages(&fixture).await,
        [
            small,
            large("in"),
            large("edge"),
            large("edge"),
            large("in"),
            large("out"),
            large("out")
        ]
    );
    fixture.compare(&["t"]).await;
    assert_memory(&fixture);
}

async fn messages_of_any_size_pass_without_their_content() {
    Plugin::each(|plugin| assert_messages_pass(Fixture::builder(plugin).env("OVERSIZE", "fail"))).await;
    // The policy is applied to a decoded message, which is the same with each plugin.
    assert_messages_pass(Fixture::builder(Plugin::Pgoutput).env("OVERSIZE", "omit")).await;
}

async fn messages_of_any_size_pass_on_14() {
    assert_messages_pass(pgoutput(14)).await;
}

async fn messages_of_any_size_pass_on_18() {
    assert_messages_pass(pgoutput(18)).await;
}

async fn each_envelope_names_the_omitted_content() {
    for (envelope, content, omitted) in [
        ("debezium", "/message/content", "/source/omitted"),
        ("dms", "/control/message/content", "/metadata/omitted"),
        ("wal2json", "/content", "/omitted"),
    ] {
        let fixture = fixture(Fixture::builder(Plugin::Pgoutput).env("ENVELOPE", envelope)).await;
        for bytes in [2_000_000, 20_000_000] {
            fixture
                .sql(&format!(
                    "select pg_logical_emit_message(true, 'p', repeat('x', {bytes}))"
                ))
                .await;
        }
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let changes = delivery.changes();
        assert_eq!(changes.len(), 2, "{envelope}");
        for change in changes {
            let event = change.json();
            let unavailable = (envelope != "wal2json").then(|| json!(UNAVAILABLE));
            assert_eq!(event.pointer(content), unavailable.as_ref(), "{event}");
            assert_eq!(event.pointer(omitted), Some(&json!(["content"])), "{event}");
        }
    }
}

async fn a_prefix_of_any_size_is_omitted_and_named() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(Fixture::builder(plugin)).await;
        for bytes in [2_000_000, 20_000_000] {
            fixture
                .sql(&format!(
                    "select pg_logical_emit_message(true, repeat('x', {bytes}), 'content')"
                ))
                .await;
        }
        fixture.sql("insert into t values (1)").await;
        fixture.drain().await;
        let messages = messages(&fixture).await;
        assert_eq!(messages.len(), 2);
        for message in messages {
            assert_eq!(message.prefix, UNAVAILABLE);
            let omitted = message.omitted.as_array();
            assert!(
                omitted.is_some_and(|it| it.contains(&json!("prefix"))),
                "{message:?}"
            );
        }
        fixture.compare(&["t"]).await;
        assert_memory(&fixture);
    })
    .await;
}
