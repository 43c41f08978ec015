//! Repair after a gap: the tables are read again.
//!
//! The control event at its end has the position since which every existing row was sent. Consumers remove
//! the other rows.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backfill::{
    create_table_sql, fixture_with_tables, read_events, reported_state, run_backfill, run_beside_writer,
};
use crate::support::gap::{accept_gap, advance_slot};

crate::scenarios![
    a_repair_restores_lost_changes_and_removes_deleted_rows,
    a_repair_of_some_tables_keeps_other_tables,
    a_repair_removes_no_existing_row,
    a_repair_is_later_than_the_backlog_before_it,
    a_repair_during_writes_is_complete,
    a_repair_with_a_failed_table_sends_no_control_event,
];

const ENVELOPES: [&str; 3] = ["debezium", "dms", "wal2json"];

const TABLES: &str =
    "create table t (id int primary key, n int, body text); alter table t alter body set storage external;
     create table u (id int primary key, n int)";

/// Fixture with two drained tables that changed in an accepted gap.
async fn fixture_after_gap(plugin: Plugin, envelope: &str) -> Fixture {
    let fixture = fixture_with_tables(Fixture::builder(plugin).env("ENVELOPE", envelope), TABLES).await;
    fixture
        .sql(
            "insert into t select i, 1, case when i % 5 = 0 then repeat(md5(i::text), 100) end
             from generate_series(1, 60) i;
         insert into u select i, 1 from generate_series(1, 20) i",
        )
        .await;
    fixture.drain().await;
    fixture
        .sql(
            "delete from t where id <= 10; update t set n = 2 where id between 11 and 20;
         update t set id = id + 1000 where id between 21 and 25;
         insert into t select i, 3, null from generate_series(101, 110) i;
         delete from u where id = 1; insert into u values (1000, 1)",
        )
        .await;
    make_gap(&fixture).await;
    fixture
}

/// Advances the slot as another reader does, and accepts the gap.
async fn make_gap(fixture: &Fixture) {
    let confirmed = advance_slot(fixture).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
}

/// Content and position of the control event of each repair.
fn repair_events(delivery: &Delivery) -> Vec<(Value, String)> {
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
            let fixture = fixture_after_gap(plugin, envelope).await;
            // One change is of a row that existed all the time, and one of a row that the consumer never
            // received.
            fixture
                .sql("update t set n = 7 where id in (30, 105); insert into t values (1, 9, 'again')")
                .await;
            let reports = run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
            let done = reports
                .iter()
                .find(|report| reported_state(report) == "finished")
                .unwrap();
            assert_eq!(done["backfill"]["tables"]["done"], 2, "{done}");
            let sql = "update t set n = 8 where id in (31, 106); delete from t where id = 32;
                       insert into t values (2, 9, null)";
            fixture.sql(sql).await;
            fixture.drain().await;
            let delivery = fixture.compare(&["t", "u"]).await;
            let control = repair_events(&delivery);
            assert_eq!(control.len(), 1, "{control:?}");
            let (content, position) = &control[0];
            assert_eq!(content["control"], "repaired");
            assert_eq!(content["source_name"], fixture.slot);
            assert_eq!(content["tables"], json!(["public.t", "public.u"]));
            let since = content["since"].as_str().unwrap_or_default();
            assert_eq!(since.len(), 16, "{content}");
            for arrival in delivery.changes().iter().filter(|it| it.event().op == "r") {
                assert!(
                    since <= arrival.position.as_str() && arrival.position < *position,
                    "{content}"
                );
            }
        })
        .await;
    }
}

async fn a_repair_of_some_tables_keeps_other_tables() {
    let fixture = fixture_after_gap(Plugin::Pgoutput, "debezium").await;
    run_backfill(
        &fixture,
        json!({"action": "backfill", "repair": true, "tables": ["public.u"]}),
    )
    .await;
    let delivery = fixture.consume().await;
    let control = repair_events(&delivery);
    assert_eq!(control[0].0["tables"], json!(["public.u"]));
    assert!(read_events(&delivery, "public.t").is_empty());
    let of_t = delivery.rebuild().tables["public.t"].len();
    assert_eq!(of_t, 60, "the repair changed another table");
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    assert_eq!(repair_events(&fixture.compare(&["t", "u"]).await).len(), 2);
}

/// Without a gap, a repair changes nothing.
async fn a_repair_removes_no_existing_row() {
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), TABLES).await;
    fixture
        .sql("insert into t select i, 1, null from generate_series(1, 60) i")
        .await;
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    let delivery = fixture.compare(&["t", "u"]).await;
    assert_eq!(delivery.rebuild().tables["public.t"].len(), 60);
}

/// A failed writer may have lost commits that were sent. Their positions may be those of the backlog.
async fn a_repair_is_later_than_the_backlog_before_it() {
    for request in [
        json!({"action": "backfill", "repair": true, "wait": true}),
        json!({"action": "backfill", "repair": true}),
    ] {
        let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), TABLES).await;
        let backlog = "insert into t select i, 1, null from generate_series(1, 60) i; update t set n = 2";
        fixture.sql(backlog).await;
        run_backfill(&fixture, request).await;
        let delivery = fixture.compare(&["t", "u"]).await;
        let (content, _) = repair_events(&delivery).remove(0);
        let since = content["since"].as_str().unwrap_or_default();
        let changes = delivery.changes();
        let updates: Vec<_> = changes.iter().filter(|it| it.event().op == "u").collect();
        assert_eq!(updates.len(), 60);
        for update in updates {
            assert!(update.position.as_str() < since, "{} {content}", update.position);
        }
    }
}

/// Repair of a gap beside a writer.
///
/// An overtaken row has no read event. It has only the change that overtook it.
async fn a_repair_during_writes_is_complete() {
    const ROWS: usize = 1_000;
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(Fixture::builder(plugin), &create_table_sql(ROWS)).await;
        fixture.sql("update t set n = n + 1").await;
        fixture.drain().await;
        fixture
            .sql("update t set n = -5 where id % 3 = 0; delete from t where id % 7 = 0")
            .await;
        make_gap(&fixture).await;
        // Whether a change overtakes a row depends on timing. A repair without such a row shows nothing.
        for repairs in 1..=10 {
            let event = json!({"action": "backfill", "wait": true, "repair": true, "chunk_rows": 100});
            let reports = run_beside_writer(&fixture, event, ROWS).await;
            let overtaken: u64 = reports
                .iter()
                .filter_map(|report| report["backfill"]["overtaken"].as_u64())
                .sum();
            assert_eq!(repair_events(&fixture.compare(&["t"]).await).len(), repairs);
            if overtaken > 0 {
                return;
            }
        }
        panic!("no row was overtaken: the test is void");
    })
    .await;
}

async fn a_repair_with_a_failed_table_sends_no_control_event() {
    let fixture = fixture_after_gap(Plugin::Pgoutput, "debezium").await;
    let sql = "insert into u select i, i from generate_series(2000, 2100) i;
               insert into t values (5000, 1, repeat('x', 2000000))";
    fixture.sql(sql).await;
    let ((kind, message), stored) = (fixture.failing_tick().await, fixture.backfill_state().await);
    assert_eq!((kind.as_str(), stored), ("Oversize", None), "{message}");
    make_gap(&fixture).await;
    let mut report = fixture
        .invoke(json!({"action": "backfill", "wait": true, "repair": true}))
        .await
        .answer();
    while reported_state(&report) == "running" {
        report = fixture.tick().await;
    }
    assert_eq!(reported_state(&report), "failed", "{report}");
    assert!(repair_events(&fixture.consume().await).is_empty());
    // After the row is deleted, the same repair sends the control event.
    fixture.sql("delete from t where id = 5000").await;
    run_backfill(&fixture, json!({"action": "backfill", "repair": true})).await;
    assert_eq!(repair_events(&fixture.compare(&["t", "u"]).await).len(), 1);
}
