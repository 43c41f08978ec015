//! A table that is no longer sent is noticed: a tick warns once, and `status` names it until then.

use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

crate::scenarios![
    a_table_that_leaves_the_publication_or_its_name_is_noticed_once,
    a_table_that_tables_excludes_is_noticed,
    a_table_that_becomes_a_partition_has_not_left,
    teardown_deletes_the_list,
];

const UNPUBLISHED: &str = "is no longer sent: none of PUBLICATIONS has it";

/// A database with three published tables, after its first tick.
async fn fixture(plugin: Plugin) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .without_slot()
        .env("PUBLICATIONS", "own")
        .build()
        .await;
    let tables =
        ["orders", "customers", "parts"].map(|name| format!("create table {name} (id int primary key);"));
    fixture.sql(&tables.concat()).await;
    fixture
        .sql("create publication own for table orders, customers, parts")
        .await;
    fixture.create_slot().await;
    assert_eq!(fixture.tick().await["tables_left"], 0);
    fixture
}

/// Answer and warnings of a tick in a new sandbox.
///
/// The sandbox is new, since one sandbox checks the tables every ten minutes.
async fn next_tick(fixture: &mut Fixture) -> (Value, Vec<String>) {
    fixture.function.set("LINGER_SECONDS", "0").await;
    let before = fixture.function.log().len();
    let answer = fixture.tick().await;
    let log = fixture.function.log().split_off(before);
    let warnings = log.into_iter().filter(|line| line.contains("no longer sent"));
    (answer, warnings.collect())
}

async fn a_table_that_leaves_the_publication_or_its_name_is_noticed_once() {
    let mut fixture = fixture(Plugin::Pgoutput).await;
    fixture.sql("alter publication own drop table orders").await;
    // The new table has the name, and the publication has the old one.
    fixture
        .sql("alter table parts rename to parts_old; create table parts (id int primary key)")
        .await;
    for table in ["public.orders", "public.parts"] {
        let sentence = format!("table {table} {UNPUBLISHED}");
        assert!(
            fixture.problems().await.to_string().contains(&sentence),
            "{table}"
        );
    }
    let (answer, warnings) = next_tick(&mut fixture).await;
    assert_eq!(answer["tables_left"], 2, "{answer}");
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    let summary = fixture.function.log().concat();
    assert!(summary.contains("\"TablesLeft\""), "no metric");
    let (answer, warnings) = next_tick(&mut fixture).await;
    assert_eq!(
        (&answer["tables_left"], warnings.len()),
        (&json!(0), 0),
        "{answer}"
    );
    assert!(!fixture.problems().await.to_string().contains("no longer sent"));
}

async fn a_table_that_tables_excludes_is_noticed() {
    let mut fixture = fixture(Plugin::Wal2json).await;
    fixture.function.set("TABLES", "public.orders,public.parts").await;
    let (answer, warnings) = next_tick(&mut fixture).await;
    assert_eq!(answer["tables_left"], 1, "{answer}");
    let expected = "table public.customers is no longer sent: TABLES does not match it";
    assert!(warnings[0].contains(expected), "{warnings:?}");
}

async fn a_table_that_becomes_a_partition_has_not_left() {
    Plugin::each(|plugin| async move {
        let mut fixture = fixture(plugin).await;
        fixture
            .sql(
                "create table all_parts (id int primary key) partition by range (id);
                 alter table all_parts attach partition parts for values from (0) to (9);
                 alter publication own add table all_parts;
                 alter publication own set (publish_via_partition_root = true)",
            )
            .await;
        for _ in 0..2 {
            assert_eq!(fixture.problems().await.to_string(), "[]");
            let (answer, warnings) = next_tick(&mut fixture).await;
            assert_eq!(answer["tables_left"], 0, "{answer}");
            assert_eq!(warnings.len(), 0, "{warnings:#?}");
        }
        fixture
            .sql("alter table all_parts detach partition parts; drop table parts")
            .await;
        let (answer, _) = next_tick(&mut fixture).await;
        assert_eq!(answer["tables_left"], 0, "partitions are not stored: {answer}");
        fixture.sql("drop table orders").await;
        let (answer, _) = next_tick(&mut fixture).await;
        assert_eq!(answer["tables_left"], 1, "{answer}");
    })
    .await;
}

async fn teardown_deletes_the_list() {
    let fixture = fixture(Plugin::TestDecoding).await;
    let list = format!("{}.tables", fixture.parameter);
    assert!(fixture.ssm.get(&list).is_some());
    let answer = fixture.invoke(json!({"action": "teardown"})).await.answer();
    assert!(answer["dropped"].to_string().contains(&list), "{answer}");
    assert_eq!(fixture.ssm.get(&list), None);
}
