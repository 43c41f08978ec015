//! Changes that were acknowledged ahead are not sent again after a kill.
//!
//! A slow lane delays the acknowledged position, while many later changes are in the stream. The checkpoint
//! lists those. After a kill, the next tick sends only unacknowledged changes. If the log is another one, it
//! stops.

use std::time::Duration;

use scenarios::aws::fake_kinesis::FakeKinesisSettings;
use scenarios::consumer::Delivery;
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::PostgresSettings;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::LATE;
use crate::support::expected_errors::assert_tick_fails;
use crate::support::positions::{SlotPositions, stored_checkpoint, wait_until_sessions_end};
use crate::support::reports::reported_sum;

crate::scenarios![
    after_a_kill_only_unacknowledged_changes_are_sent,
    a_deadline_behind_a_slow_lane_leaves_nothing_to_send_again,
    a_change_after_a_slow_message_is_not_sent_again,
    a_deadline_is_answered_although_the_server_is_slow_to_report_its_state,
    a_restored_server_that_lacks_changes_acknowledged_ahead_stops_the_drain,
    a_restored_server_beyond_a_checkpoint_inside_of_a_window_lacks_the_marker,
];

/// Transactions of the backlog. Each updates the same row, and inserts some rows.
const TRANSACTIONS: usize = 120;
/// Rows that each transaction inserts.
const ROWS: usize = 5;
/// Most events that may arrive twice: those of the hot row that were acknowledged after the last store, and
/// the last change.
const MAX_DUPLICATES: usize = 40;

/// Fixture with a drained slot and the hot row. A record takes 100 ms.
async fn drained_fixture(builder: FixtureBuilder) -> Fixture {
    let settings = FakeKinesisSettings {
        latency: Duration::from_millis(100),
        ..FakeKinesisSettings::default()
    };
    let fixture = builder.on_fake_kinesis(settings).build().await;
    fixture
        .sql("create table t (id int primary key, n int not null); insert into t values (0, 0)")
        .await;
    fixture.drain().await;
    fixture
}

/// Writes many transactions, each of which updates the hot row.
async fn write_backlog(fixture: &Fixture) {
    let backlog = format!(
        "do $$ begin
            for i in 1..{TRANSACTIONS} loop
                update t set n = i where id = 0;
                insert into t select {ROWS} * i + n, i from generate_series(1, {ROWS}) n;
                commit;
            end loop;
        end $$"
    );
    let client = fixture.connect().await;
    client.batch_execute(&backlog).await.unwrap();
}

async fn fixture(plugin: Plugin) -> Fixture {
    let fixture = drained_fixture(Fixture::builder(plugin)).await;
    write_backlog(&fixture).await;
    fixture
}

fn inserts(delivery: &Delivery) -> usize {
    let changes = delivery.changes();
    changes.iter().filter(|change| change.event().op == "c").count()
}

/// Whether the checkpoint lists changes that are acknowledged ahead.
async fn remembers(fixture: &Fixture) -> bool {
    !stored_checkpoint(fixture).await["ack_ahead"].is_null()
}

async fn wait_for_store(fixture: &Fixture) {
    let before = stored_checkpoint(fixture).await;
    let is_stored = || async { stored_checkpoint(fixture).await != before };
    wait::until("the checkpoint is stored", DEADLINE, is_stored).await;
}

/// Kills the function once all rows that are not hot arrived.
///
/// The checkpoint remembers these rows at that time.
async fn kill_behind_the_hot_row(fixture: &Fixture) {
    let has_all = || async { inserts(&Delivery::from_fake(fixture.fake_kinesis())) > TRANSACTIONS * ROWS };
    let (killed, ()) = tokio::join!(fixture.invoke(json!({})), async {
        wait::until("the rows that are not hot arrive", DEADLINE, has_all).await;
        // A checkpoint that was under way may be older than the last arrival. The second one is not.
        wait_for_store(fixture).await;
        wait_for_store(fixture).await;
        assert!(remembers(fixture).await, "the hot row was not slow");
        fixture.function.kill9().await;
    });
    assert!(matches!(killed, Outcome::Exited(_)), "{killed:?}");
    wait_until_sessions_end(fixture).await;
}

async fn after_a_kill_only_unacknowledged_changes_are_sent() {
    Plugin::each(|plugin| async move {
        let fixture = fixture(plugin).await;
        kill_behind_the_hot_row(&fixture).await;
        let before = fixture.consume().await.changes().len();
        assert!(before < TRANSACTIONS * (ROWS + 1), "the hot row was not slow");
        let reports = fixture.drain().await;
        SlotPositions::read(&fixture).await;
        let delivery = fixture.compare(&["public.t"]).await;
        assert_eq!(delivery.changes().len(), TRANSACTIONS * (ROWS + 1) + 1);
        assert!(
            delivery.duplicates() <= MAX_DUPLICATES,
            "{} events arrived twice: {reports:?}",
            delivery.duplicates()
        );
        // Each change between `from` and `to` is counted, whether or not it was sent now.
        let (changes, ahead) = (
            reported_sum(&reports, "changes"),
            reported_sum(&reports, "acknowledged_ahead"),
        );
        assert_eq!(changes % (ROWS + 1), 0, "{reports:?}");
        assert_eq!(changes, ahead + reported_sum(&reports, "events"), "{reports:?}");
        assert!(ahead > changes / 2, "{reports:?}");
        assert!(!remembers(&fixture).await);
    })
    .await;
}

/// A transactional message has the LSN of the change after it. The messages are one lane, and it is slow.
async fn a_change_after_a_slow_message_is_not_sent_again() {
    let fixture = drained_fixture(Fixture::builder(Plugin::Pgoutput)).await;
    let backlog = format!(
        "do $$ begin
            for i in 1..{TRANSACTIONS} loop
                insert into t values (i, 0);
                perform pg_logical_emit_message(true, 'outbox', i::text);
                update t set n = 1 where id = i;
                insert into t select 1000 * i + n, i from generate_series(1, {ROWS}) n;
                commit;
            end loop;
        end $$"
    );
    fixture.connect().await.batch_execute(&backlog).await.unwrap();
    kill_behind_the_hot_row(&fixture).await;
    fixture.drain().await;
    let delivery = fixture.compare(&["public.t"]).await;
    assert_eq!(delivery.changes().len(), TRANSACTIONS * (ROWS + 3) + 1);
    assert!(
        delivery.duplicates() <= MAX_DUPLICATES,
        "{} events arrived twice",
        delivery.duplicates()
    );
}

async fn a_deadline_behind_a_slow_lane_leaves_nothing_to_send_again() {
    let fixture = fixture(Plugin::Pgoutput).await;
    // The time is too short for the hot row.
    let (mut reports, mut late): (Vec<Value>, usize) = (Vec::new(), 0);
    while reports.last().is_none_or(|report| report["stopped"] != "empty") {
        match fixture.function.invoke(&json!({}), Duration::from_secs(6)).await {
            // On a busy machine the servers may answer too late.
            Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) => late += 1,
            outcome => reports.push(outcome.answer()),
        }
        assert!(reports.len() + late < 30, "{reports:?}");
    }
    assert!(reports.len() > 1, "one invocation was enough: {reports:?}");
    let delivery = fixture.compare(&["public.t"]).await;
    // One request of the hot row is in flight at each deadline, and the last change is sent again.
    assert!(
        delivery.duplicates() <= 2 * (reports.len() + late),
        "{} events arrived twice: {reports:?}",
        delivery.duplicates()
    );
    // An invocation that was late has no report.
    if late == 0 {
        assert_eq!(reported_sum(&reports, "changes"), TRANSACTIONS * (ROWS + 1));
    }
}

/// Deadline while the server is slow to report its state.
///
/// The function reports before its deadline, if necessary without the state of the server.
async fn a_deadline_is_answered_although_the_server_is_slow_to_report_its_state() {
    let fixture = fixture(Plugin::Pgoutput).await;
    // `lock table` would lock the tables of the view, too, and with them each login.
    let locker = fixture.connect().await;
    for lock in [
        "set allow_system_table_mods = on",
        "begin",
        "alter view pg_catalog.pg_stat_activity rename to locked",
    ] {
        locker.batch_execute(lock).await.unwrap();
    }
    let tick = json!({});
    let outcome = fixture
        .function
        .invoke_with_limit(&tick, Duration::from_secs(6), DEADLINE)
        .await;
    let report = outcome.answer();
    assert_eq!(report["stopped"], "deadline", "{report}");
    assert_eq!(report["oldest_transaction"], Value::Null, "{report}");
    locker.batch_execute("rollback").await.unwrap();
    let rest = fixture.drain().await;
    let changes = reported_sum(&[report], "changes") + reported_sum(&rest, "changes");
    assert_eq!(changes, TRANSACTIONS * (ROWS + 1));
    fixture.compare(&["public.t"]).await;
}

/// Fixture on a restored server.
///
/// The server is back at the copy of its disk from before the backlog.
struct RestoredFixture {
    fixture: Fixture,
    /// The checkpoint from before the backlog.
    earlier_checkpoint: Value,
    /// The stored checkpoint, from inside of a window of the backlog.
    ///
    /// It was stored after the hot row.
    checkpoint: Value,
}

async fn restored_fixture() -> RestoredFixture {
    let builder = Fixture::builder(Plugin::Pgoutput).on_new_server(PostgresSettings::default());
    let fixture = drained_fixture(builder).await;
    let earlier_checkpoint = stored_checkpoint(&fixture).await;
    fixture.postgres.crash().await;
    fixture.postgres.copy_data();
    fixture.postgres.restart().await;
    write_backlog(&fixture).await;
    kill_behind_the_hot_row(&fixture).await;
    let checkpoint = stored_checkpoint(&fixture).await;
    fixture.postgres.crash().await;
    fixture.postgres.restore_data();
    fixture.postgres.restart().await;
    RestoredFixture {
        fixture,
        earlier_checkpoint,
        checkpoint,
    }
}

/// Writes other changes at the same positions.
async fn write_other_changes(fixture: &Fixture) {
    let others =
        "do $$ begin for n in 10001..14000 loop insert into t values (n, 0); commit; end loop; end $$";
    fixture.connect().await.batch_execute(others).await.unwrap();
}

async fn a_restored_server_that_lacks_changes_acknowledged_ahead_stops_the_drain() {
    let RestoredFixture {
        fixture,
        earlier_checkpoint: earlier,
        mut checkpoint,
    } = restored_fixture().await;
    // As if the hot row had not arrived once: the position is one that the older copy has, too.
    checkpoint["ack_ahead"]["after"] = earlier["commit_end"].clone();
    for name in ["commit_end", "marker"] {
        checkpoint[name] = earlier[name].clone();
    }
    fixture.put_checkpoint(&checkpoint).await;
    write_other_changes(&fixture).await;
    // The stream has changes that the server lacks. By their positions, the new changes would count as sent.
    assert_tick_fails(&fixture, "MarkerMissing", &[&fixture.slot]).await;
    assert_eq!(stored_checkpoint(&fixture).await, checkpoint);
}

/// By their positions alone, the new changes would count as sent.
async fn a_restored_server_beyond_a_checkpoint_inside_of_a_window_lacks_the_marker() {
    let RestoredFixture {
        fixture, checkpoint, ..
    } = restored_fixture().await;
    write_other_changes(&fixture).await;
    let commit_end = checkpoint["commit_end"].as_str().unwrap();
    let beyond = format!("select pg_current_wal_flush_lsn() > '{commit_end}'");
    assert_eq!(fixture.value(&beyond).await.as_deref(), Some("t"));
    assert_tick_fails(&fixture, "MarkerMissing", &[&fixture.slot, commit_end]).await;
    assert_eq!(stored_checkpoint(&fixture).await, checkpoint);
}
