//! The stream on Kinesis: what it says of itself, and PutRecords with what its answer means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, RecordDistributionStrategy, ShardFilter, ShardFilterType,
    StreamDescriptionSummary, StreamStatus,
};

use super::client::{Refusal, classify};
use crate::pack::{HashKey, Record, Shard, ShardMap};
use crate::ports::{BoxError, PutAnswer, RecordOutcome, Stream, StreamError};

/// Most bytes of a record of a stream that does not say (Kinesis API, `MaxRecordSizeInKiB`).
const RECORD_BYTES: usize = 1 << 20;

/// For how long a stream's word is taken. All functions of an account share 20 DescribeStreamSummary a second.
const FRESH: Duration = Duration::from_secs(600);

/// A Kinesis data stream, by name.
#[derive(Debug, Clone)]
pub(crate) struct Kinesis {
    client: Client,
    stream: String,
    known: Arc<Mutex<Option<(Instant, StreamInfo)>>>,
}

/// What a stream says of itself.
#[derive(Debug, Clone)]
pub(crate) struct StreamInfo {
    /// Most bytes of one record, data and partition key.
    pub record_bytes: usize,
    /// Whether the partition key decides the shard; otherwise Kinesis does, and order is gone.
    pub keyed: bool,
    /// The open shards.
    pub shards: ShardMap,
}

impl Stream for Kinesis {
    fn name(&self) -> String {
        self.stream.clone()
    }

    async fn shards(&self) -> Result<ShardMap, StreamError> {
        // Whoever asks found the stream to be another than it was: the next one asks for all of it.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.list_shards().await
    }

    async fn put(&self, records: Vec<Record>) -> PutAnswer {
        let outcome = self.request(&records).await;
        PutAnswer { records, outcome }
    }
}

impl Kinesis {
    /// The stream of that name. The client must not retry by itself: order needs to know of every failure.
    pub(crate) fn new(client: Client, stream: String) -> Self {
        Kinesis {
            client,
            stream,
            known: Arc::default(),
        }
    }

    async fn request(&self, records: &[Record]) -> Result<Vec<RecordOutcome>, StreamError> {
        let mut request = self.client.put_records().stream_name(&self.stream);
        for record in records {
            let entry = PutRecordsRequestEntry::builder()
                .data(Blob::new(record.data()))
                .partition_key(record.partition_key())
                .build();
            request = request.records(entry.map_err(|error| self.unexpected(Box::new(error)))?);
        }
        let answer = request.send().await.map_err(|error| self.error(&error))?;
        // `FailedRecordCount` is not asked: what counts is whether a record has an error code.
        Ok(answer
            .records
            .into_iter()
            .map(
                |record| match (record.error_code.as_deref(), record.sequence_number) {
                    (None, Some(_)) => RecordOutcome::Stored {
                        shard: record.shard_id.unwrap_or_default(),
                    },
                    (Some("ProvisionedThroughputExceededException"), _) => RecordOutcome::Throttled,
                    _ => RecordOutcome::Failed,
                },
            )
            .collect())
    }

    /// What the stream said of itself within the last minutes, or says now.
    ///
    /// # Errors
    /// As for a request; and it is being deleted or created.
    pub(crate) async fn info(&self) -> Result<StreamInfo, StreamError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, info)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(info);
        }
        let summary = self.summary().await?;
        let stream = || self.stream.clone();
        match summary.stream_status {
            StreamStatus::Deleting => return Err(StreamError::Deleting { stream: stream() }),
            StreamStatus::Creating => {
                let source = "it is being created".into();
                return Err(StreamError::Unavailable {
                    stream: stream(),
                    source,
                });
            }
            _ => {}
        }
        let kib = summary
            .max_record_size_in_kib
            .and_then(|kib| usize::try_from(kib).ok());
        let info = StreamInfo {
            record_bytes: kib.map_or(RECORD_BYTES, |kib| kib << 10),
            keyed: summary.record_distribution_strategy != Some(RecordDistributionStrategy::Auto),
            shards: self.list_shards().await?,
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), info.clone()));
        Ok(info)
    }

    /// The stream's state, as `ACTIVE`.
    ///
    /// # Errors
    /// As for a request.
    pub(crate) async fn status(&self) -> Result<String, StreamError> {
        Ok(self.summary().await?.stream_status.as_str().to_owned())
    }

    async fn summary(&self) -> Result<StreamDescriptionSummary, StreamError> {
        let asked = self.client.describe_stream_summary().stream_name(&self.stream);
        let answer = asked.send().await.map_err(|error| self.error(&error))?;
        let summary = answer.stream_description_summary;
        summary.ok_or_else(|| self.unexpected("it says nothing of itself".into()))
    }

    async fn list_shards(&self) -> Result<ShardMap, StreamError> {
        let latest = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build();
        let latest = latest.map_err(|error| self.unexpected(Box::new(error)))?;
        let (mut shards, mut next) = (Vec::new(), None);
        loop {
            let asked = self.client.list_shards();
            let asked = match next {
                Some(token) => asked.next_token(token),
                None => asked.stream_name(&self.stream).shard_filter(latest.clone()),
            };
            let page = asked.send().await.map_err(|error| self.error(&error))?;
            for shard in page.shards.unwrap_or_default() {
                let closed = shard
                    .sequence_number_range
                    .is_some_and(|range| range.ending_sequence_number.is_some());
                let range = shard.hash_key_range.as_ref();
                let place = |text: Option<&String>| {
                    let place = text.and_then(|text| text.parse().ok()).map(HashKey);
                    place.ok_or_else(|| self.unexpected("a shard has no range of hash keys".into()))
                };
                if !closed {
                    shards.push(Shard {
                        first: place(range.map(|range| &range.starting_hash_key))?,
                        last: place(range.map(|range| &range.ending_hash_key))?,
                        id: shard.shard_id,
                    });
                }
            }
            next = page.next_token;
            if next.is_none() {
                break;
            }
        }
        ShardMap::new(shards).map_err(|source| StreamError::Resharding {
            stream: self.stream.clone(),
            source,
        })
    }

    fn error<E>(&self, error: &SdkError<E>) -> StreamError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let stream = self.stream.clone();
        let (refusal, source) = classify(error);
        match refusal {
            Refusal::Expired => StreamError::Credentials { stream, source },
            Refusal::NotFound => StreamError::Missing { stream, source },
            Refusal::Throttled => StreamError::Throttled { stream, source },
            Refusal::Denied => StreamError::Denied { stream, source },
            Refusal::Unavailable => StreamError::Unavailable { stream, source },
            Refusal::Other => StreamError::Refused { stream, source },
        }
    }

    /// An answer, or a request, that is not as the API describes it.
    fn unexpected(&self, source: BoxError) -> StreamError {
        StreamError::Unavailable {
            stream: self.stream.clone(),
            source,
        }
    }
}
