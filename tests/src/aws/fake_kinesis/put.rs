//! PutRecords of a fake Kinesis: checks a request, and stores its records.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::body::Body;
use hyper::Response;

use crate::aws::endpoint::{self, ConnectionCut, refusal};
use crate::aws::hash_range::hash_of;
use crate::aws::put_log::{MAX_BYTES, MAX_RECORDS};
use crate::aws::put_records::{PutRecordsEntry, PutRecordsRequest};

use super::faults::{RecordOutcome, RequestDelay, RequestOutcome};
use super::shards::{self, StoredRecord};
use super::{FakeKinesisService, FakeKinesisSettings, StreamState, not_found};

/// Bytes of a put unit, by which Kinesis charges a record.
const PUT_UNIT_BYTES: usize = 25 << 10;

impl FakeKinesisService {
    pub(super) async fn put_records(self: Arc<Self>, body: &[u8]) -> Result<Response<Body>, ConnectionCut> {
        let request = match PutRecordsRequest::parse(body) {
            Ok(request) => request,
            Err(error) => return Ok(refusal(400, "SerializationException", &error.to_string())),
        };
        let Some(data) = self.stored_data(&request) else {
            return Ok(refusal(400, "SerializationException", "the data is not base64"));
        };
        let keys = request.records.iter().map(|entry| entry.partition_key.as_ref());
        let records = keys.zip(data.iter().map(Vec::as_slice));
        let is_logged = self.settings.keeps_records;
        let _in_flight = is_logged.then(|| self.log.enter(request.stream(), records));
        let (outcome, delay) = self.state().next_outcome(&request);
        if let Err(refused) = self.check(&request) {
            return Ok(*refused);
        }
        // The delay of an answer is what this fake simulates. No test waits for it instead of an event.
        if let RequestDelay::BeforePut(time) = delay {
            tokio::time::sleep(time).await;
        }
        match outcome {
            RequestOutcome::CutRequest => return Err(ConnectionCut),
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
        self.delay_answer(delay).await;
        match outcome {
            RequestOutcome::CutAnswer => Err(ConnectionCut),
            RequestOutcome::Failed(true) => Ok(internal()),
            _ => Ok(endpoint::json(answer)),
        }
    }

    /// Data of the records, empty without storage; `None`: not base64.
    fn stored_data(&self, request: &PutRecordsRequest<'_>) -> Option<Vec<Vec<u8>>> {
        let entries = request.records.iter();
        match self.settings.keeps_records {
            true => entries.map(PutRecordsEntry::data).collect(),
            false => Some(vec![Vec::new(); entries.len()]),
        }
    }

    /// Waits for the stream's latency and the delay of the answer.
    async fn delay_answer(&self, delay: RequestDelay) {
        // Simulated, too.
        if !self.settings.latency.is_zero() {
            tokio::time::sleep(self.settings.latency).await;
        }
        if let RequestDelay::BeforeAnswer(time) = delay {
            tokio::time::sleep(time).await;
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
        if !(1..=MAX_RECORDS).contains(&records) {
            return invalid(format!(
                "{records} records: a request has at least 1 and at most {MAX_RECORDS}"
            ));
        }
        let most = self.settings.record_kib << 10;
        let mut bytes = 0;
        for entry in &request.records {
            let characters = entry.partition_key.encode_utf16().count();
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
        match bytes <= MAX_BYTES {
            true => Ok(()),
            false => invalid(format!("a request of {bytes} bytes: at most {MAX_BYTES}")),
        }
    }
}

impl StreamState {
    /// Counts a request; returns its outcome and delay.
    fn next_outcome(&mut self, request: &PutRecordsRequest<'_>) -> (RequestOutcome, RequestDelay) {
        for field in request.address_fields() {
            self.addresses.insert(format!("PutRecords {field}"));
        }
        self.counts.requests += 1;
        self.counts.tried += request.records.len() as u64;
        self.faults.request()
    }

    /// Stores the records that the seed does not fail.
    ///
    /// The answer covers all records. The request is refused when the stream is not active any more.
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

    /// Stores one record; returns its part of the answer.
    ///
    /// The record is not stored if its shard is throttled or the seed fails it.
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
