//! Every value arrives in the JSON that Debezium writes for its type.
//!
//! This holds for each plugin. Names arrive unchanged, with any letters.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::sql_text::quote_literal;
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, run_backfill, start_event};
use crate::support::keys::{assert_images, operations};
use crate::support::type_values::{OWN_TYPES, VALUES};
use crate::support::versions::with_each_plugin;

crate::scenarios![
    every_type_arrives_as_its_json,
    non_finite_numbers_are_sent_by_name,
    a_generated_column_arrives_where_the_plugin_sends_it,
    quoted_and_unicode_names_arrive_as_they_are,
    values_of_types_with_quoted_names_arrive,
    text_that_looks_like_syntax_stays_text,
];

crate::version_scenarios![every_type_arrives, a_byte_of_char_that_is_no_text_arrives];

async fn every_type_arrives_as_its_json() {
    Plugin::each(|plugin| every_type(Fixture::builder(plugin))).await;
}

async fn every_type(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    let columns: Vec<String> = (0..VALUES.len()).map(|at| format!("c{at}")).collect();
    let typed: Vec<String> = columns
        .iter()
        .zip(VALUES)
        .map(|(name, (kind, ..))| format!("{name} {kind}"))
        .collect();
    let values: Vec<&str> = VALUES.iter().map(|(_, value, _)| *value).collect();
    let nulls = vec!["null"; VALUES.len()].join(", ");
    let all = columns.join(", ");
    fixture
        .sql(&format!(
            "{OWN_TYPES} create table every (id int primary key, {})",
            typed.join(", ")
        ))
        .await;
    fixture
        .sql(&format!("insert into every values (1, {})", values.join(", ")))
        .await;
    fixture.sql("insert into every (id) values (2)").await;
    fixture
        .sql(&format!(
            "update every set ({all}) = (select {all} from every where id = 1) where id = 2"
        ))
        .await;
    fixture
        .sql(&format!("update every set ({all}) = ({nulls}) where id = 1"))
        .await;
    fixture
        .sql(&format!(
            "insert into every select 3, {all} from every where id = 2; delete from every where id = 3"
        ))
        .await;
    fixture.drain().await;

    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.every");
    assert_eq!(operations(&events), "ccuucd");
    let mut wrong = Vec::new();
    for (column, (kind, value, expected)) in columns.iter().zip(VALUES) {
        let expected: Value = serde_json::from_str(expected).unwrap();
        let expected_values = [&expected, &Value::Null, &expected, &Value::Null, &expected];
        for (event, expected) in events.iter().zip(expected_values) {
            if event["after"].get(column) != Some(expected) {
                let (op, got) = (&event["op"], &event["after"][column]);
                wrong.push(format!("{kind} {value} ({op}): {got} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_images(&events[5], &json!({"id": 3}), &Value::Null);
    fixture.compare(&["every"]).await;
}

/// Known limit: wal2json before 2.6 writes null for them, which cannot be distinguished from a null.
async fn non_finite_numbers_are_sent_by_name() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table special (id int primary key, a float4, b float8, c numeric, d numeric)")
            .await;
        fixture
            .sql("insert into special values (1, 'NaN', 'Infinity', 'NaN', '-Infinity')")
            .await;
        fixture
            .sql("update special set a = '-Infinity', b = 'NaN', c = 'Infinity', d = 'NaN'")
            .await;
        fixture.drain().await;
        // The log is complete only after the process has ended.
        fixture.function.kill9().await;
        let blind = plugin == Plugin::Wal2json
            && fixture
                .function
                .log()
                .iter()
                .any(|line| line.contains("older than 2.6"));
        let row = |[a, b, c, d]: [&str; 4]| match blind {
            true => json!({"id": 1, "a": null, "b": null, "c": null, "d": null}),
            false => json!({"id": 1, "a": a, "b": b, "c": c, "d": d}),
        };
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.special");
        assert_eq!(events[0]["after"], row(["NaN", "Infinity", "NaN", "-Infinity"]));
        assert_eq!(events[1]["after"], row(["-Infinity", "NaN", "Infinity", "NaN"]));
        if !blind {
            fixture.compare(&["special"]).await;
        }
    })
    .await;
}

/// Known limit: pgoutput sends them since PostgreSQL 18, and only if the publication includes them.
async fn a_generated_column_arrives_where_the_plugin_sends_it() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table product (id int primary key, price numeric,
             gross numeric generated always as (price * 1.2) stored,
             label text generated always as ('#' || id) stored);
             insert into product values (1, 10); update product set price = 20; delete from product;
             insert into product values (2, 30)",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["product"]).await;
        let row = |price: &str, gross: &str| match plugin {
            Plugin::Pgoutput => json!({"id": 1, "price": price}),
            _ => json!({"id": 1, "price": price, "gross": gross, "label": "#1"}),
        };
        let events = delivery.of_table("public.product");
        assert_eq!(events[0]["after"], row("10", "12.0"));
        assert_eq!(events[1]["after"], row("20", "24.0"));
        assert_eq!(events[2]["before"], json!({"id": 1}));
    })
    .await;
}

async fn quoted_and_unicode_names_arrive_as_they_are() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        let table = r#""Sché ma.1"."Ta ""ble"", x: y [é]""#;
        fixture
            .sql(&format!(
                r#"create schema "Sché ma.1";
            create domain "Sché ma.1"."Do]m" as int;
            create table {table} ("Key [1]" "Sché ma.1"."Do]m", "a b" text, "q""uote" text, "do.t" int,
                "UPPER" int,
                "ünï 大" int, "back\slash" text, " new-tuple:" text, "co:lon" text, "select" int, "'" int,
                primary key ("Key [1]", "q""uote"))"#
            ))
            .await;
        let values = r"1, 'x', 'y', 2, 3, 4, 'back\', ' new-tuple:', 'co:', 5, 6";
        fixture
            .sql(&format!("insert into {table} values ({values})"))
            .await;
        fixture
            .sql(&format!(
                r#"update {table} set "UPPER" = 30; update {table} set "Key [1]" = 9"#
            ))
            .await;
        fixture
            .sql(&format!(
                r#"insert into {table} ("Key [1]", "q""uote") values (2, '')"#
            ))
            .await;
        fixture
            .sql(&format!(r#"delete from {table} where "do.t" is null"#))
            .await;
        fixture.drain().await;

        let delivery = fixture.compare(&[table]).await;
        let events = delivery.of_table(r#"Sché ma.1.Ta "ble", x: y [é]"#);
        assert_eq!(operations(&events), "cudccd");
        let row = |key: i32, upper: i32| {
            json!({"Key [1]": key, "a b": "x", "q\"uote": "y", "do.t": 2, "UPPER": upper, "ünï 大": 4,
                "back\\slash": "back\\", " new-tuple:": " new-tuple:", "co:lon": "co:", "select": 5, "'": 6})
        };
        assert_eq!(events[0]["after"], row(1, 3));
        assert_eq!(events[1]["after"], row(1, 30));
        assert_eq!(events[2]["before"], json!({"Key [1]": 1, "q\"uote": "y"}));
        assert_eq!(events[3]["after"], row(9, 30));
        assert_eq!(events[0]["source"]["schema"], "Sché ma.1");
        assert_eq!(events[0]["source"]["table"], r#"Ta "ble", x: y [é]"#);
        let keys: Vec<&str> = delivery
            .changes()
            .iter()
            .map(|change| change.partition_key.as_str())
            .collect();
        assert_eq!(keys[0], r#"{"Key [1]":1,"q\"uote":"y"}"#);
        assert_eq!(keys[3], r#"{"Key [1]":9,"q\"uote":"y"}"#);
    })
    .await;
}

/// Values of types whose names need quotes.
///
/// wal2json 2.5 does not escape the quotes around the name of a type.
async fn values_of_types_with_quoted_names_arrive() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                r#"create schema "My app"; create type "Mood" as enum ('a b');
               create type "My app"."Mo [od" as enum ('c,d');
            create domain "My app"."Small" as int;
            create table moods (id "My app"."Small" primary key, one "Mood", many "Mood"[],
                  other "My app"."Mo [od",
                others "My app"."Mo [od"[], last text);
            insert into moods values (1, 'a b', '{a b}', 'c,d',
                  array['c,d']::"My app"."Mo [od"[], '"type":"');
            alter table moods replica identity full; update moods set id = 2; delete from moods;
            insert into moods values (3, 'a b')"#,
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["moods"]).await;
        let row = json!({"id": 1, "one": "a b", "many": ["a b"], "other": "c,d", "others": ["c,d"],
                "last": "\"type\":\""});
        let events = delivery.of_table("public.moods");
        assert_eq!((&events[0]["after"], &events[1]["before"]), (&row, &row));
    })
    .await;
}

async fn text_that_looks_like_syntax_stays_text() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table says (id int primary key, what text, more text)")
            .await;
        let texts = [
            "null",
            "unchanged-toast-datum",
            "'",
            "''",
            "\"",
            "\\",
            "\\\\",
            "\\\"",
            "' new-tuple: id[integer]:1",
            " b[text]:'c'",
            "COMMIT 1",
            "{\"action\":\"C\"}",
            "B'101'",
            "\\x00",
            "\u{feff}",
            "a\r\nb",
            "\t",
            "%s $1 :x",
            "NULL",
            "{1,2}",
            "true",
            "0x10",
            "1e3",
            "00",
        ];
        for (id, text) in texts.iter().enumerate() {
            let text = quote_literal(text);
            fixture
                .sql(&format!("insert into says values ({id}, {text}, 'end')"))
                .await;
        }
        fixture
            .sql("update says set more = what; alter table says replica identity full")
            .await;
        fixture
            .sql("update says set what = more || 'x'; delete from says where id = 0")
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["says"]).await;
        let events = delivery.of_table("public.says");
        assert_eq!(events.len(), 3 * texts.len() + 1);
        for (event, text) in events.iter().zip(texts) {
            assert_eq!(event["after"]["what"], text);
        }
        let full = &events[2 * texts.len()];
        assert_eq!(full["before"], json!({"id": 0, "what": "null", "more": "null"}));
        assert_eq!(full["after"], json!({"id": 0, "what": "nullx", "more": "null"}));
    })
    .await;
}

async fn every_type_arrives(version: u32) {
    with_each_plugin(version, every_type).await;
}

/// PostgreSQL 14 writes the byte itself, later versions write `\303`.
async fn a_byte_of_char_that_is_no_text_arrives(version: u32) {
    with_each_plugin(version, |builder| async move {
        let sql = r#"create table t (id int primary key, c "char"); insert into t values (1, 'é')"#;
        let fixture = fixture_with_tables(builder, sql).await;
        fixture
            .sql("insert into t values (2, 'é'), (3, 'e'); alter table t replica identity full")
            .await;
        fixture.sql("delete from t where id = 2").await;
        run_backfill(&fixture, start_event(&["public.t"], 10)).await;
        let events = fixture.consume().await.of_table("public.t");
        let of_char = |event: &Value| {
            let image = if event["op"] == "d" { "before" } else { "after" };
            (event["op"].to_string(), event[image]["c"].to_string())
        };
        let mut sent: Vec<_> = events.iter().map(of_char).collect();
        sent.sort();
        let expected = [
            ("c", "e"),
            ("c", r"\303"),
            ("d", r"\303"),
            ("r", "e"),
            ("r", r"\303"),
        ];
        let expected = expected.map(|(op, c)| (json!(op).to_string(), json!(c).to_string()));
        assert!(expected.iter().all(|event| sent.contains(event)), "{sent:?}");
    })
    .await;
}
