//! TLS of the connection to PostgreSQL under each PGSSLMODE.
//!
//! An untrusted server is refused with an error that has the reason.

use std::path::Path;

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::PostgresSettings;
use scenarios::postgres::certificates::{HOST, RDS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::expected_errors::assert_tick_fails;

crate::scenarios![
    each_mode_trusts_only_the_servers_that_it_allows,
    certificates_with_each_key_of_rds_are_trusted,
    a_server_without_tls_is_refused_unless_tls_is_disabled,
    a_handshake_that_breaks_is_no_problem_of_a_certificate,
];

async fn configure(fixture: &mut Fixture, mode: &str, host: &str, authority: Option<&Path>) {
    fixture.function.set("PGSSLMODE", mode).await;
    fixture.function.set("PGHOST", host).await;
    match authority {
        Some(file) => {
            fixture
                .function
                .set("PGSSLROOTCERT", &file.display().to_string())
                .await
        }
        None => fixture.function.unset("PGSSLROOTCERT").await,
    }
}

/// A fixture with the table `t`, on a server with TLS.
async fn fixture_with_tls() -> Fixture {
    let settings = PostgresSettings {
        tls: true,
        ..PostgresSettings::default()
    };
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .on_new_server(settings)
        .build()
        .await;
    fixture.sql("create table t (id int primary key)").await;
    fixture
}

async fn each_mode_trusts_only_the_servers_that_it_allows() {
    let mut fixture = fixture_with_tls().await;
    let files = fixture.postgres.certificates().clone();
    let (right, wrong) = (Some(files.authority.as_path()), Some(files.stranger.as_path()));
    let trusted = [
        ("verify-full", HOST, right),
        ("verify-ca", HOST, right),
        ("verify-ca", "127.0.0.1", right),
        ("require", HOST, wrong),
        ("require", "127.0.0.1", None),
    ];
    for (id, (mode, host, authority)) in trusted.into_iter().enumerate() {
        configure(&mut fixture, mode, host, authority).await;
        fixture.sql(&format!("insert into t values ({id})")).await;
        fixture.tick().await;
        let tls = fixture.function.log();
        assert_eq!(
            fixture.consume().await.changes().len(),
            id + 1,
            "{mode} to {host}: {tls:#?}"
        );
    }

    let refused = [
        ("verify-full", HOST, wrong),
        ("verify-full", "127.0.0.1", right),
        ("verify-ca", HOST, wrong),
        // Without PGSSLROOTCERT, only the authorities of Amazon are trusted.
        ("verify-full", HOST, None),
    ];
    for (mode, host, authority) in refused {
        configure(&mut fixture, mode, host, authority).await;
        assert_tick_fails(&fixture, "PostgresTls", &[host, "PGSSLMODE", "PGSSLROOTCERT"]).await;
    }
    // The default is full verification.
    fixture.function.unset("PGSSLMODE").await;
    assert_tick_fails(&fixture, "PostgresTls", &[HOST]).await;
    // The server requires TLS from this role.
    configure(&mut fixture, "disable", HOST, None).await;
    assert_tick_fails(&fixture, "PostgresAuthentication", &["encryption"]).await;
    for unusable in [Path::new("/not/there.pem"), &files.key] {
        configure(&mut fixture, "verify-full", HOST, Some(unusable)).await;
        assert_tick_fails(
            &fixture,
            "PostgresTls",
            &["PGSSLROOTCERT", &unusable.display().to_string()],
        )
        .await;
    }
}

/// Full verification with each kind of key that RDS offers.
async fn certificates_with_each_key_of_rds_are_trusted() {
    let mut fixture = fixture_with_tls().await;
    let files = fixture.postgres.certificates().clone();
    for (id, keys) in RDS.into_iter().enumerate() {
        fixture.postgres.crash().await;
        files.renew(keys);
        fixture.postgres.restart().await;
        configure(&mut fixture, "verify-full", HOST, Some(&files.authority)).await;
        fixture.sql(&format!("insert into t values ({id})")).await;
        fixture.tick().await;
        assert_eq!(fixture.consume().await.changes().len(), id + 1, "{keys:?}");
    }
}

async fn a_server_without_tls_is_refused_unless_tls_is_disabled() {
    let mut fixture = Fixture::new(Plugin::Pgoutput).await;
    for mode in ["verify-full", "verify-ca", "require"] {
        fixture.function.set("PGSSLMODE", mode).await;
        assert_tick_fails(&fixture, "PostgresTls", &["127.0.0.1", "PGSSLMODE"]).await;
    }
    fixture.function.set("PGSSLMODE", "disable").await;
    fixture.tick().await;
}

/// As in a restart of the server: it agrees to TLS, and then its process ends.
async fn a_handshake_that_breaks_is_no_problem_of_a_certificate() {
    let mut fixture = fixture_with_tls().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The request for TLS has eight bytes.
            let mut request = [0; 8];
            let _ = stream.read_exact(&mut request).await;
            let _ = stream.write_all(b"S").await;
            let _ = stream.read(&mut request).await;
        }
    });
    let own = fixture.postgres.port().to_string();
    configure(&mut fixture, "require", "127.0.0.1", None).await;
    fixture.function.set("PGPORT", &port).await;
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PostgresUnreachable", "{message}");
    fixture.function.set("PGPORT", &own).await;
    fixture.tick().await;
    server.abort();
}
