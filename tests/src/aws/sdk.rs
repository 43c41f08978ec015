//! Configuration of the SDK's clients.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_types::SdkConfig;

use crate::aws::kinesis::{KEY_ID, REGION, SECRET};

/// Configuration of a client of an emulator.
///
/// An emulator on a busy machine may send no byte of an answer for a while, so that is no error.
pub fn config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new(KEY_ID, SECRET, None, None, "scenario");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}
