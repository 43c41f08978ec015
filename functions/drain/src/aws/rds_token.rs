//! IAM token: the password of a role that logs in to PostgreSQL on RDS by IAM.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::ProvideCredentials as _;
use aws_types::SdkConfig;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::causes::BoxError;
use crate::config::Database;
use crate::ports::SlotError;

/// A token that PostgreSQL on RDS accepts as a password.
///
/// The token is a signed URL for the action `connect`, without the scheme. It is valid for 15 minutes.
/// PostgreSQL checks it only at login, so a session may stay open longer.
///
/// # Errors
/// [`SlotError::Authentication`]: the credentials or the region are missing, or the request cannot be signed.
pub(crate) async fn iam_token(database: &Database, aws: &SdkConfig) -> Result<String, SlotError> {
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
    use aws_sigv4::sign::v4;

    let user = database.user.clone().unwrap_or_default();
    let failed = |source: BoxError| SlotError::Authentication {
        user: user.clone(),
        hint: "the function's AWS credentials and region, which sign the IAM token",
        source,
    };
    let provider = aws
        .credentials_provider()
        .ok_or_else(|| failed("the function has no AWS credentials".into()))?;
    let identity = provider
        .provide_credentials()
        .await
        .map_err(|error| failed(Box::new(error)))?
        .into();
    let region = aws
        .region()
        .ok_or_else(|| failed("AWS_REGION is not set".into()))?;
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(Duration::from_secs(900));
    settings.signature_location = SignatureLocation::QueryParams;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("rds-db")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|error| failed(Box::new(error)))?;
    let query: String = [("Action", "connect"), ("DBUser", &user)]
        .map(|(k, v)| format!("{k}={}", percent_encoded(v)))
        .join("&");
    let url = format!("https://{}:{}/?{query}", database.host, database.port);
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| failed(Box::new(error)))?;
    let (instructions, _) = sign(request, &params.into())
        .map_err(|error| failed(Box::new(error)))?
        .into_parts();
    let signed = instructions.params().iter().fold(url, |url, (name, value)| {
        format!("{url}&{name}={}", percent_encoded(value))
    });
    Ok(signed.trim_start_matches("https://").to_owned())
}

/// Characters to encode: all except the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

fn percent_encoded(text: &str) -> impl Display {
    utf8_percent_encode(text, ENCODED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auth, SslMode};

    #[tokio::test]
    async fn an_iam_token_is_a_signed_connect_request_for_the_role_and_host() {
        let credentials = aws_credential_types::Credentials::new(
            "AKIDEXAMPLE",
            "secret",
            Some("session/+".into()),
            None,
            "test",
        );
        let aws = SdkConfig::builder()
            .region(aws_types::region::Region::new("eu-central-1"))
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(
                credentials,
            ))
            .build();
        let database = Database {
            host: "db.example".into(),
            port: 5432,
            user: Some("repl user".into()),
            name: "d".into(),
            auth: Auth::Iam,
            tls: SslMode::VerifyFull,
            root_certificates: None,
        };
        let token = iam_token(&database, &aws).await.unwrap();
        assert!(
            token.starts_with("db.example:5432/?Action=connect&DBUser=repl%20user&"),
            "{token}"
        );
        for part in [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Expires=900",
            "%2Feu-central-1%2Frds-db%2Faws4_request",
            "X-Amz-Security-Token=session%2F%2B",
            "X-Amz-Signature=",
        ] {
            assert!(token.contains(part), "{part} in {token}");
        }
    }
}
