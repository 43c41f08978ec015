//! The writer dies and its standby takes over, behind an endpoint that stays: the next tick goes on by itself and loses
//! nothing; what it cannot prove to be whole, it says, and stays where it is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use scenarios::function::Outcome;
use scenarios::lab::{Lab, Plugin};
use scenarios::pair::Carried;
use scenarios::postgres::{ADMIN, REPLUSER};
use scenarios::proxy::Way;
use scenarios::wait;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::gap::{accept, control_events};
use crate::marks::Marks;
use crate::pair::{pair, restart_amid};
use crate::refusal::tick_fails;
use crate::startup::stored;

crate::scenarios![
    two_failovers_under_load_lose_nothing,
    what_a_lagging_slot_gives_again_is_skipped_below_the_marker,
    a_promoted_slot_that_lost_its_snapshots_is_a_missing_marker,
    what_no_standby_has_is_held_back_and_dies_with_its_server,
    a_standby_that_is_required_has_to_be_seen,
    setup_makes_a_failover_slot_where_the_server_knows_them,
];

const LIMIT: Duration = Duration::from_secs(60);

/// On a pair whose standby's acknowledgements the function may see.
async fn lab(plugin: Plugin, version: u32) -> Lab {
    let lab = Lab::plan(plugin).on_pair(pair(version).await).build().await;
    let role = REPLUSER.0;
    lab.sql(&format!(
        "grant pg_monitor to {role}; create table t (id int primary key, n int not null default 0)"
    ))
    .await;
    lab
}

fn sum(reports: &[Value], name: &str) -> u64 {
    reports.iter().filter_map(|report| report[name].as_u64()).sum()
}

/// A connection by way of the endpoint, as an application has one.
async fn connect(lab: &Lab) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(lab.pair().endpoint().port())
        .user(ADMIN.0)
        .password(ADMIN.1)
        .dbname(&lab.database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Who writes, and who drains, until they are told to stop.
#[derive(Debug, Default)]
struct Load {
    /// Transactions that the server said are committed.
    committed: AtomicU32,
    stop: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until so many more were committed.
    async fn committed(&self, more: u32) {
        let wanted = self.committed.load(Ordering::Relaxed) + more;
        wait::until("the writers go on", LIMIT, || async {
            self.committed.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }
}

/// Writes rows of its own. When it is cut off, it connects again, and does not know whether its last transaction was
/// committed.
async fn write(lab: &Lab, writer: u32, load: &Load) {
    let sql = format!(
        "insert into t values ({writer} + 4 * floor(random() * 100), 1) on conflict (id) do update set n = t.n + 1;
         delete from t where id = {writer} + 4 * floor(random() * 300)"
    );
    while load.goes_on() {
        let Ok(client) = connect(lab).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while load.goes_on() && client.batch_execute(&sql).await.is_ok() {
            load.committed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ticks; only a server that is away may fail one.
async fn tick(lab: &Lab, load: &Load) {
    while load.goes_on() {
        match lab.invoke(json!({})).await {
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
        let lab = lab(plugin, 17).await;
        lab.wait_until_synced().await;
        for round in 1..=2 {
            let load = Load::default();
            let failover = async {
                load.committed(100).await;
                lab.pair().failover().await;
                load.committed(100).await;
                load.stop.store(true, Ordering::Relaxed);
            };
            tokio::join!(
                write(&lab, 0, &load),
                write(&lab, 1, &load),
                write(&lab, 2, &load),
                tick(&lab, &load),
                failover
            );
            lab.drain().await;
            Marks::of(&lab).await;
            lab.compare(&["t"]).await;
            if round == 1 {
                lab.pair().rejoin().await;
                lab.wait_until_synced().await;
            }
        }
    }
}

async fn what_a_lagging_slot_gives_again_is_skipped_below_the_marker() {
    let lab = lab(Plugin::Pgoutput, 17).await;
    lab.sql("insert into t select i, 0 from generate_series(1, 10) i")
        .await;
    lab.drain().await;
    lab.wait_until_synced().await;
    lab.pair().stop_slot_sync().await;
    for n in 1..=5 {
        lab.sql(&format!("update t set n = {n}")).await;
    }
    lab.drain().await;
    let before = Marks::of(&lab).await;
    lab.pair().failover().await;
    let after = Marks::of(&lab).await;
    assert!(after.confirmed < before.confirmed, "{after:?} after {before:?}");
    lab.sql("insert into t values (11, 0)").await;
    let reports = lab.drain().await;
    assert!(sum(&reports, "skipped") >= 50, "{reports:?}");
    assert_eq!(
        (sum(&reports, "replayed"), sum(&reports, "changes")),
        (0, 1),
        "{reports:?}"
    );
    let delivery = lab.compare(&["t"]).await;
    assert_eq!(
        (delivery.changes().len(), delivery.duplicates()),
        (10 + 50 + 1, 0)
    );
    assert!(Marks::of(&lab).await.confirmed > before.checkpoint);
}

async fn a_promoted_slot_that_lost_its_snapshots_is_a_missing_marker() {
    for version in [15, 16] {
        let lab = lab(Plugin::Pgoutput, version).await;
        let tick = || async { drop(lab.tick().await) };
        tick().await;
        let _open = restart_amid(&lab, tick).await;
        lab.pair().carry_slot(&lab.slot, Carried::WithoutSnapshots).await;
        lab.sql("insert into t values (1, 1)").await;
        lab.tick().await;
        lab.sql("insert into t values (2, 2)").await;
        lab.pair().failover().await;
        lab.sql("insert into t values (3, 3)").await;
        let checkpoint = stored(&lab).await;
        for _ in 0..2 {
            tick_fails(&lab, "MarkerMissing", &[&lab.slot, &checkpoint, "accept_gap"]).await;
        }
        assert_eq!(stored(&lab).await, checkpoint);
        let definite = |line: &String| {
            line.contains(r#""error_type":"MarkerMissing""#) && line.contains(r#""kind":"Definite""#)
        };
        assert!(
            lab.function.log().iter().any(definite),
            "{:#?}",
            lab.function.log()
        );

        let confirmed = lab.confirmed_flush().await;
        lab.invoke(accept(&confirmed)).await.answer();
        lab.sql("insert into t values (4, 4)").await;
        lab.drain().await;
        Marks::of(&lab).await;
        let delivery = lab.consume().await;
        assert_eq!(control_events(&delivery).len(), 1);
        let events = delivery.of_table("public.t");
        let ids: Vec<&Value> = events.iter().map(|event| &event["after"]["id"]).collect();
        assert_eq!(ids.first(), Some(&&json!(1)));
        assert_eq!(ids.last(), Some(&&json!(4)));
        assert!(!ids.contains(&&json!(2)), "it is the one that was lost: {ids:?}");
    }
}

async fn what_no_standby_has_is_held_back_and_dies_with_its_server() {
    for version in [14, 17] {
        let lab = lab(Plugin::Pgoutput, version).await;
        lab.sql("insert into t values (1, 1)").await;
        lab.drain().await;
        if lab.pair().has_failover_slots() {
            lab.wait_until_synced().await;
        } else {
            lab.pair().carry_slot(&lab.slot, Carried::Whole).await;
        }
        lab.pair().wire().stall(Way::ToClient);
        let waiting = lab.connect().await;
        let failover = async {
            let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and datname = current_database()";
            wait::until("the commit waits", LIMIT, || async {
                lab.value(waits).await.as_deref() == Some("1")
            })
            .await;
            let report = lab.tick().await;
            assert_eq!(
                (&report["events"], &report["stopped"]),
                (&json!(0), &json!("empty")),
                "{report}"
            );
            assert!(report["held_bytes"].as_u64() > Some(0), "{report}");
            lab.pair().failover().await;
        };
        let (committed, ()) = tokio::join!(waiting.batch_execute("insert into t values (2, 2)"), failover);
        assert!(committed.is_err(), "nobody was told that it is there");
        lab.sql("insert into t values (3, 3)").await;
        lab.drain().await;
        let events = lab.compare(&["t"]).await.of_table("public.t");
        let ids: Vec<&Value> = events.iter().map(|event| &event["after"]["id"]).collect();
        assert_eq!(ids, [1, 3]);
    }
}

async fn a_standby_that_is_required_has_to_be_seen() {
    let lab = Lab::plan(Plugin::Pgoutput)
        .on_pair(pair(17).await)
        .env("STANDBY_ACK", "required")
        .build()
        .await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    tick_fails(&lab, "StandbyUnseen", &[&lab.slot, "pg_monitor"]).await;
    lab.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    lab.drain().await;
    assert_eq!(lab.compare(&["t"]).await.changes().len(), 1);
    lab.pair().failover().await;
    tick_fails(&lab, "StandbyUnseen", &[&lab.slot, "no standby is connected"]).await;
}

async fn setup_makes_a_failover_slot_where_the_server_knows_them() {
    let lab = Lab::plan(Plugin::Pgoutput)
        .without_slot()
        .on_pair(pair(17).await)
        .build()
        .await;
    let (role, database) = (REPLUSER.0, &lab.database);
    lab.sql(&format!(
        "grant create on database {database} to {role}; create table t (id int primary key, n int);
         alter table t owner to {role}"
    ))
    .await;
    let report = lab.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(report["problems"], json!([]), "{report}");
    lab.wait_until_synced().await;
    lab.sql("insert into t values (1, 1)").await;
    lab.pair().failover().await;
    lab.drain().await;
    assert_eq!(lab.compare(&["t"]).await.changes().len(), 1);
}
