//! The aggregated record format of the Kinesis Producer Library: many events in one record.
//!
//! The KCL, Firehose and de-aggregation libraries read it.
//!
//! ```text
//! F3 89 9A C2 | message AggregatedRecord | MD5 of the message
//!
//! message AggregatedRecord { repeated string partition_key_table = 1; repeated Record records = 3; }
//! message Record { required uint64 partition_key_index = 1; required bytes data = 3; }
//! ```
//! The format's explicit hash keys (field 2) and tags are optional and not used. The KCL drops an aggregate
//! if one of its partition keys is outside the hash key range of the shard that it was read from
//! (`AggregatorUtil`). So an aggregate has the keys of one shard only. The caller ensures that.

use md5::{Digest as _, Md5};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::base::varint;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const MD5_BYTES: usize = 16;

// Protobuf tags: the field's number, then wire type 2 for a field with a length or 0 for a varint.
const PARTITION_KEY: u8 = 1 << 3 | 2;
const RECORD: u8 = 3 << 3 | 2;
const RECORD_KEY_INDEX: u8 = 1 << 3;
const RECORD_DATA: u8 = 3 << 3 | 2;

/// Partition keys for which there is room from the beginning. Most aggregates have fewer.
const USUAL_KEYS: usize = 448;

/// The size of an aggregate that is not written yet.
#[derive(Debug)]
pub(super) struct AggregateSize<'e> {
    keys: FxHashMap<&'e str, u64>,
    /// Bytes so far, including the magic number and the MD5.
    bytes: usize,
}

impl Default for AggregateSize<'_> {
    fn default() -> Self {
        AggregateSize {
            keys: FxHashMap::with_capacity_and_hasher(USUAL_KEYS, FxBuildHasher),
            bytes: MAGIC.len() + MD5_BYTES,
        }
    }
}

impl<'e> AggregateSize<'e> {
    /// Adds an event. Returns the size of the aggregate with it, in bytes.
    pub(super) fn add(&mut self, partition_key: &'e str, data: &[u8]) -> usize {
        let next = self.keys.len() as u64;
        let index = *self.keys.entry(partition_key).or_insert(next);
        if index == next {
            self.bytes += field_bytes(partition_key.len());
        }
        self.bytes += field_bytes(record_bytes(index, data.len()));
        self.bytes
    }
}

/// The aggregate of these events, in this order.
///
/// Each event is given as its partition key and its data.
pub(super) fn aggregate<'e>(events: impl Iterator<Item = (&'e str, &'e [u8])> + Clone) -> Vec<u8> {
    let mut size = AggregateSize::default();
    let length = events
        .clone()
        .fold(0, |_, (partition_key, data)| size.add(partition_key, data));
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&MAGIC);
    // The table precedes the records that refer to it. A reader must not depend on that.
    let mut keys: Vec<(&str, u64)> = size.keys.iter().map(|(key, index)| (*key, *index)).collect();
    keys.sort_unstable_by_key(|(_, index)| *index);
    for (key, _) in keys {
        out.push(PARTITION_KEY);
        varint::push(&mut out, key.len() as u64);
        out.extend_from_slice(key.as_bytes());
    }
    for (partition_key, data) in events {
        let index = size.keys[partition_key];
        out.push(RECORD);
        varint::push(&mut out, record_bytes(index, data.len()) as u64);
        out.push(RECORD_KEY_INDEX);
        varint::push(&mut out, index);
        out.push(RECORD_DATA);
        varint::push(&mut out, data.len() as u64);
        out.extend_from_slice(data);
    }
    let digest = Md5::digest(&out[MAGIC.len()..]);
    out.extend_from_slice(&digest);
    out
}

/// The bytes of a `Record` message without its tag and length.
fn record_bytes(index: u64, data: usize) -> usize {
    1 + varint::length(index) + field_bytes(data)
}

/// The bytes of a field with a length: its tag, the length and the content.
fn field_bytes(length: usize) -> usize {
    1 + varint::length(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of an aggregate, decoded by the definition of the format.
    fn deaggregate(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> usize {
            let mut number = 0;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                number |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return number;
                }
            }
            unreachable!()
        }
        fn read_field<'b>(bytes: &mut &'b [u8]) -> &'b [u8] {
            let length = varint(bytes);
            let (field, rest) = bytes.split_at(length);
            *bytes = rest;
            field
        }
        bytes = bytes.strip_prefix(&MAGIC).unwrap();
        let (mut message, digest) = bytes.split_at(bytes.len() - MD5_BYTES);
        assert_eq!(&Md5::digest(message)[..], digest);
        let (mut keys, mut records) = (Vec::new(), Vec::new());
        while !message.is_empty() {
            match varint(&mut message) {
                10 => keys.push(String::from_utf8(read_field(&mut message).to_vec()).unwrap()),
                26 => {
                    let mut record = read_field(&mut message);
                    assert_eq!(varint(&mut record), 8);
                    let index = varint(&mut record);
                    assert_eq!(varint(&mut record), 26);
                    records.push((index, read_field(&mut record).to_vec()));
                    assert!(record.is_empty());
                }
                other => panic!("field {other}"),
            }
        }
        let named = |(index, data): (usize, Vec<u8>)| (keys[index].clone(), data);
        records.into_iter().map(named).collect()
    }

    #[test]
    fn an_aggregate_has_the_bytes_that_the_format_defines() {
        let bytes = aggregate([("k", &b"one"[..]), ("k", b""), ("other", b"x")].into_iter());
        let table = b"\x0a\x01k\x0a\x05other";
        let records = b"\x1a\x07\x08\x00\x1a\x03one\x1a\x04\x08\x00\x1a\x00\x1a\x05\x08\x01\x1a\x01x";
        let message = [&table[..], records].concat();
        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(&bytes[4..bytes.len() - 16], message);
        assert_eq!(bytes[bytes.len() - 16..], Md5::digest(message)[..]);
    }

    proptest! {
        #[test]
        fn the_events_are_read_back_and_the_size_was_known(
            events in prop::collection::vec(
                ("[a-d]{1,2}|.{1,200}", prop::collection::vec(any::<u8>(), 0..300)),
                0..60,
            ),
        ) {
            let bytes = aggregate(events.iter().map(|(key, data)| (key.as_str(), data.as_slice())));
            let mut size = AggregateSize::default();
            let mut known = MAGIC.len() + MD5_BYTES;
            for (key, data) in &events {
                known = size.add(key, data);
            }
            prop_assert_eq!(bytes.len(), known);
            prop_assert_eq!(deaggregate(&bytes), events);
        }
    }
}
