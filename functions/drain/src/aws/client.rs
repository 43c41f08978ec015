//! Settings of the AWS clients, and the classes of AWS error codes.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_kinesis::config::SharedHttpClient;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, ConnectorBuilder};

use crate::ports::BoxError;

/// Settings of the clients.
///
/// They are loaded once, so all clients share one HTTP client. Later invocations reuse its connections.
pub(crate) async fn config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(https_client())
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

/// The SDK's default client, but with ring.
///
/// As that one, it uses the proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
fn https_client() -> SharedHttpClient {
    let proxies = ProxyConfig::from_env();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::Ring));
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.set_proxy_config(Some(proxies.clone()));
        connector.build()
    })
}

/// A Kinesis client that sends each request once.
///
/// The sender knows the order of the events, so it alone sends failed records again.
pub(crate) fn kinesis(config: &SdkConfig) -> aws_sdk_kinesis::Client {
    let once = aws_sdk_kinesis::config::Builder::from(config).retry_config(RetryConfig::disabled());
    aws_sdk_kinesis::Client::from_conf(once.build())
}

/// Class of a failed request.
///
/// The service's error code decides. A request without an answer has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The service does not authorize the request.
    ///
    /// The function's role lacks a permission, or the account has not activated the service. The signature
    /// may also be missing or wrong, or the credentials unknown. All KMS errors except throttling are of this
    /// class, too.
    Denied,
    /// The credentials expired, or the clock is wrong.
    Expired,
    /// The service throttles.
    Throttled,
    /// The resource that the request names does not exist.
    NotFound,
    /// The answer is missing or incomplete, or the service failed internally.
    ///
    /// Or Kinesis is creating, updating or deleting the stream.
    Unavailable,
    /// Any other refusal.
    Other,
}

/// The class of a failed request, and its error as one line.
///
/// The line has the service's code and message. If one of them is missing, it has the error and all its
/// causes: the text of an SDK error does not contain its causes.
pub(crate) fn classify<E>(error: &SdkError<E>) -> (Refusal, BoxError)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    // The code of a server error (5xx) is not reliable.
    let refusal = match error.code() {
        Some(code) if status < 500 && !code.is_empty() => refusal_of_code(code),
        _ => Refusal::Unavailable,
    };
    (refusal, one_line(error).into())
}

fn refusal_of_code(code: &str) -> Refusal {
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
        // Kinesis is creating, updating or deleting the stream. After the first two, the stream is usable.
        | "ResourceInUseException" => Refusal::Unavailable,
        _ if code.starts_with("KMS") => Refusal::Denied,
        _ => Refusal::Other,
    }
}

fn one_line<E>(error: &SdkError<E>) -> String
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
