//! HTTP/1 endpoint on loopback for the JSON protocol of AWS.
//!
//! A [`RequestHandler`] answers each request, or cuts the connection.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::loopback_server;

/// Error of a handler that cuts the connection.
#[derive(Debug)]
pub(crate) struct ConnectionCut;

impl std::fmt::Display for ConnectionCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the scenario cut this connection")
    }
}

impl std::error::Error for ConnectionCut {}

/// Answers the requests of an endpoint.
pub(crate) trait RequestHandler: Send + Sync + 'static {
    /// Answers one request for `operation` (`PutRecords`, …).
    ///
    /// The future is dropped at once when the caller closes the connection.
    fn answer(
        self: Arc<Self>,
        operation: String,
        head: Parts,
        body: Bytes,
    ) -> impl Future<Output = Result<Response<Body>, ConnectionCut>> + Send;
}

/// An open endpoint. Dropping it closes all its connections.
#[derive(Debug)]
pub(crate) struct Endpoint {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Endpoint {
    /// Opens an endpoint on a free port.
    pub(crate) async fn open(handler: Arc<impl RequestHandler>) -> Self {
        let (address, task) = loopback_server::start(|listener| serve(listener, handler)).await;
        Self {
            url: format!("http://{address}"),
            task,
        }
    }

    /// URL for the SDK.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: tokio::net::TcpListener, handler: Arc<impl RequestHandler>) {
    // Dropped with this task, so no connection outlives its endpoint.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&handler);
        let service = service_fn(move |request| read(Arc::clone(&handler), request));
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(connection);
        while connections.try_join_next().is_some() {}
    }
}

async fn read(
    handler: Arc<impl RequestHandler>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ConnectionCut> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX)
        .await
        .map_err(|_| ConnectionCut)?;
    let target = head.headers.get("x-amz-target");
    let target = target.and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    handler.answer(operation, head, body).await
}

/// Answer with status 200 and this JSON.
pub(crate) fn json(body: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    let json = hyper::header::HeaderValue::from_static("application/x-amz-json-1.1");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    answer
}

/// Error answer with HTTP status, `__type` and `message`.
pub(crate) fn refusal(status: u16, kind: &str, message: &str) -> Response<Body> {
    // Services spell `message` differently, and the SDK reads a modelled error only in the spelling of its
    // service.
    let body = serde_json::json!({ "__type": kind, "message": message, "Message": message });
    let mut answer = json(body.to_string());
    *answer.status_mut() = StatusCode::from_u16(status).expect("the status is one of HTTP");
    answer
}
