//! The shards of a fake Kinesis, closed ones included, and what lies in them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::aws::hash_range::HashRange;

/// Bytes and records that a shard takes in a second, if its fake Kinesis enforces that.
const BYTES_A_SECOND: usize = 1 << 20;
const RECORDS_A_SECOND: usize = 1_000;

/// A record that arrived.
#[derive(Debug)]
pub(super) struct StoredRecord {
    /// Counted from 1, over all shards.
    pub(super) number: u64,
    pub(super) partition_key: String,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) range: HashRange,
    /// The one it was split from, or the two it was merged from.
    parents: Vec<usize>,
    open: bool,
    pub(super) records: Vec<StoredRecord>,
    /// The second that runs, and what it has brought.
    second: Option<Instant>,
    taken: (usize, usize),
}

impl Shard {
    fn new(range: HashRange, parents: Vec<usize>) -> Self {
        Self {
            range,
            parents,
            open: true,
            records: Vec::new(),
            second: None,
            taken: (0, 0),
        }
    }

    /// Whether it takes so many bytes more within its second.
    pub(super) fn has_room(&mut self, now: Instant, bytes: usize) -> bool {
        if self
            .second
            .is_none_or(|began| now - began >= Duration::from_secs(1))
        {
            (self.second, self.taken) = (Some(now), (0, 0));
        }
        let taken = (self.taken.0 + bytes, self.taken.1 + 1);
        let room = taken.0 <= BYTES_A_SECOND && taken.1 <= RECORDS_A_SECOND;
        if room {
            self.taken = taken;
        }
        room
    }
}

/// All shards, a shard before its children. A shard's number is its place.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) all: Vec<Shard>,
    /// As ListShards last listed them.
    listed: Vec<Value>,
    /// How many more times it tells that.
    stale: u32,
    pub(super) reshards: u64,
}

impl Shards {
    pub(super) fn new(shards: usize) -> Self {
        let ranges = HashRange::parts(shards).into_iter();
        let all = ranges.map(|range| Shard::new(range, Vec::new())).collect();
        let mut shards = Self {
            all,
            listed: Vec::new(),
            stale: 0,
            reshards: 0,
        };
        shards.listed = shards.describe();
        shards
    }

    /// The shard that takes records with this hash now.
    pub(super) fn holding(&self, hash: u128) -> usize {
        let found = self
            .all
            .iter()
            .position(|shard| shard.open && shard.range.contains(hash));
        found.expect("the open shards hold all hash keys")
    }

    /// The numbers of the open shards, in the order of their ranges.
    pub(super) fn open(&self) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.all.len()).filter(|at| self.all[*at].open).collect();
        open.sort_by_key(|at| self.all[*at].range.first);
        open
    }

    /// Closes a shard, and opens two in its place. Does nothing to one that is closed.
    pub(super) fn split(&mut self, shard: usize, stale: u32) {
        if !self.all[shard].open {
            return;
        }
        for range in self.all[shard].range.halves() {
            self.all.push(Shard::new(range, vec![shard]));
        }
        self.close(&[shard], stale);
    }

    /// Closes two shards, and opens one in their place. Does nothing unless both are open, and the second follows the first.
    pub(super) fn merge(&mut self, one: usize, other: usize, stale: u32) {
        let (first, second) = (&self.all[one], &self.all[other]);
        if !first.open || !second.open || first.range.last.checked_add(1) != Some(second.range.first) {
            return;
        }
        let range = HashRange {
            first: first.range.first,
            last: second.range.last,
        };
        self.all.push(Shard::new(range, vec![one, other]));
        self.close(&[one, other], stale);
    }

    fn close(&mut self, shards: &[usize], stale: u32) {
        for shard in shards {
            self.all[*shard].open = false;
        }
        self.stale = stale;
        self.reshards += 1;
    }

    /// Splits or merges, as drawn.
    pub(super) fn reshard(&mut self, random: &mut fastrand::Rng, stale: u32) {
        let open = self.open();
        // Between one and thirty-two of them.
        if open.len() < 2 || (open.len() < 32 && random.bool()) {
            return self.split(open[random.usize(..open.len())], stale);
        }
        let at = random.usize(1..open.len());
        self.merge(open[at - 1], open[at], stale);
    }

    /// The shards as ListShards tells them, which may be those of before a reshard.
    /// A later page goes on with what the first one listed.
    pub(super) fn list(&mut self, first_page: bool) -> &[Value] {
        match self.stale {
            _ if !first_page => {}
            0 => self.listed = self.describe(),
            _ => self.stale -= 1,
        }
        &self.listed
    }

    fn describe(&self) -> Vec<Value> {
        let shards = self.all.iter().enumerate();
        let described = shards.map(|(number, shard)| {
            let mut sequence = json!({ "StartingSequenceNumber": "1" });
            if !shard.open {
                sequence["EndingSequenceNumber"] = json!("2");
            }
            let mut described = json!({
                "ShardId": id(number),
                "HashKeyRange": {
                    "StartingHashKey": shard.range.first.to_string(),
                    "EndingHashKey": shard.range.last.to_string(),
                },
                "SequenceNumberRange": sequence,
            });
            for (name, parent) in ["ParentShardId", "AdjacentParentShardId"]
                .iter()
                .zip(&shard.parents)
            {
                described[name] = json!(id(*parent));
            }
            described
        });
        described.collect()
    }
}

/// As Kinesis calls the shard of that number.
pub(super) fn id(number: usize) -> String {
    format!("shardId-{number:012}")
}
