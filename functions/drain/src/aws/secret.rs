//! A role and its password, or a salt, from Secrets Manager.
//!
//! Most secrets are read through SSM Parameter Store, because the function needs its endpoint anyway. The
//! name of a parameter cannot contain every character of a secret's name. So a secret like `rds!cluster-…` is
//! read from Secrets Manager.

use aws_types::SdkConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{FailureClass, classify};
use crate::base::causes::BoxError;
use crate::ports::SecretError;
use crate::rules::column_rules::Salt;

/// Login fields of a secret, as RDS and its rotation store them.
#[derive(Deserialize)]
pub(crate) struct LoginSecret {
    pub(crate) username: Option<String>,
    pub(crate) password: String,
}

/// The field of a secret with a salt.
#[derive(Deserialize)]
struct SaltSecret {
    salt: String,
}

/// A secret that is not the expected JSON.
///
/// The cause of the error is left out, because it may quote the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret is not a JSON object with the text \"{field}\" (line {line}, column {column})")]
struct InvalidSecret {
    field: &'static str,
    line: usize,
    column: usize,
}

/// A secret of the configured name with another ARN.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret of this name in the function's account and region is {found}: set its name or its whole ARN"
)]
struct OtherSecret {
    found: String,
}

/// The description of a secret that SSM returns with a parameter.
///
/// The other fields are left out, because one of them is the secret.
#[derive(Deserialize)]
struct SourceSecret {
    #[serde(rename = "ARN")]
    arn: String,
}

/// A failed read of a secret.
#[derive(Debug)]
struct SecretFailure {
    /// Whether AWS may return the secret later.
    is_transient: bool,
    source: BoxError,
}

impl SecretFailure {
    fn definite(source: impl Into<BoxError>) -> Self {
        SecretFailure {
            is_transient: false,
            source: source.into(),
        }
    }

    fn of_aws((class, source): (FailureClass, BoxError)) -> Self {
        SecretFailure {
            is_transient: matches!(
                class,
                FailureClass::Throttled | FailureClass::Unavailable | FailureClass::Expired
            ),
            source,
        }
    }

    /// The error of the secret that `variable` names. `definite` builds the error of a lasting failure.
    fn into_error(
        self,
        variable: &'static str,
        secret: &str,
        definite: impl FnOnce(String, BoxError) -> SecretError,
    ) -> SecretError {
        let (secret, source) = (secret.to_owned(), self.source);
        match self.is_transient {
            true => SecretError::Unavailable {
                variable,
                secret,
                source,
            },
            false => definite(secret, source),
        }
    }
}

/// Reads the role and its password from a secret.
///
/// `name` is the name or the ARN of the secret.
///
/// # Errors
/// [`SecretError`]: AWS refused the request, or the secret is not JSON with a password.
pub(crate) async fn fetch_login(
    config: &SdkConfig,
    ssm: &aws_sdk_ssm::Client,
    name: &str,
) -> Result<LoginSecret, SecretError> {
    let text = read(config, ssm, name).await;
    let login = text.and_then(|text| parse(&text, "password").map_err(SecretFailure::definite));
    login.map_err(|failure| {
        failure.into_error("DB_SECRET", name, |secret, source| SecretError::Password {
            secret,
            source,
        })
    })
}

/// Reads the salt of hashed columns from a secret.
///
/// `name` is the name or the ARN of the secret.
///
/// # Errors
/// [`SecretError`]: AWS refused the request, or the secret is not JSON with a salt that is long enough.
pub(crate) async fn fetch_salt(
    config: &SdkConfig,
    ssm: &aws_sdk_ssm::Client,
    name: &str,
) -> Result<Salt, SecretError> {
    let salt = read_salt(config, ssm, name).await;
    salt.map_err(|failure| {
        failure.into_error("COLUMN_SALT_SECRET", name, |secret, source| SecretError::Salt {
            secret,
            source,
        })
    })
}

async fn read_salt(config: &SdkConfig, ssm: &aws_sdk_ssm::Client, name: &str) -> Result<Salt, SecretFailure> {
    let parsed = parse(&read(config, ssm, name).await?, "salt");
    let SaltSecret { salt } = parsed.map_err(SecretFailure::definite)?;
    Salt::new(salt).map_err(SecretFailure::definite)
}

/// Reads the text of a secret by its name or ARN.
async fn read(config: &SdkConfig, ssm: &aws_sdk_ssm::Client, name: &str) -> Result<String, SecretFailure> {
    match is_parameter_path(name_of(name)) {
        true => read_by_parameter(ssm, name).await,
        false => read_directly(&aws_sdk_secretsmanager::Client::new(config), name).await,
    }
}

/// Whether a parameter's name may contain this name of a secret.
///
/// Source: SSM API, `PutParameter`, the characters of `Name`. Names of secrets may also have `!+=@`.
fn is_parameter_path(name: &str) -> bool {
    name.chars()
        .all(|char| char.is_ascii_alphanumeric() || "_.-/".contains(char))
}

/// Reads a secret by its name or ARN from Secrets Manager.
async fn read_directly(client: &aws_sdk_secretsmanager::Client, name: &str) -> Result<String, SecretFailure> {
    let answer = client.get_secret_value().secret_id(name).send().await;
    let secret = answer.map_err(|error| SecretFailure::of_aws(classify(&error)))?;
    Ok(secret.secret_string.unwrap_or_default())
}

/// Reads a secret by its name or ARN through SSM.
///
/// SSM accepts a name only, and returns the secret of this name in the function's account and region.
async fn read_by_parameter(client: &aws_sdk_ssm::Client, name_or_arn: &str) -> Result<String, SecretFailure> {
    let name = name_of(name_or_arn);
    let request = client.get_parameter();
    let request = request.name(format!("/aws/reference/secretsmanager/{name}"));
    let answer = request.with_decryption(true).send().await;
    let answer = answer.map_err(|error| SecretFailure::of_aws(classify(&error)))?;
    let Some(parameter) = answer.parameter else {
        return Ok(String::new());
    };
    check_arn(name_or_arn, parameter.source_result.as_deref()).map_err(SecretFailure::definite)?;
    Ok(parameter.value.unwrap_or_default())
}

/// Checks that SSM has returned the secret of a configured ARN.
///
/// SSM searches by name, so it may return another secret. The configured ARN may be of another account or
/// region. Or the ARN lacks its random characters, and its name ends with a hyphen and six characters.
fn check_arn(name_or_arn: &str, source: Option<&str>) -> Result<(), OtherSecret> {
    let source = source.and_then(|source| serde_json::from_str(source).ok());
    let Some(SourceSecret { arn: found }) = source.filter(|_| name_or_arn.contains(":secret:")) else {
        return Ok(());
    };
    let random = found.strip_prefix(name_or_arn);
    match random.is_some_and(|random| random.is_empty() || random.starts_with('-') && random.len() == 7) {
        true => Ok(()),
        false => Err(OtherSecret { found }),
    }
}

/// The name of a secret, from its name or its ARN.
///
/// In an ARN, Secrets Manager adds a hyphen and six random characters to the name. They are removed.
fn name_of(name_or_arn: &str) -> &str {
    match name_or_arn.rsplit_once(":secret:") {
        Some((_, name)) => name
            .rsplit_once('-')
            .filter(|(_, random)| random.len() == 6)
            .map_or(name, |(name, _)| name),
        None => name_or_arn,
    }
}

fn parse<T: DeserializeOwned>(text: &str, field: &'static str) -> Result<T, InvalidSecret> {
    serde_json::from_str(text).map_err(|error| InvalidSecret {
        field,
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_in_an_arn_has_no_random_characters() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:app/db-a1B2c3";
        assert_eq!((name_of(arn), name_of("app/db")), ("app/db", "app/db"));
    }

    #[test]
    fn an_arn_must_be_that_of_the_secret_that_is_read() {
        let arn = |account: &str, name: &str| {
            format!("arn:aws:secretsmanager:eu-central-1:{account}:secret:{name}")
        };
        let source = json!({"SecretString": "hunter2", "ARN": arn("1", "app-a1B2c3")}).to_string();
        let check = |id: &str| check_arn(id, Some(&source)).is_ok();
        assert!(check("app") && check(&arn("1", "app-a1B2c3")) && check(&arn("1", "app")));
        assert!(!check(&arn("2", "app-a1B2c3")) && !check(&arn("1", "app-master")));
        assert!(!check(&arn("1", "ap")));
        assert_eq!(check_arn(&arn("1", "app-a1B2c3"), None), Ok(()));
    }

    #[test]
    fn the_error_of_an_invalid_secret_does_not_quote_it() {
        for text in [
            "",
            "hunter2",
            r#""hunter2""#,
            r#"{"password": ["hunter2"]}"#,
            r#"{"username": {"hunter2": 1}, "password": "hunter2"}"#,
            r#"{"passwort": "hunter2"}"#,
        ] {
            let error = parse::<LoginSecret>(text, "password")
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                error.contains("\"password\"") && !error.contains("hunter2"),
                "{text}: {error}"
            );
        }
        assert_eq!(
            parse(r#"{"password": "hunter2"}"#, "password").map(|secret: LoginSecret| secret.password),
            Ok("hunter2".into())
        );
    }
}
