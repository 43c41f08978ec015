//! The shards of a stream, and their ranges of hash keys.
//!
//! There are 2^128 hash keys. Each of them belongs to one open shard.

use md5::{Digest as _, Md5};

/// Bytes that a shard accepts in a second.
///
/// The developer guide of Kinesis calls this quota 1 MB in some versions, and 1 MiB in others. If it is 1 MB,
/// the pacing of a shard finds the lower capacity.
pub(super) const SHARD_BYTES_PER_SECOND: f64 = 1_048_576.0;

/// Records that a shard accepts in a second.
pub(super) const SHARD_RECORDS_PER_SECOND: f64 = 1_000.0;

/// A hash key: the number that determines the shard of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HashKey(pub u128);

impl HashKey {
    /// The hash key of a partition key: its MD5 as a big-endian number.
    ///
    /// Source: Kinesis API, `PutRecordsRequestEntry`.
    pub fn of(partition_key: &str) -> Self {
        HashKey(u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into()))
    }
}

/// An open shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Its id, such as `shardId-000000000000`.
    pub id: String,
    /// The first hash key of its range.
    pub first: HashKey,
    /// The last hash key of its range, inclusive.
    pub last: HashKey,
}

/// The open shards of a stream, whose ranges cover all hash keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardMap {
    /// In the order of their ranges; never empty.
    shards: Vec<Shard>,
}

/// Shards whose ranges have a gap or overlap.
///
/// Kinesis returns such a list during a resharding.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the hash key ranges of the {count} open shards have a gap or an overlap: the first one is at shard {id}"
)]
pub struct InvalidShardMap {
    count: usize,
    id: String,
}

impl ShardMap {
    /// A map of these shards, which may be in any order.
    ///
    /// # Errors
    /// Their ranges have a gap or overlap.
    pub fn new(mut shards: Vec<Shard>) -> Result<Self, InvalidShardMap> {
        shards.sort_by_key(|shard| shard.first);
        let invalid = |id: &str| InvalidShardMap {
            count: shards.len(),
            id: id.to_owned(),
        };
        let mut next = Some(0);
        for shard in &shards {
            if next != Some(shard.first.0) || shard.last < shard.first {
                return Err(invalid(&shard.id));
            }
            next = shard.last.0.checked_add(1);
        }
        match (next, shards.last()) {
            (None, Some(_)) => Ok(ShardMap { shards }),
            (_, last) => Err(invalid(last.map_or("none", |shard| &shard.id))),
        }
    }

    /// The number of shards, at least 1.
    #[allow(clippy::len_without_is_empty)] // A map is never empty.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// The number of the shard with this hash key.
    ///
    /// It is less than [`ShardMap::len`].
    pub fn shard_number(&self, hash_key: HashKey) -> usize {
        self.shards.partition_point(|shard| shard.last < hash_key)
    }

    /// Whether all these hash keys belong to the shard `id`.
    ///
    /// Returns `None` if the map lacks the shard.
    pub fn contains_all(&self, id: &str, mut hash_keys: impl Iterator<Item = HashKey>) -> Option<bool> {
        let shard = self.shards.iter().find(|shard| shard.id == id)?;
        Some(hash_keys.all(|hash_key| (shard.first..=shard.last).contains(&hash_key)))
    }

    /// The shard with this number.
    ///
    /// # Panics
    /// The number belongs to another map.
    pub fn shard(&self, number: usize) -> &Shard {
        &self.shards[number]
    }
}

#[cfg(test)]
impl ShardMap {
    /// Shards of equal size. Each is named `{number} of {shards}`.
    pub(crate) fn even(shards: u128) -> Self {
        let size = u128::MAX / shards;
        let shard = |number: u128| Shard {
            id: format!("{number} of {shards}"),
            first: HashKey(number * size),
            last: HashKey(if number + 1 == shards {
                u128::MAX
            } else {
                (number + 1) * size - 1
            }),
        };
        ShardMap::new((0..shards).map(shard).collect()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(id: &str, first: u128, last: u128) -> Shard {
        Shard {
            id: id.into(),
            first: HashKey(first),
            last: HashKey(last),
        }
    }

    #[test]
    fn the_hash_key_of_a_partition_key_is_its_md5() {
        // RFC 1321, A.5: the MD5 of "abc".
        assert_eq!(
            HashKey::of("abc"),
            HashKey(0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72)
        );
    }

    #[test]
    fn both_ends_of_a_range_belong_to_its_shard() {
        let shards = vec![
            shard("b", 100, 199),
            shard("a", 0, 99),
            shard("c", 200, u128::MAX),
        ];
        let map = ShardMap::new(shards).unwrap();
        let ids = [0, 99, 100, 199, 200, u128::MAX]
            .map(|hash_key| &*map.shard(map.shard_number(HashKey(hash_key))).id);
        assert_eq!(ids, ["a", "a", "b", "b", "c", "c"]);
    }

    #[test]
    fn a_shard_contains_the_keys_of_its_range_and_no_other() {
        let map = ShardMap::new(vec![shard("a", 0, 99), shard("b", 100, u128::MAX)]).unwrap();
        let contains = |id, keys: &[u128]| map.contains_all(id, keys.iter().copied().map(HashKey));
        assert_eq!(contains("a", &[0, 99]), Some(true));
        assert_eq!(contains("a", &[0, 100]), Some(false));
        assert_eq!(contains("b", &[100, u128::MAX]), Some(true));
        assert_eq!(contains("b", &[99]), Some(false));
        assert_eq!(contains("c", &[0]), None);
    }

    #[test]
    fn ranges_with_a_gap_or_an_overlap_are_refused() {
        for shards in [
            vec![],
            vec![shard("a", 0, 99)],
            vec![shard("a", 1, u128::MAX)],
            vec![shard("a", 0, 99), shard("b", 101, u128::MAX)],
            vec![shard("a", 0, 99), shard("b", 99, u128::MAX)],
            vec![shard("a", 0, u128::MAX), shard("b", 5, u128::MAX)],
        ] {
            assert!(ShardMap::new(shards.clone()).is_err(), "{shards:?}");
        }
    }

    proptest! {
        #[test]
        fn every_hash_key_is_in_the_range_of_its_shard(
            mut firsts in prop::collection::btree_set(1u128.., 0..20),
            hash_key: u128,
        ) {
            firsts.insert(0);
            let firsts: Vec<u128> = firsts.into_iter().collect();
            let lasts = firsts[1..].iter().map(|first| first - 1).chain([u128::MAX]);
            let ranges = firsts.iter().zip(lasts);
            let shards = ranges.map(|(first, last)| shard("s", *first, last)).collect();
            let map = ShardMap::new(shards).unwrap();
            let found = map.shard(map.shard_number(HashKey(hash_key)));
            prop_assert!((found.first..=found.last).contains(&HashKey(hash_key)));
        }
    }
}
