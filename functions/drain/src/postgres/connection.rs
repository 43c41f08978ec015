//! Sessions with PostgreSQL: TLS, login, and the settings on which decoding depends.

mod notices;
mod tls;

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config as PgConfig, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sql_state::{cause, is_outage, is_transient};
use crate::base::causes::BoxError;
use crate::base::error_kind::ErrorKind;
use crate::config::{Auth, Config, Database, Password, SslMode};
use crate::ports::SlotError;

use notices::{Notices, SkippedPublication};
use tls::{HandshakeError, TrackedTls};

/// Longest wait for a TCP connection.
///
/// A security group that blocks the function sends no answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings that bound the lifetime of a statement, transaction or session.
///
/// The server then ends a session that outlives the invocation. The role or the database may have shorter
/// limits, which would break a peek whose stream is slow. `idle_session_timeout` (from PostgreSQL 14 on) does
/// not end a session inside a transaction, which holds locks. `transaction_timeout` exists from 17 on.
const LIFETIME_SETTINGS: [&str; 4] = [
    "statement_timeout",
    "transaction_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
];

/// Settings of every session, by name and value.
///
/// They determine the text that the plugins write, and how long a session outlives its client. Without
/// warnings, a skipped publication would not be noticed. A setting that the server's version does not have is
/// not set.
const SETTINGS: [(&str, &str); 17] = [
    // These two change the names of types, and values of types such as regclass. With this path, names are
    // printed as in a session with PostgreSQL's defaults. Settings of the role or the database then have no
    // effect.
    ("quote_all_identifiers", "off"),
    ("search_path", "public"),
    ("datestyle", "ISO, YMD"),
    ("timezone", "UTC"),
    ("intervalstyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    // Without it, the queries' literals with a backslash mean something else.
    ("standard_conforming_strings", "on"),
    // Warnings are counted. Notices are of no interest.
    ("client_min_messages", "warning"),
    ("lock_timeout", "10s"),
    // With thousands of tables, the catalog's queries take seconds to compile and milliseconds to run.
    ("jit", "off"),
    // When a sandbox dies, the server must release its slot and its lock within seconds.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "15s"),
    ("client_connection_check_interval", "2s"),
];

/// A session that can cancel its own statement.
pub(crate) struct Session {
    /// The client of the connection.
    pub client: Client,
    tls: MakeRustlsConnect,
    /// Whether the connection has no TLS.
    is_plain: bool,
    /// The last warning that pgoutput skipped a publication.
    pub(super) skipped_publication: SkippedPublication,
}

impl Session {
    /// Requests the cancel of this session's statement.
    ///
    /// Best effort: the statement may have ended by itself.
    pub(crate) async fn cancel(&self) {
        let token = self.client.cancel_token();
        let cancelled = match self.is_plain {
            true => token.cancel_query(tokio_postgres::NoTls).await,
            false => token.cancel_query(self.tls.clone()).await,
        };
        if let Err(error) = cancelled {
            tracing::debug!(error = %error, "the statement was not cancelled");
        }
    }

    /// Runs a short statement for a late cancel to hit.
    ///
    /// A cancel may arrive after its statement has ended. The server then cancels the session's next
    /// statement. That is this statement, if the cancel arrives within 50 ms.
    pub(crate) async fn outlast_cancel(&self) {
        let _ = self.client.simple_query("select pg_sleep(0.05)").await;
    }
}

/// A role and its password, or its IAM token.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Password,
}

/// Opens sessions for one invocation.
pub(crate) struct Connector {
    database: Database,
    config: PgConfig,
    tls: MakeRustlsConnect,
    /// The warnings in all sessions of this connector.
    pub notices: Notices,
    /// Time until the invocation ends. A session that is idle for longer belongs to a frozen sandbox.
    lifetime: Duration,
}

impl Connector {
    /// A connector with these credentials. Its sessions end five seconds after `lifetime`.
    ///
    /// # Errors
    /// The root certificates cannot be read.
    pub(crate) fn new(
        config: &Config,
        credentials: Credentials,
        lifetime: Duration,
    ) -> Result<Self, SlotError> {
        let database = config.database.clone();
        let tls = MakeRustlsConnect::new(tls::client_config(&database)?);
        let Credentials {
            user,
            password: Password(password),
        } = credentials;
        let mut settings = PgConfig::new();
        settings
            .host(&database.host)
            .port(database.port)
            .dbname(&database.name)
            .user(&user)
            .password(&password)
            .application_name(format!("spillway {}", config.slot))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .ssl_mode(match database.tls {
                SslMode::Disable => tokio_postgres::config::SslMode::Disable,
                _ => tokio_postgres::config::SslMode::Require,
            });
        let database = Database {
            user: Some(user),
            ..database
        };
        Ok(Connector {
            database,
            config: settings,
            tls,
            notices: Notices::default(),
            lifetime,
        })
    }

    /// Opens a session with the settings above.
    ///
    /// # Errors
    /// The server is not reachable, not trusted, or refuses the login: [`SlotError`] says which.
    pub(crate) async fn connect(&self) -> Result<Session, SlotError> {
        // The client's own limit covers only the TCP handshake. A server may also hang after it.
        tokio::time::timeout(CONNECT_TIMEOUT * 2, self.open())
            .await
            .unwrap_or_else(|_| {
                Err(SlotError::Unreachable {
                    host: self.database.host.clone(),
                    port: self.database.port,
                    source: "it opened no session within 20 s".into(),
                })
            })
    }

    async fn open(&self) -> Result<Session, SlotError> {
        let is_plain = self.database.tls == SslMode::Disable;
        let skipped = SkippedPublication::default();
        let tls = TrackedTls::new(self.tls.clone());
        let connected = match is_plain {
            true => self.client(tokio_postgres::NoTls, &skipped).await,
            false => self.client(tls.clone(), &skipped).await,
        };
        let client =
            connected.map_err(|error| self.connect_error(error, is_plain || tls.is_established()))?;
        self.apply_settings(&client)
            .await
            .map_err(|error| self.failed("setting up the session", error))?;
        Ok(Session {
            client,
            tls: self.tls.clone(),
            is_plain,
            skipped_publication: skipped,
        })
    }

    /// Connects, and spawns the task that serves the connection, on this thread.
    ///
    /// # Panics
    /// It is called outside a `LocalSet`.
    async fn client<T>(&self, tls: T, skipped: &SkippedPublication) -> Result<Client, tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = self.config.connect(tls).await?;
        tokio::task::spawn_local(serve_connection(
            connection,
            self.notices.clone(),
            skipped.clone(),
        ));
        Ok(client)
    }

    async fn apply_settings(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let lifetime = format!("{}ms", (self.lifetime + Duration::from_secs(5)).as_millis());
        let (mut names, mut values): (Vec<&str>, Vec<&str>) = SETTINGS.iter().copied().unzip();
        for name in LIFETIME_SETTINGS {
            names.push(name);
            values.push(&lifetime);
        }
        // The role may have a search path with other types and functions of these names.
        let set = "select pg_catalog.set_config(s.name, v.value, false)
             from rows from (pg_catalog.unnest($1::pg_catalog.text[]),
                             pg_catalog.unnest($2::pg_catalog.text[])) v(name, value)
             join pg_catalog.pg_settings s on pg_catalog.lower(s.name) operator(pg_catalog.=) v.name";
        client.query(set, &[&names, &values]).await.map(drop)
    }

    /// The host, for errors.
    pub(crate) fn host(&self) -> &str {
        &self.database.host
    }

    /// The role, for errors.
    pub(crate) fn user(&self) -> &str {
        self.database.user.as_deref().unwrap_or_default()
    }

    /// The error of a statement that failed. `doing` names the step.
    pub(crate) fn failed(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        SlotError::Failed {
            host: self.database.host.clone(),
            doing,
            kind: ErrorKind::transient_if(is_transient(&error)),
            source: cause(error),
        }
    }

    /// The error of a connection that was not opened.
    ///
    /// `login_began`: the connection has no TLS, or its TLS handshake succeeded, so the login had begun.
    fn connect_error(&self, error: tokio_postgres::Error, login_began: bool) -> SlotError {
        match error.code().cloned() {
            Some(state) => self.login_error(&state, Box::new(error)),
            None => self.handshake_error(error, login_began),
        }
    }

    /// The error of a connection that failed before PostgreSQL sent a SQLSTATE.
    ///
    /// The type of the cause distinguishes most errors. A refusal of TLS and a refusal of the login have the
    /// same type. `login_began` distinguishes these two: a server refuses TLS before the login
    /// (tokio-postgres, `connect_tls`).
    fn handshake_error(&self, error: tokio_postgres::Error, login_began: bool) -> SlotError {
        let host = self.database.host.clone();
        let cause = std::error::Error::source(&error);
        let is_broken = cause.is_none_or(|cause| {
            cause.is::<std::io::Error>() && !tls::is_tls_error(cause) || tls::is_broken_handshake(cause)
        });
        let is_tls = cause.is_some_and(|cause| cause.is::<HandshakeError>() || tls::is_tls_error(cause));
        let source = Box::new(error);
        if is_broken {
            let port = self.database.port;
            return SlotError::Unreachable { host, port, source };
        }
        if is_tls || !login_began {
            return SlotError::Tls { host, source };
        }
        SlotError::Authentication {
            user: self.user().to_owned(),
            hint: "that the server offers it a password method (SCRAM, MD5 or rds_iam)",
            source,
        }
    }

    /// The error of a login that PostgreSQL refused.
    fn login_error(&self, state: &SqlState, source: BoxError) -> SlotError {
        let host = self.database.host.clone();
        match *state {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                // The pg_hba.conf of a server that requires TLS has no entry for a connection without TLS.
                // The SQLSTATE of this refusal is also that of a role that may not log in.
                let lacks_tls = self.database.tls == SslMode::Disable
                    && *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
                let hint = match self.database.auth {
                    _ if lacks_tls => "PGSSLMODE: the server may require TLS, or the role may not log in",
                    Auth::Iam => {
                        "grant rds_iam to the role and rds-db:connect to the function; PGHOST must be the \
                         endpoint of RDS, not an alias"
                    }
                    Auth::Secret(_) => "that DB_SECRET holds the role's present password",
                    Auth::Password(_) => "PGPASSWORD",
                };
                SlotError::Authentication {
                    user: self.user().to_owned(),
                    hint,
                    source,
                }
            }
            SqlState::INVALID_CATALOG_NAME => SlotError::DatabaseMissing {
                database: self.database.name.clone(),
                source,
            },
            SqlState::CANNOT_CONNECT_NOW => SlotError::Starting { host, source },
            // A later tick can connect after a restart, or when a connection is free. A missing privilege
            // needs the operator.
            _ => SlotError::Failed {
                host,
                doing: "connecting",
                kind: ErrorKind::transient_if(is_outage(state)),
                source,
            },
        }
    }
}

/// Serves a connection until it ends, and counts its warnings.
async fn serve_connection<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notices: Notices,
    skipped: SkippedPublication,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            // The warning is recorded before the rows that follow it are passed on.
            Some(Ok(AsyncMessage::Notice(notice))) => {
                skipped.observe(&notice);
                notices.add(notice.message());
            }
            Some(Ok(_)) => {}
            // A caller that waits for an answer gets the error "connection closed", without the cause. So the
            // cause is logged here.
            Some(Err(error)) => {
                tracing::warn!(error = %error, "a connection to PostgreSQL broke");
                return;
            }
            None => return,
        }
    }
}
