//! What the AWS edges share: the clients' settings, and the codes by which any service says no.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};

use crate::drain::parts::Source;

/// The clients' settings. Built once; the clients keep their connections between invocations.
pub(crate) async fn config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .operation_attempt_timeout(Duration::from_secs(5))
                .build(),
        )
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        .load()
        .await
}

/// A Kinesis client that sends a request once: what failed is sent again by whoever knows the order.
pub(crate) fn kinesis(config: &SdkConfig) -> aws_sdk_kinesis::Client {
    let once = aws_sdk_kinesis::config::Builder::from(config).retry_config(RetryConfig::disabled());
    aws_sdk_kinesis::Client::from_conf(once.build())
}

/// Whether a code says that we may not, which only somebody with rights can change.
pub(crate) fn is_denied(code: &str) -> bool {
    matches!(
        code,
        "AccessDeniedException"
            | "AccessDenied"
            | "NotAuthorized"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature"
            | "OptInRequired"
    )
}

/// An SDK error as one line: what the service said, or else the error with its causes, since the SDK's own texts name only the
/// outermost.
pub(crate) fn source<E>(error: SdkError<E>) -> Source
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if let (Some(code), Some(message)) = (error.code(), error.message()) {
        return format!("{code}: {message}").into();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}
