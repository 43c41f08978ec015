//! The part of the Lambda Runtime API that a function needs.
//!
//! `invocation/next` returns one invocation at a time; the function answers it with `response` or `error`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::loopback_server;

/// Result of one invocation: the answer of the function, or the body of its error.
pub type InvocationResult = Result<Value, Value>;

/// A running API for one process.
#[derive(Debug)]
pub struct RuntimeApi {
    address: String,
    invocations: mpsc::UnboundedSender<Invocation>,
    state: Arc<RuntimeApiState>,
    task: tokio::task::JoinHandle<()>,
}

/// Identifiers of an invocation.
#[derive(Debug, Clone)]
pub struct InvocationIds {
    /// `Lambda-Runtime-Aws-Request-Id`.
    pub request: String,
    /// `Root` of `Lambda-Runtime-Trace-Id`.
    pub trace: String,
}

impl InvocationIds {
    /// Random identifiers, in the form that Lambda and X-Ray have.
    fn random() -> Self {
        let random = || fastrand::u64(..1 << 48);
        Self {
            request: format!("00000000-0000-4000-8000-{:012x}", random()),
            trace: format!("1-00000000-{:012x}{:012x}", random(), random()),
        }
    }
}

#[derive(Debug)]
struct Invocation {
    ids: InvocationIds,
    event: String,
    deadline_ms: u128,
    posted: oneshot::Sender<InvocationResult>,
}

#[derive(Debug)]
struct RuntimeApiState {
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
    running: Mutex<Option<(String, oneshot::Sender<InvocationResult>)>>,
    init_error: Mutex<Option<Value>>,
}

impl RuntimeApi {
    /// Starts an API on a free port.
    pub async fn start() -> Self {
        let (invocations, waiting) = mpsc::unbounded_channel();
        let state = Arc::new(RuntimeApiState {
            waiting: tokio::sync::Mutex::new(waiting),
            running: Mutex::default(),
            init_error: Mutex::default(),
        });
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            // Limit of Lambda for a synchronous answer.
            .layer(DefaultBodyLimit::max(6 * 1024 * 1024))
            .with_state(Arc::clone(&state));
        let serve = async move |listener| {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the Lambda Runtime API ended: {error}");
            }
        };
        let (address, task) = loopback_server::start(serve).await;
        Self {
            address: address.to_string(),
            invocations,
            state,
            task,
        }
    }

    /// Address for `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Queues `event` for the next `invocation/next`.
    ///
    /// The channel receives the result. It closes when there will be none.
    pub fn invoke(
        &self,
        event: String,
        deadline: Duration,
    ) -> (InvocationIds, oneshot::Receiver<InvocationResult>) {
        let (posted, answer) = oneshot::channel();
        let end = SystemTime::now() + deadline;
        let deadline_ms = end
            .duration_since(UNIX_EPOCH)
            .expect("it is after 1970")
            .as_millis();
        let ids = InvocationIds::random();
        let invocation = Invocation {
            ids: ids.clone(),
            event,
            deadline_ms,
            posted,
        };
        self.invocations
            .send(invocation)
            .expect("the API lives as long as this value");
        (ids, answer)
    }

    /// Body that the function posted to `init/error`, if any.
    pub fn init_error(&self) -> Option<Value> {
        self.state
            .init_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn next(State(state): State<Arc<RuntimeApiState>>) -> Response {
    // The lock is held over the await on purpose: a second poller waits for its turn.
    let Some(invocation) = state.waiting.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let InvocationIds { request: id, trace } = invocation.ids;
    *state.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((id.clone(), invocation.posted));
    let headers = [
        ("Lambda-Runtime-Aws-Request-Id", id),
        ("Lambda-Runtime-Deadline-Ms", invocation.deadline_ms.to_string()),
        (
            "Lambda-Runtime-Trace-Id",
            format!("Root={trace};Parent=0000000000000001;Sampled=0"),
        ),
        (
            "Lambda-Runtime-Invoked-Function-Arn",
            format!(
                "arn:aws:lambda:{}:000000000000:function:drain",
                crate::aws::kinesis::REGION
            ),
        ),
    ];
    (headers, [("Content-Type", "application/json")], invocation.event).into_response()
}

async fn response(
    State(state): State<Arc<RuntimeApiState>>,
    Path(id): Path<String>,
    body: String,
) -> StatusCode {
    complete(&state, &id, Ok(parse(&body)))
}

async fn error(
    State(state): State<Arc<RuntimeApiState>>,
    Path(id): Path<String>,
    body: String,
) -> StatusCode {
    complete(&state, &id, Err(parse(&body)))
}

async fn init_error(State(state): State<Arc<RuntimeApiState>>, body: String) -> StatusCode {
    *state.init_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(parse(&body));
    StatusCode::ACCEPTED
}

fn complete(state: &RuntimeApiState, id: &str, posted: InvocationResult) -> StatusCode {
    let mut running = state.running.lock().unwrap_or_else(PoisonError::into_inner);
    match running.take_if(|(expected, _)| expected == id) {
        Some((_, waiting)) => {
            // The receiver is gone when the deadline has passed.
            let _ = waiting.send(posted);
            StatusCode::ACCEPTED
        }
        None => StatusCode::BAD_REQUEST,
    }
}

/// Parses a body. One that is not JSON is kept as text, for the message of the failing assertion.
fn parse(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()))
}
