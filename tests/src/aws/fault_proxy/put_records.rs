//! PutRecords on its way through a fault proxy: the partial failures that no emulator makes, and the requests of 10 MiB that none
//! takes.

use axum::body::{Body, Bytes, to_bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::Shared;
use crate::aws::endpoint::{self, Cut};
use crate::aws::put_log::InFlightRecords;
use crate::aws::put_records::PutRecordsRequest;

/// Writes the request down, and its records into flight.
pub(super) fn note(shared: &Shared, body: &Bytes) -> InFlightRecords {
    let request = parse(body);
    let data: Vec<Vec<u8>> = request
        .records
        .iter()
        .map(|entry| entry.data().unwrap_or_default())
        .collect();
    let keys = request.records.iter().map(|entry| entry.partition_key.as_ref());
    shared
        .log
        .enter(request.stream(), keys.zip(data.iter().map(Vec::as_slice)))
}

fn parse(body: &Bytes) -> PutRecordsRequest<'_> {
    PutRecordsRequest::parse(body)
        .unwrap_or_else(|error| panic!("a PutRecords that is not application/x-amz-json-1.1: {error}"))
}

/// Forwards a request: but for the records that a flaky fault proxy fails, and in parts where the emulator takes no more at once.
pub(super) async fn forward(shared: &Shared, head: &Parts, body: Bytes) -> Result<Response<Body>, Cut> {
    let sizes: Vec<usize> = parse(&body).records.iter().map(|entry| entry.bytes()).collect();
    let fails = victims(shared, sizes.len());
    let parts = parts(&sizes, &fails, shared.most_bytes.unwrap_or(usize::MAX));
    if parts.len() <= 1 && !fails.contains(&true) {
        return shared.forward(head, body).await;
    }
    let mut request: Value = serde_json::from_slice(&body).map_err(|_| Cut)?;
    let records = request["Records"].as_array_mut().ok_or(Cut)?;
    let mut records: Vec<Value> = std::mem::take(records);
    let mut answers: Vec<Value> = (0..records.len()).map(failure).collect();
    for (number, part) in parts.into_iter().enumerate() {
        let taken = part.iter().map(|index| records[*index].take()).collect();
        request["Records"] = Value::Array(taken);
        let answer = shared.forward(head, Bytes::from(request.to_string())).await?;
        if !answer.status().is_success() {
            if number == 0 {
                return Ok(answer);
            }
            // Those before it are applied; the rest stays failed.
            break;
        }
        let answer = to_bytes(answer.into_body(), usize::MAX).await.map_err(|_| Cut)?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|_| Cut)?;
        // An answer may be shorter than its request: what it does not tell of stays failed.
        let told = answer["Records"].as_array_mut().into_iter().flatten();
        for (index, told) in part.into_iter().zip(told) {
            answers[index] = told.take();
        }
    }
    let failed = answers.iter().filter(|it| !it["ErrorCode"].is_null()).count();
    let answer = json!({ "FailedRecordCount": failed, "Records": answers });
    Ok(endpoint::json(answer.to_string()))
}

/// Which of so many records fail by themselves.
fn victims(shared: &Shared, records: usize) -> Vec<bool> {
    match shared.state().flaky.as_mut() {
        Some(flaky) => (0..records)
            .map(|_| flaky.random.u8(..100) < flaky.percent)
            .collect(),
        None => vec![false; records],
    }
}

/// The records that pass, by their index, in requests of at most `most_bytes` each. One that is larger goes alone.
fn parts(sizes: &[usize], fails: &[bool], most_bytes: usize) -> Vec<Vec<usize>> {
    let (mut parts, mut bytes): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for (index, size) in sizes.iter().enumerate().filter(|(index, _)| !fails[*index]) {
        match parts.last_mut() {
            Some(part) if bytes + size <= most_bytes => part.push(index),
            _ => {
                parts.push(vec![index]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    parts
}

fn failure(index: usize) -> Value {
    match index % 2 {
        0 => json!({
            "ErrorCode": "ProvisionedThroughputExceededException",
            "ErrorMessage": "Rate exceeded for shard, as the scenario asked",
        }),
        _ => json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure." }),
    }
}
