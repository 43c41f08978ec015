//! A fault proxy in front of an AWS endpoint.
//!
//! It forwards requests. Scenarios choose which of them it holds, refuses, delays or cuts. It logs every
//! PutRecords.

mod put_records;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use crate::aws::endpoint::{ConnectionCut, Endpoint, RequestHandler, refusal};
use crate::aws::put_log::{PutLog, SharedPutLog};

/// A fault of one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Not forwarded, and answered with this error.
    Refuse {
        /// HTTP status, 400 or 500.
        status: u16,
        /// `__type`, for example `AccessDeniedException`.
        kind: String,
        /// `message`.
        message: String,
    },
    /// Forwarded and applied; the connection is cut instead of an answer.
    CutAnswer,
    /// The connection is cut before anything is applied.
    CutRequest,
    /// Forwarded after this time.
    Delay(Duration),
    /// Forwarded while the limit admits it, and throttled otherwise.
    Limit(Arc<RateLimit>),
}

/// Limit on requests per second, which several proxies may share.
///
/// The functions of an account share such a limit.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u32,
    /// Start of the present second, and the requests that it admitted.
    second: Mutex<(Instant, u32)>,
    refused: AtomicU64,
}

impl RateLimit {
    /// Admits this many requests a second.
    pub fn new(per_second: u32) -> Arc<Self> {
        Arc::new(Self {
            per_second,
            second: Mutex::new((Instant::now(), 0)),
            refused: AtomicU64::new(0),
        })
    }

    /// Number of requests that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn admits(&self) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.0.elapsed() >= Duration::from_secs(1) {
            *second = (Instant::now(), 0);
        }
        second.1 += 1;
        let is_admitted = second.1 <= self.per_second;
        self.refused.fetch_add(u64::from(!is_admitted), Ordering::Relaxed);
        is_admitted
    }
}

impl Fault {
    /// Refusal with status 400 and this error.
    pub fn refuse(kind: &str, message: &str) -> Self {
        Self::Refuse {
            status: 400,
            kind: kind.to_owned(),
            message: message.to_owned(),
        }
    }

    /// Refusal with status 500 and `InternalFailure`.
    pub fn internal() -> Self {
        let (kind, message) = (
            "InternalFailure".to_owned(),
            "an error the scenario asked for".to_owned(),
        );
        Self::Refuse {
            status: 500,
            kind,
            message,
        }
    }
}

/// Point at which a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultSide {
    /// Before it is forwarded. Nothing is applied when the caller dies meanwhile.
    Request,
    /// After it was applied, before it is answered.
    Answer,
}

/// A request that the proxy holds, or will hold. Dropping this value releases the request.
#[derive(Debug)]
pub struct HeldRequest {
    what: String,
    reached: Option<oneshot::Receiver<()>>,
    release: Option<oneshot::Sender<()>>,
}

impl HeldRequest {
    /// Waits until the request has arrived and is held.
    ///
    /// # Panics
    /// It does not arrive within a minute.
    pub async fn wait_until_held(&mut self) {
        let is_reached = self.is_held_within(Duration::from_secs(60)).await;
        assert!(is_reached, "{} did not arrive", self.what);
    }

    /// Whether the request arrives and is held within this time. False when its caller dies first.
    pub async fn is_held_within(&mut self, time: Duration) -> bool {
        let reached = self.reached.take().expect("a hold is reached once");
        matches!(tokio::time::timeout(time, reached).await, Ok(Ok(())))
    }

    /// Releases the request.
    pub fn release(mut self) {
        if let Some(release) = self.release.take() {
            // The receiver is gone when the caller closed its connection.
            let _ = release.send(());
        }
    }
}

#[derive(Debug)]
enum PlannedFault {
    Once(Fault),
    RequestHold(RequestHold),
}

#[derive(Debug)]
struct RequestHold {
    side: FaultSide,
    /// Whether requests after the timeout of their caller are held, too.
    with_retries: bool,
    /// `None` once a request has been held.
    reaching: Option<oneshot::Sender<()>>,
    released: oneshot::Receiver<()>,
}

#[derive(Debug, Default)]
struct FaultProxyState {
    plans: HashMap<String, VecDeque<PlannedFault>>,
    always: HashMap<String, Fault>,
    flaky: Option<PartialFailures>,
    requests: HashMap<String, u64>,
}

/// Share of the records of each PutRecords that fail.
#[derive(Debug)]
struct PartialFailures {
    random: fastrand::Rng,
    percent: u8,
}

#[derive(Debug)]
struct FaultProxyService {
    upstream: String,
    client: Client<HttpConnector, Body>,
    /// Limit in bytes for one forwarded PutRecords; `None` without a limit.
    ///
    /// Data and partition keys count.
    most_bytes: Option<usize>,
    state: Mutex<FaultProxyState>,
    arrivals: Notify,
    log: SharedPutLog,
}

/// A fault proxy in front of one endpoint.
#[derive(Debug)]
pub struct FaultProxy {
    endpoint: Endpoint,
    service: Arc<FaultProxyService>,
}

impl FaultProxy {
    /// Opens a proxy in front of `upstream`, the URL of an endpoint.
    pub async fn open(upstream: &str) -> Self {
        Self::serve(upstream, None).await
    }

    /// Opens a proxy for a Kinesis emulator with a smaller request limit.
    ///
    /// The emulator accepts at most `most_bytes` in one PutRecords. The proxy forwards a larger request,
    /// which Kinesis accepts, in parts, one after the other.
    pub async fn open_for_emulator(upstream: &str, most_bytes: usize) -> Self {
        Self::serve(upstream, Some(most_bytes)).await
    }

    async fn serve(upstream: &str, most_bytes: Option<usize>) -> Self {
        let service = Arc::new(FaultProxyService {
            upstream: upstream.trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            most_bytes,
            state: Mutex::default(),
            arrivals: Notify::new(),
            log: SharedPutLog::default(),
        });
        Self {
            endpoint: Endpoint::open(Arc::clone(&service)).await,
            service,
        }
    }

    /// URL of the proxy.
    pub fn endpoint(&self) -> &str {
        self.endpoint.url()
    }

    /// Injects `fault` into the next `operation` without a planned fault.
    ///
    /// `operation` is the name of a request: `PutRecords`, `PutParameter` and so on.
    pub fn inject_once(&self, operation: &str, fault: Fault) {
        self.plan(operation, PlannedFault::Once(fault));
    }

    /// Injects `fault` into every request of `operation` until [`FaultProxy::clear`].
    pub fn inject(&self, operation: &str, fault: Fault) {
        self.state().always.insert(operation.to_owned(), fault);
    }

    /// Holds the next request of `operation` that has no planned fault. A retry of its caller passes.
    pub fn hold(&self, operation: &str, side: FaultSide) -> HeldRequest {
        self.plan_hold(operation, side, false)
    }

    /// Holds the next `operation` without a planned fault, and its retries.
    ///
    /// The function waits five seconds for an answer. A scenario that needs longer uses this.
    pub fn hold_with_retries(&self, operation: &str, side: FaultSide) -> HeldRequest {
        self.plan_hold(operation, side, true)
    }

    fn plan_hold(&self, operation: &str, side: FaultSide, with_retries: bool) -> HeldRequest {
        let (reaching, reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let hold = RequestHold {
            side,
            with_retries,
            reaching: Some(reaching),
            released,
        };
        self.plan(operation, PlannedFault::RequestHold(hold));
        let what = format!("the {operation} to hold");
        HeldRequest {
            what,
            reached: Some(reached),
            release: Some(release),
        }
    }

    /// Fails `percent` of the records of each PutRecords.
    ///
    /// It does so from now on. The other records are put. A failed record is throttled or has an internal
    /// failure. The same seed fails the same records of the same requests.
    pub fn flaky(&self, seed: u64, percent: u8) {
        self.state().flaky = Some(PartialFailures {
            random: fastrand::Rng::with_seed(seed),
            percent,
        });
    }

    /// Removes all faults. A held request stays held.
    pub fn clear(&self) {
        let mut state = self.state();
        state.plans.clear();
        state.always.clear();
        state.flaky = None;
    }

    /// Log of all PutRecords so far.
    pub fn put_log(&self) -> PutLog {
        self.service.log.lock().clone()
    }

    /// Number of requests of `operation` so far, refused ones included.
    pub fn requests(&self, operation: &str) -> u64 {
        self.state().requests.get(operation).copied().unwrap_or(0)
    }

    /// The arrival of the next request after this call, of any operation.
    pub fn next_request(&self) -> Notified<'_> {
        self.service.arrivals.notified()
    }

    fn plan(&self, operation: &str, fault: PlannedFault) {
        self.state()
            .plans
            .entry(operation.to_owned())
            .or_default()
            .push_back(fault);
    }

    fn state(&self) -> MutexGuard<'_, FaultProxyState> {
        self.service.state()
    }
}

impl FaultProxyService {
    fn state(&self) -> MutexGuard<'_, FaultProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards a request with its own headers and this body.
    async fn forward(&self, head: &Parts, body: Bytes) -> Result<Response<Body>, ConnectionCut> {
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(head.method.clone())
            .uri(format!("{}{path}", self.upstream));
        for (name, value) in &head.headers {
            // The client sets both headers itself, for the new body.
            if name != hyper::header::CONTENT_LENGTH && name != hyper::header::HOST {
                request = request.header(name, value);
            }
        }
        let request = request.body(Body::from(body)).map_err(|_| ConnectionCut)?;
        let answer = self.client.request(request).await.map_err(|_| ConnectionCut)?;
        Ok(answer.map(Body::new))
    }

    /// Waits until this hold is released.
    async fn hold(&self, operation: &str, mut hold: RequestHold) {
        if let Some(reaching) = hold.reaching.take() {
            let _ = reaching.send(());
        }
        let mut again = RepeatedFault {
            service: self,
            operation,
            hold: Some(hold),
        };
        if let Some(hold) = &mut again.hold {
            // A dropped sender releases the request, too.
            let _ = (&mut hold.released).await;
        }
        again.hold = None;
    }
}

impl RequestHandler for FaultProxyService {
    /// Answers one request.
    ///
    /// When the caller closes the connection, this future is dropped at once. A request that is held before
    /// it is forwarded is then never applied.
    async fn answer(
        self: Arc<Self>,
        operation: String,
        head: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, ConnectionCut> {
        let _in_flight = (operation == "PutRecords").then(|| put_records::note(&self, &body));
        let (plan, always) = {
            let mut state = self.state();
            *state.requests.entry(operation.clone()).or_default() += 1;
            self.arrivals.notify_waiters();
            let plan = state.plans.get_mut(&operation).and_then(VecDeque::pop_front);
            (plan, state.always.get(&operation).cloned())
        };
        let mut held_answer = None;
        let mut cut_answer = false;
        let fault = match plan {
            Some(PlannedFault::RequestHold(hold)) if hold.side == FaultSide::Request => {
                self.hold(&operation, hold).await;
                None
            }
            Some(PlannedFault::RequestHold(hold)) => {
                held_answer = Some(hold);
                None
            }
            Some(PlannedFault::Once(fault)) => Some(fault),
            None => always,
        };
        match fault {
            Some(Fault::Refuse {
                status,
                kind,
                message,
            }) => return Ok(refusal(status, &kind, &message)),
            Some(Fault::CutRequest) => return Err(ConnectionCut),
            Some(Fault::CutAnswer) => cut_answer = true,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Limit(limit)) if !limit.admits() => {
                return Ok(refusal(400, "ThrottlingException", "Rate exceeded"));
            }
            Some(Fault::Limit(_)) => {}
            None => {}
        }
        let answer = match operation.as_str() {
            "PutRecords" => put_records::forward(&self, &head, body).await?,
            _ => self.forward(&head, body).await?,
        };
        if let Some(hold) = held_answer {
            self.hold(&operation, hold).await;
        }
        if cut_answer {
            Err(ConnectionCut)
        } else {
            Ok(answer)
        }
    }
}

/// Plans its hold again when it is dropped: the caller ended the request before the release.
struct RepeatedFault<'a> {
    service: &'a FaultProxyService,
    operation: &'a str,
    hold: Option<RequestHold>,
}

impl Drop for RepeatedFault<'_> {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take().filter(|hold| hold.with_retries) {
            let mut state = self.service.state();
            let plans = state.plans.entry(self.operation.to_owned()).or_default();
            plans.push_front(PlannedFault::RequestHold(hold));
        }
    }
}
