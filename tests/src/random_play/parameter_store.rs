//! Observed fake of SSM: the checkpoint, the state of a backfill and the list of tables.
//!
//! It keeps every stored checkpoint, and how many records the stream had at that moment. A store that a fault
//! proxy lets through is applied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::fake_ssm::FakeSsm;
use crate::postgres::lsn::parse_lsn;

/// Stored checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredCheckpoint {
    /// `commit_end` of the checkpoint.
    pub(crate) commit_end: u64,
    /// Progress inside the next transaction: its commit end, and the LSN before which all changes are
    /// acknowledged.
    pub(crate) progress: Option<(u64, u64)>,
    /// Records that the stream had stored by then.
    pub(crate) records: u64,
}

/// Parameter store that answers on an endpoint.
#[derive(Debug)]
pub(crate) struct ParameterStore {
    ssm: FakeSsm,
    checkpoints: Arc<Mutex<Vec<StoredCheckpoint>>>,
    rows_read: Arc<AtomicU64>,
}

impl ParameterStore {
    /// Opens a store without parameters, for a function that writes to `stream`.
    pub(crate) async fn open(stream: Arc<FakeKinesis>) -> Self {
        let checkpoints = Arc::<Mutex<Vec<StoredCheckpoint>>>::default();
        let rows_read = Arc::<AtomicU64>::default();
        let (stored, rows) = (Arc::clone(&checkpoints), Arc::clone(&rows_read));
        let on_put = move |name: &str, value: &str| {
            let document: Value = serde_json::from_str(value).unwrap_or_default();
            if is_backfill(name) {
                rows.fetch_max(document["rows"].as_u64().unwrap_or(0), Ordering::Relaxed);
            } else if let Some(commit_end) = lsn(&document["commit_end"]) {
                let progress = &document["progress"];
                lock(&stored).push(StoredCheckpoint {
                    commit_end,
                    progress: lsn(&progress["commit_end"]).zip(lsn(&progress["lsn"])),
                    records: stream.counts().put,
                });
            }
        };
        Self {
            ssm: FakeSsm::open(on_put).await,
            checkpoints,
            rows_read,
        }
    }

    /// Endpoint, as `AWS_ENDPOINT_URL_SSM` takes it.
    pub(crate) fn endpoint(&self) -> &str {
        self.ssm.endpoint()
    }

    /// Checkpoint that was stored last.
    pub(crate) fn checkpoint(&self) -> Option<StoredCheckpoint> {
        lock(&self.checkpoints).last().cloned()
    }

    /// All stored checkpoints, in the order of their stores.
    pub(crate) fn checkpoints(&self) -> Vec<StoredCheckpoint> {
        lock(&self.checkpoints).clone()
    }

    /// State of the backfill, if one is stored.
    pub(crate) fn backfill(&self) -> Option<Value> {
        serde_json::from_str(&self.ssm.find(is_backfill)?).ok()
    }

    /// Rows that the backfill has read, by its stored states.
    pub(crate) fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }

    /// Counter of [`ParameterStore::rows_read`].
    pub(crate) fn rows_read_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.rows_read)
    }
}

fn lock(checkpoints: &Mutex<Vec<StoredCheckpoint>>) -> MutexGuard<'_, Vec<StoredCheckpoint>> {
    checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a parameter's name is that of the backfill's state.
fn is_backfill(name: &str) -> bool {
    name.ends_with(".backfill")
}

/// Number of an LSN in a document.
fn lsn(text: &Value) -> Option<u64> {
    parse_lsn(text.as_str()?)
}
