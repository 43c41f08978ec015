//! Rows arrive from every table, and from no other relation.
//!
//! Rows of a table also arrive after it was dropped. wal2json and test_decoding send the rows of materialized
//! views like those of tables, with the name only.

use std::collections::BTreeMap;

use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::PostgresSettings;
use serde_json::json;

use crate::support::versions::with_each_plugin;

crate::scenarios![a_view_is_known_at_the_beginning_of_a_segment];

crate::version_scenarios![
    rows_of_relations_that_are_no_tables_do_not_arrive,
    rows_of_a_table_arrive_after_a_view_took_its_name,
];

/// Number of changes that arrived, by table.
async fn counts(fixture: &Fixture) -> BTreeMap<String, usize> {
    fixture.consume().await.counts()
}

fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let counts = counts.iter();
    counts
        .map(|(table, count)| ((*table).to_owned(), *count))
        .collect()
}

async fn rows_of_relations_that_are_no_tables_do_not_arrive(version: u32) {
    with_each_plugin(version, no_tables).await;
}

async fn no_tables(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    fixture
        .sql("create table base (id int primary key, what text); insert into base values (1, 'a'), (2, 'b')")
        .await;
    // The rows of the new view are in the log, too.
    fixture
        .sql("create materialized view old as select * from base")
        .await;
    fixture
        .sql(
            r#"create unique index on old (id); create schema "My ""views";
             create materialized view "My ""views"."The,view" as select * from base where id < 0;
             create unique index on "My ""views"."The,view" (id);
             create sequence counted; create unlogged table quick (id int)"#,
        )
        .await;
    let refresh = r#"refresh materialized view concurrently old;
                     refresh materialized view concurrently "My ""views"."The,view""#;
    for round in 0..3 {
        // Two transactions, so that the views are refreshed with rows that are committed.
        fixture
            .sql(&format!(
                "update base set what = what || '{round}'; insert into base values (-1 - {round}, 'c')"
            ))
            .await;
        fixture.sql(refresh).await;
        fixture
            .sql(
                "create temp table t as select 1 as id; update t set id = 2; drop table t;
                 insert into quick values (1); select nextval('counted');
                 update information_schema.sql_features set comments = 'x' where feature_id = 'B011';
                 refresh materialized view old",
            )
            .await;
        let plan = fixture.invoke(json!({"action": "plan"})).await.answer();
        let report = fixture.drain().await.remove(0);
        let changes = 3 + round + if round == 0 { 2 } else { 0 };
        for answer in [&plan, &report] {
            for count in ["changes", "events"] {
                assert_eq!(answer[count], json!(changes), "{count} of {answer}");
            }
        }
        assert_eq!(plan["tables"].as_array().map(Vec::len), Some(1), "{plan}");
    }
    assert_eq!(counts(&fixture).await, expected(&[("public.base", 14)]));
    fixture.compare(&["base"]).await;
}

/// A view whose name is read just after a segment switch.
///
/// The server then reports an insert position behind the header of the next page. That page is not written
/// yet, so no flush reaches the position.
async fn a_view_is_known_at_the_beginning_of_a_segment() {
    // A server of its own: the first record of another scenario would end this state.
    let builder = Fixture::builder(Plugin::Wal2json).on_new_server(PostgresSettings::default());
    // A marker would be another record, too.
    let fixture = builder.env("MARKERS", "off").build().await;
    fixture.sql("create table base (id int primary key)").await;
    fixture.drain().await;
    fixture
        .sql("create materialized view v as select 1 as id; insert into base values (1)")
        .await;
    fixture.sql("refresh materialized view v").await;
    fixture.sql("select pg_switch_wal()").await;
    fixture.drain().await;
    let log = fixture.function.log().join("\n");
    assert!(!log.contains("was not found in time"), "{log}");
    assert_eq!(counts(&fixture).await, expected(&[("public.base", 1)]));
}

async fn rows_of_a_table_arrive_after_a_view_took_its_name(version: u32) {
    with_each_plugin(version, taken_names).await;
}

/// A migration from a table to a materialized view. Writers commit while it is running.
async fn taken_names(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    fixture
        .sql(
            "create table src (id int primary key); insert into src values (1);
             create table t (id int primary key, n int); create table u (id int primary key, n int);
             create table gone (id int primary key)",
        )
        .await;
    fixture
        .sql("insert into t values (1, 1); insert into u values (1, 1)")
        .await;
    let migration = fixture.connect().await;
    let mut sql = "begin; create materialized view new as select id from src with no data";
    migration.batch_execute(sql).await.unwrap();
    // This transaction has a greater id than the migration, and commits before it.
    fixture
        .sql("insert into t values (2, 2); update u set n = 2; insert into gone values (1)")
        .await;
    sql = "drop table t; alter materialized view new rename to t;
           savepoint s; drop table u; create materialized view u as select id from src with no data;
           release s; drop table gone; commit";
    migration.batch_execute(sql).await.unwrap();
    sql = "refresh materialized view t; create unique index on t (id);
           refresh materialized view u; create unique index on u (id)";
    fixture.sql(sql).await;
    refresh_both(&fixture).await;
    refresh_both(&fixture).await;
    // The second invocation does not see the migration any more.
    for rows_of_src in [3, 4] {
        fixture.drain().await;
        let tables = [
            ("public.src", rows_of_src),
            ("public.t", 2),
            ("public.u", 2),
            ("public.gone", 1),
        ];
        assert_eq!(counts(&fixture).await, expected(&tables));
        refresh_both(&fixture).await;
    }
}

/// Writes a row to `src`, and refreshes its views `t` and `u`.
async fn refresh_both(fixture: &Fixture) {
    fixture.sql("insert into src select max(id) + 1 from src").await;
    fixture
        .sql("refresh materialized view concurrently t; refresh materialized view concurrently u")
        .await;
}
