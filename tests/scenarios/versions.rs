//! What depends on the server, on a server of each version, with each plugin that it has: what the log says of rows, how
//! slots move and get lost, what the catalogs tell.

use libtest_mimic::Trial;
use scenarios::fixture::{DEADLINE, Fixture, Plan, Plugin};
use scenarios::postgres::{Postgres, REPLUSER};
use scenarios::programs::VERSIONS;
use serde_json::json;

use crate::{
    actions, backfill, backfill_published, idle, key_changes, server_crash, startup, toast, trial, truncate,
    types,
};

/// The scenarios of this file, and those of others that are played on each version.
pub(crate) fn all() -> Vec<Trial> {
    VERSIONS.into_iter().flat_map(on).collect()
}

fn on(version: u32) -> Vec<Trial> {
    let name = |what: &str| format!("versions::{what}_on_{version}");
    let own = Some(version);
    let mut trials = vec![
        trial(&name("every_type_arrives"), move || {
            each(version, types::every_type)
        }),
        trial(&name("an_untouched_large_value_is_marked"), move || {
            each(version, toast::untouched)
        }),
        trial(&name("a_truncate_is_an_event"), move || {
            each(version, truncate::truncated)
        }),
        trial(&name("a_key_can_be_taken_again"), move || {
            each(version, key_changes::taken_again)
        }),
        trial(&name("an_idle_slot_follows_others"), move || {
            each(version, idle::follows_others)
        }),
        trial(
            &name("a_large_transaction_with_messages_arrives_whole"),
            move || each(version, large),
        ),
        trial(&name("a_table_is_backfilled_beside_a_writer"), move || {
            each(version, backfill::beside_a_writer)
        }),
        trial(&name("generated_columns_are_as_in_live_changes"), move || {
            each(version, backfill_published::generated)
        }),
        trial(&name("setup_creates_what_is_missing"), move || {
            actions::set_up(pgoutput(version))
        }),
        trial(&name("setup_asks_for_what_the_slot_can_be"), move || {
            failover_slot(version)
        }),
        trial(&name("status_tells_how_things_stand"), move || {
            actions::status(pgoutput(version))
        }),
        trial(&name("teardown_drops_what_setup_made"), move || {
            actions::torn_down(pgoutput(version))
        }),
        trial(&name("a_missing_publication_is_named"), move || {
            startup::publication_missing(pgoutput(version))
        }),
        trial(&name("a_slot_whose_log_was_removed_is_lost"), move || {
            startup::lost(own)
        }),
        trial(&name("a_slot_that_went_back_is_skipped_forward"), move || {
            server_crash::went_back(own)
        }),
    ];
    // Publications choose rows and columns from there on.
    if version >= 15 {
        let published = move || backfill_published::of_the_publication(pgoutput(version));
        trials.push(trial(&name("what_is_published_is_backfilled"), published));
    }
    trials
}

fn pgoutput(version: u32) -> Plan {
    Fixture::plan(Plugin::Pgoutput).version(version)
}

/// With each plugin that the version has here.
async fn each<F: Future<Output = ()> + Send + 'static>(version: u32, scenario: fn(Plan) -> F) {
    let wal2json = Postgres::shared_of(Some(version)).await.has_wal2json();
    let mut plugins = Plugin::ALL.to_vec();
    plugins.retain(|plugin| *plugin != Plugin::Wal2json || wal2json);
    Plugin::each_of(&plugins, |plugin| {
        scenario(Fixture::plan(plugin).version(version))
    })
    .await;
}

/// Larger than what the server keeps in memory while it decodes: it is spilled to disk, and read from there.
async fn large(plan: Plan) {
    let fixture = plan.build().await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    fixture
        .sql(&format!(
            "alter role {role} in database {database} set logical_decoding_work_mem = '64kB';
         create table t (id int primary key, what text)"
        ))
        .await;
    fixture
        .sql(
            "insert into t select i, repeat('x', 100) from generate_series(1, 10000) i;
         select pg_logical_emit_message(true, 'in', 'a'), pg_logical_emit_message(false, 'out', 'b');
         update t set what = 'y' where id % 10 = 0",
        )
        .await;
    let report = fixture.drain().await.remove(0);
    assert_eq!(report["transactions"], json!(1), "{report}");
    let spilled = format!(
        "select spill_txns > 0 from pg_stat_replication_slots where slot_name = '{}'",
        fixture.slot
    );
    // The server publishes its statistics after the session has used the slot, version 14 by another process.
    scenarios::wait::until("the spill is counted", DEADLINE, || async {
        fixture.value(&spilled).await.as_deref() == Some("t")
    })
    .await;
    let delivery = fixture.compare(&["t"]).await;
    let said: Vec<String> = delivery
        .changes()
        .iter()
        .map(|change| change.event().op)
        .collect();
    assert_eq!(said.len(), 11_002);
    // What is not part of the transaction comes before it.
    assert_eq!((said[0].as_str(), said[10_001].as_str()), ("m", "m"));
}

/// What a slot can be differs by version, and so do the columns that tell it.
async fn failover_slot(version: u32) {
    let fixture = pgoutput(version).without_slot().build().await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    fixture
        .sql(&format!("grant create on database {database} to {role}"))
        .await;
    fixture.invoke(json!({"action": "setup"})).await.answer();
    let sql = format!(
        "select coalesce(to_jsonb(s) ->> 'failover', 'unknown') from pg_replication_slots s where slot_name = '{}'",
        fixture.slot
    );
    let failover = if version >= 17 { "true" } else { "unknown" };
    assert_eq!(fixture.value(&sql).await.as_deref(), Some(failover));
}
