//! SSM with two parameters. Of the checkpoint's it keeps what is stored, and how much of the stream had arrived by then; of that of
//! a backfill the last text. What a fault proxy before it lets through is applied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, Answerer, Cut, Endpoint, refusal};
use crate::aws::fake_kinesis::FakeKinesis;

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    /// The checkpoint's `commit_end`.
    pub(crate) commit_end: u64,
    /// Inside the transaction that the checkpoint is in the middle of: where that ends, and the change up to which all
    /// has arrived, that one not included.
    pub(crate) progress: Option<(u64, u64)>,
    /// Records that the stream had by then.
    pub(crate) arrived: u64,
}

/// The parameter, which answers.
#[derive(Debug)]
pub(crate) struct Parameter {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stream: Arc<FakeKinesis>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    text: Option<String>,
    stores: Vec<Store>,
    backfill: Option<String>,
}

impl Parameter {
    /// Ones that do not exist yet, beside this stream.
    pub(crate) async fn beside(stream: Arc<FakeKinesis>) -> Self {
        let state = Mutex::default();
        let shared = Arc::new(Shared { stream, state });
        Self {
            endpoint: Endpoint::open(Arc::clone(&shared)).await,
            shared,
        }
    }

    /// As `AWS_ENDPOINT_URL_SSM` takes it.
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// What is stored now: the last of [`Parameter::stores`].
    pub(crate) fn stored(&self) -> Option<Store> {
        self.shared.state().stores.last().cloned()
    }

    /// All stores, in their order.
    pub(crate) fn stores(&self) -> Vec<Store> {
        self.shared.state().stores.clone()
    }

    /// The state of the backfill, if one is stored.
    pub(crate) fn backfill(&self) -> Option<Value> {
        let text = self.shared.state().backfill.clone()?;
        serde_json::from_str(&text).ok()
    }
}

/// Whether this is the name of the parameter of the backfill.
fn is_backfill(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.ends_with(".backfill"))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &Value) -> Response<Body> {
        let state = self.state();
        let text = match is_backfill(name) {
            true => &state.backfill,
            false => &state.text,
        };
        let Some(text) = text else { return missing() };
        let parameter = json!({
            "Name": name, "Type": "String", "Value": text, "Version": state.stores.len(), "DataType": "text",
        });
        endpoint::json(json!({ "Parameter": parameter }).to_string())
    }

    fn put(&self, name: &Value, text: &str) -> Response<Body> {
        if is_backfill(name) {
            self.state().backfill = Some(text.to_owned());
            return endpoint::json(json!({ "Version": 1, "Tier": "Standard" }).to_string());
        }
        let checkpoint: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(commit_end) = lsn(&checkpoint["commit_end"]) else {
            return refusal(400, "ValidationException", "this is no checkpoint");
        };
        let progress = &checkpoint["progress"];
        let mut state = self.state();
        state.stores.push(Store {
            commit_end,
            progress: lsn(&progress["commit_end"]).zip(lsn(&progress["lsn"])),
            arrived: self.stream.counts().put,
        });
        state.text = Some(text.to_owned());
        endpoint::json(json!({ "Version": state.stores.len(), "Tier": "Standard" }).to_string())
    }

    fn delete(&self, name: &Value) -> Response<Body> {
        let mut state = self.state();
        let deleted = match is_backfill(name) {
            true => state.backfill.take(),
            false => state.text.take(),
        };
        match deleted {
            Some(_) => endpoint::json("{}".to_owned()),
            None => missing(),
        }
    }
}

fn missing() -> Response<Body> {
    refusal(400, "ParameterNotFound", "no such parameter")
}

impl Answerer for Shared {
    async fn answer(
        self: Arc<Self>,
        operation: String,
        _: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Cut> {
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(match operation.as_str() {
            "GetParameter" => self.get(&request["Name"]),
            "PutParameter" => self.put(&request["Name"], request["Value"].as_str().unwrap_or_default()),
            "DeleteParameter" => self.delete(&request["Name"]),
            _ => refusal(400, "UnknownOperationException", "not an operation of this fake"),
        })
    }
}

/// An LSN as PostgreSQL writes it.
pub(crate) fn lsn(text: &Value) -> Option<u64> {
    let (high, low) = text.as_str()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}
