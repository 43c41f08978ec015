//! A server that comes back from an older copy of its disk, with the same name and the same timeline, as a restored snapshot
//! does: what the checkpoint says of it is no longer true, whether or not its log has grown beyond the checkpoint since.

use scenarios::lab::{Lab, Plugin};
use scenarios::postgres::{Postgres, Settings};

use crate::backlog;
use crate::refusal::tick_fails;
use crate::startup::stored;

crate::scenarios![
    a_server_set_back_behind_the_checkpoint_has_diverged,
    a_server_set_back_that_has_overtaken_the_checkpoint_lacks_the_marker,
    a_server_set_back_far_that_has_overtaken_the_checkpoint_lacks_the_marker,
];

/// More log than a window holds, in rows of one megabyte.
const FAR: u32 = 150;

/// A slot that was drained, and whose server then went back to what it was before its last changes. Returns the
/// checkpoint. Beside them there were so many megabytes of others.
async fn set_back(others: u32) -> (Lab, String) {
    let lab = Lab::plan(Plugin::Pgoutput)
        .on(Postgres::start(Settings::default()).await)
        .without_slot()
        .build()
        .await;
    backlog::create(&lab).await;
    lab.sql("create table others (what text); alter table others alter what set storage external")
        .await;
    lab.sql("create publication spillway for table t").await;
    lab.create_slot().await;
    backlog::write(&lab, 1, 100, 20).await;
    lab.drain().await;
    lab.postgres.crash().await;
    lab.postgres.copy_aside();
    lab.postgres.restart().await;
    backlog::write(&lab, 2, 2_000, 20).await;
    write_others(&lab, others).await;
    lab.drain().await;
    let checkpoint = stored(&lab).await;
    lab.postgres.crash().await;
    lab.postgres.set_back();
    lab.postgres.restart().await;
    (lab, checkpoint)
}

async fn write_others(lab: &Lab, megabytes: u32) {
    lab.sql(&format!(
        "insert into others select repeat('x', 1000000) from generate_series(1, {megabytes})"
    ))
    .await;
}

async fn a_server_set_back_behind_the_checkpoint_has_diverged() {
    let (lab, checkpoint) = set_back(0).await;
    let confirmed = lab.confirmed_flush().await;
    for _ in 0..2 {
        tick_fails(
            &lab,
            "Divergence",
            &[&lab.slot, &checkpoint, &confirmed, "accept the gap"],
        )
        .await;
    }
    assert_eq!(stored(&lab).await, checkpoint);
}

async fn a_server_set_back_that_has_overtaken_the_checkpoint_lacks_the_marker() {
    overtaken(0).await;
}

async fn a_server_set_back_far_that_has_overtaken_the_checkpoint_lacks_the_marker() {
    overtaken(FAR).await;
}

/// By positions alone the new changes would be those that were sent.
async fn overtaken(others: u32) {
    let (lab, checkpoint) = set_back(others).await;
    backlog::write(&lab, 3, 4_000, 20).await;
    write_others(&lab, others).await;
    let beyond = format!("select pg_current_wal_flush_lsn() > '{checkpoint}'");
    assert_eq!(
        lab.value(&beyond).await.as_deref(),
        Some("t"),
        "its log did not overtake the checkpoint"
    );
    for _ in 0..2 {
        tick_fails(&lab, "MarkerMissing", &[&lab.slot, &checkpoint]).await;
    }
    assert_eq!(stored(&lab).await, checkpoint);
}
