//! Sessions with PostgreSQL: TLS, login, and the settings on which decoding depends.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config as PgConfig, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sql_state::is_transient;
use super::tls;
use crate::config::{Auth, Config, Database, Password, SslMode};
use crate::ports::{BoxError, SlotError};

/// Longest wait for a TCP connection.
///
/// A security group that blocks the function sends no answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every session, by name and value.
///
/// They change the text that the plugins write, or the time that a session survives its client. A setting
/// that the server's version does not have is left out.
const SETTINGS: [(&str, &str); 15] = [
    // These two change the names of types, and values of types such as regclass. With this path, a name is
    // the same as in a session with PostgreSQL's defaults, whatever is set for the role or the database.
    ("quote_all_identifiers", "off"),
    ("search_path", "public"),
    // The text of a money.
    ("lc_monetary", "C"),
    ("datestyle", "ISO, YMD"),
    ("timezone", "UTC"),
    ("intervalstyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    // Warnings are counted. Notices are of no interest.
    ("client_min_messages", "warning"),
    ("lock_timeout", "10s"),
    // When a sandbox dies, the server must release its slot and its lock within seconds.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "15s"),
    ("client_connection_check_interval", "2s"),
];

/// Most distinct warnings that are logged. A server that warns about every row must not fill the log.
const MOST_LOGGED: usize = 20;

/// The server's warnings in all sessions of an invocation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Notices(Arc<Mutex<NoticeLog>>);

#[derive(Debug, Default)]
struct NoticeLog {
    count: u64,
    /// The distinct warnings that were logged.
    logged: Vec<String>,
}

impl Notices {
    fn add(&self, text: &str) {
        let Ok(mut log) = self.0.lock() else { return };
        log.count += 1;
        if log.logged.len() < MOST_LOGGED && !log.logged.iter().any(|logged| logged == text) {
            log.logged.push(text.to_owned());
            tracing::warn!(notice = text, "PostgreSQL sent a warning");
        }
    }

    /// The number of warnings.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().map_or(0, |log| log.count)
    }
}

/// A session, which can cancel its own query.
pub(crate) struct Session {
    /// The client of the connection.
    pub client: Client,
    tls: MakeRustlsConnect,
    /// Whether the connection has no TLS.
    is_plain: bool,
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
    /// A cancel may arrive after the end of the statement that it was meant for. It then hits the next
    /// statement: this one, if it arrives within 50 ms.
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
        let client = match is_plain {
            true => self.client(tokio_postgres::NoTls).await?,
            false => self.client(self.tls.clone()).await?,
        };
        self.apply_settings(&client)
            .await
            .map_err(|error| self.failed("setting up the session", error))?;
        Ok(Session {
            client,
            tls: self.tls.clone(),
            is_plain,
        })
    }

    /// Connects, and spawns the task that serves the connection.
    async fn client<T>(&self, tls: T) -> Result<Client, SlotError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let connected = self.config.connect(tls).await;
        let (client, connection) = connected.map_err(|error| self.connect_error(error))?;
        tokio::spawn(serve_connection(connection, self.notices.clone()));
        Ok(client)
    }

    async fn apply_settings(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let lifetime = format!("{}ms", (self.lifetime + Duration::from_secs(5)).as_millis());
        let (mut names, mut values): (Vec<&str>, Vec<&str>) = SETTINGS.iter().copied().unzip();
        // `idle_session_timeout` exists from PostgreSQL 14 on.
        for name in ["idle_session_timeout", "statement_timeout"] {
            names.push(name);
            values.push(&lifetime);
        }
        client
            .query(
                "select set_config(s.name, v.value, false)
                 from unnest($1::text[], $2::text[]) v(name, value)
                 join pg_settings s on lower(s.name) = v.name",
                &[&names, &values],
            )
            .await
            .map(drop)
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
        let transient = is_transient(&error);
        SlotError::Failed {
            host: self.database.host.clone(),
            doing,
            transient,
            source: Box::new(error),
        }
    }

    /// The error of a connection that was not opened.
    fn connect_error(&self, error: tokio_postgres::Error) -> SlotError {
        match error.code().cloned() {
            Some(state) => self.login_error(&state, Box::new(error)),
            None => self.handshake_error(error),
        }
    }

    /// The error of a connection that failed before PostgreSQL sent a SQLSTATE.
    ///
    /// tokio-postgres has no types for these errors, so their texts decide. A failed TLS handshake contains
    /// the error of rustls, or the server's refusal of TLS.
    fn handshake_error(&self, error: tokio_postgres::Error) -> SlotError {
        let host = self.database.host.clone();
        let text = error.to_string();
        let cause = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        let source = Box::new(error);
        if text.contains("TLS") || cause.contains("certificate") {
            return SlotError::Tls { host, source };
        }
        if text.contains("authentication") {
            return SlotError::Authentication {
                user: self.user().to_owned(),
                hint: "that the server offers it a password method (SCRAM, MD5 or rds_iam)",
                source,
            };
        }
        SlotError::Unreachable {
            host,
            port: self.database.port,
            source,
        }
    }

    /// The error of a login that PostgreSQL refused.
    fn login_error(&self, state: &SqlState, source: BoxError) -> SlotError {
        let host = self.database.host.clone();
        match *state {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                let hint = match self.database.auth {
                    _ if source.to_string().contains("no encryption") => "PGSSLMODE: the server requires TLS",
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
            // The server shuts down, or has too many connections. Both pass.
            _ => SlotError::Failed {
                host,
                doing: "connecting",
                transient: true,
                source,
            },
        }
    }
}

/// Serves a connection until it ends, and counts its warnings.
async fn serve_connection<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Notices)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => notices.add(notice.message()),
            Some(Ok(_)) => {}
            // A caller that waits for an answer gets the error "connection closed", without the cause. So the
            // log has it.
            Some(Err(error)) => {
                tracing::warn!(error = %error, "a connection to PostgreSQL broke");
                return;
            }
            None => return,
        }
    }
}
