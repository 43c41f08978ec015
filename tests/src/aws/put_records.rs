//! A PutRecordsRequest request as it travels.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A request, borrowed from its JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutRecordsRequest<'a> {
    #[serde(borrow)]
    stream_name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "StreamARN")]
    stream_arn: Option<Cow<'a, str>>,
    /// Its records, in their order.
    #[serde(borrow)]
    pub(crate) records: Vec<PutRecordsEntry<'a>>,
}

/// A record of a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutRecordsEntry<'a> {
    /// Its partition key.
    #[serde(borrow)]
    pub(crate) partition_key: Cow<'a, str>,
    /// A decimal number, when it is given.
    #[serde(borrow)]
    pub(crate) explicit_hash_key: Option<Cow<'a, str>>,
    /// Its data, in base64.
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl<'a> PutRecordsRequest<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// It is not application/x-amz-json-1.1, or no PutRecordsRequest.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The name of its stream.
    pub(crate) fn stream(&self) -> &str {
        let arn = self.stream_arn.as_deref().and_then(|arn| arn.rsplit('/').next());
        self.stream_name.as_deref().or(arn).unwrap_or_default()
    }
}

impl PutRecordsEntry<'_> {
    /// Its data; `None` when it is no base64.
    pub(crate) fn data(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.data.as_bytes()).ok()
    }

    /// As Kinesis counts a record: data and partition key. From the length of the base64 alone.
    pub(crate) fn bytes(&self) -> usize {
        let padding = self.data.bytes().rev().take_while(|byte| *byte == b'=').count();
        self.partition_key.len() + self.data.len() / 4 * 3 - padding
    }
}
