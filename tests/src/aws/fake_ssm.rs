//! Fake of SSM Parameter Store: parameters in memory, which end with the process.
//!
//! It implements GetParameter, PutParameter and DeleteParameter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, Answerer, Cut, Endpoint, refusal};

/// A running fake of SSM.
#[derive(Debug)]
pub struct FakeSsm {
    endpoint: Endpoint,
    service: Arc<FakeSsmService>,
}

/// Observer of stores: it gets the name and the value.
type OnPut = dyn Fn(&str, &str) + Send + Sync;

struct FakeSsmService {
    /// Values by name.
    parameters: Mutex<HashMap<String, String>>,
    on_put: Box<OnPut>,
}

impl std::fmt::Debug for FakeSsmService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeSsmService")
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

impl FakeSsm {
    /// Opens a fake without parameters.
    ///
    /// `on_put` is called with the name and the value of each store, before the answer.
    pub async fn open(on_put: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        let service = Arc::new(FakeSsmService {
            parameters: Mutex::default(),
            on_put: Box::new(on_put),
        });
        Self {
            endpoint: Endpoint::open(Arc::clone(&service)).await,
            service,
        }
    }

    /// URL for `AWS_ENDPOINT_URL_SSM`.
    pub fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// Value of the first parameter whose name `is_wanted`, if there is one.
    pub fn find(&self, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
        let parameters = self.service.parameters();
        let (_, value) = parameters.iter().find(|(name, _)| is_wanted(name))?;
        Some(value.clone())
    }
}

impl FakeSsmService {
    fn parameters(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Response<Body> {
        let parameters = self.parameters();
        let Some(value) = parameters.get(name) else {
            return missing();
        };
        let parameter = json!({
            "Name": name, "Type": "String", "Value": value, "Version": 1, "DataType": "text",
        });
        endpoint::json(json!({ "Parameter": parameter }).to_string())
    }

    fn put(&self, name: &str, value: &str) -> Response<Body> {
        // Under the lock, so that an observer sees the stores in their order.
        let mut parameters = self.parameters();
        (self.on_put)(name, value);
        parameters.insert(name.to_owned(), value.to_owned());
        endpoint::json(json!({ "Version": 1, "Tier": "Standard" }).to_string())
    }

    fn delete(&self, name: &str) -> Response<Body> {
        match self.parameters().remove(name) {
            Some(_) => endpoint::json("{}".to_owned()),
            None => missing(),
        }
    }
}

fn missing() -> Response<Body> {
    refusal(400, "ParameterNotFound", "no such parameter")
}

impl Answerer for FakeSsmService {
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
