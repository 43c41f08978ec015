//! PutRecords through a fault proxy.
//!
//! The proxy adds what emulators lack: partial failures, and requests of up to 10 MiB.

use axum::body::{Body, Bytes, to_bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::FaultProxyService;
use crate::aws::endpoint::{self, ConnectionCut};
use crate::aws::put_log::InFlightRecords;
use crate::aws::put_records::PutRecordsRequest;

/// Logs a request, and marks its records as in flight.
///
/// They are in flight until the returned value is dropped.
pub(super) fn note(service: &FaultProxyService, body: &Bytes) -> InFlightRecords {
    let request = parse(body);
    let data: Vec<Vec<u8>> = request
        .records
        .iter()
        .map(|entry| entry.data().unwrap_or_default())
        .collect();
    let keys = request.records.iter().map(|entry| entry.partition_key.as_ref());
    service
        .log
        .enter(request.stream(), keys.zip(data.iter().map(Vec::as_slice)))
}

fn parse(body: &Bytes) -> PutRecordsRequest<'_> {
    PutRecordsRequest::parse(body)
        .unwrap_or_else(|error| panic!("this PutRecords is not application/x-amz-json-1.1: {error}"))
}

/// Forwards a request in parts that the emulator accepts.
///
/// The parts do not have the records that a flaky proxy fails.
pub(super) async fn forward(
    service: &FaultProxyService,
    head: &Parts,
    body: Bytes,
) -> Result<Response<Body>, ConnectionCut> {
    let sizes: Vec<usize> = parse(&body).records.iter().map(|entry| entry.bytes()).collect();
    let fails = failed_records(service, sizes.len());
    let parts = parts(&sizes, &fails, service.most_bytes.unwrap_or(usize::MAX));
    if parts.len() <= 1 && !fails.contains(&true) {
        return service.forward(head, body).await;
    }
    let mut request: Value = serde_json::from_slice(&body).map_err(|_| ConnectionCut)?;
    let records = request["Records"].as_array_mut().ok_or(ConnectionCut)?;
    let mut records: Vec<Value> = std::mem::take(records);
    let mut answers: Vec<Value> = (0..records.len()).map(failure).collect();
    for (number, part) in parts.into_iter().enumerate() {
        let taken = part.iter().map(|index| records[*index].take()).collect();
        request["Records"] = Value::Array(taken);
        let answer = service.forward(head, Bytes::from(request.to_string())).await?;
        if !answer.status().is_success() {
            if number == 0 {
                return Ok(answer);
            }
            // Earlier parts are applied. The records of this part and of later ones stay failed.
            break;
        }
        let answer = to_bytes(answer.into_body(), usize::MAX)
            .await
            .map_err(|_| ConnectionCut)?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|_| ConnectionCut)?;
        // An answer may be shorter than its request. The records that it omits stay failed.
        let results = answer["Records"].as_array_mut().into_iter().flatten();
        for (index, result) in part.into_iter().zip(results) {
            answers[index] = result.take();
        }
    }
    let failed = answers.iter().filter(|it| !it["ErrorCode"].is_null()).count();
    let answer = json!({ "FailedRecordCount": failed, "Records": answers });
    Ok(endpoint::json(answer.to_string()))
}

/// For each of the records, whether a flaky proxy fails it.
fn failed_records(service: &FaultProxyService, records: usize) -> Vec<bool> {
    match service.state().flaky.as_mut() {
        Some(flaky) => (0..records)
            .map(|_| flaky.random.u8(..100) < flaky.percent)
            .collect(),
        None => vec![false; records],
    }
}

/// Indices of the records to forward, grouped into requests.
///
/// A request has at most `most_bytes`. A larger record is alone.
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
