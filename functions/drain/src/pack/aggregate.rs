//! The format of aggregates, which is that of the Kinesis Producer Library.
//!
//! The KCL, Firehose and de-aggregation libraries read it.
//!
//! ```text
//! F3 89 9A C2 | message AggregatedRecord | MD5 of the message
//!
//! message AggregatedRecord { repeated string partition_key_table = 1; repeated Record records = 3; }
//! message Record { required uint64 partition_key_index = 1; required bytes data = 3; }
//! ```
//! The explicit hash keys (field 2) and the tags of the format are optional. Spillway does not write them.
//!
//! The KCL drops an aggregate if one of its partition keys is outside the hash key range of its shard
//! (`AggregatorUtil`). So an aggregate may have keys of one shard only. The caller ensures this.

use md5::{Digest as _, Md5};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::base::varint;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const MD5_BYTES: usize = 16;

// Tags of Protocol Buffers: the number of the field, then its wire type. Type 2 is a field with a length, and
// type 0 a varint.
const PARTITION_KEY: u8 = 1 << 3 | 2;
const RECORD: u8 = 3 << 3 | 2;
const RECORD_KEY_INDEX: u8 = 1 << 3;
const RECORD_DATA: u8 = 3 << 3 | 2;

/// Initial capacity for partition keys. Most aggregates have fewer.
const USUAL_KEYS: usize = 448;

/// Size and partition keys of an aggregate that is not written yet.
#[derive(Debug)]
pub(super) struct AggregateSize<'e> {
    keys: FxHashMap<&'e str, u32>,
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
    /// Adds an event. Returns the index of its key, and the new size of the aggregate in bytes.
    ///
    /// The first key has the index 0, and each new key has the next index.
    pub(super) fn add(&mut self, partition_key: &'e str, data: &[u8]) -> (u32, usize) {
        // The cast keeps the number: an aggregate is smaller than 4 GiB, and has fewer keys than bytes.
        let next = self.keys.len() as u32;
        let index = *self.keys.entry(partition_key).or_insert(next);
        if index == next {
            self.bytes += field_bytes(partition_key.len());
        }
        self.bytes += field_bytes(record_bytes(index, data.len()));
        (index, self.bytes)
    }
}

/// One event of an aggregate.
#[derive(Debug, Clone, Copy)]
pub(super) struct AggregatedEvent<'e> {
    /// Index of its partition key, as [`AggregateSize::add`] returned it.
    pub(super) key_index: u32,
    pub(super) partition_key: &'e str,
    pub(super) data: &'e [u8],
}

/// The bytes of an aggregate with these events, in this order.
///
/// `bytes` is its size, which [`AggregateSize::add`] returned for the last event.
pub(super) fn aggregate<'e>(
    events: impl Iterator<Item = AggregatedEvent<'e>> + Clone,
    bytes: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&MAGIC);
    // The table of keys precedes the records. The format does not require this order.
    let mut keys = 0;
    for event in events.clone() {
        if event.key_index == keys {
            keys += 1;
            out.push(PARTITION_KEY);
            varint::push(&mut out, event.partition_key.len() as u64);
            out.extend_from_slice(event.partition_key.as_bytes());
        }
    }
    for AggregatedEvent { key_index, data, .. } in events {
        out.push(RECORD);
        varint::push(&mut out, record_bytes(key_index, data.len()) as u64);
        out.push(RECORD_KEY_INDEX);
        varint::push(&mut out, key_index);
        out.push(RECORD_DATA);
        varint::push(&mut out, data.len() as u64);
        out.extend_from_slice(data);
    }
    let digest = Md5::digest(&out[MAGIC.len()..]);
    out.extend_from_slice(&digest);
    out
}

/// The bytes of a `Record` message without its tag and length.
fn record_bytes(key_index: u32, data: usize) -> usize {
    1 + varint::length(key_index.into()) + field_bytes(data)
}

/// The bytes of a field with a length: its tag, the length and the content.
fn field_bytes(length: usize) -> usize {
    1 + varint::length(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of an aggregate, decoded as the format defines.
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

    /// The aggregate of these events, and the size that was computed before.
    fn aggregate_of<'e>(events: impl Iterator<Item = (&'e str, &'e [u8])>) -> (Vec<u8>, usize) {
        let mut size = AggregateSize::default();
        let mut bytes = 0;
        let sized = events.map(|(partition_key, data)| {
            let key_index;
            (key_index, bytes) = size.add(partition_key, data);
            AggregatedEvent {
                key_index,
                partition_key,
                data,
            }
        });
        let sized: Vec<AggregatedEvent<'_>> = sized.collect();
        (aggregate(sized.into_iter(), bytes), bytes)
    }

    #[test]
    fn an_aggregate_has_the_bytes_that_the_format_defines() {
        let (bytes, _) = aggregate_of([("k", &b"one"[..]), ("k", b""), ("other", b"x")].into_iter());
        let table = b"\x0a\x01k\x0a\x05other";
        let records = b"\x1a\x07\x08\x00\x1a\x03one\x1a\x04\x08\x00\x1a\x00\x1a\x05\x08\x01\x1a\x01x";
        let message = [&table[..], records].concat();
        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(&bytes[4..bytes.len() - 16], message);
        assert_eq!(bytes[bytes.len() - 16..], Md5::digest(message)[..]);
    }

    proptest! {
        #[test]
        fn an_aggregate_contains_its_events_and_has_the_computed_size(
            events in prop::collection::vec(
                ("[a-d]{1,2}|.{1,200}", prop::collection::vec(any::<u8>(), 0..300)),
                0..60,
            ),
        ) {
            let given = events.iter().map(|(key, data)| (key.as_str(), data.as_slice()));
            let (bytes, known) = aggregate_of(given);
            prop_assert!(events.is_empty() || bytes.len() == known);
            prop_assert_eq!(deaggregate(&bytes), events);
        }
    }
}
