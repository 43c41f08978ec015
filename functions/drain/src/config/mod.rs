//! Configuration, read from environment variables.
//!
//! All variables are read and checked before anything runs, so every [`Config`] is valid.

mod columns;
mod database;
mod envelope;
mod stream;
mod variables;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use self::variables::{Variables, invalid};
use crate::base::error_kind::ErrorKind;
use crate::encode::Envelope;
use crate::rules::column_rules::{ColumnRule, Salt};
use crate::rules::pattern::{TableColumns, TablePattern};
use crate::rules::skipped_operations::SkippedOperations;
use crate::rules::stream_pattern::StreamPattern;

/// The variables that Spillway reads.
///
/// Variables of the AWS SDK and of Lambda itself are not in the list. A test compares the list with the
/// documentation and the template.
pub const VARIABLES: [&str; 42] = [
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
    "COLUMN_RULES",
    "COLUMN_SALT",
    "COLUMN_SALT_SECRET",
    "SKIPPED_OPERATIONS",
    "STREAM_NAME",
    "MESSAGE_STREAM_NAME",
    "CHECKPOINT_PARAMETER",
    "ENVELOPE",
    "AGGREGATION",
    "AUTO_DISTRIBUTION",
    "PARTITION_BY",
    "KEYLESS",
    "PARTITION_KEYS",
    "OVERSIZE",
    "LINGER_SECONDS",
    "POLL_CPU_PERCENT",
    "MARKERS",
    "STANDBY_ACK",
    "SOURCE_NAME",
    "DECIMAL_HANDLING_MODE",
    "TIME_PRECISION_MODE",
    "INTERVAL_HANDLING_MODE",
    "HSTORE_HANDLING_MODE",
    "TOMBSTONES_ON_DELETE",
    "PROVIDE_TRANSACTION_METADATA",
    "UNWRAP",
    "SCHEMAS_ENABLE",
    "LOG_LEVEL",
    "METRICS_NAMESPACE",
    "POWERTOOLS_SERVICE_NAME",
];

/// Configuration of the function.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database and the login.
    pub database: Database,
    /// The slot to drain.
    pub slot: String,
    /// Publications that pgoutput reads. Other plugins need none.
    pub publications: Vec<String>,
    /// Tables to drain. Empty means all tables that the plugin sends.
    pub tables: Vec<TablePattern>,
    /// Columns that are omitted or hashed.
    pub column_rules: Vec<ColumnRule>,
    /// Source of the salt of hashed columns; `None` if no rule hashes.
    pub salt: Option<SaltSource>,
    /// Operations whose changes are not sent.
    pub skipped: SkippedOperations,
    /// Name or ARN of the stream that receives the records.
    ///
    /// With a stream pattern, it receives only the records of messages and control events.
    pub stream: String,
    /// The streams of tables; `None` if there is only one stream.
    pub stream_pattern: Option<StreamPattern>,
    /// Name of the database in events and control events.
    pub source_name: String,
    /// Whether several events share a record.
    ///
    /// Such a record has the format of the Kinesis Producer Library.
    pub aggregate: bool,
    /// Whether a stream with automatic record distribution (`AUTO`) is accepted.
    ///
    /// Such a stream ignores partition keys, so it does not preserve the order of changes.
    pub allows_auto_distribution: bool,
    /// The SSM parameter of the checkpoint.
    pub checkpoint_parameter: String,
    /// How long after its start a drain polls an empty slot.
    pub linger: Duration,
    /// Namespace of the metrics in CloudWatch.
    pub metrics_namespace: String,
    /// Largest CPU load by polling, 1 to 50.
    ///
    /// The unit is percent of one core of the database server.
    pub poll_cpu_percent: u8,
    /// Whether markers are written to the WAL.
    pub markers: bool,
    /// Requirement that a standby acknowledges a change before it is sent.
    pub standby_ack: StandbyAck,
    /// The form of the events.
    pub envelope: Envelope,
    /// Columns of the partition keys of some tables.
    pub partition_keys: Vec<TableColumns>,
    /// Lowest level that is logged: `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// The function's memory in MiB.
    ///
    /// Lambda sets it in `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`. Without the variable, it is 256.
    pub memory_mib: u64,
}

/// The database, and the login of the role.
#[derive(Debug, Clone)]
pub struct Database {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role. If it is `None`, the secret of [`Auth::Secret`] has the role.
    pub user: Option<String>,
    /// Name of the database.
    pub name: String,
    /// Authentication of the role.
    pub auth: Auth,
    /// Use of TLS, and the checks of the server's certificate.
    pub tls: SslMode,
    /// PEM file of certificate authorities.
    ///
    /// They replace the built-in authorities of Amazon RDS.
    pub root_certificates: Option<PathBuf>,
}

/// Authentication of the role.
#[derive(Debug, Clone)]
pub enum Auth {
    /// An IAM token, signed with the function's AWS credentials.
    Iam,
    /// A secret of Secrets Manager, by name or ARN.
    Secret(String),
    /// A fixed password.
    Password(Password),
}

/// A password whose `Debug` output hides it.
#[derive(Clone)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Source of the salt of hashed columns.
#[derive(Debug, Clone)]
pub enum SaltSource {
    /// The salt itself.
    Value(Salt),
    /// A secret of Secrets Manager, by name or ARN.
    Secret(String),
}

/// Requirement that a standby acknowledges a transaction before it is sent.
///
/// If the server is lost before a standby has the transaction, the database loses the transaction. A consumer
/// that received it would then have a change that the database lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyAck {
    /// Required if the server shows the positions of the standbys.
    Auto,
    /// Not required.
    Off,
    /// Required. If the positions are unknown, nothing is sent.
    Required,
}

/// libpq's `sslmode`, without the modes that fall back to no TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS, with any certificate.
    Require,
    /// TLS, with a certificate of a trusted authority.
    VerifyCa,
    /// TLS, with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// A variable that is missing or not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set, or empty: the variable, and its meaning.
    #[error("{0} is not set: set it to {1}")]
    Missing(&'static str, &'static str),
    /// Set to a value that is not valid.
    #[error("{variable}={value} is not valid: it must be {expected}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The values that it accepts.
        expected: String,
    },
}

impl ConfigError {
    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        "ConfigInvalid"
    }

    /// Kind of the error: always definite.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

impl Config {
    /// Reads the configuration from environment variables.
    ///
    /// `get` returns the value of a variable, and `None` for one that is not set. An empty variable counts as
    /// not set.
    ///
    /// # Errors
    /// A variable is missing or not valid. The error names the first one, and the values that it accepts.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variables = &Variables::new(&get);
        let database = database::read(variables)?;
        let slot = slot(variables)?;
        let (stream, stream_pattern) = stream::read(variables)?;
        let checkpoint_parameter = checkpoint_parameter(variables, &slot)?;
        let publications = publications(variables)?;
        let tables = tables(variables)?;
        let (column_rules, salt) = columns::read(variables)?;
        let skipped = columns::skipped_operations(variables)?;
        let choices = [("none", false), ("kpl", true)];
        let aggregate = variables.choice("AGGREGATION", "none", &choices)?;
        let choices = [("refuse", false), ("accept", true)];
        let allows_auto_distribution = variables.choice("AUTO_DISTRIBUTION", "refuse", &choices)?;
        let linger = linger(variables)?;
        let poll_cpu_percent = poll_cpu_percent(variables)?;
        let source_name = variables.get("SOURCE_NAME").unwrap_or_else(|| slot.clone());
        let envelope = envelope::read(variables, &source_name, &database.name)?;
        let markers = variables.choice("MARKERS", "on", &[("on", true), ("off", false)])?;
        Ok(Config {
            database,
            slot,
            publications,
            tables,
            column_rules,
            salt,
            skipped,
            stream,
            stream_pattern,
            source_name,
            aggregate,
            allows_auto_distribution,
            checkpoint_parameter,
            linger,
            poll_cpu_percent,
            metrics_namespace: metrics_namespace(variables)?,
            markers,
            standby_ack: standby_ack(variables)?,
            partition_keys: envelope::partition_keys(variables, envelope.partition_by)?,
            envelope,
            log_level: log_level(variables)?,
            memory_mib: variables
                .get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
                .and_then(|text| text.parse().ok())
                .unwrap_or(256),
        })
    }

    /// Most bytes that may wait for the stream's acknowledgement.
    ///
    /// They are a thirty-second of the memory, at least 8 and at most 64 MiB. 160 shards accept 16 MiB in a
    /// tenth of a second, and Kinesis acknowledges a record sooner than that. A larger limit would only need
    /// more memory. The rest of the memory is for the copies in requests, for the rows of a transaction whose
    /// end is not read yet, and for the runtime.
    pub fn max_unacknowledged_bytes(&self) -> usize {
        usize::try_from(self.memory_mib.clamp(256, 2048) << 20).unwrap_or(usize::MAX) / 32
    }
}

/// `service` of each line of the log: `POWERTOOLS_SERVICE_NAME`, or `spillway`.
///
/// It is not a part of [`Config`]: the log also needs it if another variable is not valid.
pub fn service_name(get: impl Fn(&str) -> Option<String>) -> String {
    let name = Variables::new(&get).get("POWERTOOLS_SERVICE_NAME");
    name.unwrap_or_else(|| "spillway".to_owned())
}

fn slot(variables: &Variables<'_>) -> Result<String, ConfigError> {
    checked_name(
        "SLOT_NAME",
        variables.required("SLOT_NAME", "the name of the logical replication slot")?,
        63,
        |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_',
        "1 to 63 lower-case letters, digits and underscores, as PostgreSQL requires",
    )
}

fn checkpoint_parameter(variables: &Variables<'_>, slot: &str) -> Result<String, ConfigError> {
    let value = variables.get("CHECKPOINT_PARAMETER");
    checked_name(
        "CHECKPOINT_PARAMETER",
        value.unwrap_or_else(|| format!("/spillway/{slot}")),
        900,
        |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'),
        "1 to 900 letters, digits and _-./ as SSM requires",
    )
}

/// The name, if it has at most `max_chars` characters and each `is_allowed`.
fn checked_name(
    variable: &'static str,
    name: String,
    max_chars: usize,
    is_allowed: impl Fn(char) -> bool,
    expected: &str,
) -> Result<String, ConfigError> {
    match name.len() <= max_chars && name.chars().all(is_allowed) {
        true => Ok(name),
        false => Err(invalid(variable, name, expected)),
    }
}

fn publications(variables: &Variables<'_>) -> Result<Vec<String>, ConfigError> {
    let publications = variables.list("PUBLICATIONS", "spillway");
    match publications.is_empty() {
        false => Ok(publications),
        true => Err(ConfigError::Missing(
            "PUBLICATIONS",
            "one or more publications, separated by commas",
        )),
    }
}

fn tables(variables: &Variables<'_>) -> Result<Vec<TablePattern>, ConfigError> {
    let expected = "patterns like public.orders, public.* or *.orders, separated by commas";
    let text = variables.get("TABLES").unwrap_or_default();
    TablePattern::parse_list(&text).map_err(|error| invalid("TABLES", error.text().to_owned(), expected))
}

fn linger(variables: &Variables<'_>) -> Result<Duration, ConfigError> {
    match variables.get("LINGER_SECONDS") {
        None => Ok(Duration::ZERO),
        Some(text) => match text.parse() {
            Ok(seconds) if seconds <= 900 => Ok(Duration::from_secs(seconds)),
            _ => Err(invalid("LINGER_SECONDS", text, "whole seconds from 0 to 900")),
        },
    }
}

fn poll_cpu_percent(variables: &Variables<'_>) -> Result<u8, ConfigError> {
    match variables.get("POLL_CPU_PERCENT") {
        None => Ok(5),
        Some(text) => match text.parse() {
            Ok(percent @ 1..=50) => Ok(percent),
            _ => Err(invalid(
                "POLL_CPU_PERCENT",
                text,
                "a whole percentage from 1 to 50",
            )),
        },
    }
}

fn standby_ack(variables: &Variables<'_>) -> Result<StandbyAck, ConfigError> {
    variables.choice(
        "STANDBY_ACK",
        "auto",
        &[
            ("auto", StandbyAck::Auto),
            ("off", StandbyAck::Off),
            ("required", StandbyAck::Required),
        ],
    )
}

fn metrics_namespace(variables: &Variables<'_>) -> Result<String, ConfigError> {
    // CloudWatch API, PutMetricData, Namespace.
    match variables.get("METRICS_NAMESPACE") {
        None => Ok("Spillway".to_owned()),
        Some(text) => checked_name(
            "METRICS_NAMESPACE",
            text,
            255,
            |c| c.is_ascii_alphanumeric() || "._-/#:".contains(c),
            "1 to 255 letters, digits and the characters . _ - / # :",
        ),
    }
}

fn log_level(variables: &Variables<'_>) -> Result<String, ConfigError> {
    let levels = ["error", "warn", "info", "debug"].map(|level| (level, level));
    variables.choice("LOG_LEVEL", "info", &levels).map(str::to_owned)
}

#[cfg(test)]
mod tests;
