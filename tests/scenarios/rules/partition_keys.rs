//! With `PARTITION_KEYS`, all rows of a customer have the same partition key. So they arrive in the order of
//! commits.
//!
//! [`Fixture::consume`] checks that positions ascend within each partition key. That is not enough here: a
//! row whose customer changes has events under two partition keys. So these scenarios also check that the
//! positions of each row ascend in the order in which the stream accepted its events.

use std::collections::{BTreeMap, BTreeSet};

use scenarios::aws::fake_kinesis::{FakeKinesisSettings, Faults};
use scenarios::consumer::event::Event;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, run_backfill, start_event};
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::keys::{assert_steps, execute_and_drain};
use crate::support::versions::pgoutput;

crate::scenarios![
    rows_of_one_customer_have_one_partition_key_in_all_tables,
    columns_of_the_key_are_the_partition_key_in_each_envelope,
    changes_of_one_row_never_overtake_each_other,
    a_table_that_cannot_follow_is_reported,
    a_column_that_the_index_of_the_key_includes_is_no_key,
    partition_keys_need_keys,
];

crate::version_scenarios![columns_that_events_lack_are_reported];

const ONE: &str = r#"{"customer_id":1}"#;
const TWO: &str = r#"{"customer_id":2}"#;
const NULL: &str = r#"{"customer_id":null}"#;

fn builder(plugin: Plugin, keys: &str) -> FixtureBuilder {
    Fixture::builder(plugin).env("PARTITION_KEYS", keys)
}

async fn rows_of_one_customer_have_one_partition_key_in_all_tables() {
    Plugin::each(|plugin| async move {
        let sql = "create table orders (id int primary key, customer_id int, note text);
                   create table items (order_id int, line int, customer_id int, primary key (order_id, line));
                   create table visits (customer_id int, page text);
                   create table others (id int primary key, customer_id int);
                   alter table orders replica identity full; alter table items replica identity full;
                   insert into orders values (9, 1, 'old'), (10, null, 'old')";
        let keys = "public.orders:customer_id;public.items:customer_id;public.vis*:customer_id";
        let fixture = fixture_with_tables(builder(plugin, keys), sql).await;
        execute_and_drain(
            &fixture,
            &[
                "insert into orders values (1, 1, 'a'); insert into items values (1, 1, 1), (1, 2, 1)",
                "insert into orders values (2, null, 'b'); insert into others values (1, 1)",
                "update orders set note = 'c' where id = 1; insert into visits values (1, '/')",
                // Another customer, another key, and both.
                "update orders set customer_id = 2 where id = 1",
                "update orders set id = 3 where id = 1",
                "update orders set id = 4, customer_id = 1 where id = 3",
                "delete from orders where id = 4; delete from items where line = 2",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let mut expected = vec![
            ("c", ONE),
            ("c", ONE),
            ("c", ONE),
            ("c", NULL),
            ("c", r#"{"id":1}"#),
            ("u", ONE),
            ("c", ONE),
            ("u", TWO),
            ("d", TWO),
            ("c", TWO),
            ("d", TWO),
            ("c", ONE),
            ("d", ONE),
            ("d", ONE),
        ];
        assert_steps(&delivery, &expected);
        let moved = &delivery.of_table("public.orders")[3];
        assert_eq!(
            (&moved["before"]["customer_id"], &moved["after"]["customer_id"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(fixture.problems().await, json!([]));
        run_backfill(&fixture, start_event(&["public.orders"], 1)).await;
        expected.extend([("r", NULL), ("r", ONE), ("r", NULL)]);
        assert_steps(&fixture.consume().await, &expected);
    })
    .await;
}

async fn columns_of_the_key_are_the_partition_key_in_each_envelope() {
    for envelope in ["debezium", "dms", "wal2json"] {
        Plugin::each(move |plugin| async move {
            let fixture = builder(plugin, "public.orders:customer_id")
                .env("ENVELOPE", envelope)
                .build()
                .await;
            execute_and_drain(
                &fixture,
                &[
                    "create table orders (customer_id int, id int, note text, primary key (id, customer_id))",
                    "insert into orders values (1, 1, 'a'), (2, 1, 'b'), (1, 2, 'c')",
                    "update orders set note = 'd' where customer_id = 1",
                    "update orders set customer_id = 2 where id = 2",
                    "delete from orders",
                ],
            )
            .await;
            let delivery = fixture.consume().await;
            let mut keys: BTreeMap<String, usize> = BTreeMap::new();
            for change in delivery.changes() {
                *keys.entry(change.partition_key.clone()).or_default() += 1;
            }
            // Only the Debezium envelope has an event under the old customer.
            let of_one = if envelope == "debezium" { 6 } else { 5 };
            let expected = [(ONE.to_owned(), of_one), (TWO.to_owned(), 4)];
            assert_eq!(keys, BTreeMap::from(expected), "{envelope}");
            assert_eq!(fixture.problems().await, json!([]));
        })
        .await;
    }
}

/// Stream that refuses a fifth of the records.
///
/// Events of different lanes therefore change places.
fn faulty_stream() -> FakeKinesisSettings {
    FakeKinesisSettings {
        shards: 8,
        faults: Faults {
            seed: 7,
            failed_records: 0.2,
            ..Faults::default()
        },
        ..FakeKinesisSettings::default()
    }
}

/// Asserts that the stream accepted each row's changes in position order.
///
/// Returns the number of partition keys of the row that had the most.
fn assert_rows_in_order(fixture: &Fixture) -> usize {
    let mut arrivals = BTreeMap::new();
    fixture.fake_kinesis().read_numbered(|number, _, key, data| {
        arrivals.insert(number, (key.to_owned(), data.to_vec()));
    });
    let mut rows: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for (key, data) in arrivals.into_values() {
        let event = Event::parse(&data).unwrap();
        let row = event.after.as_ref().or(event.before.as_ref());
        let id = row.and_then(|row| row.get("id")).map(Value::to_string).unwrap();
        let (last, keys) = rows.entry(id.clone()).or_default();
        keys.insert(key);
        // A change that is sent again is a duplicate.
        let position = event.source.position;
        assert!(*last <= position, "row {id}: {position} follows {last}");
        *last = position;
    }
    rows.values().map(|(_, keys)| keys.len()).max().unwrap_or(0)
}

async fn changes_of_one_row_never_overtake_each_other() {
    Plugin::each(|plugin| async move {
        for identity in ["default", "full"] {
            let fixture = builder(plugin, "public.orders:customer_id")
                .on_fake_kinesis(faulty_stream())
                .build()
                .await;
            fixture
                .sql(&format!(
                    "create table orders (id int primary key, customer_id int, n int);
                     alter table orders replica identity {identity}"
                ))
                .await;
            fixture
                .sql("insert into orders select i, i % 20, 0 from generate_series(1, 200) i")
                .await;
            for n in 1..=3 {
                fixture
                    .sql(&format!(
                        "update orders set n = {n};
                         update orders set customer_id = customer_id + 20 where id % 40 = {n};
                         delete from orders where id % 50 = {n};
                         insert into orders select i, i % 20 + 100, {n}
                         from generate_series(1, 200) i where i % 50 = {n};
                         update orders set id = id + 1000 where id % 66 = {n}"
                    ))
                    .await;
            }
            fixture.drain().await;
            fixture.consume().await;
            let most = assert_rows_in_order(&fixture);
            assert!(most > 1, "{identity}: no row had two partition keys");
        }
    })
    .await;
}

async fn a_table_that_cannot_follow_is_reported() {
    Plugin::each(|plugin| async move {
        let keys = "public.orders:customer_id;public.items:customer_id,tenant;*.log:customer_id;public.x:a";
        let fixture = builder(plugin, keys).build().await;
        fixture
            .sql(
                "create table orders (id int primary key, customer_id int);
                 create table items (id int primary key, customer_id int);
                 create table log (id int, customer_id int); alter table log replica identity full",
            )
            .await;
        let expected = [
            applies_to_none("public.items:customer_id,tenant"),
            applies_to_none("public.x:a"),
            "PARTITION_KEYS: public.log has no key, so its events have the table's partition key: \
             add a primary key"
                .to_owned(),
            lacks("public.orders", "customer_id"),
        ];
        assert_eq!(fixture.problems().await, json!(expected));
        let sql = ["insert into orders values (1, 1); delete from orders; insert into items values (1, 1)"];
        execute_and_drain(&fixture, &sql).await;
        let own = r#"{"id":1}"#;
        assert_steps(&fixture.consume().await, &[("c", ONE), ("d", own), ("c", own)]);
        let log = fixture.function.log().join("\n");
        for text in expected {
            assert!(log.contains(&text), "{text}");
        }
    })
    .await;
}

/// Tables whose events or old rows may lack the column `note`.
const TABLES_OF_NOTES: &str = "
    create table listed (id int primary key, note int); alter table listed replica identity full;
    create table hidden (id int primary key, note int); alter table hidden replica identity full;
    create table away (id int primary key, note int); alter table away replica identity full;
    create table whole (note int, id int primary key) partition by range (id);
    create table whole_1 partition of whole for values from (0) to (9);
    alter table whole_1 replica identity full;
    create table keyed (note int, id int primary key) partition by range (id);
    create table keyed_1 partition of keyed for values from (0) to (9);
    alter table keyed replica identity full;
    create table computed (id int primary key, note int generated always as (id) stored);
    create table pair (id int primary key, note int not null, reference int not null)
      partition by range (id);
    create table pair_1 partition of pair for values from (0) to (9);
    create unique index noted on pair_1 (id, note);
    alter table pair_1 replica identity using index noted;
    create table pair_2 partition of pair for values from (9) to (19);
    create unique index referenced on pair_2 (id, reference);
    alter table pair_2 replica identity using index referenced";

async fn columns_that_events_lack_are_reported(version: u32) {
    let keys = "public.listed:note;public.hidden:note;public.away:note;public.whole:note;public.keyed:note;\
                public.computed:note;public.pair:note,reference";
    let builder = pgoutput(version)
        .env("PARTITION_KEYS", keys)
        .env(
            "TABLES",
            "public.listed,public.hidden,public.whole,public.keyed,public.computed,public.pair",
        )
        .env("COLUMN_SALT", "salt of the scenarios")
        .env("COLUMN_RULES", "public.hidden.note:hash,*.hidden.note:omit");
    let fixture = builder.without_slot().build().await;
    fixture.sql(TABLES_OF_NOTES).await;
    // PostgreSQL 14 has no lists of columns.
    let list = if version == 14 { "" } else { "(id)" };
    fixture
        .sql(&format!(
            "create publication spillway for table listed {list}, hidden, away, whole, keyed, computed, pair
             with (publish_via_partition_root = true)"
        ))
        .await;
    fixture.create_slot().await;
    let listed = (version > 14).then(|| applies_to_none("public.listed:note"));
    let mut expected: Vec<String> = listed.into_iter().collect();
    expected.extend(["public.hidden:note", "public.away:note", "public.computed:note"].map(applies_to_none));
    expected.push(lacks("public.keyed_1", "note"));
    expected.push(lacks("public.pair_1", "reference"));
    assert_eq!(fixture.problems().await, json!(expected));
    fixture
        .sql(
            "insert into whole values (1, 1); insert into keyed values (1, 1);
             delete from whole; delete from keyed",
        )
        .await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let keys: Vec<&str> = delivery
        .arrivals
        .iter()
        .map(|arrival| &*arrival.partition_key)
        .collect();
    let of_note = keys.iter().filter(|key| **key == r#"{"note":1}"#).count();
    let own = keys.iter().filter(|key| **key == r#"{"id":1}"#).count();
    assert_eq!((of_note, own), (3, 1), "{keys:?}");
}

/// The problem of an entry that applies to no table.
fn applies_to_none(entry: &str) -> String {
    format!(
        "PARTITION_KEYS: {entry} applies to no table: events of no sent table have these columns, or an \
         earlier entry matches first"
    )
}

/// The problem of a table whose deletes lack a column.
fn lacks(table: &str, column: &str) -> String {
    format!(
        "PARTITION_KEYS: the replica identity of {table} lacks column {column}, so the partition key of a \
         delete is the key of its row. To include the column: alter table {table} replica identity full. Do \
         this only if no publication has a column list of this table. From PostgreSQL 18 on, the table must \
         also have no generated column"
    )
}

async fn a_column_that_the_index_of_the_key_includes_is_no_key() {
    Plugin::each(|plugin| async move {
        let fixture = builder(plugin, "public.t:note").build().await;
        fixture
            .sql("create table t (id int, note int, primary key (id) include (note))")
            .await;
        assert_eq!(fixture.problems().await, json!([lacks("public.t", "note")]));
        execute_and_drain(&fixture, &["insert into t values (1, 1); delete from t"]).await;
        let steps = [("c", r#"{"note":1}"#), ("d", r#"{"id":1}"#)];
        assert_steps(&fixture.consume().await, &steps);
    })
    .await;
}

async fn partition_keys_need_keys() {
    let mut fixture = builder(Plugin::Pgoutput, "public.orders").build().await;
    let parts = ["PARTITION_KEYS", "public.orders:customer_id"];
    assert_invocation_fails(&fixture, json!({}), "ConfigInvalid", &parts).await;
    fixture.function.set("PARTITION_KEYS", "public.orders:id").await;
    fixture.function.set("PARTITION_BY", "table").await;
    let parts = ["PARTITION_KEYS", "PARTITION_BY"];
    assert_invocation_fails(&fixture, json!({}), "ConfigInvalid", &parts).await;
}
