//! `TABLES` means the same with each plugin.
//!
//! A pattern that matches nothing is reported.

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, start_event};
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::log::warnings;

crate::scenarios![
    patterns_select_the_same_tables_with_each_plugin,
    a_pattern_that_matches_no_table_is_reported,
    a_pattern_that_matches_no_published_table_is_reported,
    a_pattern_that_names_only_a_partitioned_table_is_reported,
    a_pattern_that_names_a_partitioned_table_without_partitions_is_reported,
    a_partition_that_is_partitioned_and_has_no_partitions_is_reported,
    a_partitioned_table_whose_partitions_match_is_not_reported,
    a_partitioned_table_that_is_not_published_itself_is_named,
    a_table_whose_own_partitioned_table_is_published_has_no_advice_to_send_its_name,
    an_invalid_pattern_is_refused,
    a_backfill_of_a_name_in_another_case_is_refused,
];

async fn patterns_select_the_same_tables_with_each_plugin() {
    Plugin::each(|plugin| async move {
        let patterns = r#"public.ord*, public."Mixed", public.e*_*d, "My ""app".*, public."a, b.c*" ,*.log"#;
        let fixture = Fixture::builder(plugin).env("TABLES", patterns).build().await;
        let selected = [
            "public.orders",
            "public.order items",
            "public.ord\n\t'er\\s",
            "public.Mixed",
            "public.e__d",
            "public.ex_led",
            "My \"app.t",
            "My \"app.log",
            "public.log",
            "public.a, b.c*",
        ];
        let sql = r#"create table orders (id int); insert into orders values (1);
                create table "order items" (id int); insert into "order items" values (1);
                create table "Mixed" (id int); insert into "Mixed" values (1);
                create table e__d (id int); insert into e__d values (1);
                create table ex_led (id int); insert into ex_led values (1);
                create table log (id int); insert into log values (1);
                create table "a, b.c*" (id int); insert into "a, b.c*" values (1);
                create table mixed (id int); insert into mixed values (1);
                create table "Orders" (id int); insert into "Orders" values (1);
                create table reorder (id int); insert into reorder values (1);
                create table exXed (id int); insert into exXed values (1);
                create table "a, b.cd" (id int); insert into "a, b.cd" values (1);
                create schema "My ""app"; create table "My ""app".t (id int);
                insert into "My ""app".t values (1);
                create table "My ""app".log (id int); insert into "My ""app".log values (1);
                create schema my; create table my.t (id int); insert into my.t values (1)"#;
        fixture.sql(sql).await;
        fixture
            .sql("create table \"ord\n\t'er\\s\" (id int); insert into \"ord\n\t'er\\s\" values (1)")
            .await;
        fixture.drain().await;
        let counts = fixture.consume().await.counts();
        let mut arrived: Vec<&str> = counts.keys().map(String::as_str).collect();
        let mut selected = selected.to_vec();
        selected.sort_unstable();
        arrived.sort_unstable();
        assert_eq!(arrived, selected);
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([]), "{status}");
    })
    .await;
}

async fn a_pattern_that_matches_no_table_is_reported() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("TABLES", "public.orders,public.Customers,nowhere.*,public.seen")
            .build()
            .await;
        fixture
            .sql(
                "create table orders (id int); create table customers (id int);
                 create materialized view seen as select 1 as id",
            )
            .await;
        let expected = [
            "TABLES: public.Customers matches no table: case matters, and there is public.customers",
            "TABLES: nowhere.* matches no table",
            "TABLES: public.seen matches no table",
        ];
        for action in ["status", "setup"] {
            let answer = fixture.invoke(json!({"action": action})).await.answer();
            assert_eq!(answer["problems"], json!(expected), "{answer}");
        }
        assert_eq!(warnings(&fixture, "TABLES"), [""; 0], "only a drain warns");
        for tick in 1..=2 {
            fixture.sql("insert into orders values (1)").await;
            fixture.tick().await;
            // The log is complete when the process has ended.
            fixture.function.kill9().await;
            let warnings = warnings(&fixture, "TABLES");
            assert_eq!(warnings.len(), tick * expected.len(), "{warnings:#?}");
        }
        let warnings = warnings(&fixture, "TABLES").concat();
        for text in expected {
            assert!(warnings.contains(text), "{text}");
        }
        assert_eq!(fixture.consume().await.counts()["public.orders"], 2);
    })
    .await;
}

/// A fixture whose slot is newer than what `sql` creates.
///
/// `sql` creates tables, and the publication. `tables` is the value of `TABLES`.
async fn fixture_with_publication(tables: &str, sql: &str) -> Fixture {
    let builder = Fixture::builder(Plugin::Pgoutput).without_slot();
    let fixture = builder.env("TABLES", tables).build().await;
    fixture.sql(sql).await;
    fixture.create_slot().await;
    fixture
}

async fn a_pattern_that_matches_no_published_table_is_reported() {
    let sql = "create table a (id int); create table b (id int); create table c1 (id int);
               create publication spillway for table a";
    let fixture = fixture_with_publication("public.a,public.b,public.c*", sql).await;
    let status = fixture.status().await;
    let problem = |pattern: &str| {
        json!(format!(
            "TABLES: {pattern} matches tables, but none of PUBLICATIONS has one of them"
        ))
    };
    let expected: Vec<Value> = ["public.b", "public.c*"].map(problem).into();
    assert_eq!(status["problems"], json!(expected), "{status}");
}

/// Without `publish_via_partition_root` the changes have the names of the partitions.
async fn a_pattern_that_names_only_a_partitioned_table_is_reported() {
    Plugin::each(|plugin| async move {
        let tables = "public.orders,public.cache,public.visits*,public.old";
        let fixture = Fixture::builder(plugin).env("TABLES", tables).build().await;
        fixture
            .sql(
                "create table orders (id int primary key) partition by range (id);
                 create table orders_1 partition of orders for values from (0) to (100);
                 create table visits (id int primary key) partition by range (id);
                 create table visits_1 partition of visits for values from (0) to (100);
                 create table old (id int primary key); create unlogged table cache (id int primary key)",
            )
            .await;
        let (or_root, of_cache) = match plugin {
            Plugin::Pgoutput => (
                ", or run alter publication … set (publish_via_partition_root = true)",
                "matches tables, but none of PUBLICATIONS has one of them",
            ),
            _ => ("", "matches only unlogged tables: the log lacks their changes"),
        };
        let expected = [
            format!(
                "TABLES: public.orders matches public.orders, which is partitioned: its changes have the \
                 names of its partitions. Add these to TABLES{or_root}"
            ),
            format!("TABLES: public.cache {of_cache}"),
        ];
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!(expected), "{status}");
        fixture
            .sql("insert into orders values (1); insert into visits values (1); insert into old values (1)")
            .await;
        fixture.drain().await;
        let counts = fixture.consume().await.counts();
        let sent: Vec<&str> = counts.keys().map(String::as_str).collect();
        assert_eq!(sent, ["public.old", "public.visits_1"]);
    })
    .await;
}

/// Its changes will have the names of its partitions.
async fn a_pattern_that_names_a_partitioned_table_without_partitions_is_reported() {
    Plugin::each(|plugin| async move {
        let tables = "public.orders,public.old";
        let fixture = Fixture::builder(plugin).env("TABLES", tables).build().await;
        fixture
            .sql(
                "create table orders (id int primary key) partition by range (id);
                 create table old (id int primary key)",
            )
            .await;
        let or_root = match plugin {
            Plugin::Pgoutput => ", or run alter publication … set (publish_via_partition_root = true)",
            _ => "",
        };
        let expected = json!([named_by_partitions(or_root)]);
        let status = fixture.status().await;
        assert_eq!(status["problems"], expected, "{status}");
    })
    .await;
}

/// It is a partition of a published table.
async fn a_partition_that_is_partitioned_and_has_no_partitions_is_reported() {
    let sql = "create table everything (id int primary key) partition by range (id);
             create table everything_1 partition of everything for values from (100) to (200);
             create table orders partition of everything for values from (0) to (99) partition by range (id);
             create publication spillway for table everything";
    let fixture = fixture_with_publication("public.orders", sql).await;
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(problems.contains(&named_by_partitions("")), "{problems}");
}

/// The problem of `public.orders`, whose changes have the names of its partitions.
fn named_by_partitions(or_root: &str) -> String {
    format!(
        "TABLES: public.orders matches public.orders, which is partitioned: its changes have the names of \
         its partitions. Add these to TABLES{or_root}"
    )
}

async fn a_partitioned_table_whose_partitions_match_is_not_reported() {
    Plugin::each(|plugin| async move {
        let mut fixture = Fixture::builder(plugin)
            .env("TABLES", "public.orders,public.orders_*")
            .build()
            .await;
        fixture
            .sql(
                "create table orders (id int primary key) partition by range (id);
                 create table orders_1 partition of orders for values from (0) to (9);
                 create table orders_2 partition of orders for values from (10) to (19);
                 insert into orders values (1), (11)",
            )
            .await;
        fixture.drain().await;
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([]), "{status}");
        // The log is complete when the process has ended.
        fixture.function.kill9().await;
        assert_eq!(warnings(&fixture, "TABLES"), [""; 0]);
        let counts = fixture.consume().await.counts();
        let sent: Vec<&str> = counts.keys().map(String::as_str).collect();
        assert_eq!(sent, ["public.orders_1", "public.orders_2"]);

        // One partition has no pattern.
        let tables = "public.orders,public.orders_1";
        fixture.function.set("TABLES", tables).await;
        let status = fixture.status().await;
        let problems = status["problems"].to_string();
        assert!(problems.contains(&named_by_partitions("")), "{problems}");
    })
    .await;
}

async fn a_partitioned_table_that_is_not_published_itself_is_named() {
    let sql = "create table orders (id int) partition by range (id);
             create table orders_1 partition of orders for values from (0) to (9);
             alter table orders_1 add primary key (id);
             create publication spillway for table orders_1";
    let fixture = fixture_with_publication("public.orders", sql).await;
    let add = "alter publication spillway add table public.orders";
    let set = "alter publication spillway set (publish_via_partition_root = true)";
    let advice = format!(", or give public.orders a primary key, then run {add}, and {set}");
    let status = fixture.status().await;
    assert_eq!(
        status["problems"],
        json!([named_by_partitions(&advice)]),
        "{status}"
    );

    fixture
        .sql(&format!("alter table orders add primary key (id); {add}; {set}"))
        .await;
    let status = fixture.status().await;
    assert_eq!(status["problems"], json!([]), "{status}");
    fixture
        .sql(
            "create table orders_2 partition of orders for values from (10) to (19);
             insert into orders values (1), (11)",
        )
        .await;
    fixture.drain().await;
    assert_eq!(fixture.consume().await.counts()["public.orders"], 2);
}

/// With `publish_via_partition_root` the changes have the name of the uppermost published table.
async fn a_table_whose_own_partitioned_table_is_published_has_no_advice_to_send_its_name() {
    let sql = "create table everything (id int primary key) partition by range (id);
             create table orders partition of everything for values from (0) to (99) partition by range (id);
             create table orders_1 partition of orders for values from (0) to (9);
             create publication spillway for table everything, orders";
    let fixture = fixture_with_publication("public.orders", sql).await;
    let expected = json!([named_by_partitions("")]);
    let status = fixture.status().await;
    assert_eq!(status["problems"], expected, "{status}");
    fixture.sql("alter publication spillway drop table orders").await;
    let status = fixture.status().await;
    assert_eq!(status["problems"], expected, "{status}");
}

async fn an_invalid_pattern_is_refused() {
    let mut fixture = Fixture::new(Plugin::TestDecoding).await;
    for pattern in [
        "orders",
        "public.\"orders",
        "public.\"or\"ders",
        "a.b.c",
        "public.",
    ] {
        fixture
            .function
            .set("TABLES", &format!("public.t,{pattern}"))
            .await;
        assert_invocation_fails(&fixture, json!({}), "ConfigInvalid", &["TABLES", pattern]).await;
        let event = start_event(&[pattern], 10);
        fixture.function.set("TABLES", "").await;
        let (kind, message) = fixture.invoke(event).await.error();
        assert_eq!(kind, "EventInvalid", "{message}");
    }
}

async fn a_backfill_of_a_name_in_another_case_is_refused() {
    let sql = "create table orders (id int primary key); insert into orders values (1);
               create table \"Other\" (id int primary key); insert into \"Other\" values (1)";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    let parts = [
        "public.Orders",
        "no table of this name",
        "case matters",
        "public.orders",
    ];
    let event = start_event(&["public.Orders"], 10);
    assert_invocation_fails(&fixture, event, "BackfillRefused", &parts).await;
    fixture
        .sql(&format!(
            "grant select on all tables in schema public to {}",
            REPLUSER.0
        ))
        .await;
    let event = start_event(&["public.ord*", "public.\"Other\""], 10);
    crate::support::backfill::run_backfill(&fixture, event).await;
    fixture.compare(&["orders", "\"Other\""]).await;
}
