//! A foreign producer: the SDK, and an encoder of the aggregated record format of the KPL.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use md5::{Digest, Md5};
use scenarios::aws::aggregate::MAGIC;
use scenarios::aws::sdk;

/// SDK client without retries.
pub(crate) fn client(endpoint: &str) -> Client {
    let config = Builder::from(&sdk::config(endpoint)).retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// A record of a PutRecords request.
pub(crate) fn record(key: &str, data: &[u8]) -> PutRecordsRequestEntry {
    let entry = PutRecordsRequestEntry::builder()
        .partition_key(key)
        .data(Blob::new(data));
    entry.build().unwrap()
}

/// Puts records into stream `s`; returns shards or error codes.
///
/// Each record has its shard or its error code.
pub(crate) async fn put(
    client: &Client,
    records: Vec<PutRecordsRequestEntry>,
) -> Result<Vec<Result<String, String>>, String> {
    let request = client.put_records().stream_name("s").set_records(Some(records));
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let results = answer.records().iter().map(|it| match it.error_code() {
        Some(code) => Err(code.to_owned()),
        None => Ok(it.shard_id().unwrap_or_default().to_owned()),
    });
    Ok(results.collect())
}

/// Encodes an aggregate of these partition keys and data.
pub(crate) fn aggregate(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (key, _) in records {
        field(&mut message, 1, key.as_bytes());
    }
    for (index, (_, data)) in records.iter().enumerate() {
        // The index as a varint of one byte.
        let mut record = vec![0x08, u8::try_from(index).unwrap()];
        field(&mut record, 3, data);
        field(&mut message, 3, &record);
    }
    let digest = Md5::digest(&message);
    [&MAGIC, message.as_slice(), digest.as_slice()].concat()
}

/// Appends a protobuf field of bytes.
fn field(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        to.push(length as u8 | 0x80);
        length >>= 7;
    }
    to.push(length as u8);
    to.extend_from_slice(bytes);
}
