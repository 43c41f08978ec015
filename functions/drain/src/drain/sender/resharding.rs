//! Stale shard maps: records are stored in other shards than the map says.
//!
//! With aggregates, sending stops until ListShards returns another map for each stale one. Without
//! aggregates, sending stops until ListShards answers. It then continues with the new map or the old one.
//!
//! A new map changes the lanes, which is possible only while no record is in flight. A misplaced aggregate
//! counts as in flight. So the maps of all streams are replaced together, once every new map is known.

use std::time::{Duration, Instant};

use super::{LIST_BACKOFF, Sender, StreamAnswer, backoff};
use crate::base::error_kind::ErrorKind;
use crate::drain::report::Report;
use crate::error::Error;
use crate::pack::{Aggregation, HashKey, Record, ShardMap};
use crate::ports::{Stream, StreamError};

/// Time for which a stale map is used before the next ListShards.
const KEPT_MAP_TIME: Duration = Duration::from_secs(30);

impl<K: Stream> Sender<K> {
    /// Lists the shards of each stream with a stale map.
    ///
    /// Does so only while no request is in flight.
    pub(super) fn list_shards_if_stale(&mut self) {
        let Some(&answers) = self.stale.values().max() else {
            return;
        };
        if self.in_flight.is_empty() && !self.has_stopped {
            let stale = self.stale.keys();
            let streams: Vec<(usize, K)> = stale
                .map(|number| (*number, self.streams[*number].stream.clone()))
                .collect();
            self.in_flight.spawn(async move {
                if answers > 0 {
                    tokio::time::sleep(backoff(LIST_BACKOFF, answers)).await;
                }
                let mut listed = Vec::with_capacity(streams.len());
                for (number, stream) in streams {
                    listed.push((number, stream.shards().await));
                }
                StreamAnswer::Shards(listed)
            });
        }
    }

    /// Whether a record is in the shard that its map determines.
    ///
    /// If not, the map is stale. Also true while a stale map is kept.
    pub(super) fn is_in_expected_shard(&self, record: &Record, shard: &str) -> bool {
        let stream = &self.streams[record.stream()];
        let is_in_expected_shard =
            !stream.key_decides_shard || self.lanes.shards().shard(record.shard()).id == shard;
        is_in_expected_shard || stream.map_kept_until.is_some_and(|until| Instant::now() < until)
    }

    /// Applies the new shard maps.
    ///
    /// They are applied once every stream with a stale map has a new one.
    ///
    /// # Errors
    /// ListShards failed with a definite error, and records are aggregates. Nothing more is sent.
    pub(super) fn apply_shards(
        &mut self,
        listed: Vec<(usize, Result<ShardMap, StreamError>)>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut changed = Vec::new();
        for (number, shards) in listed {
            let stream = self.name_of(number);
            match shards {
                Ok(map) if map != *self.lanes.shards().of(number) => {
                    tracing::info!(stream, shards = map.len(), "the stream was resharded");
                    changed.push((number, map));
                }
                // A record of one event is valid in every shard. So the drain continues with the old map.
                Ok(_) if self.aggregation == Aggregation::None => {
                    tracing::warn!(stream, "records are stored in other shards than ListShards says");
                    self.keep_map(number);
                }
                Err(error) if self.aggregation == Aggregation::None => {
                    let error = Error::Stream(error).chain();
                    tracing::warn!(
                        stream,
                        error,
                        "the drain continues with the old shards of the stream"
                    );
                    self.keep_map(number);
                }
                Ok(_) => self.set_last_error(number, |stream| StreamError::Misplaced { stream }),
                Err(error) if error.kind() == ErrorKind::Definite => {
                    self.has_stopped = true;
                    return Err(Error::Stream(error));
                }
                Err(error) => self.streams[number].last_error = Some(error),
            }
        }
        if changed.len() < self.stale.len() {
            self.stale.values_mut().for_each(|answers| *answers += 1);
            return Ok(());
        }
        for (number, map) in &changed {
            self.settle_misplaced(*number, map, report);
        }
        for (number, map) in changed {
            self.lanes.reshard(number, map);
            self.stale.remove(&number);
        }
        Ok(())
    }

    /// Continues with the old map of a stream.
    ///
    /// ListShards may lag behind a reshard. So answers are not compared with the map for a while.
    fn keep_map(&mut self, number: usize) {
        self.streams[number].map_kept_until = Some(Instant::now() + KEPT_MAP_TIME);
        self.stale.remove(&number);
    }

    /// Acknowledges each aggregate whose shard has all its keys.
    ///
    /// That shard is the one that stored the aggregate. The other aggregates are sent again: the KCL drops
    /// all events of an aggregate if one key belongs to another shard.
    fn settle_misplaced(&mut self, stream: usize, map: &ShardMap, report: &mut Report) {
        let now = Instant::now();
        let of_stream = |(record, _): &mut (Record, String)| record.stream() == stream;
        let misplaced: Vec<_> = self.misplaced.extract_if(.., of_stream).collect();
        for (record, shard) in misplaced {
            let keys = record.events().iter();
            let hash_keys = keys.map(|event| HashKey::of(&event.event.partition_key));
            match map.contains_all(&shard, hash_keys) {
                Some(true) => self.acknowledge(now, record, report),
                // `None`: the shard was split or merged again, and is not in the map. Consumers may drop the
                // aggregate.
                Some(false) | None => self.retry(now, record, report),
            }
        }
    }
}
