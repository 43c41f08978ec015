//! After a gap a repair reads the tables again, and its last event tells consumers since when a row must have been seen to be still there.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    backfill_state, create_table_sql, fixture_with_tables, read_events, run_backfill, run_beside_writer,
};
use crate::support::gap::{accept_gap, advance_slot};

crate::scenarios![
    a_repair_restores_lost_changes_and_removes_deleted_rows,
    a_repair_of_some_tables_keeps_other_tables,
    a_repair_removes_no_existing_row,
    a_repair_during_writes_is_complete,
    a_repair_with_a_failed_table_sends_no_control_event,
];

const ENVELOPES: [&str; 3] = ["debezium", "dms", "wal2json"];

const TABLES: &str =
    "create table t (id int primary key, n int, body text); alter table t alter body set storage external;
     create table u (id int primary key, n int)";

/// Two tables that were drained, and then changed in a gap that was accepted.
async fn after_a_gap(plugin: Plugin, envelope: &str) -> Fixture {
    let fixture = fixture_with_tables(Fixture::builder(plugin).env("ENVELOPE", envelope), TABLES).await;
    fixture.sql(
        "insert into t select i, 1, case when i % 5 = 0 then repeat(md5(i::text), 100) end from generate_series(1, 60) i;
         insert into u select i, 1 from generate_series(1, 20) i",
    )
    .await;
    fixture.drain().await;
    fixture.sql(
        "delete from t where id <= 10; update t set n = 2 where id between 11 and 20; update t set id = id + 1000 where id between 21 and 25;
         insert into t select i, 3, null from generate_series(101, 110) i; delete from u where id = 1; insert into u values (1000, 1)",
    )
    .await;
    advance(&fixture).await;
    fixture
}

/// Somebody reads past everything, and that is accepted.
async fn advance(fixture: &Fixture) {
    let confirmed = advance_slot(fixture).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
}

/// What the events at the end of repairs say, each with its position.
fn repaired(delivery: &Delivery) -> Vec<(Value, String)> {
    let controls = delivery.changes().into_iter().filter_map(|it| {
        let event = it.event();
        let prefix = event.message.as_ref()?.prefix.clone();
        (prefix == "spillway.repaired").then_some((event.control()?, it.position.clone()))
    });
    controls.collect()
}

async fn a_repair_restores_lost_changes_and_removes_deleted_rows() {
    for envelope in ENVELOPES {
        Plugin::each(move |plugin| async move {
            let fixture = after_a_gap(plugin, envelope).await;
            // A change of a row that was there all the time, and one that the consumer never heard of.
            fixture.sql("update t set n = 7 where id in (30, 105); insert into t values (1, 9, 'again')")
                .await;
            let reports = run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
            let done = reports.iter().find(|report| backfill_state(report) == "finished").unwrap();
            assert_eq!(done["backfill"]["tables"]["done"], 2, "{done}");
            fixture.sql("update t set n = 8 where id in (31, 106); delete from t where id = 32; insert into t values (2, 9, null)")
                .await;
            fixture.drain().await;
            let delivery = fixture.compare(&["t", "u"]).await;
            let said = repaired(&delivery);
            assert_eq!(said.len(), 1, "{said:?}");
            let (content, position) = &said[0];
            assert_eq!(content["control"], "repaired");
            assert_eq!(content["tables"], json!(["public.t", "public.u"]));
            let since = content["since"].as_str().unwrap_or_default();
            assert_eq!(since.len(), 16, "{content}");
            for arrival in delivery.changes().iter().filter(|it| it.event().op == "r") {
                assert!(since <= arrival.position.as_str() && arrival.position < *position, "{content}");
            }
        })
        .await;
    }
}

async fn a_repair_of_some_tables_keeps_other_tables() {
    let fixture = after_a_gap(Plugin::Pgoutput, "debezium").await;
    run_backfill(
        &fixture,
        json!({"action": "backfill", "repair": true, "tables": ["public.u"]}),
    )
    .await;
    let delivery = fixture.consume().await;
    let said = repaired(&delivery);
    assert_eq!(said[0].0["tables"], json!(["public.u"]));
    assert!(read_events(&delivery, "public.t").is_empty());
    let of_t = delivery.rebuild().tables["public.t"].len();
    assert_eq!(of_t, 60, "what was known of it stays");
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    assert_eq!(repaired(&fixture.compare(&["t", "u"]).await).len(), 2);
}

/// Without a gap it is a backfill that leaves all as it is.
async fn a_repair_removes_no_existing_row() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), TABLES).await;
    fixture
        .sql("insert into t select i, 1, null from generate_series(1, 60) i")
        .await;
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    let delivery = fixture.compare(&["t", "u"]).await;
    assert_eq!(delivery.rebuild().tables["public.t"].len(), 60);
}

/// Rows that are overtaken have no read of their own, but the change that overtook them.
async fn a_repair_during_writes_is_complete() {
    const ROWS: usize = 1_000;
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS)).await;
        fixture.sql("update t set n = n + 1").await;
        fixture.drain().await;
        fixture
            .sql("update t set n = -5 where id % 3 = 0; delete from t where id % 7 = 0")
            .await;
        advance(&fixture).await;
        // Whether a row is overtaken is a matter of luck. One repair without shows nothing.
        for repairs in 1..=10 {
            let event = json!({"action": "backfill", "repair": true, "chunk_rows": 100});
            let reports = run_beside_writer(&fixture, event, ROWS).await;
            let overtaken: u64 = reports
                .iter()
                .filter_map(|report| report["backfill"]["overtaken"].as_u64())
                .sum();
            assert_eq!(repaired(&fixture.compare(&["t"]).await).len(), repairs);
            if overtaken > 0 {
                return;
            }
        }
        panic!("no row was overtaken: this shows nothing");
    })
    .await;
}

async fn a_repair_with_a_failed_table_sends_no_control_event() {
    let fixture = after_a_gap(Plugin::Pgoutput, "debezium").await;
    fixture.sql("insert into u select i, i from generate_series(2000, 2100) i; insert into t values (5000, 1, repeat('x', 2000000))")
        .await;
    let ((kind, message), stored) = (fixture.failing_tick().await, fixture.backfill_state().await);
    assert_eq!((kind.as_str(), stored), ("Oversize", None), "{message}");
    advance(&fixture).await;
    let mut report = fixture
        .invoke(json!({"action": "backfill", "repair": true}))
        .await
        .answer();
    while backfill_state(&report) == "running" {
        report = fixture.tick().await;
    }
    assert_eq!(backfill_state(&report), "failed", "{report}");
    assert!(repaired(&fixture.consume().await).is_empty());
    // Mended, the same says so.
    fixture.sql("delete from t where id = 5000").await;
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    assert_eq!(repaired(&fixture.compare(&["t", "u"]).await).len(), 1);
}
