//! A fake Kinesis with one stream, for behaviour that no emulator has.
//!
//! It accepts requests and records of up to 10 MiB, reshards while records arrive, and injects every fault
//! that a producer has to expect (see [`Faults`]). It keeps the records shard by shard; a scenario reads them
//! in the same process.
//!
//! It implements PutRecords, ListShards and DescribeStreamSummary. It puts the records of one request in any
//! order, as Kinesis may.

mod faults;
mod put;
mod shards;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, ConnectionCut, Endpoint, RequestHandler, refusal};
use crate::aws::hash_range::HashRange;
use crate::aws::kinesis::REGION;
use crate::aws::put_log::{PutLog, SharedPutLog};

use faults::FaultGenerator;
use shards::{Shards, StoredRecord};

pub use faults::Faults;

/// Settings of a fake Kinesis.
#[derive(Debug, Clone, Copy)]
pub struct FakeKinesisSettings {
    /// Number of shards at the start.
    pub shards: usize,
    /// `MaxRecordSizeInKiB`: limit of a record, data and partition key.
    pub record_kib: usize,
    /// `StreamStatus`: a stream that is neither `ACTIVE` nor `UPDATING` refuses records.
    pub status: &'static str,
    /// `RecordDistributionStrategy`: `USER_PARTITION_KEY`, or `AUTO`, which ignores partition keys.
    pub distribution: &'static str,
    /// Whether a shard throttles beyond 1 MiB or 1,000 records a second.
    pub throughput: bool,
    /// Time that each PutRecords takes, besides the faults.
    pub latency: Duration,
    /// Number of shards on one page of ListShards.
    pub page: usize,
    /// Faults that it injects.
    pub faults: Faults,
    /// Whether it keeps the records, and logs the requests.
    ///
    /// Without it, it counts them only. A benchmark then measures the producer, and not this fake.
    pub keeps_records: bool,
}

impl Default for FakeKinesisSettings {
    /// Two shards, the default limits of Kinesis, and no faults.
    fn default() -> Self {
        Self {
            shards: 2,
            record_kib: 1024,
            status: "ACTIVE",
            distribution: "USER_PARTITION_KEY",
            throughput: false,
            latency: Duration::ZERO,
            page: 1_000,
            faults: Faults::default(),
            keeps_records: true,
        }
    }
}

/// Counters of a fake Kinesis.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamCounts {
    /// Number of PutRecords requests.
    pub requests: u64,
    /// Number of their records, each counted as often as it was sent.
    pub tried: u64,
    /// Number of stored records.
    pub put: u64,
    /// When the first record was stored.
    pub first_put: Option<Instant>,
    /// Bytes of the stored records, data and partition keys.
    pub bytes: u64,
    /// Units of 25 KiB of the stored records.
    ///
    /// Kinesis charges each record by these units.
    pub put_units: u64,
    /// Number of splits and merges.
    pub reshards: u64,
    /// Number of open shards.
    pub open_shards: usize,
}

/// A running fake Kinesis.
#[derive(Debug)]
pub struct FakeKinesis {
    endpoint: Endpoint,
    service: Arc<FakeKinesisService>,
}

#[derive(Debug)]
struct FakeKinesisService {
    stream: String,
    settings: FakeKinesisSettings,
    state: Mutex<StreamState>,
    log: SharedPutLog,
}

#[derive(Debug)]
struct StreamState {
    shards: Shards,
    faults: FaultGenerator,
    status: &'static str,
    counts: StreamCounts,
    operations: HashMap<String, u64>,
    /// Operations, each with a field of its requests that addressed the stream.
    addresses: BTreeSet<String>,
}

impl FakeKinesis {
    /// Opens a fake Kinesis with this stream.
    pub async fn open(stream: &str, settings: FakeKinesisSettings) -> Self {
        let state = StreamState {
            shards: Shards::new(settings.shards),
            faults: FaultGenerator::new(settings.faults),
            status: settings.status,
            counts: StreamCounts::default(),
            operations: HashMap::new(),
            addresses: BTreeSet::new(),
        };
        let service = Arc::new(FakeKinesisService {
            stream: stream.to_owned(),
            settings,
            state: Mutex::new(state),
            log: SharedPutLog::default(),
        });
        Self {
            endpoint: Endpoint::open(Arc::clone(&service)).await,
            service,
        }
    }

    /// URL for `AWS_ENDPOINT_URL_KINESIS`.
    pub fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// Calls `each` with every record of the stream.
    ///
    /// The arguments are the range of the shard, the partition key and the data. Shards follow one after the
    /// other, a shard before its children. Records of a shard are in the order of arrival.
    pub fn read(&self, mut each: impl FnMut(HashRange, &str, &[u8])) {
        self.read_numbered(|_, range, key, data| each(range, key, data));
    }

    /// As [`Self::read`], with the ordinal number of each record.
    ///
    /// The number is counted from 1, as [`StreamCounts::put`].
    pub fn read_numbered(&self, mut each: impl FnMut(u64, HashRange, &str, &[u8])) {
        for shard in &self.service.state().shards.all {
            for record in &shard.records {
                each(record.number, shard.range, &record.partition_key, &record.data);
            }
        }
    }

    /// Calls `each` with the storage time and data of every record.
    pub fn read_timed(&self, mut each: impl FnMut(SystemTime, &[u8])) {
        for record in self
            .service
            .state()
            .shards
            .all
            .iter()
            .flat_map(|shard| &shard.records)
        {
            each(record.stored, &record.data);
        }
    }

    /// Calls `each` as [`FakeKinesis::read`] does, and removes the records: the next call reads only newer
    /// ones.
    pub fn take(&self, mut each: impl FnMut(HashRange, &str, &[u8])) {
        let removed: Vec<(HashRange, Vec<StoredRecord>)> = {
            let mut state = self.service.state();
            let shards = state.shards.all.iter_mut();
            shards
                .map(|shard| (shard.range, std::mem::take(&mut shard.records)))
                .collect()
        };
        for (range, records) in &removed {
            for record in records {
                each(*range, &record.partition_key, &record.data);
            }
        }
    }

    /// Splits the open shard at this index in the order of ranges.
    pub fn split(&self, place: usize) {
        let mut state = self.service.state();
        let (shard, stale) = (state.shards.open()[place], state.faults.stale_maps());
        state.shards.split(shard, stale);
    }

    /// Merges an open shard with the next one.
    ///
    /// `place` is the index of the shard among the open shards, in the order of ranges.
    pub fn merge(&self, place: usize) {
        let mut state = self.service.state();
        let (open, stale) = (state.shards.open(), state.faults.stale_maps());
        state.shards.merge(open[place], open[place + 1], stale);
    }

    /// Sets the `StreamStatus`.
    pub fn set_status(&self, status: &'static str) {
        self.service.state().status = status;
    }

    /// Log of all PutRecords so far.
    pub fn put_log(&self) -> PutLog {
        self.service.log.lock().clone()
    }

    /// Checks that all PutRecords kept the rules of this stream.
    ///
    /// A request must stay within the limits of the stream. A key may have only one record in flight.
    ///
    /// # Panics
    /// A request breaks one of these rules.
    pub fn assert_within_limits(&self) {
        let record_bytes = self.service.settings.record_kib << 10;
        self.service.log.lock().assert_within(record_bytes);
    }

    /// Counters so far.
    pub fn counts(&self) -> StreamCounts {
        let state = self.service.state();
        StreamCounts {
            reshards: state.shards.reshards,
            open_shards: state.shards.open().len(),
            ..state.counts
        }
    }

    /// Number of requests of `operation` so far.
    pub fn requests(&self, operation: &str) -> u64 {
        self.service
            .state()
            .operations
            .get(operation)
            .copied()
            .unwrap_or(0)
    }
}

impl FakeKinesis {
    /// Operations so far, each with a field that addressed the stream: `PutRecords StreamName`.
    pub fn addresses(&self) -> Vec<String> {
        self.service.state().addresses.iter().cloned().collect()
    }
}

impl RequestHandler for FakeKinesisService {
    async fn answer(
        self: Arc<Self>,
        operation: String,
        _: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, ConnectionCut> {
        *self.state().operations.entry(operation.clone()).or_default() += 1;
        if operation == "PutRecords" {
            return self.put_records(&body).await;
        }
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let arn = request["StreamARN"]
            .as_str()
            .and_then(|arn| arn.rsplit('/').next());
        let named = request["StreamName"].as_str().or(arn);
        let page = if request["NextToken"].is_null() {
            ""
        } else {
            " of a later page"
        };
        for field in ["StreamName", "StreamARN"]
            .into_iter()
            .filter(|field| request[*field].is_string())
        {
            self.state()
                .addresses
                .insert(format!("{operation}{page} {field}"));
        }
        if let Some(missing) = named.filter(|name| *name != self.stream) {
            return Ok(not_found(missing));
        }
        Ok(match operation.as_str() {
            "ListShards" => self.list_shards(&request),
            "DescribeStreamSummary" => self.describe(),
            _ => refusal(
                400,
                "UnknownOperationException",
                "the fake Kinesis lacks this operation",
            ),
        })
    }
}

fn not_found(stream: &str) -> Response<Body> {
    let message = format!("Stream {stream} under account 000000000000 not found.");
    refusal(400, "ResourceNotFoundException", &message)
}

impl FakeKinesisService {
    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self) -> Response<Body> {
        let state = self.state();
        let summary = json!({
            "StreamName": self.stream,
            "StreamARN": format!("arn:aws:kinesis:{REGION}:000000000000:stream/{}", self.stream),
            "StreamStatus": state.status,
            "StreamModeDetails": { "StreamMode": "ON_DEMAND" },
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1.0,
            "EnhancedMonitoring": [],
            "OpenShardCount": state.shards.open().len(),
            "ConsumerCount": 0,
            "MaxRecordSizeInKiB": self.settings.record_kib,
            "RecordDistributionStrategy": self.settings.distribution,
        });
        endpoint::json(json!({ "StreamDescriptionSummary": summary }).to_string())
    }

    /// Answers ListShards. The token of a page is the index of its first shard.
    fn list_shards(&self, request: &Value) -> Response<Body> {
        let mut state = self.state();
        let open_only = request["ShardFilter"]["Type"] == "AT_LATEST";
        let token = request["NextToken"].as_str();
        let first: usize = token.and_then(|token| token.parse().ok()).unwrap_or(0);
        let shards: Vec<&Value> = state
            .shards
            .list(token.is_none())
            .iter()
            .filter(|shard| !open_only || shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null())
            .collect();
        let page = self.settings.page;
        let listed: Vec<&&Value> = shards.iter().skip(first).take(page).collect();
        let mut answer = json!({ "Shards": listed });
        if first + page < shards.len() {
            answer["NextToken"] = json!((first + page).to_string());
        }
        endpoint::json(answer.to_string())
    }
}
