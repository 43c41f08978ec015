//! What has to arrive, and whether it did: in the eyes of a consumer that reads shard after shard, parents before their
//! children, takes aggregates apart and drops what lies in the wrong shard.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::aws::aggregate;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::hash_range::HashRange;

/// Cases that are told of one play.
const MOST_CASES: usize = 10;

/// Every event of the backlog.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// By position: its rank among all positions, its key's number and what it says.
    events: HashMap<String, Known>,
    keys: usize,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    rank: usize,
    key: usize,
    fingerprint: u64,
}

/// What a consumer saw.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) duplicates: usize,
    pub(super) dropped: usize,
    pub(super) broken: Vec<String>,
}

impl Expected {
    /// What arrived in calm weather. A tick that had to be repeated may have brought an event twice.
    pub(super) fn of(fake_kinesis: &FakeKinesis) -> Self {
        let mut expected = Self::default();
        let mut keys: HashMap<String, usize> = HashMap::new();
        let mut dropped = 0;
        each_event(fake_kinesis, &mut dropped, |key, data| {
            let (position, fingerprint) = read(key, data).unwrap_or_else(|| panic!("{key} has no event"));
            let number = keys.len();
            let key = *keys.entry(key.to_owned()).or_insert(number);
            let known = Known {
                rank: 0,
                key,
                fingerprint,
            };
            let earlier = expected.events.insert(position.clone().into_owned(), known);
            let same = earlier.is_none_or(|earlier| earlier.fingerprint == fingerprint);
            assert!(same, "{position} stands for two changes");
        });
        let mut order: Vec<(&String, &mut Known)> = expected.events.iter_mut().collect();
        order.sort_unstable_by_key(|(position, _)| *position);
        for (rank, (_, known)) in order.into_iter().enumerate() {
            known.rank = rank;
        }
        expected.keys = keys.len();
        expected
    }

    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// Holds what arrived against it.
    pub(super) fn judge(&self, fake_kinesis: &FakeKinesis) -> Verdict {
        let mut verdict = Verdict::default();
        let (mut broken, mut duplicates) = (Vec::new(), 0);
        let mut arrived = vec![false; self.events.len()];
        // Of each key the last event that was new.
        let mut last: Vec<Option<usize>> = vec![None; self.keys];
        let mut tell = |what: String| {
            if broken.len() < MOST_CASES {
                broken.push(what);
            }
        };
        each_event(fake_kinesis, &mut verdict.dropped, |key, data| {
            let Some((position, fingerprint)) = read(key, data) else {
                return tell(format!("{key} has a record that is no event"));
            };
            let Some(known) = self.events.get(position.as_ref()) else {
                return tell(format!("{position} was never written"));
            };
            if fingerprint != known.fingerprint {
                tell(format!("{position} is not what it was in calm weather"));
            }
            if std::mem::replace(&mut arrived[known.rank], true) {
                duplicates += 1;
                return;
            }
            if last[known.key].is_some_and(|last| last > known.rank) {
                tell(format!("out of order: {key} had a later event before {position}"));
            }
            last[known.key] = Some(known.rank);
        });
        let missing = arrived.iter().filter(|arrived| !**arrived).count();
        if missing > 0 {
            broken.insert(0, format!("{missing} events have not arrived"));
        }
        (verdict.duplicates, verdict.broken) = (duplicates, broken);
        verdict
    }
}

/// Every event as KCL hands it on, and its partition key.
fn each_event(fake_kinesis: &FakeKinesis, dropped: &mut usize, mut each: impl FnMut(&str, &[u8])) {
    fake_kinesis.read(
        |range: HashRange, key: &str, data: &[u8]| match aggregate::split(data) {
            Ok(Some(records)) => {
                if records.iter().all(|record| range.contains(record.hash())) {
                    for record in records {
                        each(record.partition_key, record.data);
                    }
                } else {
                    *dropped += records.len();
                }
            }
            // One that is broken is no event either.
            Ok(None) | Err(_) => each(key, data),
        },
    );
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow)]
    position: Cow<'a, str>,
}

/// The position of an event, and the hash of its key and of all it says but when it was made.
fn read<'a>(key: &str, data: &'a [u8]) -> Option<(Cow<'a, str>, u64)> {
    let event: HashMap<&str, &RawValue> = serde_json::from_slice(data).ok()?;
    let source: Source<'a> = serde_json::from_str(event.get("source")?.get()).ok()?;
    let mut fields: Vec<(&str, &str)> = event
        .iter()
        .filter(|(name, _)| !name.starts_with("ts_"))
        .map(|(name, value)| (*name, value.get()))
        .collect();
    fields.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (key, fields).hash(&mut hasher);
    Some((source.position, hasher.finish()))
}
