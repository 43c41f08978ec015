//! The shards of all streams of a drain.
//!
//! They are numbered consecutively: first the shards of stream 0, then those of stream 1, and so on.

use std::ops::Range;

use super::shards::{HashKey, SHARD_BYTES_PER_SECOND, Shard, ShardMap};

/// The number of the first stream.
///
/// It is the only stream, or the stream of logical messages.
pub const MAIN_STREAM: usize = 0;

/// The open shards of each stream.
#[derive(Debug)]
pub struct StreamShards {
    /// One map for each stream; never empty.
    maps: Vec<ShardMap>,
}

impl StreamShards {
    /// The shards of one stream. Its number is 0.
    pub(super) fn new(map: ShardMap) -> Self {
        StreamShards { maps: vec![map] }
    }

    /// Adds a stream. Its shards get the next numbers. The numbers of the other shards stay the same.
    pub(super) fn add(&mut self, map: ShardMap) {
        self.maps.push(map);
    }

    /// Replaces the shards of a stream.
    ///
    /// This may change the numbers of the shards of later streams.
    pub(super) fn replace(&mut self, stream: usize, map: ShardMap) {
        self.maps[stream] = map;
    }

    /// The shards of a stream.
    ///
    /// # Panics
    /// There is no such stream.
    pub fn of(&self, stream: usize) -> &ShardMap {
        &self.maps[stream]
    }

    /// Bytes that all shards accept in a second.
    pub fn bytes_per_second(&self) -> f64 {
        let shards: usize = self.maps.iter().map(ShardMap::len).sum();
        shards as f64 * SHARD_BYTES_PER_SECOND
    }

    /// The number of streams.
    pub(super) fn streams(&self) -> usize {
        self.maps.len()
    }

    /// The numbers of a stream's shards.
    pub(super) fn numbers(&self, stream: usize) -> Range<usize> {
        let first = self.maps.iter().take(stream).map(ShardMap::len).sum();
        first..first + self.maps[stream].len()
    }

    /// The number of the stream's shard with this hash key.
    pub(super) fn number(&self, stream: usize, hash_key: HashKey) -> usize {
        self.numbers(stream).start + self.maps[stream].shard_number(hash_key)
    }

    /// The stream of the shard with this number.
    ///
    /// # Panics
    /// The number belongs to other maps.
    pub(super) fn stream(&self, number: usize) -> usize {
        let mut end = 0;
        let stream = self.maps.iter().position(|map| {
            end += map.len();
            number < end
        });
        stream.expect("the number is that of a shard")
    }

    /// The shard with this number.
    ///
    /// # Panics
    /// The number belongs to other maps.
    pub fn shard(&self, number: usize) -> &Shard {
        let stream = self.stream(number);
        self.maps[stream].shard(number - self.numbers(stream).start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_of_each_stream_follow_those_of_the_streams_before() {
        let mut shards = StreamShards::new(ShardMap::even(3));
        shards.add(ShardMap::even(1));
        shards.add(ShardMap::even(2));
        assert_eq!([0, 1, 2].map(|stream| shards.numbers(stream)), [0..3, 3..4, 4..6]);
        assert_eq!(
            [0, 2, 3, 4, 5].map(|number| shards.stream(number)),
            [0, 0, 1, 2, 2]
        );
        let last = HashKey(u128::MAX);
        assert_eq!([0, 1, 2].map(|stream| shards.number(stream, last)), [2, 3, 5]);
        assert_eq!(
            [2, 3, 5].map(|number| &*shards.shard(number).id),
            ["2 of 3", "0 of 1", "1 of 2"]
        );
        shards.replace(0, ShardMap::even(1));
        assert_eq!((shards.numbers(2), shards.number(2, last)), (2..4, 3));
    }
}
