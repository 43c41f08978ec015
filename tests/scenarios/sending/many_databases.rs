//! Functions of many databases share SSM's limit of stores.
//!
//! The limit is about three stores a second.

use std::sync::Arc;
use std::time::Duration;

use scenarios::aws::fault_proxy::{Fault, RateLimit};
use scenarios::fixture::{Fixture, Plugin};
use tokio::task::JoinSet;

crate::scenarios![ten_drainers_share_three_stores_a_second];

/// Database with a backlog of several windows, on a slow stream.
async fn fixture_with_backlog(limit: Arc<RateLimit>) -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql("create table t (id int primary key, v text)").await;
    for transaction in 0..8 {
        let rows = "select i, repeat('x', 900) from generate_series(1, 500) i";
        let rows = rows.replace("select i", &format!("select {transaction} * 500 + i"));
        fixture.sql(&format!("insert into t {rows}")).await;
    }
    fixture.ssm_proxy.inject("PutParameter", Fault::Limit(limit));
    fixture
        .kinesis_proxy
        .inject("PutRecords", Fault::Delay(Duration::from_millis(500)));
    fixture
}

async fn ten_drainers_share_three_stores_a_second() {
    let limit = RateLimit::new(3);
    let fixtures: Vec<Fixture> = (0..10)
        .map(|_| fixture_with_backlog(Arc::clone(&limit)))
        .collect::<JoinSet<_>>()
        .join_all()
        .await;
    let drains = fixtures.into_iter().map(async |fixture: Fixture| {
        let answer = fixture.tick().await;
        assert_eq!(answer["stopped"], "empty", "{answer}");
        assert_eq!(fixture.consume().await.changes().len(), 4000);
    });
    drains.collect::<JoinSet<_>>().join_all().await;
    assert!(limit.refused() > 0, "nothing was throttled");
}
