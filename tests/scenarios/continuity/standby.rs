//! A tick on a standby, which is promoted later.
//!
//! The tick fails with a transient error. After the promotion of the server, the next tick drains.

use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::postgres::PostgresSettings;
use scenarios::wait;

use crate::support::backlog;
use crate::support::expected_errors::assert_tick_fails;
use crate::support::positions::SlotPositions;

crate::scenarios![a_standby_is_not_drained_until_it_is_promoted];

async fn a_standby_is_not_drained_until_it_is_promoted() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(PostgresSettings::default())
        .build()
        .await;
    backlog::create(&fixture).await;
    backlog::write(&fixture, 1, 100, 20).await;
    fixture.drain().await;
    backlog::write(&fixture, 2, 100, 20).await;
    fixture.postgres.crash().await;
    fixture.postgres.restart_as_standby().await;
    let positions = SlotPositions::read(&fixture).await;
    for _ in 0..2 {
        assert_tick_fails(&fixture, "NotWriter", &["127.0.0.1", "writer"]).await;
    }
    let transient = |line: &String| {
        line.contains(r#""error_type":"NotWriter""#) && line.contains(r#""kind":"Transient""#)
    };
    assert!(
        fixture.function.log().iter().any(transient),
        "{:#?}",
        fixture.function.log()
    );
    assert_eq!(SlotPositions::read(&fixture).await, positions);

    fixture.value("select pg_promote()").await;
    wait::until("the standby is promoted", DEADLINE, || async {
        fixture.value("select pg_is_in_recovery()").await.as_deref() == Some("f")
    })
    .await;
    backlog::write(&fixture, 3, 100, 20).await;
    fixture.drain().await;
    SlotPositions::read(&fixture).await;
    backlog::compare(&fixture).await;
}
