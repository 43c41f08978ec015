//! A fake Kinesis with one stream, for what no emulator does.
//!
//! It accepts requests and records of up to 10 MiB, reshards while records arrive, and injects every fault
//! that a producer has to expect (see [`Faults`]). It keeps the records shard by shard; a scenario reads them
//! in the same process.
//!
//! It implements PutRecords, ListShards and DescribeStreamSummary. It puts the records of one request in any
//! order, as Kinesis may.

mod faults;
mod shards;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, Answerer, Cut, Endpoint, refusal};
use crate::aws::hash_range::{HashRange, hash_of};
use crate::aws::kinesis::REGION;
use crate::aws::put_log::{MOST_BYTES, MOST_RECORDS, PutLog, SharedPutLog};
use crate::aws::put_records::{PutRecordsEntry, PutRecordsRequest};

use faults::{FaultGenerator, RecordOutcome, RequestDelay, RequestOutcome};
use shards::{Shards, StoredRecord};

pub use faults::Faults;

/// Bytes of a put unit, by which Kinesis charges a record.
const PUT_UNIT_BYTES: usize = 25 << 10;

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
pub struct Counts {
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
    /// Units of 25 KiB of the stored records, by which Kinesis charges each record.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stream: String,
    settings: FakeKinesisSettings,
    state: Mutex<State>,
    log: SharedPutLog,
}

#[derive(Debug)]
struct State {
    shards: Shards,
    faults: FaultGenerator,
    status: &'static str,
    counts: Counts,
    operations: HashMap<String, u64>,
}

impl FakeKinesis {
    /// Opens a fake Kinesis with this stream.
    pub async fn open(stream: &str, settings: FakeKinesisSettings) -> Self {
        let state = State {
            shards: Shards::new(settings.shards),
            faults: FaultGenerator::new(settings.faults),
            status: settings.status,
            counts: Counts::default(),
            operations: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            stream: stream.to_owned(),
            settings,
            state: Mutex::new(state),
            log: SharedPutLog::default(),
        });
        Self {
            endpoint: Endpoint::open(Arc::clone(&shared)).await,
            shared,
        }
    }

    /// URL for `AWS_ENDPOINT_URL_KINESIS`.
    pub fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// Calls `each` with the range of the shard, the partition key and the data of every record.
    ///
    /// Shards follow one after the other, a shard before its children. Records of a shard are in the order of
    /// arrival.
    pub fn read(&self, mut each: impl FnMut(HashRange, &str, &[u8])) {
        self.read_numbered(|_, range, key, data| each(range, key, data));
    }

    /// The same, with the ordinal number of each record, counted from 1 as [`Counts::put`].
    pub fn read_numbered(&self, mut each: impl FnMut(u64, HashRange, &str, &[u8])) {
        for shard in &self.shared.state().shards.all {
            for record in &shard.records {
                each(record.number, shard.range, &record.partition_key, &record.data);
            }
        }
    }

    /// Calls `each` with the time of storage and the data of every record.
    pub fn read_timed(&self, mut each: impl FnMut(SystemTime, &[u8])) {
        for record in self
            .shared
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
            let mut state = self.shared.state();
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
        let mut state = self.shared.state();
        let (shard, stale) = (state.shards.open()[place], state.faults.stale_maps());
        state.shards.split(shard, stale);
    }

    /// Merges the open shard at this index in the order of ranges with the next one.
    pub fn merge(&self, place: usize) {
        let mut state = self.shared.state();
        let (open, stale) = (state.shards.open(), state.faults.stale_maps());
        state.shards.merge(open[place], open[place + 1], stale);
    }

    /// Sets the `StreamStatus`.
    pub fn set_status(&self, status: &'static str) {
        self.shared.state().status = status;
    }

    /// Log of all PutRecords so far.
    pub fn put_log(&self) -> PutLog {
        self.shared.log.lock().clone()
    }

    /// Checks all PutRecords against the limits of this stream, and that no key had two records in flight.
    ///
    /// # Panics
    /// A request breaks one of them.
    pub fn assert_within_limits(&self) {
        let record_bytes = self.shared.settings.record_kib << 10;
        self.shared.log.lock().assert_within(record_bytes);
    }

    /// Counters so far.
    pub fn counts(&self) -> Counts {
        let state = self.shared.state();
        Counts {
            reshards: state.shards.reshards,
            open_shards: state.shards.open().len(),
            ..state.counts
        }
    }

    /// Number of requests of `operation` so far.
    pub fn requests(&self, operation: &str) -> u64 {
        self.shared
            .state()
            .operations
            .get(operation)
            .copied()
            .unwrap_or(0)
    }
}

impl Answerer for Shared {
    async fn answer(
        self: Arc<Self>,
        operation: String,
        _: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Cut> {
        *self.state().operations.entry(operation.clone()).or_default() += 1;
        if operation == "PutRecords" {
            return self.put_records(&body).await;
        }
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let arn = request["StreamARN"]
            .as_str()
            .and_then(|arn| arn.rsplit('/').next());
        let named = request["StreamName"].as_str().or(arn);
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

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
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

    async fn put_records(self: Arc<Self>, body: &[u8]) -> Result<Response<Body>, Cut> {
        let request = match PutRecordsRequest::parse(body) {
            Ok(request) => request,
            Err(error) => return Ok(refusal(400, "SerializationException", &error.to_string())),
        };
        let mut data = Vec::with_capacity(request.records.len());
        for entry in &request.records {
            if !self.settings.keeps_records {
                data.push(Vec::new());
                continue;
            }
            match entry.data() {
                Some(bytes) => data.push(bytes),
                None => return Ok(refusal(400, "SerializationException", "the data is not base64")),
            }
        }
        let keys = request.records.iter().map(|entry| entry.partition_key.as_ref());
        let records = keys.zip(data.iter().map(Vec::as_slice));
        let is_logged = self.settings.keeps_records;
        let _in_flight = is_logged.then(|| self.log.enter(request.stream(), records));
        let (outcome, delay) = {
            let mut state = self.state();
            state.counts.requests += 1;
            state.counts.tried += data.len() as u64;
            state.faults.request()
        };
        if let Err(refused) = self.check(&request) {
            return Ok(*refused);
        }
        // The delay of an answer is what this fake simulates. No test waits for it instead of an event.
        if let RequestDelay::BeforePut(time) = delay {
            tokio::time::sleep(time).await;
        }
        match outcome {
            RequestOutcome::CutRequest => return Err(Cut),
            RequestOutcome::Failed(false) => return Ok(internal()),
            RequestOutcome::Throttled => {
                let message = "Rate exceeded for the stream.";
                return Ok(refusal(400, "ProvisionedThroughputExceededException", message));
            }
            _ => {}
        }
        let short = outcome == RequestOutcome::ShortAnswer;
        let answer = match self.state().put(&request.records, data, self.settings, short) {
            Ok(answer) => answer,
            Err(refused) => return Ok(*refused),
        };
        if !self.settings.latency.is_zero() {
            tokio::time::sleep(self.settings.latency).await;
        }
        if let RequestDelay::BeforeAnswer(time) = delay {
            tokio::time::sleep(time).await;
        }
        match outcome {
            RequestOutcome::CutAnswer => Err(Cut),
            RequestOutcome::Failed(true) => Ok(internal()),
            _ => Ok(endpoint::json(answer)),
        }
    }

    /// Refuses a whole request for the reasons of Kinesis.
    fn check(&self, request: &PutRecordsRequest<'_>) -> Result<(), Box<Response<Body>>> {
        if request.stream() != self.stream {
            return Err(Box::new(not_found(request.stream())));
        }
        let status = self.state().status;
        if !["ACTIVE", "UPDATING"].contains(&status) {
            return Err(Box::new(not_found(&self.stream)));
        }
        let invalid = |message: String| {
            let message = format!("1 validation error detected: {message}");
            Err(Box::new(refusal(400, "ValidationException", &message)))
        };
        let records = request.records.len();
        if !(1..=MOST_RECORDS).contains(&records) {
            return invalid(format!(
                "{records} records: a request has at least 1 and at most {MOST_RECORDS}"
            ));
        }
        let most = self.settings.record_kib << 10;
        let mut bytes = 0;
        for entry in &request.records {
            let characters = entry.partition_key.chars().count();
            if !(1..=256).contains(&characters) {
                return invalid(format!("a partition key of {characters} characters"));
            }
            if entry.bytes() > most {
                return invalid(format!("a record of {} bytes: at most {most}", entry.bytes()));
            }
            if entry
                .explicit_hash_key
                .as_ref()
                .is_some_and(|key| key.parse::<u128>().is_err())
            {
                let message = "ExplicitHashKey must be in the range: [0, 2^128-1].";
                return Err(Box::new(refusal(400, "InvalidArgumentException", message)));
            }
            bytes += entry.bytes();
        }
        match bytes <= MOST_BYTES {
            true => Ok(()),
            false => invalid(format!("a request of {bytes} bytes: at most {MOST_BYTES}")),
        }
    }
}

impl State {
    /// Stores the records that the seed does not fail, and answers for all of them.
    ///
    /// Refused when the stream is not active any more.
    fn put(
        &mut self,
        entries: &[PutRecordsEntry<'_>],
        data: Vec<Vec<u8>>,
        settings: FakeKinesisSettings,
        short: bool,
    ) -> Result<String, Box<Response<Body>>> {
        if !["ACTIVE", "UPDATING"].contains(&self.status) {
            let refused = refusal(400, "ResourceNotFoundException", "the stream is not active");
            return Err(Box::new(refused));
        }
        if self.faults.reshards() {
            let stale = self.faults.stale_maps();
            self.shards.reshard(&mut self.faults.random, stale);
        }
        let now = Instant::now();
        let mut results = vec![String::new(); entries.len()];
        let mut records: Vec<(usize, Vec<u8>)> = data.into_iter().enumerate().collect();
        self.faults.random.shuffle(&mut records);
        let mut failed = 0;
        for (index, data) in records {
            match self.put_record(&entries[index], data, settings, now) {
                Ok(result) => results[index] = result,
                Err(result) => {
                    failed += 1;
                    results[index] = result;
                }
            }
        }
        if short {
            results.truncate(self.faults.random.usize(..entries.len()));
        }
        let results = results.join(",");
        Ok(format!(
            r#"{{"FailedRecordCount":{failed},"Records":[{results}]}}"#
        ))
    }

    /// Stores one record, unless its shard is throttled or the seed fails it; returns its part of the answer.
    fn put_record(
        &mut self,
        entry: &PutRecordsEntry<'_>,
        data: Vec<u8>,
        settings: FakeKinesisSettings,
        now: Instant,
    ) -> Result<String, String> {
        let explicit = entry.explicit_hash_key.as_ref();
        let explicit = explicit.and_then(|key| key.parse::<u128>().ok());
        let hash = match settings.distribution {
            "AUTO" => self.faults.random.u128(..),
            _ => explicit.unwrap_or_else(|| hash_of(&entry.partition_key)),
        };
        let number = self.shards.holding(hash);
        let (shard, id) = (&mut self.shards.all[number], shards::id(number));
        let mut outcome = self.faults.record();
        if settings.throughput && outcome == RecordOutcome::Put && !shard.has_room(now, entry.bytes()) {
            outcome = RecordOutcome::Throttled;
        }
        let (kind, message) = match outcome {
            RecordOutcome::Put => {
                self.counts.put += 1;
                self.counts.first_put.get_or_insert(now);
                self.counts.bytes += entry.bytes() as u64;
                self.counts.put_units += entry.bytes().div_ceil(PUT_UNIT_BYTES) as u64;
                let sequence = self.counts.put;
                if settings.keeps_records {
                    shard.records.push(StoredRecord {
                        number: sequence,
                        stored: SystemTime::now(),
                        partition_key: entry.partition_key.as_ref().to_owned(),
                        data,
                    });
                }
                return Ok(format!(
                    r#"{{"SequenceNumber":"{sequence:056}","ShardId":"{id}"}}"#
                ));
            }
            RecordOutcome::Throttled => (
                "ProvisionedThroughputExceededException",
                format!("Rate exceeded for shard {id}"),
            ),
            RecordOutcome::Failed => ("InternalFailure", "Internal service failure.".to_owned()),
        };
        Err(format!(r#"{{"ErrorCode":"{kind}","ErrorMessage":"{message}"}}"#))
    }
}

fn internal() -> Response<Body> {
    refusal(500, "InternalFailure", "Internal service failure.")
}
