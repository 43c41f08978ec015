//! Configuration of the SDK's clients.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use aws_types::SdkConfig;

use crate::aws::kinesis::{KEY_ID, REGION, SECRET};

/// Configuration of a client of an emulator.
pub fn config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new(KEY_ID, SECRET, None, None, "scenario");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}
