//! Rows of partitions, published under the name of their partitioned table.
//!
//! The server describes the partitioned table, but an old row has what the partition's replica identity logs.
//! Values of an old row are true. A value that an old row lacks is absent and not null. A key is whole or
//! none.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, FixtureBuilder};
use serde_json::{Value, json};

use crate::support::keys::{assert_id_steps, assert_steps};
use crate::support::versions::pgoutput;

crate::version_scenarios![
    the_key_of_the_partitions_is_the_key_of_a_root_without_one,
    a_partition_with_another_identity_has_rows_without_a_key,
    a_whole_root_has_no_false_nulls_of_its_partitions,
    partitions_with_other_column_orders_have_the_values_of_their_columns,
    partitions_are_attached_and_detached_between_write_and_drain,
    partitions_with_different_keys_have_no_common_key,
    a_whole_old_row_with_nulls_does_not_have_the_key_of_another_partition,
    a_key_that_is_unique_in_its_partition_only_is_none,
];

crate::version_scenarios![since 15: a_column_list_of_the_root_leaves_the_key_of_its_partitions];

crate::scenarios![a_partition_without_identity_is_reported];

/// A fixture that publishes `p` under its own name.
async fn published(builder: FixtureBuilder, tables: &str) -> Fixture {
    let fixture = builder.without_slot().build().await;
    fixture.sql(tables).await;
    fixture
        .sql("create publication spillway for table p with (publish_via_partition_root = true)")
        .await;
    fixture.create_slot().await;
    fixture
}

/// The old rows of all updates and deletes, in order.
fn befores(delivery: &Delivery) -> Vec<Value> {
    let changes = delivery.changes();
    let events = changes.iter().map(|change| change.json());
    events
        .filter(|event| event["op"] == "u" || event["op"] == "d")
        .map(|event| event["before"].clone())
        .collect()
}

async fn the_key_of_the_partitions_is_the_key_of_a_root_without_one(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         alter table p1 add primary key (id);
         alter table p2 add primary key (id)",
    )
    .await;
    fixture.sql("insert into p values (7, 'a')").await;
    fixture.sql("update p set v = 'b'; update p set id = 8").await;
    // The row moves to another partition: PostgreSQL logs a delete and an insert.
    fixture.sql("update p set id = 17").await;
    fixture.sql("delete from p").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    assert_id_steps(&delivery, "c7 u7 d7 c8 d8 c17 d17");
    let expected = [Value::Null, json!({"id": 7}), json!({"id": 8}), json!({"id": 17})];
    assert_eq!(befores(&delivery), expected);
    let status = fixture.status().await;
    assert_eq!(status["problems"], json!([]), "{status}");
}

async fn a_partition_with_another_identity_has_rows_without_a_key(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int primary key, code text not null, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create unique index by_code on p1 (code);
         alter table p1 replica identity using index by_code",
    )
    .await;
    fixture
        .sql("insert into p values (7, 'x', 'a'), (8, 'y', 'b')")
        .await;
    // The partition does not log the former id.
    fixture.sql("update p set id = 9 where id = 7").await;
    fixture.sql("update p set code = 'z' where id = 9").await;
    fixture.sql("delete from p").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let lane = "public.p";
    let expected = [
        ("c", lane),
        ("c", lane),
        ("u", lane),
        ("u", lane),
        ("d", lane),
        ("d", lane),
    ];
    assert_steps(&delivery, &expected);
    let expected = [
        Value::Null,
        json!({"code": "x"}),
        json!({"code": "y"}),
        json!({"code": "z"}),
    ];
    let mut befores = befores(&delivery);
    befores[2..].sort_by_key(|row| row["code"].to_string());
    assert_eq!(befores, expected);
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("public.p1") && problems.contains("replica identity"),
        "{problems}"
    );
}

async fn a_whole_root_has_no_false_nulls_of_its_partitions(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, v text) partition by range (id);
         alter table p replica identity full;
         create table p1 partition of p for values from (0) to (10);
         alter table p1 replica identity full",
    )
    .await;
    // Every partition logs whole rows: their nulls are nulls.
    fixture.sql("insert into p values (7, null); delete from p").await;
    fixture.drain().await;
    fixture
        .sql("alter table p1 add primary key (id); alter table p1 replica identity default")
        .await;
    fixture.sql("insert into p values (7, 'a')").await;
    fixture.sql("update p set id = 8").await;
    fixture.sql("delete from p").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let befores = befores(&delivery);
    assert_eq!(
        befores,
        [json!({"id": 7, "v": null}), json!({"id": 7}), json!({"id": 8})]
    );
    let changes = delivery.changes();
    assert_eq!(changes.last().unwrap().partition_key, r#"{"id":8}"#);
}

async fn partitions_with_other_column_orders_have_the_values_of_their_columns(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, dropped text, v text, w int) partition by range (id);
         create table p1 partition of p for values from (0) to (10) partition by range (id);
         create table p11 (w int, gone int, v text, id int not null, old text, dropped text);
         alter table p11 drop column gone;
         alter table p11 drop column old;
         alter table p11 add primary key (id);
         alter table p1 attach partition p11 for values from (0) to (5);
         alter table p drop column dropped;
         alter table p add column more text",
    )
    .await;
    fixture
        .sql("insert into p values (1, 'a', 2, 'm'), (2, 'b', 3, 'n')")
        .await;
    fixture
        .sql("update p set v = 'c' where id = 1; update p set id = 3 where id = 2")
        .await;
    fixture.sql("delete from p").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.p");
    assert_eq!(
        events[2]["after"],
        json!({"id": 1, "v": "c", "w": 2, "more": "m"})
    );
    assert_id_steps(&delivery, "c1 c2 u1 d2 c3 d1 d3");
    assert_eq!(
        befores(&delivery)[1..],
        [json!({"id": 2}), json!({"id": 1}), json!({"id": 3})]
    );
}

/// The server describes a partition with wrong columns.
///
/// It applies the column numbers of the root's list to the partition.
async fn a_column_list_of_the_root_leaves_the_key_of_its_partitions(version: u32) {
    for list in ["id, v", "id, v, w", "id"] {
        let fixture = pgoutput(version).without_slot().build().await;
        fixture
            .sql(&format!(
                "create table p (gone int, id int primary key, v text, w int) partition by range (id);
                 alter table p drop column gone;
                 create table p1 partition of p for values from (0) to (10);
                 create table p2 (w int, v text, id int primary key);
                 alter table p attach partition p2 for values from (10) to (20);
                 create publication spillway for table p ({list}) with (publish_via_partition_root = true)"
            ))
            .await;
        fixture.create_slot().await;
        fixture
            .sql("insert into p values (7, 'a'), (17, 'a'); update p set v = 'b'")
            .await;
        fixture
            .sql("update p set id = 8 where id = 7; update p set id = 18 where id = 17; delete from p")
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        assert_id_steps(&delivery, "c7 c17 u7 u17 d7 c8 d17 c18 d8 d18");
        let expected = [7, 17, 8, 18].map(|id| json!({"id": id}));
        let befores = befores(&delivery);
        assert_eq!(befores[2..], expected, "{list}");
        let keys = delivery.changes();
        assert!(
            keys.iter()
                .all(|change| change.partition_key.starts_with(r#"{"id":"#)),
            "{list}"
        );
    }
}

async fn partitions_are_attached_and_detached_between_write_and_drain(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 (id int not null, v text);
         alter table p1 add primary key (id);
         alter table p2 add primary key (id)",
    )
    .await;
    fixture
        .sql("insert into p values (1, 'a'), (2, 'b'); delete from p where id = 1")
        .await;
    fixture
        .sql("alter table p attach partition p2 for values from (10) to (20)")
        .await;
    fixture
        .sql("insert into p values (11, 'c'); delete from p where id = 11")
        .await;
    fixture.sql("alter table p detach partition p1").await;
    // Its rows are not published any more, and its key is another one by the time of the drain.
    fixture
        .sql("delete from p1; alter table p1 drop constraint p1_pkey")
        .await;
    fixture.sql("drop table p1; alter table p2 rename to other").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let mut steps = "c1 c2 d1 c11 d11".to_owned();
    let mut old_rows = vec![json!({"id": 1}), json!({"id": 11})];
    if version == 14 {
        // PostgreSQL 14 publishes this delete from the detached partition (seen on 14.23).
        steps.push_str(" d2");
        old_rows.push(json!({"id": 2}));
    }
    assert_id_steps(&delivery, &steps);
    assert_eq!(befores(&delivery), old_rows);
}

async fn partitions_with_different_keys_have_no_common_key(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, n int not null, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         alter table p1 add primary key (id);
         alter table p2 add primary key (id, n)",
    )
    .await;
    fixture
        .sql("insert into p values (1, 1, 'a'), (11, 1, 'b'), (11, 2, 'c'), (2, 2, 'd')")
        .await;
    fixture.sql("delete from p").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.p");
    let mut deletes: Vec<_> = delivery
        .changes()
        .iter()
        .filter(|change| change.event().op == "d")
        .map(|change| (change.partition_key.clone(), change.json()["before"].clone()))
        .collect();
    deletes.sort_by_key(|(key, _)| key.clone());
    let expected = [
        (json!({"id": 11, "n": 1}), json!({"id": 11, "n": 1})),
        (json!({"id": 11, "n": 2}), json!({"id": 11, "n": 2})),
        (json!({"id": 1}), json!({"id": 1})),
        (json!({"id": 2}), json!({"id": 2})),
    ];
    let mut expected = expected.map(|(key, before)| (key.to_string(), before));
    expected.sort_by_key(|(key, _)| key.clone());
    assert_eq!(deletes, expected, "{events:?}");
    // An insert may be of either partition.
    let inserts = &delivery.changes()[..4];
    assert!(inserts.iter().all(|change| change.partition_key == "public.p"));
}

async fn a_whole_old_row_with_nulls_does_not_have_the_key_of_another_partition(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (id int not null, n int not null, v text) partition by range (n);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         alter table p replica identity full; alter table p1 replica identity full;
         create unique index i on p2 (id, n); alter table p2 replica identity using index i",
    )
    .await;
    // The first two rows differ only in v.
    fixture
        .sql("insert into p values (1, 1, 'a'), (1, 1, null), (1, 11, 'b')")
        .await;
    fixture.sql("delete from p where v is null").await;
    fixture.sql("delete from p where n = 11").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let lane = "public.p";
    assert_steps(
        &delivery,
        &[("c", lane), ("c", lane), ("c", lane), ("d", lane), ("d", lane)],
    );
    assert_eq!(
        befores(&delivery),
        [json!({"id": 1, "n": 1}), json!({"id": 1, "n": 11})]
    );
}

async fn a_key_that_is_unique_in_its_partition_only_is_none(version: u32) {
    let fixture = published(
        pgoutput(version),
        "create table p (region text not null, id int not null, v text) partition by list (region);
         create table eu partition of p for values in ('eu');
         create table us partition of p for values in ('us');
         alter table eu add primary key (id);
         alter table us add primary key (id)",
    )
    .await;
    fixture
        .sql("insert into p values ('eu', 7, 'a'), ('us', 7, 'b')")
        .await;
    fixture
        .sql("delete from p where region = 'us'; update p set v = 'c'")
        .await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let lane = "public.p";
    assert_steps(&delivery, &[("c", lane), ("c", lane), ("d", lane), ("u", lane)]);
    assert_eq!(befores(&delivery), [json!({"id": 7}), Value::Null]);
    let status = fixture.status().await;
    assert!(status["problems"].to_string().contains("no key"), "{status}");
    let log = fixture.function.log();
    let warnings = log
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("public.p"));
    assert_eq!(warnings.count(), 1, "{}", log.join("\n"));
}

async fn a_partition_without_identity_is_reported() {
    let fixture = published(
        pgoutput(15),
        "create table p (id int not null, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         alter table p1 add primary key (id)",
    )
    .await;
    fixture
        .sql("insert into p values (1, 'a'), (11, 'b'), (11, 'b')")
        .await;
    let refused = fixture
        .connect()
        .await
        .batch_execute("delete from p where id = 11")
        .await;
    assert!(refused.is_err(), "PostgreSQL refuses deletes that nothing names");
    fixture.sql("delete from p where id = 1").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    assert_eq!(befores(&delivery), [json!({"id": 1})]);
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("public.p2") && problems.contains("no replica identity"),
        "{problems}"
    );
}
