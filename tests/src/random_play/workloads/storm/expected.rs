//! Events of a backlog, and the verdict on a stream that has to contain them.
//!
//! The stream is read as the KCL does: shard after shard, parents before children, without aggregates that contain a
//! record of another shard.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fake_kinesis::FakeKinesis;
use crate::random_play::kcl;
use crate::random_play::result::{Counter, Verdict};

/// Violations that are reported of one play.
const MOST_CASES: usize = 10;

/// Every event of a backlog, by position.
#[derive(Debug, Default)]
pub(super) struct ExpectedEvents {
    events: HashMap<String, ExpectedEvent>,
    keys: usize,
}

#[derive(Debug, Clone, Copy)]
struct ExpectedEvent {
    /// Rank of the position among all positions.
    rank: usize,
    /// Number of the partition key.
    key: usize,
    /// Hash of partition key and content.
    fingerprint: u64,
}

impl ExpectedEvents {
    /// Events of a stream without faults. An invocation that was repeated may have sent an event twice.
    ///
    /// # Panics
    /// A record is no event, or a position has two different events.
    pub(super) fn of(stream: &FakeKinesis) -> Self {
        let mut expected = Self::default();
        let mut keys: HashMap<String, usize> = HashMap::new();
        each_event(stream, |key, data| {
            let (position, fingerprint) = read(key, data).unwrap_or_else(|| panic!("{key} has no event"));
            let number = keys.len();
            let key = *keys.entry(key.to_owned()).or_insert(number);
            let event = ExpectedEvent {
                rank: 0,
                key,
                fingerprint,
            };
            let earlier = expected.events.insert(position.clone().into_owned(), event);
            let is_same = earlier.is_none_or(|earlier| earlier.fingerprint == fingerprint);
            assert!(is_same, "{position} has two different events");
        });
        let mut order: Vec<(&String, &mut ExpectedEvent)> = expected.events.iter_mut().collect();
        order.sort_unstable_by_key(|(position, _)| *position);
        for (rank, (_, event)) in order.into_iter().enumerate() {
            event.rank = rank;
        }
        expected.keys = keys.len();
        expected
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Compares a stream with the expected events, and checks the order within each key.
    pub(super) fn judge(&self, stream: &FakeKinesis) -> Verdict {
        let (mut violations, mut duplicates) = (Vec::new(), 0);
        let mut arrived = vec![false; self.events.len()];
        // Rank of the last new event of each key.
        let mut last: Vec<Option<usize>> = vec![None; self.keys];
        let mut add_violation = |what: String| {
            if violations.len() < MOST_CASES {
                violations.push(what);
            }
        };
        let dropped = each_event(stream, |key, data| {
            let Some((position, fingerprint)) = read(key, data) else {
                return add_violation(format!("{key} has a record that is no event"));
            };
            let Some(event) = self.events.get(position.as_ref()) else {
                return add_violation(format!("{position} was never written"));
            };
            if fingerprint != event.fingerprint {
                add_violation(format!("{position} is not the event of the play without faults"));
            }
            if std::mem::replace(&mut arrived[event.rank], true) {
                duplicates += 1;
                return;
            }
            if last[event.key].is_some_and(|last| last > event.rank) {
                add_violation(format!("out of order: {key} had a later event before {position}"));
            }
            last[event.key] = Some(event.rank);
        });
        let missing = arrived.iter().filter(|arrived| !**arrived).count();
        if missing > 0 {
            violations.insert(0, format!("{missing} events have not arrived"));
        }
        let mut verdict = Verdict {
            violations,
            ..Verdict::default()
        };
        verdict.counts.add(Counter::Duplicates, duplicates);
        verdict.counts.add(Counter::Dropped, dropped as u64);
        verdict
    }
}

/// Passes every event and its partition key to `each`; returns how many records the KCL drops.
fn each_event(stream: &FakeKinesis, mut each: impl FnMut(&str, &[u8])) -> usize {
    let mut dropped = 0;
    stream.read(
        |range, key, data| match kcl::deliver(range, key, data, &mut each) {
            Ok(records) => dropped += records,
            // An unreadable aggregate counts as a record that is no event.
            Err(_) => each(key, data),
        },
    );
    dropped
}

#[derive(Deserialize)]
struct PositionField<'a> {
    #[serde(borrow)]
    position: Cow<'a, str>,
}

/// Position of an event, and the hash of its partition key and all its fields but the times of its creation.
fn read<'a>(key: &str, data: &'a [u8]) -> Option<(Cow<'a, str>, u64)> {
    let event: HashMap<&str, &RawValue> = serde_json::from_slice(data).ok()?;
    let source: PositionField<'a> = serde_json::from_str(event.get("source")?.get()).ok()?;
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
