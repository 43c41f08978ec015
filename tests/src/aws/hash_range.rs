//! Which shard a record belongs to: the MD5 of its partition key, or its explicit hash key, lies in the shard's range.

use md5::{Digest, Md5};

/// Hash keys from `first` to `last`, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRange {
    /// The lowest.
    pub first: u128,
    /// The highest.
    pub last: u128,
}

impl HashRange {
    /// All hash keys.
    pub const ALL: Self = Self {
        first: 0,
        last: u128::MAX,
    };

    /// From the decimal numbers that Kinesis writes; `None` when they are none.
    pub fn parse(first: &str, last: &str) -> Option<Self> {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(Self { first, last })
    }

    /// Whether it holds `hash`.
    pub fn contains(&self, hash: u128) -> bool {
        (self.first..=self.last).contains(&hash)
    }

    /// Its two halves. It must hold more than one hash key.
    pub fn halves(&self) -> [Self; 2] {
        let middle = self.first + (self.last - self.first) / 2;
        let (lower, upper) = ((self.first, middle), (middle + 1, self.last));
        [lower, upper].map(|(first, last)| Self { first, last })
    }

    /// All hash keys in `parts` ranges of the same length, as near as it goes.
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

/// The hash key of a partition key.
pub fn hash_of(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}
