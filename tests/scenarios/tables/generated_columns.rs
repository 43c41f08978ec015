//! Generated columns: values that the log does not have are absent, and keys that it has in part are none.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use serde_json::{Value, json};

use crate::support::keys::{assert_steps, execute_and_drain};
use crate::support::versions::{pgoutput, with_each_plugin};

crate::version_scenarios![
    a_generated_part_of_a_key_leaves_no_partial_key,
    a_generated_key_leaves_no_empty_key
];

crate::version_scenarios![since 18:
    a_virtual_column_is_absent,
    a_virtual_column_is_absent_from_whole_rows,
    a_null_of_an_altered_column_is_sent,
];

crate::scenarios![a_key_outside_of_a_column_list_is_no_key];

/// Fixture with a table whose key has a generated column.
///
/// PostgreSQL 18 refuses updates and deletes, since the key would not be published.
async fn fixture_of_generated_key(version: u32, key: &str) -> Fixture {
    let fixture = pgoutput(version).build().await;
    fixture
        .sql(&format!(
            "create table t (id int not null, g int generated always as (id * 2) stored, v text,
                             primary key ({key}))"
        ))
        .await;
    fixture
}

async fn a_generated_part_of_a_key_leaves_no_partial_key(version: u32) {
    let fixture = fixture_of_generated_key(version, "id, g").await;
    fixture
        .sql("insert into t (id, v) values (1, 'a'), (2, 'b')")
        .await;
    if version < 18 {
        fixture
            .sql("update t set id = 3 where id = 1; delete from t where id = 2")
            .await;
    }
    fixture.drain().await;
    let delivery = fixture.consume().await;
    for change in delivery.changes() {
        assert_eq!(change.partition_key, "public.t");
    }
    if version < 18 {
        let events = delivery.of_table("public.t");
        assert_eq!(
            (&events[2]["before"], &events[2]["after"]["id"]),
            (&json!({"id": 1}), &json!(3))
        );
        assert_eq!(events[3]["before"], json!({"id": 2}));
    }
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("public.t") && problems.contains("column g"),
        "{problems}"
    );
}

async fn a_generated_key_leaves_no_empty_key(version: u32) {
    let fixture = fixture_of_generated_key(version, "g").await;
    fixture
        .sql("insert into t (id, v) values (1, 'a'), (2, 'b')")
        .await;
    if version < 18 {
        fixture.sql("delete from t").await;
    }
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let (deletes, inserts) = (["d"; 2], ["c"; 2]);
    let deletes: &[&str] = if version < 18 { &deletes } else { &[] };
    let steps: Vec<_> = inserts
        .iter()
        .chain(deletes)
        .map(|op| (*op, "public.t"))
        .collect();
    assert_steps(&delivery, &steps);
    let status = fixture.status().await;
    assert!(status["problems"].to_string().contains("column g"), "{status}");
    let log = fixture.function.log();
    let warnings = log
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("public.t"));
    assert_eq!(warnings.count(), usize::from(version < 18), "{}", log.join("\n"));
}

async fn a_virtual_column_is_absent(version: u32) {
    with_each_plugin(version, |builder: FixtureBuilder| async move {
        let fixture = builder.build().await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, g int generated always as (id * 2) virtual, v text,
                                 s int generated always as (id * 3) stored)",
                "insert into t (id, v) values (1, null), (2, 'b')",
                "update t set v = 'c' where id = 2",
                "delete from t where id = 1",
                // The column of the log's rows is gone, and another one has its name.
                "alter table t drop column g; alter table t add column g int",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        assert_absent(&delivery, "g");
    })
    .await;
}

/// PostgreSQL refuses updates of such a table if a publication has it.
async fn a_virtual_column_is_absent_from_whole_rows(version: u32) {
    let fixture = Fixture::builder(Plugin::TestDecoding)
        .version(version)
        .without_slot()
        .build()
        .await;
    fixture.create_slot().await;
    execute_and_drain(
        &fixture,
        &[
            "create table t (id int, g int generated always as (id * 2) virtual, v text);
             alter table t replica identity full",
            "insert into t (id) values (1), (2)",
            "update t set v = 'c' where id = 2",
            "delete from t where id = 1",
        ],
    )
    .await;
    let delivery = fixture.consume().await;
    assert_absent(&delivery, "g");
    let events = delivery.of_table("public.t");
    assert_eq!(events[2]["before"], json!({"id": 2, "v": Value::Null}));
    assert_eq!(events[3]["before"], json!({"id": 1, "v": Value::Null}));
}

async fn a_null_of_an_altered_column_is_sent(version: u32) {
    with_each_plugin(version, |builder: FixtureBuilder| async move {
        let fixture = builder.build().await;
        execute_and_drain(
            &fixture,
            &[
                "create table t (id int primary key, g int generated always as (id * 2) virtual, v text,
                                 w int)",
                "insert into t (id, v) values (1, 'a')",
                "update t set v = null where id = 1",
                "alter table t alter v set default 'b'; alter table t rename w to x",
            ],
        )
        .await;
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.t");
        assert_eq!(events[1]["after"], json!({"id": 1, "v": null, "w": null}));
    })
    .await;
}

fn assert_absent(delivery: &Delivery, column: &str) {
    for change in delivery.changes() {
        let event = change.json();
        for image in ["before", "after"] {
            assert_eq!(event[image].get(column), None, "{event}");
        }
    }
}

/// Column list that leaves out a part of the key.
///
/// A publication of inserts only may have such a list.
async fn a_key_outside_of_a_column_list_is_no_key() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .version(15)
        .without_slot()
        .build()
        .await;
    fixture
        .sql("create table t (a int, b int, v text, primary key (a, b))")
        .await;
    fixture
        .sql("create publication spillway for table t (a, v) with (publish = 'insert')")
        .await;
    fixture.create_slot().await;
    fixture.sql("insert into t values (1, 1, 'a'), (1, 2, 'b')").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    assert_steps(&delivery, &[("c", "public.t"), ("c", "public.t")]);
    let status = fixture.status().await;
    assert!(status["problems"].to_string().contains("column b"), "{status}");
}
