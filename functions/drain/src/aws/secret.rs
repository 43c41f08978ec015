//! A role and its password from Secrets Manager.
//!
//! SSM Parameter Store returns the secret, so the function needs no further SDK.

use serde::Deserialize;

use crate::ports::BoxError;

/// Login fields of a secret, as RDS and its rotation store them.
#[derive(Deserialize)]
pub(crate) struct Secret {
    pub(crate) username: Option<String>,
    pub(crate) password: String,
}

/// Reads a secret by its name or ARN.
///
/// # Errors
/// SSM refused the request, or the secret is not JSON with a password.
pub(crate) async fn fetch(ssm: &aws_sdk_ssm::Client, name: &str) -> Result<Secret, BoxError> {
    // SSM needs the name. In an ARN, the name follows `:secret:`, and Secrets Manager adds a hyphen and six
    // random characters.
    let name = match name.rsplit_once(":secret:") {
        Some((_, name)) => name
            .rsplit_once('-')
            .filter(|(_, random)| random.len() == 6)
            .map_or(name, |(name, _)| name),
        None => name,
    };
    let reference = format!("/aws/reference/secretsmanager/{name}");
    let answer = ssm
        .get_parameter()
        .name(reference)
        .with_decryption(true)
        .send()
        .await?;
    let text = answer
        .parameter
        .and_then(|parameter| parameter.value)
        .unwrap_or_default();
    // If the secret is not JSON, serde_json names the line and the column, and never the content.
    Ok(serde_json::from_str(&text)?)
}
