//! The Kinesis data stream: its description, its shards, and PutRecords.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{
    RecordDistributionStrategy, Shard as KinesisShard, ShardFilter, ShardFilterType,
    StreamDescriptionSummary, StreamStatus,
};
use bytes::Bytes;

use super::client::{FailureClass, class_of_code, classify};
use super::put_records_body::put_records_body;
use crate::base::causes::BoxError;
use crate::pack::{HashKey, Record, Shard, ShardMap};
use crate::ports::{PutAnswer, RecordOutcome, Stream, StreamError, StreamInfo};

/// Most bytes of a record, if the stream's description has no limit.
///
/// Source: Kinesis API, `MaxRecordSizeInKiB`.
const DEFAULT_RECORD_BYTES: usize = 1 << 20;

/// Time for which a stream's description is reused.
///
/// All functions of an account share 20 DescribeStreamSummary requests a second.
const REUSE_TIME: Duration = Duration::from_secs(600);

/// Most DescribeStreamSummary requests for one description, while Kinesis throttles them.
const SUMMARY_ATTEMPTS: u32 = 6;

/// Mean pause between two of these requests.
const SUMMARY_PAUSE: Duration = Duration::from_millis(400);

/// A Kinesis data stream, by name or ARN.
#[derive(Debug, Clone)]
pub(crate) struct Kinesis {
    client: Client,
    /// Its name or its ARN. Only an ARN can address a stream of another account.
    stream: String,
    requirements: StreamRequirements,
    /// The last description, and the time of its read.
    cached: Arc<Mutex<Option<(Instant, StreamInfo)>>>,
    /// The streams that were opened, by name or ARN.
    opened: Arc<Mutex<HashMap<String, Kinesis>>>,
}

/// Requirements of the configuration for a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamRequirements {
    /// Whether records are aggregates.
    ///
    /// Consumers drop events of an aggregate that is not in the shard of their keys.
    pub(crate) aggregates: bool,
    /// Whether changes of one key may arrive in any order.
    pub(crate) allows_auto_distribution: bool,
}

impl Stream for Kinesis {
    fn name(&self) -> String {
        self.stream.clone()
    }

    async fn shards(&self) -> Result<ShardMap, StreamError> {
        // The caller has noticed a change of the stream, so the cached description is out of date.
        self.set_cached(None);
        self.list_shards().await
    }

    async fn open(&self, name: &str, record_bytes: usize) -> Result<(Self, StreamInfo), StreamError> {
        let stream = self.other(name);
        let info = stream.usable_info().await?;
        let checked = info.check_record_bytes(name, &self.stream, record_bytes);
        // An operator may correct the stream before the cached description is out of date.
        checked.inspect_err(|_| stream.set_cached(None))?;
        Ok((stream, info))
    }

    async fn put(&self, records: Vec<Record>) -> PutAnswer {
        let outcome = self.request(&records).await;
        PutAnswer { records, outcome }
    }
}

impl Kinesis {
    /// The stream of this name or ARN.
    ///
    /// The client must not retry by itself. The sender must see each failure to preserve the order of events.
    pub(crate) fn new(client: Client, stream: String, requirements: StreamRequirements) -> Self {
        Kinesis {
            client,
            stream,
            requirements,
            cached: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// Another stream, with its cached description if there is one.
    fn other(&self, name: &str) -> Self {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let other = || Kinesis::new(Client::clone(&self.client), name.to_owned(), self.requirements);
        opened.entry(name.to_owned()).or_insert_with(other).clone()
    }

    /// The stream's name; `None` if the stream is addressed by its ARN.
    fn stream_name(&self) -> Option<String> {
        (!self.is_arn()).then(|| self.stream.clone())
    }

    /// The stream's ARN; `None` if the stream is addressed by its name.
    fn stream_arn(&self) -> Option<String> {
        self.is_arn().then(|| self.stream.clone())
    }

    fn is_arn(&self) -> bool {
        self.stream.starts_with("arn:")
    }

    async fn request(&self, records: &[Record]) -> Result<Vec<RecordOutcome>, StreamError> {
        let field = if self.is_arn() { "StreamARN" } else { "StreamName" };
        let body = Bytes::from(put_records_body(field, &self.stream, records));
        // The request replaces the body of a request without records, before it is signed.
        let request = self
            .client
            .put_records()
            .set_stream_name(self.stream_name())
            .set_stream_arn(self.stream_arn())
            .set_records(Some(Vec::new()))
            .customize()
            .mutate_request(move |request| {
                request
                    .headers_mut()
                    .insert("content-length", body.len().to_string());
                *request.body_mut() = body.clone().into();
            });
        let answer = request.send().await.map_err(|error| self.error(&error))?;
        // The outcome follows from the error code of each record, and not from `FailedRecordCount`.
        Ok(answer
            .records
            .into_iter()
            .map(
                |record| match (record.error_code.as_deref(), record.sequence_number) {
                    (None, Some(_)) => RecordOutcome::Stored {
                        shard: record.shard_id.unwrap_or_default(),
                    },
                    (Some(code), _) if class_of_code(code) == FailureClass::Throttled => {
                        RecordOutcome::Throttled
                    }
                    _ => RecordOutcome::Failed,
                },
            )
            .collect())
    }

    /// The stream's description, if the stream can be used.
    ///
    /// The description is at most ten minutes old.
    ///
    /// # Errors
    /// The stream cannot be described. Or it ignores partition keys when it distributes records, and the
    /// configuration does not allow this.
    pub(crate) async fn usable_info(&self) -> Result<StreamInfo, StreamError> {
        let info = self.info().await?;
        let stream = || self.stream.clone();
        let usable = match self.requirements {
            StreamRequirements { aggregates: true, .. } if !info.key_decides_shard => {
                Err(StreamError::Scattering { stream: stream() })
            }
            StreamRequirements {
                allows_auto_distribution: false,
                ..
            } if !info.key_decides_shard => Err(StreamError::Unordered { stream: stream() }),
            _ => Ok(info),
        };
        // An operator may correct the stream before the cached description is out of date.
        usable.inspect_err(|_| self.set_cached(None))
    }

    /// The stream's description, at most ten minutes old.
    ///
    /// # Errors
    /// A request failed, or Kinesis is creating, deleting or resharding the stream.
    async fn info(&self) -> Result<StreamInfo, StreamError> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, info)) = cached.filter(|(at, _)| at.elapsed() < REUSE_TIME) {
            return Ok(info);
        }
        let summary = self.summary().await?;
        let stream = || self.stream.clone();
        match summary.stream_status {
            StreamStatus::Deleting => return Err(StreamError::Deleting { stream: stream() }),
            StreamStatus::Creating => {
                return Err(StreamError::Unavailable {
                    stream: stream(),
                    source: "it is being created".into(),
                });
            }
            _ => {}
        }
        let kib = summary
            .max_record_size_in_kib
            .and_then(|kib| usize::try_from(kib).ok());
        let info = StreamInfo {
            record_bytes: kib.map_or(DEFAULT_RECORD_BYTES, |kib| kib << 10),
            key_decides_shard: summary.record_distribution_strategy != Some(RecordDistributionStrategy::Auto),
            shards: self.list_shards().await?,
        };
        self.set_cached(Some((Instant::now(), info.clone())));
        Ok(info)
    }

    /// The stream's status as Kinesis spells it, such as `ACTIVE`.
    ///
    /// # Errors
    /// The request failed.
    pub(crate) async fn status(&self) -> Result<String, StreamError> {
        Ok(self.summary().await?.stream_status.as_str().to_owned())
    }

    /// Forgets the descriptions of this stream and of the opened ones.
    ///
    /// A failure may show that they are out of date: the stream was deleted, or an operator has corrected it.
    pub(crate) fn forget_descriptions(&self) {
        self.set_cached(None);
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.values().for_each(|stream| stream.set_cached(None));
    }

    fn set_cached(&self, cached: Option<(Instant, StreamInfo)>) {
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = cached;
    }

    /// The stream's description, with retries while Kinesis throttles.
    ///
    /// Many functions may start at the same moment.
    async fn summary(&self) -> Result<StreamDescriptionSummary, StreamError> {
        for _ in 1..SUMMARY_ATTEMPTS {
            match self.summary_once().await {
                Err(StreamError::Throttled { .. }) => {}
                answer => return answer,
            }
            tokio::time::sleep(SUMMARY_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
        self.summary_once().await
    }

    async fn summary_once(&self) -> Result<StreamDescriptionSummary, StreamError> {
        let request = self.client.describe_stream_summary();
        let request = request
            .set_stream_name(self.stream_name())
            .set_stream_arn(self.stream_arn());
        let answer = request.send().await.map_err(|error| self.error(&error))?;
        let summary = answer.stream_description_summary;
        summary.ok_or_else(|| self.unexpected("the answer has no description".into()))
    }

    /// The open shards.
    ///
    /// # Errors
    /// A request failed, or the shards do not cover all hash keys: Kinesis is resharding the stream.
    async fn list_shards(&self) -> Result<ShardMap, StreamError> {
        let latest = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build();
        let latest = latest.map_err(|error| self.unexpected(Box::new(error)))?;
        let (mut shards, mut next_token) = (Vec::new(), None);
        loop {
            let request = self.client.list_shards().set_stream_arn(self.stream_arn());
            // Kinesis refuses a request with both a name and a token. To find a stream of another account, it
            // needs the ARN in each request.
            let request = match next_token {
                Some(token) => request.next_token(token),
                None => request
                    .set_stream_name(self.stream_name())
                    .shard_filter(latest.clone()),
            };
            let page = request.send().await.map_err(|error| self.error(&error))?;
            for shard in page.shards.unwrap_or_default() {
                shards.extend(self.open_shard(shard)?);
            }
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
        ShardMap::new(shards).map_err(|source| StreamError::Resharding {
            stream: self.stream.clone(),
            source,
        })
    }

    /// The shard; `None` if it is closed: a closed shard has a last sequence number.
    ///
    /// # Errors
    /// The shard has no range of hash keys.
    fn open_shard(&self, shard: KinesisShard) -> Result<Option<Shard>, StreamError> {
        let is_closed = shard
            .sequence_number_range
            .is_some_and(|range| range.ending_sequence_number.is_some());
        let range = shard.hash_key_range.as_ref();
        let hash_key = |text: Option<&String>| {
            let key = text.and_then(|text| text.parse().ok()).map(HashKey);
            key.ok_or_else(|| self.unexpected("a shard has no range of hash keys".into()))
        };
        if is_closed {
            return Ok(None);
        }
        Ok(Some(Shard {
            first: hash_key(range.map(|range| &range.starting_hash_key))?,
            last: hash_key(range.map(|range| &range.ending_hash_key))?,
            id: shard.shard_id,
        }))
    }

    fn error<E>(&self, error: &SdkError<E>) -> StreamError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let stream = self.stream.clone();
        let (class, source) = classify(error);
        match class {
            FailureClass::Expired => StreamError::Credentials { stream, source },
            FailureClass::NotFound => StreamError::Missing { stream, source },
            FailureClass::Throttled => StreamError::Throttled { stream, source },
            FailureClass::Denied => StreamError::Denied { stream, source },
            FailureClass::Unavailable => StreamError::Unavailable { stream, source },
            FailureClass::Other => StreamError::Refused { stream, source },
        }
    }

    /// The error of an invalid request or an incomplete answer.
    ///
    /// The SDK cannot build the request, or the answer lacks a part that the API requires.
    fn unexpected(&self, source: BoxError) -> StreamError {
        StreamError::Unavailable {
            stream: self.stream.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_sdk_kinesis::config::BehaviorVersion;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4::SigningParams;
    use aws_types::SdkConfig;
    use aws_types::region::Region;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::aws::client;
    use crate::aws::put_records_body::tests::records;
    use crate::base::time::micros_of_timestamp;

    const ANSWER: &str = r#"{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1","ShardId":"shard"}]}"#;

    /// Accepts one request, and answers it with [`ANSWER`]. Returns its headers and its body.
    async fn one_request(listener: TcpListener) -> (Vec<(String, String)>, Vec<u8>) {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        loop {
            connection.read_buf(&mut received).await.unwrap();
            let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8(received[..end].to_vec()).unwrap();
            let headers: Vec<(String, String)> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let body = received[end + 4..].to_vec();
            if header(&headers, "content-length") == body.len().to_string() {
                let length = ANSWER.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{ANSWER}");
                connection.write_all(answer.as_bytes()).await.unwrap();
                return (headers, body);
            }
        }
    }

    /// The only header with this name.
    fn header<'h>(headers: &'h [(String, String)], name: &str) -> &'h str {
        let mut found = headers.iter().filter(|(header, _)| header == name);
        let (_, value) = found.next().expect(name);
        assert!(found.next().is_none(), "{name} occurs twice");
        value
    }

    /// The header `authorization` of a request with these headers and this body.
    fn authorization(url: &str, headers: &[(String, String)], body: &[u8], identity: Credentials) -> String {
        let date = header(headers, "x-amz-date");
        let (day, time) = date.trim_end_matches('Z').split_once('T').unwrap();
        let timestamp = format!(
            "{}-{}-{} {}:{}:{}+00",
            &day[..4],
            &day[4..6],
            &day[6..],
            &time[..2],
            &time[2..4],
            &time[4..]
        );
        let micros = micros_of_timestamp(&timestamp).unwrap();
        let given = header(headers, "authorization");
        let signed = given
            .split_once("SignedHeaders=")
            .unwrap()
            .1
            .split(',')
            .next()
            .unwrap();
        let is_given = |name: &&str| !["host", "x-amz-date"].contains(name);
        let signed: Vec<_> = signed
            .split(';')
            .filter(is_given)
            .map(|name| (name, header(headers, name)))
            .collect();
        let identity = identity.into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name("kinesis")
            .time(std::time::UNIX_EPOCH + Duration::from_micros(micros as u64))
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let body = SignableBody::Bytes(body);
        let request = SignableRequest::new("POST", url, signed.into_iter(), body).unwrap();
        let (instructions, _) = sign(request, &params.into()).unwrap().into_parts();
        let mut headers = instructions.headers();
        headers
            .find(|(name, _)| *name == "authorization")
            .unwrap()
            .1
            .to_owned()
    }

    #[tokio::test]
    async fn the_body_that_is_sent_is_signed_and_has_its_length() {
        let identity = || Credentials::new("id", "secret", None, None, "test");
        for (stream, field) in [
            ("s", "StreamName"),
            ("arn:aws:kinesis:eu-central-1:1:stream/s", "StreamARN"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let config = SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-central-1"))
                .credentials_provider(SharedCredentialsProvider::new(identity()))
                .endpoint_url(&url)
                .http_client(client::https_client())
                .build();
            let requirements = StreamRequirements {
                aggregates: false,
                allows_auto_distribution: false,
            };
            let kinesis = Kinesis::new(client::kinesis(&config), stream.to_owned(), requirements);
            let server = tokio::spawn(one_request(listener));
            let answer = kinesis.put(records(&[("{\"id\":1}", b"data")])).await;
            let stored = RecordOutcome::Stored {
                shard: "shard".to_owned(),
            };
            assert_eq!(answer.outcome.unwrap(), [stored]);
            let (headers, body) = server.await.unwrap();
            assert_eq!(body, put_records_body(field, stream, &answer.records));
            let expected = authorization(&url, &headers, &body, identity());
            assert_eq!(header(&headers, "authorization"), expected);
        }
    }
}
