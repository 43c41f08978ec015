//! What the AWS edges share: the settings of the clients, and the classification of error codes.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};

use crate::ports::BoxError;

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

/// Why a service refused a request, by its error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The function's role lacks a permission, or the account an activation.
    Denied,
    /// The credentials expired, or the clock is wrong.
    Expired,
    /// The service throttles.
    Throttled,
    /// What the request names does not exist.
    NotFound,
    /// No answer, a cut answer, or a failure inside the service.
    Unavailable,
    /// Any other refusal.
    Other,
}

/// Why a request failed, and the error as one line.
///
/// The line is what the service said. Without that, it is the error with its causes, since the SDK's own texts name only
/// the outermost.
pub(crate) fn classify<E>(error: &SdkError<E>) -> (Refusal, BoxError)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    // A server error says nothing reliable by its code.
    let refusal = match error.code() {
        Some(code) if status < 500 => refusal(code),
        _ => Refusal::Unavailable,
    };
    (refusal, line(error).into())
}

fn refusal(code: &str) -> Refusal {
    match code {
        "AccessDeniedException"
        | "AccessDenied"
        | "NotAuthorized"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "OptInRequired" => Refusal::Denied,
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => Refusal::Expired,
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "ThrottlingException"
        | "TooManyUpdates"
        | "KMSThrottlingException" => Refusal::Throttled,
        "ResourceNotFoundException" | "ParameterNotFound" => Refusal::NotFound,
        "RequestTimeout"
        | "RequestTimeoutException"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        // A stream that is being created, updated or deleted. The first two pass.
        | "ResourceInUseException" => Refusal::Unavailable,
        _ if code.starts_with("KMS") => Refusal::Denied,
        _ => Refusal::Other,
    }
}

fn line<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if let (Some(code), Some(message)) = (error.code(), error.message()) {
        return format!("{code}: {message}");
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
