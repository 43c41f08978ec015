//! Reader of the aggregated record format of the KPL.
//!
//! It is stricter than KCL. A record that begins like an aggregate and is malformed is an error here; KCL
//! takes it for a plain record.
//!
//! The format: `F3 89 9A C2`, then in protobuf `AggregatedRecord { 1: partition keys, 2: explicit hash keys,
//! 3: records { 1: index of the partition key, 2: index of the explicit hash key, 3: data, 4: tags } }`, then
//! the MD5 of the protobuf.

use md5::{Digest, Md5};

use crate::aws::hash_range::hash_of;

/// First bytes of an aggregate.
pub const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = 16;

/// One record of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRecord<'a> {
    /// Partition key.
    pub partition_key: &'a str,
    /// Explicit hash key, if any.
    pub explicit_hash_key: Option<u128>,
    /// Data.
    pub data: &'a [u8],
}

impl SubRecord<'_> {
    /// Hash key, which decides on the shard.
    pub fn hash(&self) -> u128 {
        self.explicit_hash_key
            .unwrap_or_else(|| hash_of(self.partition_key))
    }
}

/// Error of a malformed aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedAggregate(&'static str);

impl std::fmt::Display for MalformedAggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an aggregate {}", self.0)
    }
}

impl std::error::Error for MalformedAggregate {}

/// Records of an aggregate in their order; `None` for a plain record.
///
/// # Errors
/// `data` begins like an aggregate and is malformed.
pub fn split(data: &[u8]) -> Result<Option<Vec<SubRecord<'_>>>, MalformedAggregate> {
    let Some(rest) = data.strip_prefix(&MAGIC) else {
        return Ok(None);
    };
    let end = rest
        .len()
        .checked_sub(DIGEST)
        .ok_or(MalformedAggregate("is too short for its MD5"))?;
    let (message, digest) = rest.split_at(end);
    if Md5::digest(message)[..] != *digest {
        return Err(MalformedAggregate("has another MD5 than it says"));
    }
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut fields = FieldReader(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, ProtobufValue::Bytes(key)) => keys.push(text(key)?),
            (2, ProtobufValue::Bytes(key)) => {
                let key = text(key)?.parse();
                hash_keys
                    .push(key.map_err(|_| MalformedAggregate("has an explicit hash key that is no number"))?);
            }
            (3, ProtobufValue::Bytes(record)) => records.push(IndexedRecord::read(record)?),
            _ => return Err(MalformedAggregate("has a field that is not of its format")),
        }
    }
    if records.is_empty() {
        return Err(MalformedAggregate("has no records"));
    }
    let found = records
        .into_iter()
        .map(|record| record.resolve(&keys, &hash_keys));
    found.collect::<Result<_, _>>().map(Some)
}

/// A record with indices instead of keys.
struct IndexedRecord<'a> {
    key: u64,
    hash_key: Option<u64>,
    data: &'a [u8],
}

impl<'a> IndexedRecord<'a> {
    fn read(record: &'a [u8]) -> Result<Self, MalformedAggregate> {
        let (mut key, mut hash_key, mut data) = (None, None, None);
        let mut fields = FieldReader(record);
        while let Some(field) = fields.next()? {
            match field {
                (1, ProtobufValue::Varint(index)) => key = Some(index),
                (2, ProtobufValue::Varint(index)) => hash_key = Some(index),
                (3, ProtobufValue::Bytes(bytes)) => data = Some(bytes),
                (4, ProtobufValue::Bytes(_)) => {}
                _ => {
                    return Err(MalformedAggregate(
                        "has a record with a field that is not of its format",
                    ));
                }
            }
        }
        Ok(Self {
            key: key.ok_or(MalformedAggregate("has a record without partition key"))?,
            hash_key,
            data: data.ok_or(MalformedAggregate("has a record without data"))?,
        })
    }

    fn resolve(self, keys: &[&'a str], hash_keys: &[u128]) -> Result<SubRecord<'a>, MalformedAggregate> {
        let missing = MalformedAggregate("has a record whose key is not in its table");
        Ok(SubRecord {
            partition_key: at(keys, self.key).ok_or(missing)?,
            explicit_hash_key: match self.hash_key {
                Some(index) => Some(at(hash_keys, index).ok_or(missing)?),
                None => None,
            },
            data: self.data,
        })
    }
}

fn at<T: Copy>(table: &[T], index: u64) -> Option<T> {
    table.get(usize::try_from(index).ok()?).copied()
}

fn text(bytes: &[u8]) -> Result<&str, MalformedAggregate> {
    std::str::from_utf8(bytes).map_err(|_| MalformedAggregate("has a key that is no UTF-8"))
}

/// A protobuf value of the two wire types that the format uses.
enum ProtobufValue<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Reader of the fields of a protobuf message.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn next(&mut self) -> Result<Option<(u64, ProtobufValue<'a>)>, MalformedAggregate> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => ProtobufValue::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(ENDS_EARLY)?;
                self.0 = rest;
                ProtobufValue::Bytes(bytes)
            }
            _ => return Err(MalformedAggregate("has a field that is not of its format")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, MalformedAggregate> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ENDS_EARLY)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedAggregate("has a number of more than 64 bits"))
    }
}

const ENDS_EARLY: MalformedAggregate = MalformedAggregate("ends inside a field");
