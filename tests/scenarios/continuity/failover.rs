//! Failover to the standby; the endpoint stays the same.
//!
//! The next tick continues and loses no change. When it cannot prove continuity, it fails and leaves the slot
//! where it is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::REPLUSER;
use scenarios::postgres::cluster::SlotCopy;
use scenarios::postgres::sql_text::drop_slot_sql;
use scenarios::postgres::tcp_proxy::Direction;
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::cluster::{restart_slot_mid_transaction, start_cluster};
use crate::support::expected_errors::assert_tick_fails;
use crate::support::gap::{accept_gap, gap_events};
use crate::support::positions::{SlotPositions, checkpoint_lsn};
use crate::support::reports::reported_sum;

crate::scenarios![
    two_failovers_under_load_lose_nothing,
    repeated_changes_below_the_marker_are_skipped,
    a_promoted_slot_without_snapshots_lacks_the_marker,
    changes_without_a_standby_are_not_sent,
    a_required_standby_must_be_visible,
    a_standby_slot_that_nobody_reads_is_named,
    a_failover_without_its_standby_sends_nothing_twice,
    setup_creates_a_failover_slot_where_the_server_supports_it,
];

const LIMIT: Duration = Duration::from_secs(60);

/// Fixture on a cluster.
///
/// The function can see the acknowledgements of the standby.
async fn fixture(plugin: Plugin, version: u32) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .on_cluster(start_cluster(version).await)
        .build()
        .await;
    let role = REPLUSER.0;
    fixture
        .sql(&format!(
            "grant pg_monitor to {role}; create table t (id int primary key, n int not null default 0)"
        ))
        .await;
    fixture
}

/// Shared state of the writers and the drainer.
#[derive(Debug, Default)]
struct WriteProgress {
    /// Transactions whose commit the server acknowledged.
    committed: AtomicU32,
    stop: AtomicBool,
}

impl WriteProgress {
    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until this many more transactions are committed.
    async fn wait_for_commits(&self, more: u32) {
        let target = self.committed.load(Ordering::Relaxed) + more;
        wait::until("the writers commit", LIMIT, || async {
            self.committed.load(Ordering::Relaxed) >= target
        })
        .await;
    }
}

/// Writes rows with keys of its own until the load stops.
///
/// After a lost connection it connects again, and does not know whether its last transaction was committed.
async fn write(fixture: &Fixture, writer: u32, load: &WriteProgress) {
    let sql = format!(
        "insert into t values ({writer} + 4 * floor(random() * 100), 1)
             on conflict (id) do update set n = t.n + 1;
         delete from t where id = {writer} + 4 * floor(random() * 300)"
    );
    while load.is_running() {
        let client = wait::until_some("a writer connects", LIMIT, || async {
            fixture.cluster().try_admin(&fixture.database).await.ok()
        })
        .await;
        while load.is_running() && client.batch_execute(&sql).await.is_ok() {
            load.committed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ticks until the load stops. A tick may fail only because of the server.
async fn tick(fixture: &Fixture, load: &WriteProgress) {
    while load.is_running() {
        match fixture.invoke(json!({})).await {
            Outcome::Answer(_) => {}
            Outcome::Error { kind, message } => assert!(
                ["PostgresUnreachable", "PostgresFailed", "NotWriter"].contains(&kind.as_str()),
                "{kind}: {message}"
            ),
            other => panic!("{other:?}"),
        }
    }
}

async fn two_failovers_under_load_lose_nothing() {
    for plugin in [Plugin::Pgoutput, Plugin::TestDecoding] {
        let fixture = fixture(plugin, 17).await;
        fixture.wait_until_synced().await;
        for round in 1..=2 {
            let load = WriteProgress::default();
            let failover = async {
                load.wait_for_commits(100).await;
                fixture.cluster().failover().await;
                load.wait_for_commits(100).await;
                load.stop.store(true, Ordering::Relaxed);
            };
            tokio::join!(
                write(&fixture, 0, &load),
                write(&fixture, 1, &load),
                write(&fixture, 2, &load),
                tick(&fixture, &load),
                failover
            );
            drain(&fixture).await;
            SlotPositions::read(&fixture).await;
            fixture.compare(&["t"]).await;
            if round == 1 {
                fixture.cluster().rejoin().await;
                fixture.wait_until_synced().await;
            }
        }
    }
}

/// Drains the slot; returns the reports of all ticks.
///
/// The drain ends when the slot is empty and the standby has all of the log. A tick sends no log that the
/// standby lacks, and on a busy machine the standby may be late.
async fn drain(fixture: &Fixture) -> Vec<Value> {
    let (began, mut reports) = (Instant::now(), Vec::new());
    loop {
        let report = fixture.tick().await;
        let is_last = report["stopped"] == "empty" && report["held_bytes"] == 0;
        reports.push(report);
        if is_last {
            return reports;
        }
        assert!(began.elapsed() < LIMIT, "the slot is not drained: {reports:?}");
    }
}

async fn repeated_changes_below_the_marker_are_skipped() {
    let fixture = fixture(Plugin::Pgoutput, 17).await;
    fixture
        .sql("insert into t select i, 0 from generate_series(1, 10) i")
        .await;
    drain(&fixture).await;
    fixture.wait_until_synced().await;
    fixture.cluster().stop_slot_sync().await;
    for n in 1..=5 {
        fixture.sql(&format!("update t set n = {n}")).await;
    }
    drain(&fixture).await;
    let before = SlotPositions::read(&fixture).await;
    fixture.cluster().failover().await;
    let after = SlotPositions::read(&fixture).await;
    assert!(after.confirmed < before.confirmed, "{after:?} after {before:?}");
    fixture.sql("insert into t values (11, 0)").await;
    let reports = drain(&fixture).await;
    assert!(reported_sum(&reports, "skipped") >= 50, "{reports:?}");
    assert_eq!(
        (
            reported_sum(&reports, "replayed"),
            reported_sum(&reports, "changes")
        ),
        (0, 1),
        "{reports:?}"
    );
    let delivery = fixture.compare(&["t"]).await;
    assert_eq!(
        (delivery.changes().len(), delivery.duplicates()),
        (10 + 50 + 1, 0)
    );
    assert!(SlotPositions::read(&fixture).await.confirmed > before.checkpoint);
}

async fn a_promoted_slot_without_snapshots_lacks_the_marker() {
    for version in [15, 16] {
        let fixture = fixture(Plugin::Pgoutput, version).await;
        let tick = || async { drop(fixture.tick().await) };
        tick().await;
        let _open = restart_slot_mid_transaction(&fixture, tick).await;
        fixture
            .cluster()
            .copy_slot_to_standby(&fixture.slot, SlotCopy::WithoutSnapshots)
            .await;
        fixture.sql("insert into t values (1, 1)").await;
        drain(&fixture).await;
        fixture.sql("insert into t values (2, 2)").await;
        fixture.cluster().failover().await;
        fixture.sql("insert into t values (3, 3)").await;
        let checkpoint = checkpoint_lsn(&fixture).await;
        for _ in 0..2 {
            assert_tick_fails(
                &fixture,
                "MarkerMissing",
                &[&fixture.slot, &checkpoint, "accept_gap"],
            )
            .await;
        }
        assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
        let definite = |line: &String| {
            line.contains(r#""error_type":"MarkerMissing""#) && line.contains(r#""kind":"Definite""#)
        };
        assert!(
            fixture.function.log().iter().any(definite),
            "{:#?}",
            fixture.function.log()
        );

        let confirmed = fixture.confirmed_flush().await;
        fixture.invoke(accept_gap(&confirmed)).await.answer();
        fixture.sql("insert into t values (4, 4)").await;
        drain(&fixture).await;
        SlotPositions::read(&fixture).await;
        let delivery = fixture.consume().await;
        assert_eq!(gap_events(&delivery).len(), 1);
        let events = delivery.of_table("public.t");
        let ids: Vec<&Value> = events.iter().map(|event| &event["after"]["id"]).collect();
        assert_eq!(ids.first(), Some(&&json!(1)));
        assert_eq!(ids.last(), Some(&&json!(4)));
        assert!(!ids.contains(&&json!(2)), "the lost row arrived: {ids:?}");
    }
}

async fn changes_without_a_standby_are_not_sent() {
    for version in [14, 17] {
        let fixture = fixture(Plugin::Pgoutput, version).await;
        fixture.sql("insert into t values (1, 1)").await;
        drain(&fixture).await;
        if fixture.cluster().has_failover_slots() {
            fixture.wait_until_synced().await;
        } else {
            fixture
                .cluster()
                .copy_slot_to_standby(&fixture.slot, SlotCopy::Complete)
                .await;
        }
        fixture.cluster().replication_proxy().stall(Direction::ToClient);
        let waiting = fixture.connect().await;
        let failover = async {
            let waits = "select count(*) from pg_stat_activity \
                         where wait_event = 'SyncRep' and datname = current_database()";
            wait::until("the commit waits", LIMIT, || async {
                fixture.value(waits).await.as_deref() == Some("1")
            })
            .await;
            let report = fixture.tick().await;
            assert_eq!(
                (&report["events"], &report["stopped"]),
                (&json!(0), &json!("empty")),
                "{report}"
            );
            assert!(report["held_bytes"].as_u64() > Some(0), "{report}");
            fixture.cluster().failover().await;
        };
        let (committed, ()) = tokio::join!(waiting.batch_execute("insert into t values (2, 2)"), failover);
        assert!(committed.is_err(), "the commit was acknowledged");
        fixture.sql("insert into t values (3, 3)").await;
        drain(&fixture).await;
        let events = fixture.compare(&["t"]).await.of_table("public.t");
        let ids: Vec<&Value> = events.iter().map(|event| &event["after"]["id"]).collect();
        assert_eq!(ids, [1, 3]);
    }
}

async fn a_required_standby_must_be_visible() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_cluster(start_cluster(17).await)
        .env("STANDBY_ACK", "required")
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    assert_tick_fails(&fixture, "StandbyUnseen", &[&fixture.slot, "pg_monitor"]).await;
    fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    drain(&fixture).await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
    fixture.cluster().failover().await;
    assert_tick_fails(
        &fixture,
        "StandbyUnseen",
        &[&fixture.slot, "no standby is connected"],
    )
    .await;
}

/// Sets a variable of the primary.
///
/// New sessions have it then.
async fn set_on_primary(fixture: &Fixture, name: &str, value: &str) {
    fixture.sql(&format!("alter system set {name} = {value}")).await;
    fixture.sql("select pg_reload_conf()").await;
    let shown = value.trim_matches('\'');
    wait::until("the setting is loaded", LIMIT, || async {
        fixture.value(&format!("show {name}")).await.as_deref() == Some(shown)
    })
    .await;
}

/// Each reader of a failover slot waits for such a standby.
async fn a_standby_slot_that_nobody_reads_is_named() {
    let fixture = fixture(Plugin::Pgoutput, 17).await;
    let setting = "synchronized_standby_slots";
    let standbys = fixture.value(&format!("show {setting}")).await.unwrap();
    fixture
        .sql("select pg_create_physical_replication_slot('gone')")
        .await;
    set_on_primary(&fixture, setting, &format!("'{standbys}, gone'")).await;
    for change in ["insert into t values (1)".to_owned(), drop_slot_sql("gone")] {
        fixture.sql(&change).await;
        let report = fixture.tick().await;
        assert_eq!(
            (&report["stopped"], &report["changes"]),
            (&json!("empty"), &json!(0)),
            "{report}"
        );
        let problem = fixture.problems().await.to_string();
        assert!(
            problem.contains("synchronized_standby_slots has gone, which no standby reads"),
            "{problem}"
        );
    }
    set_on_primary(&fixture, setting, &format!("'{standbys}'")).await;
    drain(&fixture).await;
    assert_eq!(fixture.problems().await, json!([]));
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
    set_on_primary(&fixture, "synchronous_standby_names", "'elsewhere'").await;
    let problem = fixture.problems().await.to_string();
    assert!(
        problem.contains("synchronous_standby_names is set, and no such standby"),
        "{problem}"
    );
}

/// The promoted server waits for a standby that is not there.
///
/// Each reader of the slot waits, too.
async fn a_failover_without_its_standby_sends_nothing_twice() {
    let fixture = fixture(Plugin::Pgoutput, 17).await;
    fixture.sql("insert into t select generate_series(1, 50)").await;
    drain(&fixture).await;
    let checkpoint = checkpoint_lsn(&fixture).await;
    fixture.cluster().failover().await;
    fixture
        .sql("select pg_create_physical_replication_slot('gone')")
        .await;
    set_on_primary(&fixture, "synchronized_standby_slots", "'gone'").await;
    let report = fixture.tick().await;
    assert_eq!(
        (&report["stopped"], &report["changes"]),
        (&json!("empty"), &json!(0)),
        "{report}"
    );
    assert_eq!(checkpoint_lsn(&fixture).await, checkpoint);
    set_on_primary(&fixture, "synchronized_standby_slots", "''").await;
    fixture.sql("insert into t values (51)").await;
    drain(&fixture).await;
    let delivery = fixture.compare(&["t"]).await;
    assert_eq!((delivery.changes().len(), delivery.duplicates()), (51, 0));
}

async fn setup_creates_a_failover_slot_where_the_server_supports_it() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .without_slot()
        .on_cluster(start_cluster(17).await)
        .build()
        .await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    fixture
        .sql(&format!(
            "grant create on database {database} to {role}; create table t (id int primary key, n int);
         alter table t owner to {role}"
        ))
        .await;
    let report = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(report["problems"], json!([]), "{report}");
    fixture.wait_until_synced().await;
    fixture.sql("insert into t values (1, 1)").await;
    fixture.cluster().failover().await;
    drain(&fixture).await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
}
