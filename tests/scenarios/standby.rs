//! The endpoint leads to a server that is not, or not yet, the writer: the tick fails with an error that passes by itself,
//! and goes on when the server has been promoted.

use scenarios::lab::{DEADLINE, Lab, Plugin};
use scenarios::postgres::{Postgres, Settings};
use scenarios::wait;

use crate::backlog;
use crate::marks::Marks;
use crate::refusal::tick_fails;

crate::scenarios![a_standby_is_not_drained_until_it_is_promoted];

async fn a_standby_is_not_drained_until_it_is_promoted() {
    let lab = Lab::plan(Plugin::Pgoutput)
        .on(Postgres::start(Settings::default()).await)
        .build()
        .await;
    backlog::create(&lab).await;
    backlog::write(&lab, 1, 100, 20).await;
    lab.drain().await;
    backlog::write(&lab, 2, 100, 20).await;
    lab.postgres.crash().await;
    lab.postgres.restart_as_standby().await;
    let marks = Marks::of(&lab).await;
    for _ in 0..2 {
        tick_fails(&lab, "NotWriter", &["127.0.0.1", "writer"]).await;
    }
    let transient = |line: &String| {
        line.contains(r#""error_type":"NotWriter""#) && line.contains(r#""kind":"Transient""#)
    };
    assert!(
        lab.function.log().iter().any(transient),
        "{:#?}",
        lab.function.log()
    );
    assert_eq!(Marks::of(&lab).await, marks);

    lab.value("select pg_promote()").await;
    wait::until("the standby is promoted", DEADLINE, || async {
        lab.value("select pg_is_in_recovery()").await.as_deref() == Some("f")
    })
    .await;
    backlog::write(&lab, 3, 100, 20).await;
    lab.drain().await;
    Marks::of(&lab).await;
    let delivery = lab.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(&lab).await,
        "every event, and no other"
    );
}
