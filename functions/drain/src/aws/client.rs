//! Settings of the AWS clients, and the classes of AWS error codes.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as ProvidedCredentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, SharedHttpClient};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use crate::base::causes::{BoxError, with_causes};

/// Reads a variable; `None` if it is missing or empty.
type Lookup = fn(&str) -> Option<String>;

/// Settings of the clients, from the variables of Lambda and AWS's SDKs.
///
/// The variables are `AWS_REGION` or `AWS_DEFAULT_REGION`, the credentials, `AWS_ENDPOINT_URL` for all
/// services and `AWS_ENDPOINT_URL_<SERVICE>` for one, `AWS_USE_FIPS_ENDPOINT`, `AWS_USE_DUALSTACK_ENDPOINT`,
/// and those of [`https_client`]. Lambda sets the region and the credentials when it starts the process. So
/// profiles, metadata servers and STS are not used. All clients share one HTTP client, and later invocations
/// reuse its connections.
pub(crate) fn config() -> SdkConfig {
    config_of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn config_of(variable: Lookup) -> SdkConfig {
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(
            variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .map(Region::new),
        )
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentCredentials(variable)))
        .service_config(ServiceVariables(variable))
        .http_client(https_client())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .operation_attempt_timeout(Duration::from_secs(5))
                .build(),
        )
        .retry_config(RetryConfig::standard().with_max_attempts(2));
    config.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
    config.set_use_fips(bool_variable(variable, "AWS_USE_FIPS_ENDPOINT"));
    config.set_use_dual_stack(bool_variable(variable, "AWS_USE_DUALSTACK_ENDPOINT"));
    config.build()
}

/// The credentials of the environment.
#[derive(Debug)]
struct EnvironmentCredentials(Lookup);

impl ProvideCredentials for EnvironmentCredentials {
    fn provide_credentials<'a>(&'a self) -> ProvidedCredentials<'a>
    where
        Self: 'a,
    {
        let EnvironmentCredentials(variable) = self;
        let required = |name| {
            variable(name).ok_or_else(|| CredentialsError::not_loaded(format!("{name} is missing or empty")))
        };
        ProvidedCredentials::ready(required("AWS_ACCESS_KEY_ID").and_then(|id| {
            let (secret, token) = (required("AWS_SECRET_ACCESS_KEY")?, variable("AWS_SESSION_TOKEN"));
            Ok(Credentials::new(id, secret, token, None, "environment"))
        }))
    }
}

/// The value of a variable that is `true` or `false`.
///
/// `None` if it is not set. Another value is logged and ignored.
fn bool_variable(variable: Lookup, name: &str) -> Option<bool> {
    let value = variable(name)?;
    let parsed = value.trim().to_ascii_lowercase().parse();
    parsed
        .inspect_err(|_| {
            tracing::warn!(
                variable = name,
                value,
                "the variable is ignored: it must be true or false"
            )
        })
        .ok()
}

/// Variables for one service, such as `AWS_ENDPOINT_URL_SECRETS_MANAGER`.
#[derive(Debug)]
struct ServiceVariables(Lookup);

impl LoadServiceConfig for ServiceVariables {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace([' ', '-'], "_");
        (self.0)(&format!("{}_{service}", key.env()))
    }
}

/// The SDK's default HTTP client, but with the crypto library ring.
///
/// Like the default client, it uses the proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
pub(super) fn https_client() -> SharedHttpClient {
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
/// A retry by the SDK could change the order of events. So only the sender sends failed records again.
pub(crate) fn kinesis(config: &SdkConfig) -> aws_sdk_kinesis::Client {
    let once = aws_sdk_kinesis::config::Builder::from(config).retry_config(RetryConfig::disabled());
    aws_sdk_kinesis::Client::from_conf(once.build())
}

/// Class of a failed request.
///
/// If the status is below 500 and the answer has an error code, the code determines the class. Otherwise the
/// class is `Unavailable`. But if the environment lacks credentials, it is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureClass {
    /// The service does not authorize the request.
    ///
    /// The function's role lacks a permission, or the account has not activated the service. Other causes are
    /// a missing signature, and unknown credentials. All KMS errors except throttling are of this
    /// class, too.
    Denied,
    /// The credentials expired, or the clock is wrong.
    Expired,
    /// The service throttled the request.
    Throttled,
    /// The resource that the request names does not exist.
    NotFound,
    /// The service returned no usable answer, or the request was not sent.
    ///
    /// Other causes are an internal error, a timeout of the service, throttling by KMS, and a stream that
    /// Kinesis creates, updates or deletes.
    Unavailable,
    /// Any other failure.
    Other,
}

/// The class of a failed request, and its error as one line.
///
/// The line has the service's code and message. If one of them is missing, the line has the error and all its
/// causes, because the text of an SDK error does not contain its causes.
pub(crate) fn classify<E>(error: &SdkError<E>) -> (FailureClass, BoxError)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    // The code of a server error (5xx) is not reliable.
    let class = match error.code() {
        Some(code) if status < 500 && !code.is_empty() => class_of_code(code),
        _ if lacks_credentials(error) => FailureClass::Other,
        _ => FailureClass::Unavailable,
    };
    (class, one_line(error).into())
}

/// Whether the request was not sent because the environment lacks credentials.
fn lacks_credentials(error: &dyn Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The class that an error code of AWS names.
pub(super) fn class_of_code(code: &str) -> FailureClass {
    match code {
        "AccessDeniedException"
        | "AccessDenied"
        | "NotAuthorized"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "OptInRequired" => FailureClass::Denied,
        // Lambda supplies the keys, so they are right. An invalid signature means that the clock is wrong.
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidSignatureException"
        | "RequestExpired"
        | "RequestInTheFuture"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch" => FailureClass::Expired,
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "ThrottledException"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "TooManyUpdates" => FailureClass::Throttled,
        "ResourceNotFoundException" | "ParameterNotFound" => FailureClass::NotFound,
        "RequestTimeout"
        | "RequestTimeoutException"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        // KMS throttles its own requests, not those of a shard. So more shards do not help.
        | "KMSThrottlingException"
        // The stream is being created, updated or deleted. Unless it is deleted, a later tick succeeds.
        | "ResourceInUseException" => FailureClass::Unavailable,
        _ if code.starts_with("KMS") => FailureClass::Denied,
        _ => FailureClass::Other,
    }
}

fn one_line<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if let (Some(code), Some(message)) = (error.code(), error.message()) {
        return format!("{code}: {message}");
    }
    with_causes(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables of a function, as Lambda and an operator set them.
    fn lambda(name: &str) -> Option<String> {
        let value = match name {
            "AWS_REGION" => "us-gov-west-1",
            "AWS_DEFAULT_REGION" => "eu-central-1",
            "AWS_ACCESS_KEY_ID" => "id",
            "AWS_SECRET_ACCESS_KEY" => "secret",
            "AWS_SESSION_TOKEN" => "token",
            "AWS_ENDPOINT_URL" => "http://all",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER" => "http://secrets",
            "AWS_USE_FIPS_ENDPOINT" => "True ",
            "AWS_USE_DUALSTACK_ENDPOINT" => "yes",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[tokio::test]
    async fn region_credentials_and_endpoints_are_those_of_the_environment() {
        let config = config_of(lambda);
        assert_eq!(config.region(), Some(&Region::new("us-gov-west-1")));
        assert_eq!(config.endpoint_url(), Some("http://all"));
        // A value that is neither `true` nor `false` is logged and ignored.
        assert_eq!((config.use_fips(), config.use_dual_stack()), (Some(true), None));
        let provider = config.credentials_provider().unwrap();
        let credentials = provider.provide_credentials().await.unwrap();
        assert_eq!(
            (
                credentials.access_key_id(),
                credentials.secret_access_key(),
                credentials.session_token()
            ),
            ("id", "secret", Some("token"))
        );
    }

    #[test]
    fn a_service_has_an_endpoint_of_its_own() {
        let key = |service| {
            let key = ServiceConfigKey::builder().service_id(service);
            key.env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build()
                .unwrap()
        };
        let of_service = |service| ServiceVariables(lambda).load_config(key(service));
        assert_eq!(of_service("Secrets Manager").as_deref(), Some("http://secrets"));
        assert_eq!(of_service("Kinesis"), None);
    }
}
