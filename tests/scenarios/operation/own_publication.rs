//! The publication that `setup` creates.
//!
//! It breaks no application, and sends the tables that `TABLES` names.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::json;

crate::scenarios![
    setup_publishes_no_table_whose_updates_it_would_break,
    setup_publishes_partitioned_tables_by_the_names_in_tables,
    published_partitions_without_their_table_are_reported,
    a_partition_that_blocks_its_table_is_named,
    no_partition_is_reported_whose_table_or_schema_is_published,
    the_advised_sql_is_valid_for_names_that_are_keywords,
];

crate::version_scenarios![
    since 18:
    setup_publishes_no_table_whose_identity_has_a_generated_column,
];

/// Fixture without publication and slot. Its tables belong to the function's role.
async fn fixture_with(builder: FixtureBuilder, sql: &str) -> Fixture {
    let fixture = builder.without_slot().build().await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    let script = format!(
        "grant create on database {database} to {role}; grant create on schema public to {role}; \
         set role {role}; {sql}; reset role"
    );
    fixture.sql(&script).await;
    fixture
}

/// The problem of a table whose partition `{root}_1` is published alone.
fn without_root(root: &str, first: &str) -> String {
    format!(
        "{root}: publication spillway has its partition {root}_1, but not {root} itself: new partitions are \
         not sent. To send them, {first}run alter publication spillway add table {root}"
    )
}

async fn setup_publishes_no_table_whose_updates_it_would_break() {
    let sql = "
        create table parent (id int primary key, n int);
        create table child () inherits (parent);
        create table keyed (id int primary key, n int) partition by range (id);
        create table keyed_1 partition of keyed for values from (0) to (9);
        create table bare (id int, n int) partition by range (id);
        create table bare_1 partition of bare for values from (0) to (9);
        alter table bare replica identity full;
        create table silent (id int primary key, n int) partition by range (id);
        create table silent_1 partition of silent for values from (0) to (9);
        alter table silent_1 replica identity nothing;
        create table whole (id int, n int) partition by range (id);
        create table whole_1 partition of whole for values from (0) to (9);
        alter table whole replica identity full; alter table whole_1 replica identity full";
    let fixture = fixture_with(Fixture::builder(Plugin::Pgoutput), sql).await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(
        answer["created"][0], "publication spillway of 3 tables",
        "{answer}"
    );
    let problem = without_root("public.whole", "give public.whole a primary key, then ");
    assert_eq!(answer["problems"], json!([problem]), "{answer}");
    for root in ["keyed", "bare", "silent", "whole"] {
        let later = format!("create table {root}_2 partition of {root} for values from (10) to (19)");
        fixture.sql(&later).await;
    }
    for table in ["parent", "child", "keyed", "bare", "silent", "whole"] {
        let changes = format!(
            "insert into {table} values (1, 0), (11, 0); update {table} set n = 1;
             delete from {table} where n = 1"
        );
        fixture.sql(&changes).await;
    }
    fixture.drain().await;
    let counts = fixture.consume().await.counts();
    let sent: Vec<(&str, usize)> = counts.iter().map(|(table, count)| (&**table, *count)).collect();
    let expected = [
        ("public.keyed_1", 3),
        ("public.keyed_2", 3),
        ("public.parent", 6),
        ("public.whole_1", 3),
    ];
    assert_eq!(sent, expected);

    // `setup` also reports a publication of others that has such a table.
    fixture
        .sql(
            "alter publication spillway add table bare;
             alter publication spillway set (publish_via_partition_root = true)",
        )
        .await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    let problem = "public.bare: partition public.bare_1 has no replica identity";
    assert!(answer["problems"].to_string().contains(problem), "{answer}");
}

async fn setup_publishes_partitioned_tables_by_the_names_in_tables() {
    let sql = "
        create table orders (id int primary key) partition by range (id);
        create table orders_1 partition of orders for values from (0) to (9);
        create table visits (id int primary key) partition by range (id);
        create table visits_1 partition of visits for values from (0) to (9);
        create table visits_2 partition of visits for values from (10) to (19)";
    for (tables, expected) in [
        (
            "public.orders,public.visits_1",
            &[("public.orders", 2), ("public.visits_1", 1)][..],
        ),
        ("public.visits_2", &[("public.visits_2", 1)]),
        (
            "",
            &[
                ("public.orders_1", 1),
                ("public.orders_2", 1),
                ("public.visits_1", 1),
                ("public.visits_2", 1),
            ],
        ),
    ] {
        let builder = Fixture::builder(Plugin::Pgoutput).env("TABLES", tables);
        let fixture = fixture_with(builder, sql).await;
        let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
        assert_eq!(answer["problems"], json!([]), "{tables}: {answer}");
        fixture
            .sql(
                "create table orders_2 partition of orders for values from (10) to (19);
                 insert into orders values (1), (11); insert into visits values (1), (11)",
            )
            .await;
        fixture.drain().await;
        let counts = fixture.consume().await.counts();
        let sent: Vec<(&str, usize)> = counts.iter().map(|(table, count)| (&**table, *count)).collect();
        assert_eq!(sent, expected, "{tables}");
    }
}

async fn published_partitions_without_their_table_are_reported() {
    // The key of the partition has not the column of the partitioning. So the table cannot have this key.
    let sql = "
        create table orders (id int, day int) partition by range (day);
        create table orders_1 partition of orders for values from (0) to (9);
        alter table orders_1 add primary key (id)";
    let give_key = "give public.orders a primary key, then ";
    let problem = without_root("public.orders", give_key);
    for (tables, expected) in [
        ("", json!([problem])),
        ("public.orders_*", json!([problem])),
        // Rows arrive under the names of the partitions, which a pattern matches.
        ("public.orders,public.orders_*", json!([problem])),
        // This partition is meant, and no other.
        ("public.orders_1", json!([])),
    ] {
        let builder = Fixture::builder(Plugin::Pgoutput).env("TABLES", tables);
        let fixture = fixture_with(builder, sql).await;
        let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
        assert_eq!(answer["problems"], expected, "{tables}: {answer}");
        assert_eq!(fixture.problems().await, expected, "{tables}");
        fixture.tick().await;
        // The log is complete when the process has ended.
        fixture.function.kill9().await;
        let log = fixture.function.log();
        let warned = log
            .iter()
            .any(|line| line.contains(r#""level":"WARN""#) && line.contains(&problem));
        assert_eq!(warned, expected == json!([problem]), "{tables}: {log:#?}");
        if !warned {
            continue;
        }

        // The advice, on each table of which PostgreSQL then has one primary key.
        let (_, statement) = problem.split_once("then run ").expect("a statement");
        fixture
            .sql(&format!(
                "alter table orders_1 drop constraint orders_1_pkey;
                 alter table orders add primary key (id, day);
                 {statement};
                 create table orders_2 partition of orders for values from (10) to (19)"
            ))
            .await;
        assert_eq!(fixture.problems().await, json!([]), "{tables}");
        fixture
            .sql("insert into orders values (1, 1), (2, 11); update orders set id = id + 2")
            .await;
        fixture.drain().await;
        let counts = fixture.consume().await.counts();
        let sent: Vec<(&str, usize)> = counts.iter().map(|(table, count)| (&**table, *count)).collect();
        // Each update changes the key: a delete and an insert.
        assert_eq!(sent, [("public.orders_1", 3), ("public.orders_2", 3)], "{tables}");
    }
}

async fn a_partition_that_blocks_its_table_is_named() {
    let sql = "
        create table visits (id int primary key) partition by range (id);
        create table visits_1 partition of visits for values from (0) to (9);
        create table visits_2 partition of visits for values from (10) to (19);
        alter table visits_2 replica identity nothing";
    let fixture = fixture_with(Fixture::builder(Plugin::Pgoutput), sql).await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    let problem = without_root("public.visits", "give public.visits_2 a replica identity, then ");
    assert_eq!(answer["problems"], json!([problem]), "{answer}");
    fixture.sql("alter table visits_2 replica identity full").await;
    let problem = without_root("public.visits", "");
    assert_eq!(fixture.problems().await, json!([problem]));
    fixture
        .sql("alter publication spillway set (publish_via_partition_root = true)")
        .await;
    let with_name = format!("{problem}. Its changes then have its name, which TABLES must match");
    assert_eq!(fixture.problems().await, json!([with_name]));

    let (_, statement) = problem.split_once("To send them, run ").expect("a statement");
    fixture
        .sql(&format!(
            "{statement}; create table visits_3 partition of visits for values from (20) to (29);
             insert into visits values (1), (11), (21)"
        ))
        .await;
    fixture.sql("update visits set id = id + 1").await;
    fixture.drain().await;
    // Each update changes the key: a delete and an insert.
    assert_eq!(fixture.consume().await.counts()["public.visits"], 9);
}

async fn no_partition_is_reported_whose_table_or_schema_is_published() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("PUBLICATIONS", "spillway,other")
        .without_slot()
        .build()
        .await;
    fixture
        .sql(
            "create schema parts;
             create table orders (id int primary key) partition by range (id);
             create table parts.orders_1 partition of orders for values from (0) to (9);
             create publication spillway for all tables;
             create publication other for table parts.orders_1",
        )
        .await;
    fixture.create_slot().await;
    for publication in [
        "for all tables",
        "for table orders",
        "for tables in schema public",
        "for tables in schema parts",
    ] {
        fixture
            .sql(&format!(
                "drop publication spillway; create publication spillway {publication}"
            ))
            .await;
        assert_eq!(fixture.problems().await, json!([]), "{publication}");
    }
}

async fn the_advised_sql_is_valid_for_names_that_are_keywords() {
    let sql = r#"
        create schema "user";
        create table "user"."order" (id int primary key) partition by range (id);
        create table "user".order_1 partition of "user"."order" for values from (0) to (9)"#;
    let builder = Fixture::builder(Plugin::Pgoutput).env("PUBLICATIONS", "end");
    let fixture = fixture_with(builder, sql).await;
    fixture
        .sql(r#"create publication "end" for table "user".order_1"#)
        .await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    let problem = answer["problems"][0].as_str().unwrap_or_default();
    let advice = problem.split("run ").last().unwrap_or_default();
    assert_eq!(
        advice, r#"alter publication "end" add table "user"."order""#,
        "{answer}"
    );
    fixture.sql(advice).await;
    assert_eq!(fixture.problems().await, json!([]));
}

/// PostgreSQL 18 refuses updates and deletes of such a table.
async fn setup_publishes_no_table_whose_identity_has_a_generated_column(version: u32) {
    let sql = "
        create table whole (id int primary key, n int, g int generated always as (n + 1) stored);
        alter table whole replica identity full;
        create table whole_virtual (id int primary key, n int, g int generated always as (n + 1) virtual);
        alter table whole_virtual replica identity full;
        create table keyed (id int, n int, g int generated always as (id + 1) stored primary key);
        create table indexed
          (id int primary key, n int, g int generated always as (id + 1) stored not null unique);
        alter table indexed replica identity using index indexed_g_key;
        create table fine (id int primary key, n int, g int generated always as (n + 1) stored);
        create table root (id int primary key, n int, g int generated always as (n + 1) stored)
          partition by range (id);
        create table root_1 partition of root for values from (0) to (9);
        create table whole_root (id int primary key, n int, g int generated always as (n + 1) stored)
          partition by range (id);
        create table whole_root_1 partition of whole_root for values from (0) to (9);
        alter table whole_root_1 replica identity full";
    let mut fixture = fixture_with(Fixture::builder(Plugin::Pgoutput).version(version), sql).await;
    let answer = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(
        answer["created"][0], "publication spillway of 2 tables",
        "{answer}"
    );
    for table in [
        "whole",
        "whole_virtual",
        "keyed",
        "indexed",
        "fine",
        "root",
        "whole_root",
    ] {
        let changes =
            format!("insert into {table} values (1, 0); update {table} set n = 1; delete from {table}");
        fixture.sql(&changes).await;
    }
    fixture.drain().await;
    let counts = fixture.consume().await.counts();
    let sent: Vec<(&str, usize)> = counts.iter().map(|(table, count)| (&**table, *count)).collect();
    assert_eq!(sent, [("public.fine", 3), ("public.root_1", 3)]);

    // The advice for a partition that is published alone says what to do first.
    fixture
        .sql("create publication other for table whole_root_1 with (publish_generated_columns = stored)")
        .await;
    fixture.function.set("PUBLICATIONS", "spillway,other").await;
    let problems = fixture.problems().await.to_string();
    let advice = "run alter publication other add table public.whole_root";
    assert!(problems.contains(advice), "{problems}");
    assert!(!problems.contains("without generated columns"), "{problems}");
    fixture
        .sql("alter publication other set (publish_generated_columns = none)")
        .await;
    let problems = fixture.problems().await.to_string();
    let advice =
        format!("give public.whole_root_1 a replica identity without generated columns, then {advice}");
    assert!(problems.contains(&advice), "{problems}");
}
