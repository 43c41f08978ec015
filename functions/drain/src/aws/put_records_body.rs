//! The body of a PutRecords request.
//!
//! The SDK would copy the data of each record three times, and allocate four texts for it. So the body is
//! written here, and the SDK signs and sends it.

use base64_simd::STANDARD;

use crate::pack::Record;

/// Bytes of a record in the body, without its values.
const EMPTY_RECORD_BYTES: usize = br#"{"Data":"","PartitionKey":""},"#.len();

/// The JSON of a request that puts `records` into `stream`.
///
/// `stream_field` is the field that names the stream: `StreamName` or `StreamARN`. The form is that of the
/// Kinesis API, `PutRecords`.
pub(super) fn put_records_body(stream_field: &str, stream: &str, records: &[Record]) -> Vec<u8> {
    let bytes = |record: &Record| {
        let key_bytes = record.partition_key().len();
        let data_bytes = record.bytes() - key_bytes;
        // A key is usually JSON, so some of its bytes need an escape.
        STANDARD.encoded_length(data_bytes) + 2 * key_bytes + EMPTY_RECORD_BYTES
    };
    let mut body = Vec::with_capacity(records.iter().map(bytes).sum::<usize>() + stream.len() + 40);
    body.extend_from_slice(br#"{"Records":["#);
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(br#"{"Data":""#);
        STANDARD.encode_append(record.data(), &mut body);
        body.extend_from_slice(br#"","PartitionKey":"#);
        write_text(&mut body, record.partition_key());
        body.push(b'}');
    }
    body.extend_from_slice(b"],");
    write_text(&mut body, stream_field);
    body.push(b':');
    write_text(&mut body, stream);
    body.push(b'}');
    body
}

/// Appends a JSON string.
fn write_text(body: &mut Vec<u8>, text: &str) {
    // Writing to a Vec does not fail, and every str can be serialised.
    let _ = serde_json::to_writer(body, text);
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::PositionSequence;
    use crate::encode::Event;
    use crate::pack::{
        Acknowledgements, Aggregation, Lanes, MAIN_STREAM, QueuedEvent, RequestLimits, ShardMap,
    };

    /// Records with these partition keys and data.
    pub(in crate::aws) fn records(events: &[(&str, &[u8])]) -> Vec<Record> {
        let mut lanes = Lanes::new(Aggregation::None, ShardMap::even(1));
        let mut acknowledgements = Acknowledgements::new(Lsn(0).into());
        let mut positions = PositionSequence::new(Lsn(9));
        for (partition_key, data) in events {
            lanes.push(QueuedEvent {
                event: Event {
                    position: positions.next(Lsn(1)),
                    partition_key: (*partition_key).to_owned(),
                    barrier: false,
                    relation: None,
                    data: data.to_vec(),
                    missing_bytes: 0,
                    row_hash: None,
                },
                span: acknowledgements.begin(),
                change_positions: 1,
                stream: MAIN_STREAM,
            });
        }
        let limits = RequestLimits {
            records: 500,
            bytes: 1 << 20,
        };
        lanes.next_request(Instant::now(), limits, false, |_| 1)
    }

    #[test]
    fn the_body_has_each_record_and_the_stream() {
        let records = records(&[("{\"id\":1}", b"\xff data"), ("k", b"")]);
        assert_eq!(records.len(), 2);
        let body = put_records_body("StreamARN", "arn:aws:kinesis:s", &records);
        let expected = json!({
            "Records": [
                {"Data": "/yBkYXRh", "PartitionKey": "{\"id\":1}"},
                {"Data": "", "PartitionKey": "k"},
            ],
            "StreamARN": "arn:aws:kinesis:s",
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }
}
