//! Where partition keys lie: a stream is a ring of 2^128 places, and each open shard takes a range of it.

use md5::{Digest as _, Md5};

/// A place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HashKey(pub u128);

impl HashKey {
    /// Where Kinesis puts a partition key: its MD5, read as a big-endian number (Kinesis API, PutRecordsRequestEntry).
    pub fn of(partition_key: &str) -> Self {
        HashKey(u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into()))
    }
}

/// A shard that takes records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Its name, `shardId-000000000000`.
    pub id: String,
    /// The first place of its range.
    pub first: HashKey,
    /// The last place of its range, which belongs to it.
    pub last: HashKey,
}

/// The open shards of a stream, which together are the whole ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardMap {
    /// In the order of their ranges; never empty.
    shards: Vec<Shard>,
}

/// The shards leave a part of the ring out, or claim one twice: a list that was read while the stream was being resharded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the open shards do not make a whole ring: {count} of them, and beside {id} one is missing or too many"
)]
pub struct InvalidShardMap {
    count: usize,
    id: String,
}

impl ShardMap {
    /// A map of these shards, in whatever order they come.
    ///
    /// # Errors
    /// They do not make a whole ring.
    pub fn new(mut shards: Vec<Shard>) -> Result<Self, InvalidShardMap> {
        shards.sort_by_key(|shard| shard.first);
        let broken = |id: &str| InvalidShardMap {
            count: shards.len(),
            id: id.to_owned(),
        };
        let mut next = Some(0);
        for shard in &shards {
            if next != Some(shard.first.0) || shard.last < shard.first {
                return Err(broken(&shard.id));
            }
            next = shard.last.0.checked_add(1);
        }
        match (next, shards.last()) {
            (None, Some(_)) => Ok(ShardMap { shards }),
            (_, last) => Err(broken(last.map_or("none", |shard| &shard.id))),
        }
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// The number of the shard that takes a place, from 0 to [`ShardMap::len`] exclusive.
    pub fn shard_number(&self, place: HashKey) -> usize {
        self.shards.partition_point(|shard| shard.last < place)
    }

    /// The shard of that number.
    ///
    /// # Panics
    /// There is none: the number is of another map.
    pub fn shard(&self, number: usize) -> &Shard {
        &self.shards[number]
    }
}

#[cfg(test)]
impl ShardMap {
    /// So many shards of one size, called by their number and how many they are.
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
    fn a_key_lies_where_its_md5_says() {
        // RFC 1321, A.5: the MD5 of "abc".
        assert_eq!(
            HashKey::of("abc"),
            HashKey(0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72)
        );
    }

    #[test]
    fn a_shard_takes_its_range_with_both_ends() {
        let shards = vec![
            shard("b", 100, 199),
            shard("a", 0, 99),
            shard("c", 200, u128::MAX),
        ];
        let map = ShardMap::new(shards).unwrap();
        let ids =
            [0, 99, 100, 199, 200, u128::MAX].map(|place| &*map.shard(map.shard_number(HashKey(place))).id);
        assert_eq!(ids, ["a", "a", "b", "b", "c", "c"]);
    }

    #[test]
    fn what_is_not_a_whole_ring_is_no_map() {
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
        fn every_place_lies_in_the_range_of_its_shard(mut cuts in prop::collection::btree_set(1u128.., 0..20), place: u128) {
            cuts.insert(0);
            let firsts: Vec<u128> = cuts.into_iter().collect();
            let lasts = firsts[1..].iter().map(|first| first - 1).chain([u128::MAX]);
            let shards = firsts.iter().zip(lasts).map(|(first, last)| shard("s", *first, last)).collect();
            let map = ShardMap::new(shards).unwrap();
            let found = map.shard(map.shard_number(HashKey(place)));
            prop_assert!((found.first..=found.last).contains(&HashKey(place)));
        }
    }
}
