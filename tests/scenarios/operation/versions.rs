//! Promises that depend on the version of the server.
//!
//! They have no other file. Other files register their scenarios on each version, too: filter for `_on_14` to
//! run all of version 14.

use scenarios::fixture::{DEADLINE, FixtureBuilder};
use scenarios::postgres::REPLUSER;
use serde_json::json;

use crate::support::versions::{pgoutput, with_each_plugin};

crate::version_scenarios![
    a_large_transaction_with_messages_arrives_complete,
    setup_creates_a_failover_slot_from_version_17,
];

async fn a_large_transaction_with_messages_arrives_complete(version: u32) {
    with_each_plugin(version, large).await;
}

/// Transaction larger than the memory for decoding.
///
/// The server spills it to disk.
async fn large(builder: FixtureBuilder) {
    let fixture = builder.build().await;
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
    // The server publishes its statistics after the session used the slot; version 14 does so in another
    // process.
    scenarios::wait::until("the spill is counted", DEADLINE, || async {
        fixture.value(&spilled).await.as_deref() == Some("t")
    })
    .await;
    let delivery = fixture.compare(&["t"]).await;
    let ops: Vec<String> = delivery
        .changes()
        .iter()
        .map(|change| change.event().op)
        .collect();
    assert_eq!(ops.len(), 11_002);
    // The non-transactional message precedes the transaction.
    assert_eq!((ops[0].as_str(), ops[10_001].as_str()), ("m", "m"));
}

/// Failover option of the slot that `setup` creates.
///
/// The options of a slot differ by version. The columns of the catalog that show them differ, too.
async fn setup_creates_a_failover_slot_from_version_17(version: u32) {
    let fixture = pgoutput(version).without_slot().build().await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    fixture
        .sql(&format!("grant create on database {database} to {role}"))
        .await;
    fixture.invoke(json!({"action": "setup"})).await.answer();
    let sql = format!(
        "select coalesce(to_jsonb(s) ->> 'failover', 'unknown')
         from pg_replication_slots s where slot_name = '{}'",
        fixture.slot
    );
    let failover = if version >= 17 { "true" } else { "unknown" };
    assert_eq!(fixture.value(&sql).await.as_deref(), Some(failover));
}
