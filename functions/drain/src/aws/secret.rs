//! A role and its password out of Secrets Manager, by way of SSM, which saves a second SDK.

use serde::Deserialize;

use crate::ports::BoxError;

/// What RDS and its rotation keep in a secret; other fields do not matter here.
#[derive(Deserialize)]
pub(crate) struct Secret {
    pub(crate) username: Option<String>,
    pub(crate) password: String,
}

/// Fetches a secret by name or ARN.
pub(crate) async fn fetch(ssm: &aws_sdk_ssm::Client, name: &str) -> Result<Secret, BoxError> {
    // SSM takes the name that stands behind `secret:` in an ARN, without the six characters Secrets Manager added.
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
    // The error of a secret that is not JSON names line and column, never content.
    Ok(serde_json::from_str(&text)?)
}
