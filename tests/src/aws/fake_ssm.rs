//! Fake of SSM Parameter Store: parameters in memory, which end with the process.
//!
//! It implements GetParameter, PutParameter and DeleteParameter. It refuses what the service refuses: a value
//! above 4 KB or with `{{`, and another type for a parameter that exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::aws::endpoint::{self, ConnectionCut, Endpoint, RequestHandler, refusal};

/// Bytes of a value in the standard tier.
const MAX_VALUE_BYTES: usize = 4_096;

/// A running fake of SSM.
#[derive(Debug)]
pub struct FakeSsm {
    endpoint: Endpoint,
    service: Arc<FakeSsmService>,
}

/// Observer of stores: it gets the name and the value.
type PutObserver = dyn Fn(&str, &str) + Send + Sync;

/// A parameter: its type (`String`, `SecureString`) and its value.
#[derive(Debug, Clone)]
struct StoredParameter {
    kind: String,
    value: String,
}

struct FakeSsmService {
    /// Parameters by name.
    parameters: Mutex<HashMap<String, StoredParameter>>,
    on_put: Box<PutObserver>,
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

    /// Value of a parameter, decrypted; `None` when it does not exist.
    pub fn get(&self, name: &str) -> Option<String> {
        let parameters = self.service.parameters();
        parameters.get(name).map(|parameter| parameter.value.clone())
    }

    /// Type of a parameter (`String`, `SecureString`); `None` when it does not exist.
    pub fn parameter_type(&self, name: &str) -> Option<String> {
        let parameters = self.service.parameters();
        parameters.get(name).map(|parameter| parameter.kind.clone())
    }

    /// Creates or replaces a parameter of the type `String`.
    pub fn put(&self, name: &str, value: &str) {
        let parameter = StoredParameter {
            kind: "String".to_owned(),
            value: value.to_owned(),
        };
        self.service.parameters().insert(name.to_owned(), parameter);
    }

    /// Deletes a parameter. A missing parameter is no error.
    pub fn delete(&self, name: &str) {
        self.service.parameters().remove(name);
    }

    /// Value of the first parameter whose name `is_wanted`, if there is one.
    pub fn find(&self, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
        let parameters = self.service.parameters();
        let (_, parameter) = parameters.iter().find(|(name, _)| is_wanted(name))?;
        Some(parameter.value.clone())
    }
}

impl FakeSsmService {
    fn parameters(&self) -> MutexGuard<'_, HashMap<String, StoredParameter>> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_get(&self, name: &str, is_decrypted: bool) -> Response<Body> {
        let parameters = self.parameters();
        let Some(StoredParameter { kind, value }) = parameters.get(name) else {
            return missing();
        };
        let value = if is_decrypted || kind == "String" {
            value
        } else {
            "AQICAHcipher"
        };
        let parameter = json!({
            "Name": name, "Type": kind, "Value": value, "Version": 1, "DataType": "text",
        });
        endpoint::json(json!({ "Parameter": parameter }).to_string())
    }

    fn answer_put(&self, request: &Value) -> Response<Body> {
        let field = |name: &str| request[name].as_str().unwrap_or_default();
        let (name, kind, value) = (field("Name"), field("Type"), field("Value"));
        // Under the lock, so that an observer sees the stores in their order.
        let mut parameters = self.parameters();
        let found = parameters.get(name);
        if value.len() > MAX_VALUE_BYTES || value.contains("{{") {
            let message = "Standard tier parameters support a maximum parameter value of 4096 characters, \
                           and no value may nest another parameter.";
            return refusal(400, "ValidationException", message);
        }
        if found.is_some() && request["Overwrite"] != json!(true) {
            return refusal(400, "ParameterAlreadyExists", "The parameter already exists.");
        }
        if found.is_some_and(|parameter| !kind.is_empty() && parameter.kind != kind) {
            let message = "The parameter has another type, which cannot be changed.";
            return refusal(400, "HierarchyTypeMismatchException", message);
        }
        let kind = found.map_or(kind, |parameter| &parameter.kind).to_owned();
        let value = value.to_owned();
        (self.on_put)(name, &value);
        parameters.insert(name.to_owned(), StoredParameter { kind, value });
        endpoint::json(json!({ "Version": 1, "Tier": "Standard" }).to_string())
    }

    fn answer_delete(&self, name: &str) -> Response<Body> {
        match self.parameters().remove(name) {
            Some(_) => endpoint::json("{}".to_owned()),
            None => missing(),
        }
    }
}

fn missing() -> Response<Body> {
    refusal(400, "ParameterNotFound", "no such parameter")
}

impl RequestHandler for FakeSsmService {
    async fn answer(
        self: Arc<Self>,
        operation: String,
        _: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, ConnectionCut> {
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = request["Name"].as_str().unwrap_or_default();
        Ok(match operation.as_str() {
            "GetParameter" => self.answer_get(name, request["WithDecryption"] == json!(true)),
            "PutParameter" => self.answer_put(&request),
            "DeleteParameter" => self.answer_delete(name),
            _ => refusal(400, "UnknownOperationException", "not an operation of this fake"),
        })
    }
}
