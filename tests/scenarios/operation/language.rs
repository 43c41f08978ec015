//! Errors of a server whose messages are not in English: each has the same name.
//!
//! The server decides the language of its messages, and an ordinary role cannot change it.

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use serde_json::json;

use crate::support::expected_errors::{
    REPLICA_WAL_LEVEL, assert_invocation_fails, assert_tick_fails, assert_wal_level_is_named,
};

crate::scenarios![
    a_german_server_has_the_same_errors,
    a_german_server_names_the_wal_level,
    a_german_server_that_requires_tls_is_named,
    a_german_server_with_an_older_wal2json_is_drained,
];

/// A server that writes its messages in German.
async fn german(settings: PostgresSettings) -> Postgres {
    let server = Postgres::start(PostgresSettings {
        language: Some("de"),
        ..settings
    })
    .await;
    let admin = server.admin("postgres").await;
    let error = admin.batch_execute("select from not_there").await.unwrap_err();
    let message = error.as_db_error().map_or("", |error| error.message());
    assert!(
        message.contains("existiert nicht"),
        "the server speaks: {message}"
    );
    server
}

async fn a_german_server_has_the_same_errors() {
    let server = german(PostgresSettings::default()).await;
    let mut fixture = Fixture::builder(Plugin::Pgoutput)
        .without_slot()
        .on_server(server)
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    let setup = json!({"action": "setup", "plugin": "not_there"});
    assert_invocation_fails(&fixture, setup, "EventInvalid", &["wal2json"]).await;
    fixture.create_slot().await;
    fixture.sql("insert into t values (1)").await;
    assert_tick_fails(&fixture, "PublicationMissing", &["spillway", "setup"]).await;
    fixture.sql("create publication spillway for table t").await;
    let parts = ["pg_replication_slot_advance", "PUBLICATIONS", "existiert nicht"];
    assert_tick_fails(&fixture, "PublicationMissing", &parts).await;

    fixture
        .sql("create role without_grant login password 'of the role'")
        .await;
    fixture.function.set("PGUSER", "without_grant").await;
    fixture.function.set("PGPASSWORD", "of the role").await;
    let parts = ["without_grant", "rds_replication"];
    assert_tick_fails(&fixture, "RoleLacksReplication", &parts).await;
    let setup = json!({"action": "setup"});
    assert_invocation_fails(&fixture, setup, "RoleLacksReplication", &parts).await;
    fixture.function.set("PGPASSWORD", "another").await;
    assert_tick_fails(
        &fixture,
        "PostgresAuthentication",
        &["without_grant", "PGPASSWORD"],
    )
    .await;
    fixture.function.set("PGUSER", REPLUSER.0).await;
    fixture.function.set("PGPASSWORD", REPLUSER.1).await;
    fixture.function.set("PGDATABASE", "not there").await;
    assert_tick_fails(&fixture, "DatabaseMissing", &["not there", "PGDATABASE"]).await;
    fixture
        .function
        .set("PGDATABASE", &fixture.database.clone())
        .await;
    fixture.function.set("PGSSLMODE", "require").await;
    assert_tick_fails(&fixture, "PostgresTls", &["PGSSLMODE"]).await;
}

async fn a_german_server_names_the_wal_level() {
    let settings = PostgresSettings::with_conf(REPLICA_WAL_LEVEL);
    assert_wal_level_is_named(german(settings).await).await;
}

async fn a_german_server_that_requires_tls_is_named() {
    let settings = PostgresSettings {
        tls: true,
        ..PostgresSettings::default()
    };
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_server(german(settings).await)
        .build()
        .await;
    // The fixture's function has no TLS.
    assert_tick_fails(&fixture, "PostgresAuthentication", &["PGSSLMODE", "TLS"]).await;
}

/// Drain of a German server with an older wal2json.
///
/// This wal2json does not know an option that newer ones have. It says so in the language of its server.
async fn a_german_server_with_an_older_wal2json_is_drained() {
    let fixture = Fixture::builder(Plugin::Wal2json)
        .on_server(german(PostgresSettings::default()).await)
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
}
