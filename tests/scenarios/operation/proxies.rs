//! Requests to AWS use the proxy that the environment names.

use scenarios::fixture::{Fixture, Plugin};

use crate::support::expected_errors::assert_tick_fails;

crate::scenarios![the_proxy_of_the_environment_is_used];

/// A proxy that nobody runs: requests fail that use it.
async fn the_proxy_of_the_environment_is_used() {
    let mut fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql("create table t (id int primary key)").await;
    fixture.tick().await;
    fixture.sql("insert into t values (1)").await;
    let without_listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let proxy = format!("http://{}", without_listener.unwrap());
    fixture.function.set("HTTP_PROXY", &proxy).await;
    assert_tick_fails(&fixture, "CheckpointUnavailable", &[]).await;
    fixture.function.set("NO_PROXY", "127.0.0.1").await;
    fixture.tick().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
}
