//! A backfill omits no row, for every type of key.
//!
//! It reads a table in the order of its key, chunk by chunk.

use std::time::Duration;

use scenarios::fixture::{Fixture, Plugin};
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, fixture_with_tables, invoke_ok, read_events, run_backfill, start_event, start_within,
    tick_until_finished,
};

crate::scenarios![
    rows_are_read_in_the_order_of_every_key_type,
    a_change_finds_its_row_under_every_key_type,
    a_key_with_another_collation_is_read_from_its_start,
    a_table_is_read_by_its_identity_index,
    an_index_with_nulls_first_is_used,
    a_root_without_a_key_has_that_of_its_partitions,
    a_condition_chooses_rows,
    a_backfill_reads_the_requested_columns_and_the_key,
    partitioned_rows_have_the_table_names_of_live_changes,
];

/// Columns of a table, its key, and SQL whose rows are keys.
const KEYS: [(&str, &str, &str); 20] = [
    (
        "id smallint",
        "id",
        "select (i - 12)::smallint from generate_series(1, 23) i",
    ),
    (
        "a int, b text collate \"C\"",
        "a, b",
        "select i % 3, chr(97 + i) from generate_series(1, 23) i",
    ),
    (
        "b text, a int",
        "a, b",
        "select chr(97 + i), i % 3 from generate_series(1, 23) i",
    ),
    (
        "id text collate \"en-x-icu\"",
        "id",
        "select unnest(array['a', 'B', 'c', 'Ä', 'z', 'Z', 'é', 'e', 'E', '', ' ', 'a b', 'ab', 'a-b',
                             '\"', '''', '\\', E'\\t', 'ß', 'ss', '🔑'])",
    ),
    (
        "id text collate \"C\"",
        "id",
        "select unnest(array['a', 'B', 'c', 'Ä', 'z', 'Z', 'é', '', ' ', 'a b', 'ab', '\"', '''', '\\',
                             E'\\n', '🔑'])",
    ),
    (
        "id uuid",
        "id",
        "select md5(i::text)::uuid from generate_series(1, 23) i",
    ),
    (
        "id bytea",
        "id",
        "select decode(substr(md5(i::text), 1, i % 5 * 2), 'hex') || decode(lpad(to_hex(i), 2, '0'), 'hex')
         from generate_series(1, 23) i",
    ),
    (
        "id numeric",
        "id",
        "select unnest(array['NaN', 'Infinity', '-Infinity', 0, 0.1, -0.1, 1e30, -1e30,
                             12345678901234567890.123456789, 1, 2.50]::numeric[])",
    ),
    (
        "id float8",
        "id",
        "select unnest(array['NaN', 'Infinity', '-Infinity', 0, 0.1, -0.1, 1e300, 1e-300, 1]::float8[])",
    ),
    (
        "id timestamptz",
        "id",
        "select unnest(array['infinity', '-infinity', '2024-02-29 12:00:00.000001+00',
                             '0044-03-15 00:00+00 BC', '1970-01-01 00:00+00']::timestamptz[])",
    ),
    (
        "id date",
        "id",
        "select unnest(array['infinity', '-infinity', '2024-02-29', '0044-03-15 BC', '9999-12-31']::date[])",
    ),
    ("id mood", "id", "select unnest(enum_range(null::mood))"),
    (
        "id feeling",
        "id",
        "select unnest(enum_range(null::mood))::feeling",
    ),
    (
        "id positive",
        "id",
        "select i::positive from generate_series(1, 23) i",
    ),
    (
        "id char(5)",
        "id",
        "select unnest(array['a', 'b', 'ab', 'abcde', '', 'B'])::char(5)",
    ),
    ("id boolean", "id", "select unnest(array[true, false])"),
    (
        "id regclass",
        "id",
        "select oid::regclass from pg_class where relkind = 'r' and relnamespace = 'pg_catalog'::regnamespace
         order by oid limit 9",
    ),
    (
        "id place",
        "id",
        "select row(i % 3, 'it''s ' || i)::place from generate_series(1, 23) i",
    ),
    (
        "id interval",
        "id",
        "select unnest(array['1 day', '2 days', '-1 day', '1 month', '29 days', '1 year 2 mons',
                             '00:00:00.000001']::interval[])",
    ),
    (
        "\"Id \"\"x\"\"\" int, \"select\" text",
        "\"Id \"\"x\"\"\", \"select\"",
        "select i / 5, 'v' || i from generate_series(1, 23) i",
    ),
];

async fn rows_are_read_in_the_order_of_every_key_type() {
    Plugin::each(|plugin| async move {
        let mut sql = "create type mood as enum ('sad', 'ok', 'happy', 'Angry');
                       create domain strong as mood; create domain feeling as strong;
                       create domain positive as int check (value > 0);
                       create type place as (floor int, room text);"
            .to_owned();
        // The rows are inserted in any order. Their column `n` has their place in the order of the key.
        for (at, (columns, key, values)) in KEYS.iter().enumerate() {
            sql.push_str(&format!(
                "create table \"K {at}\" ({columns}, n int, primary key ({key}));
                 insert into \"K {at}\" {values};
                 update \"K {at}\" t set n = o.n
                     from (select ctid, row_number() over (order by {key}) as n from \"K {at}\") o
                     where t.ctid = o.ctid;"
            ));
        }
        let fixture = fixture_with_tables(Fixture::builder(plugin), &sql).await;
        run_backfill(
            &fixture,
            json!({"action": "backfill", "tables": "all", "chunk_rows": 3}),
        )
        .await;
        let names: Vec<String> = (0..KEYS.len()).map(|at| format!("\"K {at}\"")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let delivery = fixture.compare(&names).await;
        for (at, (columns, ..)) in KEYS.iter().enumerate() {
            let reads = read_events(&delivery, &format!("public.K {at}"));
            let places: Vec<&Value> = reads.iter().map(|event| &event["after"]["n"]).collect();
            let expected: Vec<Value> = (1..=reads.len()).map(Value::from).collect();
            assert_eq!(places, expected.iter().collect::<Vec<_>>(), "{columns}");
            assert!(reads.len() > 1, "{columns}");
        }
    })
    .await;
}

async fn a_change_finds_its_row_under_every_key_type() {
    let rows =
        "values (true, '\\x00ff'::bytea, 1.50::numeric, 0.1::float8, '2024-02-29 12:00:00.5+00'::timestamptz,
                        '2024-02-29'::date, 'Angry'::mood, 7::positive, 'ab'::char(5),
                        '1 year 2 mons'::interval, B'101'::varbit, array['a b', null, '\"'], '10.0.0.1'::inet,
                        E'it''s\\t\\\\', '12:00:00+02'::timetz, '{\"a\": 1}'::jsonb),
                       (false, '\\x'::bytea, -0.1, 1e300, '0044-03-15 00:00+00 BC', '9999-12-31', 'ok', 1, '',
                        '-1 day', B'', '{}', '::1', '', '00:00:00+00', '[]')";
    let columns = "a boolean, b bytea, c numeric, d float8, e timestamptz, f date, g mood,
                   h positive, i char(5), j interval, k varbit, l text[], m inet, o text, p timetz, q jsonb";
    let sql = format!(
        "create type mood as enum ('sad', 'ok', 'Angry'); create domain positive as int check (value > 0);
         create table every ({columns}, n int, primary key (a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q));
         insert into every select *, 1 from ({rows}) v"
    );
    Plugin::each(move |plugin| {
        let sql = sql.clone();
        async move {
            let fixture = fixture_with_tables(Fixture::builder(plugin), &sql).await;
            fixture.sql(ChunkLock::SQL).await;
            let event = json!({
                "action": "backfill", "wait": true, "tables": ["public.every"], "where": "chunk_lock(n)",
            });
            let lock = ChunkLock::at_row(&fixture, 1).await;
            let update = fixture.sql("update every set n = 2");
            let (first, ()) = tokio::join!(invoke_ok(&fixture, event), lock.release_after(&fixture, update));
            tick_until_finished(&fixture, first).await;
            fixture.drain().await;
            let delivery = fixture.compare(&["every"]).await;
            assert_eq!(
                read_events(&delivery, "public.every"),
                Vec::<Value>::new(),
                "a row was read that had changed before"
            );
        }
    })
    .await;
}

async fn a_key_with_another_collation_is_read_from_its_start() {
    let fixture = fixture_with_tables(
        Fixture::builder(Plugin::Pgoutput),
        "create table t (id text collate \"C\" primary key, n int);
         insert into t select unnest(array[chr(64 + i), chr(96 + i)]), i from generate_series(1, 20) i",
    )
    .await;
    fixture.sql(ChunkLock::SQL).await;
    // In this collation, capital letters precede small ones; in the next one, each is beside its small
    // letter. The third chunk is held.
    let event = json!({
        "action": "backfill", "wait": true, "tables": ["public.t"], "chunk_rows": 4, "where": "chunk_lock(n)",
    });
    let lock = ChunkLock::at_row(&fixture, 10).await;
    let reports = start_within(&fixture, event, Duration::from_secs(4)).await;
    lock.release().await;
    let first = reports[reports.len() - 1].clone();
    assert!(first["backfill"]["rows"].as_u64() < Some(20), "{first}");
    fixture
        .sql("alter table t alter id type text collate \"en-x-icu\"")
        .await;
    tick_until_finished(&fixture, first).await;
    fixture.drain().await;
    fixture.compare(&["t"]).await;
}

async fn a_table_is_read_by_its_identity_index() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create table t (a int not null, b text not null, n int); create unique index t_key on t (b, a);
             alter table t replica identity using index t_key;
             insert into t select i, 'b' || i % 4, i from generate_series(1, 50) i",
        )
        .await;
        run_backfill(&fixture, start_event(&["public.t"], 7)).await;
        fixture
            .sql(
                "update t set n = 0 where a = 7; delete from t where a = 8; update t set a = 100 where a = 9",
            )
            .await;
        fixture.drain().await;
        fixture.compare(&["t"]).await;
    })
    .await;
}

/// Otherwise, the server would sort the table for each chunk.
async fn an_index_with_nulls_first_is_used() {
    for order in ["nulls first", "desc nulls last", "desc"] {
        let sql = format!(
            "create table t (id int not null, n int); create unique index t_key on t (id {order});
             alter table t replica identity using index t_key;
             insert into t select i, 0 from generate_series(1, 20000) i; analyze t"
        );
        let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), &sql).await;
        let scans = "select pg_stat_get_numscans('t_key'::regclass)::text";
        assert_eq!(fixture.value(scans).await.as_deref(), Some("0"));
        run_backfill(&fixture, start_event(&["public.t"], 5000)).await;
        wait::until(
            "the index was used for each chunk",
            Duration::from_secs(30),
            || async {
                let used = fixture.value(scans).await;
                used.is_some_and(|used| used.parse::<u32>().unwrap() >= 4)
            },
        )
        .await;
        fixture.compare(&["t"]).await;
    }
}

/// Live changes of the root have this key, too.
async fn a_root_without_a_key_has_that_of_its_partitions() {
    let sql = "create table p (id int not null, v text) partition by range (id);
               create unique index on p (id);
               create table p1 partition of p (primary key (id)) for values from (0) to (10);
               create table p2 partition of p (primary key (id)) for values from (10) to (100);
               insert into p select i, 'v' from generate_series(1, 20) i";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    fixture
        .sql("alter publication spillway set (publish_via_partition_root = true)")
        .await;
    run_backfill(&fixture, start_event(&["public.p"], 7)).await;
    fixture
        .sql(
            "update p set v = 'live' where id = 1; delete from p where id = 11;
             insert into p values (21, 'c')",
        )
        .await;
    fixture.drain().await;
    // The comparison would take the table's own key, and it has none.
    let delivery = fixture.consume().await;
    let changes = delivery.changes();
    assert_eq!(changes.len(), 23);
    let keys: Vec<&str> = changes
        .iter()
        .map(|change| change.partition_key.as_str())
        .collect();
    assert!(keys.iter().all(|key| key.starts_with("{\"id\":")), "{keys:?}");
    assert_eq!(read_events(&delivery, "public.p").len(), 20);
}

async fn a_condition_chooses_rows() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create table t (id int primary key, n int, what text);
             insert into t select i, i % 10, 'w''' || i from generate_series(1, 100) i",
        )
        .await;
        let condition = "n = 3 or what = 'w''7' /* and */";
        let event = json!({
            "action": "backfill", "wait": true, "tables": ["public.t"], "where": condition, "chunk_rows": 4,
        });
        run_backfill(&fixture, event).await;
        let delivery = fixture.consume().await;
        let ids: Vec<u64> = read_events(&delivery, "public.t")
            .iter()
            .filter_map(|event| event["after"]["id"].as_u64())
            .collect();
        assert_eq!(ids, [3, 7, 13, 23, 33, 43, 53, 63, 73, 83, 93]);
    })
    .await;
}

async fn a_backfill_reads_the_requested_columns_and_the_key() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create table t (id int primary key, \"N n\" int, secret text);
             insert into t select i, i, 's' from generate_series(1, 10) i",
        )
        .await;
        let event = json!({
            "action": "backfill", "wait": true, "tables": ["public.t"], "columns": ["N n"], "chunk_rows": 3,
        });
        run_backfill(&fixture, event).await;
        fixture.sql("update t set \"N n\" = 0 where id = 1").await;
        fixture.drain().await;
        let events = fixture.consume().await.of_table("public.t");
        let after = |at: usize| events[at]["after"].clone();
        assert_eq!(after(0), json!({"id": 1, "N n": 1}));
        assert_eq!(
            (events.len(), after(10)),
            (11, json!({"id": 1, "N n": 0, "secret": "s"})),
            "a live change lacks a column"
        );
    })
    .await;
}

async fn partitioned_rows_have_the_table_names_of_live_changes() {
    let sql =
        "create table parted (id int, kind text, n int, primary key (kind, id)) partition by list (kind);
               create table leaf_a partition of parted for values in ('a');
               create table leaf_b partition of parted for values in ('b') partition by range (id);
               create table leaf_b1 partition of leaf_b for values from (0) to (20);
               create table leaf_b2 partition of leaf_b for values from (20) to (1000);
               insert into parted
               select i, case when i % 2 = 0 then 'a' else 'b' end, i from generate_series(1, 60) i";
    let changes = "update parted set n = 0 where id < 5; update parted set kind = 'a' where id = 9;
                   delete from parted where id = 11";
    Plugin::each(move |plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), sql).await;
        run_backfill(&fixture, start_event(&["public.parted"], 7)).await;
        fixture.sql(changes).await;
        fixture.drain().await;
        let delivery = fixture.compare(&["leaf_a", "leaf_b1", "leaf_b2"]).await;
        assert!(read_events(&delivery, "public.parted").is_empty());
    })
    .await;
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    fixture
        .sql("alter publication spillway set (publish_via_partition_root = true)")
        .await;
    run_backfill(&fixture, start_event(&["public.parted"], 7)).await;
    fixture.sql(changes).await;
    fixture.drain().await;
    let delivery = fixture.compare(&["parted"]).await;
    assert_eq!(read_events(&delivery, "public.parted").len(), 60);
    assert_eq!(delivery.counts().len(), 1);
}
