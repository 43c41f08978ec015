//! PutRecords, looked into: what its requests held, which keys were in flight together, and the partial failures
//! that no emulator makes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Cut, Shared};

/// One PutRecords request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRecords {
    /// The stream it names.
    pub stream: String,
    /// Partition key and size in bytes of the data, in the order of the request.
    pub records: Vec<(String, usize)>,
}

impl PutRecords {
    /// As Kinesis counts a request: data and partition keys.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(key, data)| key.len() + data).sum()
    }
}

/// All that PutRecords brought to a gate.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The requests in the order of their arrival.
    pub requests: Vec<PutRecords>,
    /// Partition keys of which two records were unacknowledged at the same time.
    pub shared_keys: BTreeSet<String>,
    /// Unacknowledged records by stream and key.
    in_flight: HashMap<(String, String), u32>,
}

impl Seen {
    /// Records that were put, each as often as it was tried.
    pub fn records(&self) -> usize {
        self.requests.iter().map(|request| request.records.len()).sum()
    }

    /// Holds what was seen against the limits of PutRecords, and against the rule that a lane has at most one
    /// unacknowledged record.
    ///
    /// # Panics
    /// One of them was broken.
    pub fn assert_within_limits(&self) {
        for request in &self.requests {
            let (records, bytes) = (request.records.len(), request.bytes());
            assert!((1..=500).contains(&records), "a request of {records} records");
            assert!(bytes <= 5 * 1024 * 1024, "a request of {bytes} bytes");
            for (key, data) in &request.records {
                let characters = key.chars().count();
                assert!(
                    (1..=256).contains(&characters),
                    "a partition key of {characters} characters"
                );
                assert!(
                    key.len() + data <= 1024 * 1024,
                    "a record of {data} bytes with key {key}"
                );
            }
        }
        assert!(
            self.shared_keys.is_empty(),
            "two records in flight for one key: {:?}",
            self.shared_keys
        );
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
    records: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    partition_key: String,
    data: String,
}

/// Takes its records out of flight when the request is over, answered or not.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    stream: String,
    keys: Vec<String>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        for key in self.keys.drain(..) {
            let of_stream = (self.stream.clone(), key);
            if let Some(count) = state.seen.in_flight.get_mut(&of_stream) {
                *count -= 1;
                if *count == 0 {
                    state.seen.in_flight.remove(&of_stream);
                }
            }
        }
    }
}

/// Writes the request down, and its records into flight.
pub(super) fn note(shared: &Arc<Shared>, body: &Bytes) -> InFlight {
    let body: Asked = serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("a PutRecords that is not application/x-amz-json-1.1: {error}"));
    let arn = body.stream_arn.as_deref().and_then(|arn| arn.rsplit('/').next());
    let stream = body.stream_name.as_deref().or(arn).unwrap_or_default().to_owned();
    let size = |data: &str| STANDARD.decode(data).map_or(data.len(), |data| data.len());
    let records: Vec<(String, usize)> = body
        .records
        .into_iter()
        .map(|entry| (entry.partition_key, size(&entry.data)))
        .collect();
    let keys: Vec<String> = records.iter().map(|(key, _)| key.clone()).collect();

    let mut state = shared.state();
    for key in &keys {
        let count = state
            .seen
            .in_flight
            .entry((stream.clone(), key.clone()))
            .or_default();
        *count += 1;
        if *count > 1 {
            state.seen.shared_keys.insert(key.clone());
        }
    }
    state.seen.requests.push(PutRecords {
        stream: stream.clone(),
        records,
    });
    drop(state);
    InFlight {
        shared: Arc::clone(shared),
        stream,
        keys,
    }
}

/// Which records of this request fail, if the gate is flaky: never an empty list.
pub(super) fn victims(shared: &Shared, operation: &str, body: &Bytes) -> Option<BTreeSet<usize>> {
    if operation != "PutRecords" {
        return None;
    }
    let mut state = shared.state();
    let flaky = state.flaky.as_mut()?;
    let body: Asked = serde_json::from_slice(body).ok()?;
    let victims: BTreeSet<usize> = (0..body.records.len())
        .filter(|_| flaky.random.u8(..100) < flaky.percent)
        .collect();
    (!victims.is_empty()).then_some(victims)
}

/// Forwards all but the victims, and answers for all.
pub(super) async fn spare(
    shared: &Shared,
    head: &hyper::http::request::Parts,
    body: &Bytes,
    victims: &BTreeSet<usize>,
) -> Result<Response<Body>, Cut> {
    let mut request: Value = serde_json::from_slice(body).map_err(|_| Cut)?;
    let records = request["Records"].as_array_mut().ok_or(Cut)?;
    let total = records.len();
    let mut index = 0;
    records.retain(|_| {
        index += 1;
        !victims.contains(&(index - 1))
    });
    let mut put = Vec::new();
    let mut failed = victims.len() as u64;
    let mut answer = Response::new(Body::empty());
    if !records.is_empty() {
        answer = shared.forward(head, Bytes::from(request.to_string())).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let (kept, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.map_err(|_| Cut)?;
        let mut body: Value = serde_json::from_slice(&body).map_err(|_| Cut)?;
        failed += body["FailedRecordCount"].as_u64().unwrap_or(0);
        put = body["Records"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        answer = Response::from_parts(kept, Body::empty());
        answer.headers_mut().remove(hyper::header::CONTENT_LENGTH);
    }
    let mut put = put.into_iter();
    let merged: Vec<Value> = (0..total)
        .map(|index| match victims.contains(&index) {
            true if index % 2 == 0 => json!({
                "ErrorCode": "ProvisionedThroughputExceededException",
                "ErrorMessage": "Rate exceeded for shard, as the scenario asked",
            }),
            true => json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure." }),
            false => put.next().unwrap_or(Value::Null),
        })
        .collect();
    *answer.body_mut() = Body::from(json!({ "FailedRecordCount": failed, "Records": merged }).to_string());
    let json = hyper::header::HeaderValue::from_static("application/x-amz-json-1.1");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(answer)
}
