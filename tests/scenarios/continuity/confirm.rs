//! The slot is confirmed at the end of a commit record.
//!
//! A second slot reports that position. One byte less, and the transaction is read again. One byte more, and
//! the next transaction may be lost.

use std::collections::HashMap;

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::sql_text::create_slot_sql;
use serde_json::json;

use crate::support::positions::{SlotPositions, commit_end, expect_lsn};

crate::scenarios![
    a_position_begins_with_the_end_of_its_commit_record,
    a_stopped_slot_is_at_the_end_of_the_previous_transaction,
    a_drain_reports_its_confirmed_position,
];

/// Fixture with a table and a slot of test_decoding.
///
/// test_decoding reports the end of the commit record of each transaction.
async fn fixture(plugin: Plugin) -> Fixture {
    let fixture = Fixture::new(plugin).await;
    fixture
        .sql("create table t (id int primary key, what text)")
        .await;
    let oracle = format!("{}_ends", fixture.slot);
    fixture.sql(&create_slot_sql(&oracle, "test_decoding")).await;
    fixture
}

/// End of each transaction's commit record, by transaction id.
///
/// The second slot reports the transactions since its creation.
async fn ends(fixture: &Fixture) -> HashMap<u64, u64> {
    let sql = format!(
        "select string_agg(xid || ' ' || lsn, ',')
         from pg_logical_slot_peek_changes('{}_ends', null, null) where data like 'COMMIT %'",
        fixture.slot
    );
    let all = fixture.value(&sql).await.unwrap_or_default();
    let each = all.split(',').map(|pair| {
        let (xid, end) = pair.split_once(' ').expect("an id and a position");
        (xid.parse().expect("an id is a number"), expect_lsn(end))
    });
    each.collect()
}

async fn a_position_begins_with_the_end_of_its_commit_record() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin).await;
        fixture
            .sql("insert into t select i, 'x' from generate_series(1, 10) i")
            .await;
        fixture
            .sql(
                "begin; savepoint s; update t set id = 20 where id = 1; rollback to s;
                     delete from t where id = 2; commit",
            )
            .await;
        fixture.sql("truncate t").await;
        fixture.sql("insert into t values (1, 'again')").await;
        fixture.drain().await;
        let ends = ends(&fixture).await;
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), 13);
        for change in delivery.changes() {
            let transaction = change
                .event()
                .source
                .transaction
                .expect("a change has a transaction");
            assert_eq!(
                ends.get(&transaction),
                Some(&commit_end(&change.position)),
                "{}",
                change.position
            );
        }
    })
    .await;
}

/// The slot is followed only by the refused transaction. No other log hides a wrong byte.
async fn a_stopped_slot_is_at_the_end_of_the_previous_transaction() {
    Plugin::each(|plugin| async move {
        let mut fixture = fixture(plugin).await;
        fixture.sql("insert into t values (1, 'small')").await;
        fixture.sql("insert into t values (2, 'small')").await;
        let last = ends(&fixture)
            .await
            .into_values()
            .max()
            .expect("two were committed");
        // Larger than a record.
        fixture
            .sql("insert into t values (3, repeat('x', 1 << 20))")
            .await;
        let (kind, message) = fixture.failing_tick().await;
        assert_eq!(kind, "Oversize", "{message}");
        let positions = SlotPositions::read(&fixture).await;
        assert_eq!((positions.confirmed, positions.checkpoint), (last, last));

        fixture.function.set("OVERSIZE", "omit").await;
        let reports = fixture.drain().await;
        assert_eq!(
            (&reports[0]["skipped"], &reports[0]["changes"]),
            (&json!(0), &json!(1))
        );
        let delivery = fixture.consume().await;
        assert_eq!((delivery.changes().len(), delivery.duplicates()), (3, 0));
    })
    .await;
}

async fn a_drain_reports_its_confirmed_position() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table t (id int primary key, name text);
                 insert into t select n, 'row ' || n from generate_series(1, 1000) n;
                 update t set name = 'other' where id % 2 = 0; delete from t where id % 3 = 0",
            )
            .await;
        fixture.kinesis_proxy.flaky(7, 10);
        let reports = fixture.drain().await;
        let last = &reports[reports.len() - 1];
        assert_eq!(last["stopped"], "empty", "{last}");
        assert_eq!(last["to"], fixture.confirmed_flush().await, "{last}");
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.counts()["public.t"], 1000 + 500 + 333);
    })
    .await;
}
