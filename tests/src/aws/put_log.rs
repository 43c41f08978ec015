//! Log of PutRecords requests.
//!
//! It is checked against the limits of Kinesis, and against the rule that a key has at most one record in
//! flight.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::aws::aggregate;

/// Limit of records in one request.
pub const MAX_RECORDS: usize = 500;
/// Limit of one request, in bytes of data and partition keys.
pub const MAX_BYTES: usize = 10 << 20;
/// Limit of one record, in bytes of data and partition key.
///
/// A stream may have another limit.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// One PutRecords request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    /// Name of the stream.
    pub stream: String,
    /// Partition key and data bytes of each record, in request order.
    pub records: Vec<(String, usize)>,
}

impl PutRequest {
    /// Bytes of the request as Kinesis counts them: data and partition keys.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(key, data)| key.len() + data).sum()
    }
}

/// All PutRecords requests to a fault proxy or a fake Kinesis.
#[derive(Debug, Clone, Default)]
pub struct PutLog {
    /// The requests in the order of their arrival.
    pub requests: Vec<PutRequest>,
    /// Partition keys that had two different records in flight at once.
    ///
    /// The keys inside an aggregate count; the key of the aggregate itself does not.
    pub shared_keys: BTreeSet<String>,
    /// Records in flight by stream and key: for each record its events of that key.
    in_flight: HashMap<(String, String), Vec<Events>>,
}

/// Events of one key in one record, as hashes of their data.
type Events = Vec<u64>;

/// A log that requests in flight share.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedPutLog(Arc<Mutex<PutLog>>);

impl SharedPutLog {
    /// The log so far.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PutLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a request, and marks its records as in flight.
    ///
    /// `records` has the partition key and the data of each record.
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

/// Records in flight of one request. Drop it when the request ends, answered or not.
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
    /// Number of records, each counted as often as it was sent.
    pub fn records(&self) -> usize {
        self.requests.iter().map(|request| request.records.len()).sum()
    }

    /// Checks the limits of PutRecords, and the rule for keys.
    ///
    /// The rule is that no key has two records in flight.
    ///
    /// # Panics
    /// A request breaks one of them.
    pub fn assert_within_limits(&self) {
        self.assert_within(MAX_RECORD_BYTES);
    }

    /// The same check, for a stream with records up to `record_bytes`.
    ///
    /// # Panics
    /// A request breaks a limit, or the rule.
    pub fn assert_within(&self, record_bytes: usize) {
        for request in &self.requests {
            let (records, bytes) = (request.records.len(), request.bytes());
            assert!(
                (1..=MAX_RECORDS).contains(&records),
                "a request of {records} records"
            );
            assert!(bytes <= MAX_BYTES, "a request of {bytes} bytes");
            for (key, data) in &request.records {
                let characters = key.encode_utf16().count();
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
                // After a timeout the caller sends a record again, while this side still has the first one in
                // flight.
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

/// Keys of a record with their events, in the record's order.
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

/// Whether one contains the other: events sent again, possibly grouped into other records.
fn is_same_again(one: &[u64], other: &[u64]) -> bool {
    let holds = |one: &[u64], other: &[u64]| one.windows(other.len()).any(|part| part == other);
    holds(one, other) || holds(other, one)
}

fn fingerprint(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}
