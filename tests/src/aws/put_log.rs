//! What PutRecords brought: its requests, held against the limits of Kinesis, and its records under way, held against the
//! order of lanes.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::aws::aggregate;

/// Records of a request.
pub const MOST_RECORDS: usize = 500;
/// Bytes of a request: data and partition keys.
pub const MOST_BYTES: usize = 10 << 20;
/// Bytes of a record, data and partition key, unless its stream says otherwise.
pub const MOST_RECORD_BYTES: usize = 1 << 20;

/// One PutRecords request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    /// The stream it names.
    pub stream: String,
    /// Partition key and size in bytes of the data, in the order of the request.
    pub records: Vec<(String, usize)>,
}

impl PutRequest {
    /// As Kinesis counts a request: data and partition keys.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(key, data)| key.len() + data).sum()
    }
}

/// All that PutRecords brought to a fault proxy or a fake Kinesis.
#[derive(Debug, Clone, Default)]
pub struct PutLog {
    /// The requests in the order of their arrival.
    pub requests: Vec<PutRequest>,
    /// Partition keys of which two records were unacknowledged at the same time; those inside of aggregates count, those
    /// of an aggregate itself do not.
    pub shared_keys: BTreeSet<String>,
    /// What of a stream and a key is unacknowledged, each record with the events of that key.
    in_flight: HashMap<(String, String), Vec<Events>>,
}

/// The events of one key in one record, each as the hash of its data.
type Events = Vec<u64>;

/// What was seen, shared with the requests that are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedPutLog(Arc<Mutex<PutLog>>);

impl SharedPutLog {
    /// What was seen so far.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PutLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down (partition keys and data), and its records into flight.
    pub(crate) fn enter<'a>(
        &self,
        stream: &str,
        records: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> InFlightRecords {
        let records = self.lock().enter(stream, records);
        InFlightRecords {
            log: self.clone(),
            records,
        }
    }
}

/// The records of one request. Drop it when that is over, answered or not.
#[derive(Debug)]
pub(crate) struct InFlightRecords {
    log: SharedPutLog,
    records: Vec<((String, String), Events)>,
}

impl Drop for InFlightRecords {
    fn drop(&mut self) {
        let records = std::mem::take(&mut self.records);
        self.log.lock().leave(records);
    }
}

impl PutLog {
    /// Records that were put, each as often as it was tried.
    pub fn records(&self) -> usize {
        self.requests.iter().map(|request| request.records.len()).sum()
    }

    /// Holds what was seen against the limits of PutRecords, and against the rule that a lane has at most one
    /// unacknowledged record.
    ///
    /// # Panics
    /// One of them was broken.
    pub fn assert_within_limits(&self) {
        self.assert_within(MOST_RECORD_BYTES);
    }

    /// The same for a stream whose records may have so many bytes.
    ///
    /// # Panics
    /// One of them was broken.
    pub fn assert_within(&self, record_bytes: usize) {
        for request in &self.requests {
            let (records, bytes) = (request.records.len(), request.bytes());
            assert!(
                (1..=MOST_RECORDS).contains(&records),
                "a request of {records} records"
            );
            assert!(bytes <= MOST_BYTES, "a request of {bytes} bytes");
            for (key, data) in &request.records {
                let characters = key.chars().count();
                assert!(
                    (1..=256).contains(&characters),
                    "a partition key of {characters} characters"
                );
                assert!(
                    key.len() + data <= record_bytes,
                    "a record of {data} bytes with key {key}"
                );
            }
        }
        assert!(
            self.shared_keys.is_empty(),
            "two records in flight for one key: {:?}",
            self.shared_keys
        );
    }

    fn enter<'a>(
        &mut self,
        stream: &str,
        records: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Vec<((String, String), Events)> {
        let (mut request, mut entered, mut keys) = (Vec::new(), Vec::new(), HashSet::new());
        for (key, data) in records {
            request.push((key.to_owned(), data.len()));
            for (key, events) in by_key(key, data) {
                let of_stream = (stream.to_owned(), key.to_owned());
                let others = self.in_flight.entry(of_stream.clone()).or_default();
                // What is sent again may still be under way, as far as this side knows: its caller gave up.
                if !keys.insert(key) || others.iter().any(|other| !is_same_again(other, &events)) {
                    self.shared_keys.insert(key.to_owned());
                }
                others.push(events.clone());
                entered.push((of_stream, events));
            }
        }
        self.requests.push(PutRequest {
            stream: stream.to_owned(),
            records: request,
        });
        entered
    }

    fn leave(&mut self, records: Vec<((String, String), Events)>) {
        for (key, events) in records {
            let Some(others) = self.in_flight.get_mut(&key) else {
                continue;
            };
            if let Some(at) = others.iter().position(|other| *other == events) {
                others.swap_remove(at);
            }
            if others.is_empty() {
                self.in_flight.remove(&key);
            }
        }
    }
}

/// Each key of a record and its events, in their order.
fn by_key<'a>(key: &'a str, data: &'a [u8]) -> Vec<(&'a str, Events)> {
    let Ok(Some(records)) = aggregate::split(data) else {
        return vec![(key, vec![fingerprint(data)])];
    };
    let mut keys: HashMap<&str, Events> = HashMap::new();
    for record in records {
        keys.entry(record.partition_key)
            .or_default()
            .push(fingerprint(record.data));
    }
    keys.into_iter().collect()
}

/// Whether one holds the other: the same events sent again, perhaps in a record that was cut differently.
fn is_same_again(one: &[u64], other: &[u64]) -> bool {
    let holds = |one: &[u64], other: &[u64]| one.windows(other.len()).any(|part| part == other);
    holds(one, other) || holds(other, one)
}

fn fingerprint(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}
