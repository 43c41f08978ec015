//! Reads records of the KPL's aggregated format, as KCL does and more strictly: a record that opens like an aggregate and
//! is not exactly one is an error, where KCL would take it for a record of its own.
//!
//! `F3 89 9A C2`, then in protobuf `AggregatedRecord { 1: partition keys, 2: explicit hash keys, 3: records { 1: index of
//! the partition key, 2: index of the explicit hash key, 3: data, 4: tags } }`, then the MD5 of the protobuf.

use md5::{Digest, Md5};

use crate::aws::hash_range::hash_of;

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const DIGEST: usize = 16;

/// One record of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRecord<'a> {
    /// Its own partition key.
    pub partition_key: &'a str,
    /// Its explicit hash key, if it has one.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: &'a [u8],
}

impl SubRecord<'_> {
    /// Where it belongs.
    pub fn hash(&self) -> u128 {
        self.explicit_hash_key
            .unwrap_or_else(|| hash_of(self.partition_key))
    }
}

/// What is wrong with an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an aggregate {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The records of an aggregate in their order; `None` when `data` is no aggregate, but a record of its own.
///
/// # Errors
/// It opens like an aggregate and is none.
pub fn split(data: &[u8]) -> Result<Option<Vec<SubRecord<'_>>>, Malformed> {
    let Some(rest) = data.strip_prefix(&MAGIC) else {
        return Ok(None);
    };
    let end = rest
        .len()
        .checked_sub(DIGEST)
        .ok_or(Malformed("is too short for its MD5"))?;
    let (message, digest) = rest.split_at(end);
    if Md5::digest(message)[..] != *digest {
        return Err(Malformed("has another MD5 than it says"));
    }
    let (mut keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Bytes(key)) => keys.push(text(key)?),
            (2, Wire::Bytes(key)) => {
                let key = text(key)?.parse();
                hash_keys.push(key.map_err(|_| Malformed("has an explicit hash key that is no number"))?);
            }
            (3, Wire::Bytes(record)) => records.push(Raw::read(record)?),
            _ => return Err(Malformed("has a field that is not of its format")),
        }
    }
    if records.is_empty() {
        return Err(Malformed("has no records"));
    }
    let found = records
        .into_iter()
        .map(|record| record.look_up(&keys, &hash_keys));
    found.collect::<Result<_, _>>().map(Some)
}

/// A record with indices in place of its keys.
struct Raw<'a> {
    key: u64,
    hash_key: Option<u64>,
    data: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(record: &'a [u8]) -> Result<Self, Malformed> {
        let (mut key, mut hash_key, mut data) = (None, None, None);
        let mut fields = Fields(record);
        while let Some(field) = fields.next()? {
            match field {
                (1, Wire::Varint(index)) => key = Some(index),
                (2, Wire::Varint(index)) => hash_key = Some(index),
                (3, Wire::Bytes(bytes)) => data = Some(bytes),
                (4, Wire::Bytes(_)) => {}
                _ => return Err(Malformed("has a record with a field that is not of its format")),
            }
        }
        Ok(Self {
            key: key.ok_or(Malformed("has a record without partition key"))?,
            hash_key,
            data: data.ok_or(Malformed("has a record without data"))?,
        })
    }

    fn look_up(self, keys: &[&'a str], hash_keys: &[u128]) -> Result<SubRecord<'a>, Malformed> {
        let missing = Malformed("has a record whose key is not in its table");
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

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("has a key that is no UTF-8"))
}

/// A value of protobuf, of the two wire types that the format has.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(ENDS_EARLY)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            _ => return Err(Malformed("has a field that is not of its format")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ENDS_EARLY)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("has a number of more than 64 bits"))
    }
}

const ENDS_EARLY: Malformed = Malformed("ends inside a field");
