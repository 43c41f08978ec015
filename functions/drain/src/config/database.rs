//! The environment variables of the database and its authentication.

use std::path::PathBuf;

use super::variables::{Variables, invalid};
use super::{Auth, ConfigError, Database, Password, SslMode};

pub(super) fn read(variables: &Variables<'_>) -> Result<Database, ConfigError> {
    let host = variables.required("PGHOST", "the cluster's writer endpoint")?;
    let port = port(variables)?;
    let auth = auth(variables)?;
    let user = match &auth {
        Auth::Secret(_) => variables.get("PGUSER"),
        _ => Some(variables.required("PGUSER", "the role that reads the slot")?),
    };
    let tls = ssl_mode(variables, &auth)?;
    Ok(Database {
        host,
        port,
        user,
        name: variables.required("PGDATABASE", "the slot's database")?,
        auth,
        tls,
        root_certificates: variables.get("PGSSLROOTCERT").map(PathBuf::from),
    })
}

fn port(variables: &Variables<'_>) -> Result<u16, ConfigError> {
    match variables.get("PGPORT") {
        None => Ok(5432),
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(invalid("PGPORT", text, "a port number from 1 to 65535")),
        },
    }
}

/// The authentication that `DB_AUTH` names.
///
/// Without `DB_AUTH`, it is a secret if `DB_SECRET` is set. Otherwise it is a password if `PGPASSWORD` is
/// set. If neither is set, it is IAM.
fn auth(variables: &Variables<'_>) -> Result<Auth, ConfigError> {
    let (password, secret) = (variables.get("PGPASSWORD"), variables.get("DB_SECRET"));
    match (variables.get("DB_AUTH").as_deref(), password, secret) {
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

fn ssl_mode(variables: &Variables<'_>, auth: &Auth) -> Result<SslMode, ConfigError> {
    let mode = variables.choice(
        "PGSSLMODE",
        "verify-full",
        &[
            ("verify-full", SslMode::VerifyFull),
            ("verify-ca", SslMode::VerifyCa),
            ("require", SslMode::Require),
            ("disable", SslMode::Disable),
        ],
    )?;
    match (auth, mode) {
        (Auth::Iam, SslMode::Disable) => Err(invalid(
            "PGSSLMODE",
            "disable".to_owned(),
            "verify-full, verify-ca or require: PostgreSQL on RDS accepts IAM tokens over TLS only",
        )),
        _ => Ok(mode),
    }
}
