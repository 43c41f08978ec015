//! The publication that `setup` creates.
//!
//! It breaks no application, and sends the tables that `TABLES` names.

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::json;

crate::scenarios![
    setup_publishes_no_table_whose_updates_it_would_break,
    setup_publishes_partitioned_tables_by_the_names_in_tables,
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
    assert_eq!(answer["problems"], json!([]), "{answer}");
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
