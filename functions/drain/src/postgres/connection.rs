//! Connections to PostgreSQL: TLS, the ways to log in, and the session settings that what we read depends on.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config as PgConfig};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sql_error::is_transient;
use super::tls;
use crate::config::{Auth, Config, Database, Password, SslMode};
use crate::ports::{BoxError, SlotError};

/// How long to wait for a connection. A security group that does not let us in answers nothing at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings that change what the plugins write, or how long a session outlives its client. Those that a server's version
/// does not know are left out.
const SETTINGS: [(&str, &str); 12] = [
    ("datestyle", "ISO, YMD"),
    ("timezone", "UTC"),
    ("intervalstyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    // Warnings are counted; notices are chatter.
    ("client_min_messages", "warning"),
    ("lock_timeout", "10s"),
    // A sandbox that died must let the slot and the lock go within seconds.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "15s"),
    ("client_connection_check_interval", "2s"),
];

/// Warnings of all sessions of an invocation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Notices(Arc<Mutex<(u64, Vec<String>)>>);

/// Distinct warnings that are logged; a server that warns of every row must not fill the log.
const MOST_LOGGED: usize = 20;

impl Notices {
    fn add(&self, text: &str) {
        let Ok(mut inner) = self.0.lock() else { return };
        inner.0 += 1;
        if inner.1.len() < MOST_LOGGED && !inner.1.iter().any(|seen| seen == text) {
            inner.1.push(text.to_owned());
            tracing::warn!(notice = text, "the server warns");
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().map_or(0, |inner| inner.0)
    }
}

/// A session, and what is needed to cancel its query.
pub(crate) struct Session {
    /// The connection.
    pub client: Client,
    tls: MakeRustlsConnect,
    plain: bool,
}

impl Session {
    /// Asks the server to stop what this session is doing. Best effort: it may have stopped by itself.
    pub(crate) async fn cancel(&self) {
        let token = self.client.cancel_token();
        let cancelled = match self.plain {
            true => token.cancel_query(tokio_postgres::NoTls).await,
            false => token.cancel_query(self.tls.clone()).await,
        };
        if let Err(error) = cancelled {
            tracing::debug!(error = %error, "the query was not cancelled");
        }
    }

    /// A cancel may come when what it was meant for is over, and takes what is asked next: this, if it comes soon.
    pub(crate) async fn outlast_cancel(&self) {
        let _ = self.client.simple_query("select pg_sleep(0.05)").await;
    }
}

/// The role and its password, or the token that serves as one.
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
    /// What the sessions of this connector warned of.
    pub notices: Notices,
    /// When the invocation ends: an idle session that is still there some time after it belongs to a frozen sandbox.
    lifetime: Duration,
}

impl Connector {
    /// Prepares to connect with these credentials. Sessions end a few seconds after `lifetime`.
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
        let mut pg = PgConfig::new();
        pg.host(&database.host)
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
            config: pg,
            tls,
            notices: Notices::default(),
            lifetime,
        })
    }

    /// Opens a session with the settings pinned.
    ///
    /// # Errors
    /// See [`SlotError`]: not reached, not trusted, not let in.
    pub(crate) async fn connect(&self) -> Result<Session, SlotError> {
        // The client's own limit is for the TCP handshake only; a server that hangs can hang later.
        tokio::time::timeout(CONNECT_TIMEOUT * 2, self.open())
            .await
            .unwrap_or_else(|_| {
                let (host, port) = (self.database.host.clone(), self.database.port);
                Err(SlotError::Unreachable {
                    host,
                    port,
                    source: "it did not let us in within 20 s".into(),
                })
            })
    }

    async fn open(&self) -> Result<Session, SlotError> {
        let plain = self.database.tls == SslMode::Disable;
        let notices = self.notices.clone();
        let client = if plain {
            let (client, connection) = self
                .config
                .connect(tokio_postgres::NoTls)
                .await
                .map_err(|error| self.refused(error))?;
            tokio::spawn(drive(connection, notices));
            client
        } else {
            let (client, connection) = self
                .config
                .connect(self.tls.clone())
                .await
                .map_err(|error| self.refused(error))?;
            tokio::spawn(drive(connection, notices));
            client
        };
        let lifetime = format!("{}ms", (self.lifetime + Duration::from_secs(5)).as_millis());
        let (mut names, mut values): (Vec<&str>, Vec<&str>) = SETTINGS.iter().copied().unzip();
        // From PostgreSQL 14.
        names.push("idle_session_timeout");
        values.push(&lifetime);
        names.push("statement_timeout");
        values.push(&lifetime);
        client
            .query(
                "select set_config(s.name, v.value, false)
                 from unnest($1::text[], $2::text[]) v(name, value) join pg_settings s on lower(s.name) = v.name",
                &[&names, &values],
            )
            .await
            .map_err(|error| self.failed("setting up the session", error))?;
        Ok(Session {
            client,
            tls: self.tls.clone(),
            plain,
        })
    }

    /// The host, for errors.
    pub(crate) fn host(&self) -> &str {
        &self.database.host
    }

    /// The role, for errors.
    pub(crate) fn user(&self) -> &str {
        self.database.user.as_deref().unwrap_or_default()
    }

    /// A query that failed.
    pub(crate) fn failed(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        let transient = is_transient(&error);
        SlotError::Failed {
            host: self.database.host.clone(),
            doing,
            transient,
            source: Box::new(error),
        }
    }

    fn refused(&self, error: tokio_postgres::Error) -> SlotError {
        let host = self.database.host.clone();
        let Some(state) = error.code().cloned() else {
            let text = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            // tokio-postgres does not tell them apart by type: a failed handshake carries rustls' error, or the server's "no".
            let outer = error.to_string();
            if outer.contains("TLS") || text.contains("certificate") {
                return SlotError::Tls {
                    host,
                    source: Box::new(error),
                };
            }
            if outer.contains("authentication") {
                let hint = "that the server offers it a password method (SCRAM, MD5 or rds_iam)";
                return SlotError::Authentication {
                    user: self.user().to_owned(),
                    hint,
                    source: Box::new(error),
                };
            }
            return SlotError::Unreachable {
                host,
                port: self.database.port,
                source: Box::new(error),
            };
        };
        let source: BoxError = Box::new(error);
        match state {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                let hint = match self.database.auth {
                    _ if source.to_string().contains("no encryption") => "PGSSLMODE: the server wants TLS",
                    Auth::Iam => "grant rds_iam to the role and rds-db:connect to the function",
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
            // Shutting down, too many connections: it is there, and will be again.
            _ => SlotError::Failed {
                host,
                doing: "connecting",
                transient: true,
                source,
            },
        }
    }
}

async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Notices)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => notices.add(notice.message()),
            Some(Ok(_)) => {}
            // Whoever waits for an answer on this connection is told that it is closed, but not why.
            Some(Err(error)) => {
                tracing::warn!(error = %error, "a connection to PostgreSQL broke");
                return;
            }
            None => return,
        }
    }
}
