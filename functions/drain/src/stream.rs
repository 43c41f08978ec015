//! The stream on Kinesis: one PutRecords request, and what its answer means.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;

use crate::drain::parts::{Answer, Refusal, Source, Stream, StreamError};
use crate::pack::Parcel;

/// A Kinesis data stream, by name.
#[derive(Debug, Clone)]
pub struct Kinesis {
    /// The client. It must not retry by itself: order needs to know of every failure.
    pub client: Client,
    /// The stream's name.
    pub stream: String,
}

impl Stream for Kinesis {
    fn name(&self) -> String {
        self.stream.clone()
    }

    async fn put(&self, parcels: Vec<Parcel>) -> Answer {
        let outcome = self.request(&parcels).await;
        Answer { parcels, outcome }
    }
}

impl Kinesis {
    async fn request(&self, parcels: &[Parcel]) -> Result<Vec<Option<Refusal>>, StreamError> {
        let mut request = self.client.put_records().stream_name(&self.stream);
        for parcel in parcels {
            let entry = PutRecordsRequestEntry::builder()
                .data(Blob::new(parcel.event.data.as_slice()))
                .partition_key(&parcel.event.partition_key)
                .build();
            request = request.records(entry.map_err(|error| self.error("", Box::new(error)))?);
        }
        let answer = request.send().await.map_err(|error| self.error_of(error))?;
        // `FailedRecordCount` is not asked: what counts is whether a record has an error code.
        Ok(answer
            .records
            .iter()
            .map(|record| match record.error_code.as_deref() {
                None if record.sequence_number.is_some() => None,
                Some("ProvisionedThroughputExceededException") => Some(Refusal::Throttled),
                _ => Some(Refusal::Internal),
            })
            .collect())
    }

    /// Whether the stream is there and takes records.
    ///
    /// # Errors
    /// As for a request.
    pub async fn describe(&self) -> Result<String, StreamError> {
        let answer = self
            .client
            .describe_stream_summary()
            .stream_name(&self.stream)
            .send()
            .await;
        let summary = answer
            .map_err(|error| self.error_of(error))?
            .stream_description_summary;
        Ok(summary.map_or_else(
            || "UNKNOWN".to_owned(),
            |summary| summary.stream_status.as_str().to_owned(),
        ))
    }

    fn error_of<E>(&self, error: SdkError<E>) -> StreamError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let status = error
            .raw_response()
            .map_or(0, |response| response.status().as_u16());
        let code = if status >= 500 { String::new() } else { code };
        let source = crate::aws::source(error);
        self.error(&code, source)
    }

    fn error(&self, code: &str, source: Source) -> StreamError {
        let stream = self.stream.clone();
        match code {
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
                StreamError::Credentials { stream, source }
            }
            "ResourceNotFoundException" => StreamError::Missing { stream, source },
            "ProvisionedThroughputExceededException"
            | "LimitExceededException"
            | "ThrottlingException"
            | "KMSThrottlingException" => StreamError::Throttled { stream, source },
            _ if crate::aws::is_denied(code) || code.starts_with("KMS") => {
                StreamError::Denied { stream, source }
            }
            // No code at all: no answer, a cut one, or a failure on the other side.
            "" | "RequestTimeout" | "RequestTimeoutException" | "InternalFailure" | "ServiceUnavailable" => {
                StreamError::Unavailable { stream, source }
            }
            // Being created, updated or deleted: the first two pass.
            "ResourceInUseException" => StreamError::Unavailable { stream, source },
            _ => StreamError::Refused { stream, source },
        }
    }
}
