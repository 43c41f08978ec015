//! PutRecords requests in the JSON protocol of AWS.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A PutRecords request, borrowed from its JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutRecordsRequest<'a> {
    #[serde(borrow)]
    stream_name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "StreamARN")]
    stream_arn: Option<Cow<'a, str>>,
    /// Records in the order of the request.
    #[serde(borrow)]
    pub(crate) records: Vec<PutRecordsEntry<'a>>,
}

/// A record of a PutRecords request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PutRecordsEntry<'a> {
    /// Partition key.
    #[serde(borrow)]
    pub(crate) partition_key: Cow<'a, str>,
    /// Explicit hash key, a decimal number.
    #[serde(borrow)]
    pub(crate) explicit_hash_key: Option<Cow<'a, str>>,
    /// Data in base64.
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl<'a> PutRecordsRequest<'a> {
    /// Parses the body of a request.
    ///
    /// # Errors
    /// The body is not JSON, or not a PutRecords.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// Names of the request's fields that address the stream.
    pub(crate) fn address_fields(&self) -> impl Iterator<Item = &'static str> {
        let name = self.stream_name.as_ref().map(|_| "StreamName");
        name.into_iter()
            .chain(self.stream_arn.as_ref().map(|_| "StreamARN"))
    }

    /// Name of the stream.
    pub(crate) fn stream(&self) -> &str {
        let arn = self.stream_arn.as_deref().and_then(|arn| arn.rsplit('/').next());
        self.stream_name.as_deref().or(arn).unwrap_or_default()
    }
}

impl PutRecordsEntry<'_> {
    /// Data; `None` when it is not base64.
    pub(crate) fn data(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.data.as_bytes()).ok()
    }

    /// Bytes of the record as Kinesis counts them: data and partition key. Computed from the length of the
    /// base64.
    pub(crate) fn bytes(&self) -> usize {
        let padding = self.data.bytes().rev().take_while(|byte| *byte == b'=').count();
        self.partition_key.len() + self.data.len() / 4 * 3 - padding
    }
}
