//! What the environment says. All of it is read and checked before anything runs: a [`Config`] that exists is valid.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::encode::{
    Debezium, DebeziumModes, DecimalMode, Dms, Envelope, EnvelopeForm, Oversize, PartitionBy, TimeMode,
    Wal2json,
};
use crate::pattern::TablePattern;

/// The variables that Spillway reads, besides those of the AWS SDK and of Lambda itself. A test holds the README's table
/// and the template against this list.
pub const VARIABLES: [&str; 28] = [
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "DB_AUTH",
    "DB_SECRET",
    "SLOT_NAME",
    "PUBLICATIONS",
    "TABLES",
    "STREAM_NAME",
    "CHECKPOINT_PARAMETER",
    "ENVELOPE",
    "AGGREGATION",
    "AUTO_DISTRIBUTION",
    "PARTITION_BY",
    "OVERSIZE",
    "LINGER_SECONDS",
    "MARKERS",
    "STANDBY_ACK",
    "SOURCE_NAME",
    "DECIMAL_HANDLING_MODE",
    "TIME_PRECISION_MODE",
    "TOMBSTONES_ON_DELETE",
    "PROVIDE_TRANSACTION_METADATA",
    "LOG_LEVEL",
];

/// Everything that is configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the database.
    pub database: Database,
    /// The slot to drain.
    pub slot: String,
    /// Publications that pgoutput reads; other plugins need none.
    pub publications: Vec<String>,
    /// Tables to drain; empty means all that the plugin sends.
    pub tables: Vec<TablePattern>,
    /// The stream to fill.
    pub stream: String,
    /// Whether many events share a record, in the format of the Kinesis Producer Library.
    pub aggregate: bool,
    /// Whether to fill a stream that distributes records by itself, so that nothing keeps its order.
    pub accept_auto_distribution: bool,
    /// The SSM parameter that holds the checkpoint.
    pub checkpoint_parameter: String,
    /// How long to stay and poll once the slot is empty.
    pub linger: Duration,
    /// Whether markers are laid into the server's log.
    pub markers: bool,
    /// Whether a standby must have acknowledged what is delivered.
    pub standby_ack: StandbyAck,
    /// How events are written.
    pub envelope: Envelope,
    /// Filter for what is logged, `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// The function's memory, MiB, as Lambda says.
    pub memory_mib: u64,
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct Database {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role; with [`Auth::Secret`] the secret's is used where this is not set.
    pub user: Option<String>,
    /// Database.
    pub name: String,
    /// How to prove who we are.
    pub auth: Auth,
    /// How far the server must prove who it is.
    pub tls: SslMode,
    /// Certificates to trust instead of those of Amazon RDS, which are built in.
    pub root_certificates: Option<PathBuf>,
}

/// How to prove who we are.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token made from the function's own AWS credentials.
    Iam,
    /// A secret of Secrets Manager, by name or ARN.
    Secret(String),
    /// A fixed password.
    Password(Password),
}

/// A password, which is never printed.
#[derive(Clone)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Whether transactions that no standby has acknowledged yet are delivered. If the server is lost before one has, they never were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyAck {
    /// They are not, where the server lets us see that.
    Auto,
    /// They are.
    Off,
    /// They are not, and where that cannot be seen, nothing is.
    Required,
}

/// libpq's modes, without those that fall back to an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS, with whoever answers.
    Require,
    /// TLS, with a certificate of a trusted authority.
    VerifyCa,
    /// TLS, with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// A variable that is missing or does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set, or empty.
    #[error("{0} is not set: set it to {1}")]
    Missing(&'static str, &'static str),
    /// Set to something else.
    #[error("{variable}={value} is not valid: it must be {expected}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: String,
    },
}

impl Config {
    /// Reads the variables through `get`, which returns `None` for one that is not set. An empty variable counts as not set.
    ///
    /// # Errors
    /// Names the first variable that is missing or not valid, and says what it may be.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |variable: &str| get(variable).filter(|value| !value.is_empty());
        let need = |variable, meaning| get(variable).ok_or(ConfigError::Missing(variable, meaning));
        let host = need("PGHOST", "the cluster's writer endpoint")?;
        let port = match get("PGPORT") {
            None => 5432,
            Some(text) => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(invalid("PGPORT", text, "a port number from 1 to 65535")),
            },
        };
        let auth = auth(&get)?;
        let user = match &auth {
            Auth::Secret(_) => get("PGUSER"),
            _ => Some(need("PGUSER", "the role that reads the slot")?),
        };
        let tls = choice(
            &get,
            "PGSSLMODE",
            "verify-full",
            &[
                ("verify-full", SslMode::VerifyFull),
                ("verify-ca", SslMode::VerifyCa),
                ("require", SslMode::Require),
                ("disable", SslMode::Disable),
            ],
        )?;
        if matches!(auth, Auth::Iam) && tls == SslMode::Disable {
            return Err(invalid(
                "PGSSLMODE",
                "disable".into(),
                "verify-full, verify-ca or require: IAM tokens travel over TLS only",
            ));
        }
        let slot = name(
            "SLOT_NAME",
            need("SLOT_NAME", "the name of the logical replication slot")?,
            63,
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_',
            "1 to 63 lower-case letters, digits and underscores, as PostgreSQL demands",
        )?;
        let stream = name(
            "STREAM_NAME",
            need("STREAM_NAME", "the name of the Kinesis data stream")?,
            128,
            |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
            "1 to 128 letters, digits, underscores, hyphens and periods: the name, not the ARN",
        )?;
        let checkpoint_parameter = name(
            "CHECKPOINT_PARAMETER",
            get("CHECKPOINT_PARAMETER").unwrap_or_else(|| format!("/spillway/{slot}")),
            900,
            |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'),
            "letters, digits and _-./ as SSM demands",
        )?;
        let publications = list(&get("PUBLICATIONS").unwrap_or_else(|| "spillway".into()));
        if publications.is_empty() {
            return Err(ConfigError::Missing(
                "PUBLICATIONS",
                "one or more publications, separated by commas",
            ));
        }
        let tables = list(&get("TABLES").unwrap_or_default())
            .into_iter()
            .map(|text| {
                let expected = "patterns like public.orders, public.* or *.orders, separated by commas";
                text.parse().map_err(|_| invalid("TABLES", text, expected))
            })
            .collect::<Result<Vec<TablePattern>, _>>()?;
        let aggregate = choice(&get, "AGGREGATION", "none", &[("none", false), ("kpl", true)])?;
        let accept_auto_distribution = choice(
            &get,
            "AUTO_DISTRIBUTION",
            "refuse",
            &[("refuse", false), ("accept", true)],
        )?;
        let linger = match get("LINGER_SECONDS") {
            None => Duration::ZERO,
            Some(text) => match text.parse() {
                Ok(seconds) if seconds <= 900 => Duration::from_secs(seconds),
                _ => return Err(invalid("LINGER_SECONDS", text, "whole seconds from 0 to 900")),
            },
        };
        let database = need("PGDATABASE", "the slot's database")?;
        let envelope = envelope(&get, &slot, &database)?;
        Ok(Config {
            database: Database {
                host,
                port,
                user,
                name: database,
                auth,
                tls,
                root_certificates: get("PGSSLROOTCERT").map(PathBuf::from),
            },
            envelope,
            slot,
            publications,
            tables,
            stream,
            aggregate,
            accept_auto_distribution,
            checkpoint_parameter,
            linger,
            markers: choice(&get, "MARKERS", "on", &[("on", true), ("off", false)])?,
            standby_ack: choice(
                &get,
                "STANDBY_ACK",
                "auto",
                &[
                    ("auto", StandbyAck::Auto),
                    ("off", StandbyAck::Off),
                    ("required", StandbyAck::Required),
                ],
            )?,
            log_level: choice(
                &get,
                "LOG_LEVEL",
                "info",
                &[
                    ("error", "error"),
                    ("warn", "warn"),
                    ("info", "info"),
                    ("debug", "debug"),
                ],
            )?
            .to_owned(),
            memory_mib: get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
                .and_then(|text| text.parse().ok())
                .unwrap_or(256),
        })
    }

    /// Bytes that may wait for the stream's acknowledgement: an eighth of the memory. The rest is for copies in requests, the
    /// rows of one transaction whose end is not known yet, and the runtime.
    pub fn bytes_in_flight(&self) -> usize {
        usize::try_from(self.memory_mib.clamp(64, 1024) << 20).unwrap_or(usize::MAX) / 8
    }
}

/// How the role logs in. What is set decides, unless `DB_AUTH` does.
fn auth(get: &impl Fn(&str) -> Option<String>) -> Result<Auth, ConfigError> {
    let (password, secret) = (get("PGPASSWORD"), get("DB_SECRET"));
    match (get("DB_AUTH").as_deref(), password, secret) {
        (None, Some(password), None) => Ok(Auth::Password(Password(password))),
        (None, _, Some(secret)) => Ok(Auth::Secret(secret)),
        (None, None, None) | (Some("iam"), _, _) => Ok(Auth::Iam),
        (Some("password"), Some(password), _) => Ok(Auth::Password(Password(password))),
        (Some("password"), None, _) => Err(ConfigError::Missing(
            "PGPASSWORD",
            "the role's password, or choose DB_AUTH=iam or secret",
        )),
        (Some("secret"), _, Some(secret)) => Ok(Auth::Secret(secret)),
        (Some("secret"), _, None) => Err(ConfigError::Missing(
            "DB_SECRET",
            "the name or ARN of a Secrets Manager secret",
        )),
        (Some(other), _, _) => Err(invalid("DB_AUTH", other.to_owned(), "iam, secret or password")),
    }
}

/// A name as its service takes it: so many characters at most, each of them `plain`.
fn name(
    variable: &'static str,
    value: String,
    most: usize,
    plain: impl Fn(char) -> bool,
    expected: &str,
) -> Result<String, ConfigError> {
    match value.len() <= most && value.chars().all(plain) {
        true => Ok(value),
        false => Err(invalid(variable, value, expected)),
    }
}

/// How events are written. The variables that only Debezium has a meaning for are refused with another envelope, unless they say what
/// they say by themselves.
fn envelope(
    get: &impl Fn(&str) -> Option<String>,
    slot: &str,
    database: &str,
) -> Result<Envelope, ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Named {
        Debezium,
        Dms,
        Wal2json,
    }
    let named = choice(
        get,
        "ENVELOPE",
        "debezium",
        &[
            ("debezium", Named::Debezium),
            ("dms", Named::Dms),
            ("wal2json", Named::Wal2json),
        ],
    )?;
    let partition_by = choice(
        get,
        "PARTITION_BY",
        "key",
        &[
            ("key", PartitionBy::Key),
            ("table", PartitionBy::Table),
            ("transaction", PartitionBy::Transaction),
        ],
    )?;
    let oversize = choice(
        get,
        "OVERSIZE",
        "fail",
        &[("fail", Oversize::Fail), ("omit", Oversize::Omit)],
    )?;
    let decimal = choice(
        get,
        "DECIMAL_HANDLING_MODE",
        "string",
        &[
            ("string", DecimalMode::String),
            ("precise", DecimalMode::Precise),
            ("double", DecimalMode::Double),
        ],
    )?;
    let time = choice(
        get,
        "TIME_PRECISION_MODE",
        "isostring",
        &[
            ("isostring", TimeMode::IsoString),
            ("adaptive", TimeMode::Adaptive),
            ("microseconds", TimeMode::Microseconds),
        ],
    )?;
    let switch = |variable| choice(get, variable, "false", &[("false", false), ("true", true)]);
    let tombstones = switch("TOMBSTONES_ON_DELETE")?;
    let transaction_metadata = switch("PROVIDE_TRANSACTION_METADATA")?;
    let debeziums = [
        ("DECIMAL_HANDLING_MODE", decimal != DecimalMode::default()),
        ("TIME_PRECISION_MODE", time != TimeMode::default()),
        ("TOMBSTONES_ON_DELETE", tombstones),
        ("PROVIDE_TRANSACTION_METADATA", transaction_metadata),
    ];
    if named != Named::Debezium
        && let Some((variable, _)) = debeziums.into_iter().find(|(_, set)| *set)
    {
        let value = get(variable).unwrap_or_default();
        return Err(invalid(variable, value, "left out unless ENVELOPE is debezium"));
    }
    let form = match named {
        Named::Debezium => EnvelopeForm::Debezium(Debezium {
            name: get("SOURCE_NAME").unwrap_or_else(|| slot.to_owned()),
            database: database.to_owned(),
            modes: DebeziumModes { decimal, time },
            tombstones,
            transaction_metadata,
        }),
        Named::Dms => EnvelopeForm::Dms(Dms::default()),
        Named::Wal2json => EnvelopeForm::Wal2json(Wal2json),
    };
    Ok(Envelope {
        form,
        partition_by,
        oversize,
    })
}

fn invalid(variable: &'static str, value: String, expected: &str) -> ConfigError {
    ConfigError::Invalid {
        variable,
        value,
        expected: expected.to_owned(),
    }
}

fn choice<T: Copy>(
    get: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
    default: &str,
    choices: &[(&str, T)],
) -> Result<T, ConfigError> {
    let value = get(variable).unwrap_or_else(|| default.to_owned());
    let found = choices
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, choice)| *choice);
    found.ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        invalid(variable, value, &format!("one of {}", names.join(", ")))
    })
}

/// Names separated by commas; a backslash takes the next character as it is.
fn list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, items.last_mut()) {
            (',', _) => items.push(String::new()),
            ('\\', Some(item)) => item.extend([c].into_iter().chain(chars.next())),
            (c, Some(item)) => item.push(c),
            (_, None) => {}
        }
    }
    items
        .into_iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
