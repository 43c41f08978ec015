//! The connection to PostgreSQL is as safe as PGSSLMODE says: who is not trusted is refused, and told why.

use std::path::Path;

use scenarios::certificates::HOST;
use scenarios::lab::{Lab, Plugin};
use scenarios::postgres::{Postgres, Settings};

use crate::refusal::tick_fails;

crate::scenarios![
    each_mode_trusts_whom_it_should_and_nobody_else,
    a_server_without_tls_is_refused_unless_tls_is_disabled,
];

async fn configure(lab: &mut Lab, mode: &str, host: &str, authority: Option<&Path>) {
    lab.function.set("PGSSLMODE", mode).await;
    lab.function.set("PGHOST", host).await;
    match authority {
        Some(file) => {
            lab.function
                .set("PGSSLROOTCERT", &file.display().to_string())
                .await
        }
        None => lab.function.unset("PGSSLROOTCERT").await,
    }
}

async fn each_mode_trusts_whom_it_should_and_nobody_else() {
    let postgres = Postgres::start(Settings {
        tls: true,
        ..Settings::default()
    })
    .await;
    let mut lab = Lab::plan(Plugin::Pgoutput).on(postgres).build().await;
    lab.sql("create table t (id int primary key)").await;
    let files = lab.postgres.certificates().clone();
    let (right, wrong) = (Some(files.authority.as_path()), Some(files.stranger.as_path()));
    let trusted = [
        ("verify-full", HOST, right),
        ("verify-ca", HOST, right),
        ("verify-ca", "127.0.0.1", right),
        ("require", HOST, wrong),
        ("require", "127.0.0.1", None),
    ];
    for (id, (mode, host, authority)) in trusted.into_iter().enumerate() {
        configure(&mut lab, mode, host, authority).await;
        lab.sql(&format!("insert into t values ({id})")).await;
        lab.tick().await;
        let tls = lab.function.log();
        assert_eq!(
            lab.consume().await.changes().len(),
            id + 1,
            "{mode} to {host}: {tls:#?}"
        );
    }

    let refused = [
        ("verify-full", HOST, wrong),
        ("verify-full", "127.0.0.1", right),
        ("verify-ca", HOST, wrong),
        // Without PGSSLROOTCERT only Amazon's authorities are trusted.
        ("verify-full", HOST, None),
    ];
    for (mode, host, authority) in refused {
        configure(&mut lab, mode, host, authority).await;
        tick_fails(&lab, "PostgresTls", &[host, "PGSSLMODE", "PGSSLROOTCERT"]).await;
    }
    // What is not set is verified in full.
    lab.function.unset("PGSSLMODE").await;
    tick_fails(&lab, "PostgresTls", &[HOST]).await;
    // The server wants TLS of this role.
    configure(&mut lab, "disable", HOST, None).await;
    tick_fails(&lab, "PostgresAuthentication", &["encryption"]).await;
    for unusable in [Path::new("/not/there.pem"), &files.key] {
        configure(&mut lab, "verify-full", HOST, Some(unusable)).await;
        tick_fails(
            &lab,
            "PostgresTls",
            &["PGSSLROOTCERT", &unusable.display().to_string()],
        )
        .await;
    }
}

async fn a_server_without_tls_is_refused_unless_tls_is_disabled() {
    let mut lab = Lab::new(Plugin::Pgoutput).await;
    for mode in ["verify-full", "verify-ca", "require"] {
        lab.function.set("PGSSLMODE", mode).await;
        tick_fails(&lab, "PostgresTls", &["127.0.0.1", "PGSSLMODE"]).await;
    }
    lab.function.set("PGSSLMODE", "disable").await;
    lab.tick().await;
}
