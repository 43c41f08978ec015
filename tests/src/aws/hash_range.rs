//! Hash keys of records and ranges of shards.
//!
//! The hash key is the MD5 of the partition key, or the explicit hash key. A shard takes the records in its
//! range.

use md5::{Digest, Md5};

/// Range of hash keys, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRange {
    /// Lowest hash key.
    pub first: u128,
    /// Highest hash key.
    pub last: u128,
}

impl HashRange {
    /// All hash keys.
    pub const ALL: Self = Self {
        first: 0,
        last: u128::MAX,
    };

    /// Range from the decimal numbers of Kinesis; `None` for other texts.
    pub fn parse(first: &str, last: &str) -> Option<Self> {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(Self { first, last })
    }

    /// Whether `hash` is in the range.
    pub fn contains(&self, hash: u128) -> bool {
        (self.first..=self.last).contains(&hash)
    }

    /// Both halves of the range. It must have more than one hash key.
    pub fn halves(&self) -> [Self; 2] {
        let middle = self.first + (self.last - self.first) / 2;
        let (lower, upper) = ((self.first, middle), (middle + 1, self.last));
        [lower, upper].map(|(first, last)| Self { first, last })
    }

    /// All hash keys in `parts` ranges of equal length. The last takes the remainder.
    pub fn parts(parts: usize) -> Vec<Self> {
        let parts = parts as u128;
        let length = u128::MAX / parts;
        let range = |part| Self {
            first: part * length,
            last: if part + 1 == parts {
                u128::MAX
            } else {
                (part + 1) * length - 1
            },
        };
        (0..parts).map(range).collect()
    }
}

/// Hash key of a partition key.
pub fn hash_of(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}
