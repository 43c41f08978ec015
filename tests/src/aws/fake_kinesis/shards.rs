//! Shards of a fake Kinesis with their records, closed shards included.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::aws::hash_range::HashRange;

/// Limits of a shard for one second, if they are enforced.
const BYTES_A_SECOND: usize = 1 << 20;
const RECORDS_A_SECOND: usize = 1_000;

/// A stored record.
#[derive(Debug)]
pub(super) struct StoredRecord {
    /// Ordinal number, counted from 1 over all shards.
    pub(super) number: u64,
    /// When it was stored.
    pub(super) stored: SystemTime,
    pub(super) partition_key: String,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) range: HashRange,
    /// Parent in a split, or both parents in a merge.
    parents: Vec<usize>,
    open: bool,
    pub(super) records: Vec<StoredRecord>,
    /// Start of the current second, and its bytes and records.
    second: Option<Instant>,
    used: (usize, usize),
}

impl Shard {
    fn new(range: HashRange, parents: Vec<usize>) -> Self {
        Self {
            range,
            parents,
            open: true,
            records: Vec::new(),
            second: None,
            used: (0, 0),
        }
    }

    /// Whether a record fits into the current second; counts it if so.
    ///
    /// `bytes` is the size of the record.
    pub(super) fn has_room(&mut self, now: Instant, bytes: usize) -> bool {
        if self
            .second
            .is_none_or(|began| now - began >= Duration::from_secs(1))
        {
            (self.second, self.used) = (Some(now), (0, 0));
        }
        let used = (self.used.0 + bytes, self.used.1 + 1);
        let room = used.0 <= BYTES_A_SECOND && used.1 <= RECORDS_A_SECOND;
        if room {
            self.used = used;
        }
        room
    }
}

/// All shards, a shard before its children. The number of a shard is its index.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) all: Vec<Shard>,
    /// Last answer of ListShards.
    listed: Vec<Value>,
    /// Number of further ListShards answers that repeat it.
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

    /// Number of the open shard for this hash key.
    pub(super) fn holding(&self, hash: u128) -> usize {
        let found = self
            .all
            .iter()
            .position(|shard| shard.open && shard.range.contains(hash));
        found.expect("the open shards cover all hash keys")
    }

    /// Numbers of the open shards, in the order of their ranges.
    pub(super) fn open(&self) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.all.len()).filter(|at| self.all[*at].open).collect();
        open.sort_by_key(|at| self.all[*at].range.first);
        open
    }

    /// Closes a shard, and opens two children. Does nothing when it is closed already.
    pub(super) fn split(&mut self, shard: usize, stale: u32) {
        if !self.all[shard].open {
            return;
        }
        for range in self.all[shard].range.halves() {
            self.all.push(Shard::new(range, vec![shard]));
        }
        self.close(&[shard], stale);
    }

    /// Closes two shards, and opens one child. Does nothing unless both are open and adjacent.
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

    /// Splits or merges random shards.
    pub(super) fn reshard(&mut self, random: &mut fastrand::Rng, stale: u32) {
        let open = self.open();
        // The number of open shards stays between 1 and 32.
        if open.len() < 2 || (open.len() < 32 && random.bool()) {
            return self.split(open[random.usize(..open.len())], stale);
        }
        let at = random.usize(1..open.len());
        self.merge(open[at - 1], open[at], stale);
    }

    /// Shards as ListShards answers, possibly those before a reshard.
    ///
    /// A later page continues the answer of the first one.
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

/// Shard id of a number.
pub(super) fn id(number: usize) -> String {
    format!("shardId-{number:012}")
}
