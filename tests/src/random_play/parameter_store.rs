//! Fake of SSM Parameter Store with two parameters: the checkpoint and the state of a backfill.
//!
//! It keeps every stored checkpoint, and how many records the stream had at that moment. A store that a fault
//! proxy lets through is applied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, Answerer, Cut, Endpoint, refusal};
use crate::aws::fake_kinesis::FakeKinesis;

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
    endpoint: Endpoint,
    service: Arc<ParameterService>,
}

#[derive(Debug)]
struct ParameterService {
    stream: Arc<FakeKinesis>,
    parameters: Mutex<Parameters>,
    rows_read: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Parameters {
    /// Values by name.
    values: HashMap<String, String>,
    checkpoints: Vec<StoredCheckpoint>,
}

impl ParameterStore {
    /// Opens a store without parameters, for a function that writes to `stream`.
    pub(crate) async fn open(stream: Arc<FakeKinesis>) -> Self {
        let service = Arc::new(ParameterService {
            stream,
            parameters: Mutex::default(),
            rows_read: Arc::default(),
        });
        Self {
            endpoint: Endpoint::open(Arc::clone(&service)).await,
            service,
        }
    }

    /// Endpoint, as `AWS_ENDPOINT_URL_SSM` takes it.
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// Checkpoint that was stored last.
    pub(crate) fn checkpoint(&self) -> Option<StoredCheckpoint> {
        self.service.parameters().checkpoints.last().cloned()
    }

    /// All stored checkpoints, in the order of their stores.
    pub(crate) fn checkpoints(&self) -> Vec<StoredCheckpoint> {
        self.service.parameters().checkpoints.clone()
    }

    /// State of the backfill, if one is stored.
    pub(crate) fn backfill(&self) -> Option<Value> {
        let parameters = self.service.parameters();
        let (_, text) = parameters.values.iter().find(|(name, _)| is_backfill(name))?;
        serde_json::from_str(text).ok()
    }

    /// Rows that the backfill has read, by its stored states.
    pub(crate) fn rows_read(&self) -> u64 {
        self.service.rows_read.load(Ordering::Relaxed)
    }

    /// Counter behind [`ParameterStore::rows_read`].
    pub(crate) fn rows_read_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.service.rows_read)
    }
}

/// Whether a parameter's name is that of the backfill's state.
fn is_backfill(name: &str) -> bool {
    name.ends_with(".backfill")
}

impl ParameterService {
    fn parameters(&self) -> MutexGuard<'_, Parameters> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Response<Body> {
        let parameters = self.parameters();
        let Some(value) = parameters.values.get(name) else {
            return missing();
        };
        let parameter = json!({
            "Name": name, "Type": "String", "Value": value, "Version": 1, "DataType": "text",
        });
        endpoint::json(json!({ "Parameter": parameter }).to_string())
    }

    fn put(&self, name: &str, value: &str) -> Response<Body> {
        let document: Value = serde_json::from_str(value).unwrap_or_default();
        let mut parameters = self.parameters();
        if is_backfill(name) {
            let rows = document["rows"].as_u64().unwrap_or(0);
            self.rows_read.fetch_max(rows, Ordering::Relaxed);
        } else if let Some(commit_end) = lsn(&document["commit_end"]) {
            let progress = &document["progress"];
            parameters.checkpoints.push(StoredCheckpoint {
                commit_end,
                progress: lsn(&progress["commit_end"]).zip(lsn(&progress["lsn"])),
                records: self.stream.counts().put,
            });
        } else {
            return refusal(400, "ValidationException", "this is no checkpoint");
        }
        parameters.values.insert(name.to_owned(), value.to_owned());
        endpoint::json(json!({ "Version": 1, "Tier": "Standard" }).to_string())
    }

    fn delete(&self, name: &str) -> Response<Body> {
        match self.parameters().values.remove(name) {
            Some(_) => endpoint::json("{}".to_owned()),
            None => missing(),
        }
    }
}

fn missing() -> Response<Body> {
    refusal(400, "ParameterNotFound", "no such parameter")
}

impl Answerer for ParameterService {
    async fn answer(
        self: Arc<Self>,
        operation: String,
        _: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Cut> {
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| request[name].as_str().unwrap_or_default();
        Ok(match operation.as_str() {
            "GetParameter" => self.get(field("Name")),
            "PutParameter" => self.put(field("Name"), field("Value")),
            "DeleteParameter" => self.delete(field("Name")),
            _ => refusal(400, "UnknownOperationException", "not an operation of this fake"),
        })
    }
}

/// LSN from the text that PostgreSQL writes.
pub(crate) fn lsn(text: &Value) -> Option<u64> {
    let (high, low) = text.as_str()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}
