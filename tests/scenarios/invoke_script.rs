//! `make invoke` waits for the answer, and sends the event once.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Notify;

crate::scenarios![
    a_slow_answer_is_awaited_and_the_event_is_sent_once,
    a_busy_function_is_no_failure_of_the_drain,
];

/// What CloudFormation answers about the function of a stack.
const RESOURCE: &str = "<DescribeStackResourceResponse><DescribeStackResourceResult><StackResourceDetail>\
     <PhysicalResourceId>the-function</PhysicalResourceId><LogicalResourceId>DrainFunction</LogicalResourceId>\
     <ResourceType>AWS::Lambda::Function</ResourceType><ResourceStatus>CREATE_COMPLETE</ResourceStatus>\
     <LastUpdatedTimestamp>2026-01-01T00:00:00Z</LastUpdatedTimestamp>\
     </StackResourceDetail></DescribeStackResourceResult></DescribeStackResourceResponse>";

/// Runs the script against a Lambda that answers so once the test has seen that the script waits. Returns its
/// status, its output, its errors and the number of invocations.
async fn invoke(status: StatusCode, answer: &'static str) -> (bool, String, String, u32) {
    let invocations = Arc::new(AtomicU32::new(0));
    let (arrived, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (counter, arrives, release) = (
        Arc::clone(&invocations),
        Arc::clone(&arrived),
        Arc::clone(&released),
    );
    let lambda = post(async move || {
        counter.fetch_add(1, Ordering::Relaxed);
        arrives.notify_one();
        release.notified().await;
        let code = [("x-amzn-errortype", "TooManyRequestsException")];
        match status.is_success() {
            true => answer.into_response(),
            false => (status, code, answer).into_response(),
        }
    });
    let question = Arc::new(Mutex::new(String::new()));
    let asked = Arc::clone(&question);
    let cloudformation = post(async move |body: String| {
        *asked.lock().expect("no holder panics") = body;
        RESOURCE
    });
    let router = Router::new()
        .route("/2015-03-31/functions/the-function/invocations", lambda)
        .route("/", cloudformation);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut script = Command::new(project.join(".tools/venv/bin/python"))
        .args(["scripts/invoke.py", "events/status.json", "deploy/example.toml"])
        .current_dir(&project)
        .envs([
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "eu-central-1"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("`make tools-demo` installs Python");
    arrived.notified().await;
    assert!(matches!(script.try_wait(), Ok(None)), "the script does not wait");
    released.notify_one();
    let output = script
        .wait_with_output()
        .await
        .expect("a child can be waited for");
    server.abort();
    // The stack is the one that the file of settings names.
    let question = question.lock().expect("no holder panics").clone();
    assert!(question.contains("StackName=spillway-example&"), "{question}");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
        invocations.load(Ordering::Relaxed),
    )
}

async fn a_slow_answer_is_awaited_and_the_event_is_sent_once() {
    let (is_success, output, errors, invocations) = invoke(StatusCode::OK, r#"{"action":"status"}"#).await;
    assert!(is_success, "{errors}");
    assert_eq!((output.trim(), invocations), (r#"{"action":"status"}"#, 1));
}

async fn a_busy_function_is_no_failure_of_the_drain() {
    let answer = r#"{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User"}"#;
    let (is_success, _, errors, invocations) = invoke(StatusCode::TOO_MANY_REQUESTS, answer).await;
    assert!(!is_success && errors.contains("a drain runs"), "{errors}");
    assert_eq!(invocations, 1);
}
