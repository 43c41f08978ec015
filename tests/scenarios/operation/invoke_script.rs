//! `make invoke` waits for the answer, and sends the event once.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

crate::scenarios![
    a_slow_answer_is_awaited_and_the_event_is_sent_once,
    a_busy_function_is_no_failure_of_the_drain,
];

/// CloudFormation's answer about the function of a stack.
const RESOURCE: &str = "<DescribeStackResourceResponse><DescribeStackResourceResult><StackResourceDetail>\
     <PhysicalResourceId>the-function</PhysicalResourceId>\
     <LogicalResourceId>DrainFunction</LogicalResourceId>\
     <ResourceType>AWS::Lambda::Function</ResourceType><ResourceStatus>CREATE_COMPLETE</ResourceStatus>\
     <LastUpdatedTimestamp>2026-01-01T00:00:00Z</LastUpdatedTimestamp>\
     </StackResourceDetail></DescribeStackResourceResult></DescribeStackResourceResponse>";

/// Status, output, errors and number of invocations of a script.
struct ScriptRun {
    is_success: bool,
    output: String,
    errors: String,
    invocations: u32,
}

/// Requests of the script, and the release of its answer.
#[derive(Default)]
struct FakeLambda {
    invocations: AtomicU32,
    arrived: Notify,
    released: Notify,
    /// Body of the request to CloudFormation.
    stack_request: Mutex<String>,
}

/// Router of Lambda and CloudFormation; Lambda answers after its release.
fn router(fake: &Arc<FakeLambda>, status: StatusCode, answer: &'static str) -> Router {
    let requests = Arc::clone(fake);
    let lambda = post(async move || {
        requests.invocations.fetch_add(1, Ordering::Relaxed);
        requests.arrived.notify_one();
        requests.released.notified().await;
        let code = [("x-amzn-errortype", "TooManyRequestsException")];
        match status.is_success() {
            true => answer.into_response(),
            false => (status, code, answer).into_response(),
        }
    });
    let requests = Arc::clone(fake);
    let cloudformation = post(async move |body: String| {
        *requests.stack_request.lock().expect("no holder panics") = body;
        RESOURCE
    });
    Router::new()
        .route("/2015-03-31/functions/the-function/invocations", lambda)
        .route("/", cloudformation)
}

/// Starts the script with AWS at this endpoint.
fn start_script(endpoint: &str) -> Child {
    let project = scenarios::project_path("");
    Command::new(project.join(".tools/venv/bin/python"))
        .args(["scripts/invoke.py", "events/status.json", "deploy/example.toml"])
        .current_dir(&project)
        .envs([
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "eu-central-1"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("`make tools-demo` installs Python")
}

/// Runs the script; Lambda answers once the script waits.
async fn invoke(status: StatusCode, answer: &'static str) -> ScriptRun {
    let fake = Arc::new(FakeLambda::default());
    let router = router(&fake, status, answer);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut script = start_script(&endpoint);
    fake.arrived.notified().await;
    assert!(matches!(script.try_wait(), Ok(None)), "the script does not wait");
    fake.released.notify_one();
    let output = script
        .wait_with_output()
        .await
        .expect("a child can be waited for");
    server.abort();
    // The stack is the one that the file of settings names.
    let request = fake.stack_request.lock().expect("no holder panics").clone();
    assert!(request.contains("StackName=spillway-example&"), "{request}");
    ScriptRun {
        is_success: output.status.success(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        invocations: fake.invocations.load(Ordering::Relaxed),
    }
}

async fn a_slow_answer_is_awaited_and_the_event_is_sent_once() {
    let run = invoke(StatusCode::OK, r#"{"action":"status"}"#).await;
    assert!(run.is_success, "{}", run.errors);
    assert_eq!(
        (run.output.trim(), run.invocations),
        (r#"{"action":"status"}"#, 1)
    );
}

async fn a_busy_function_is_no_failure_of_the_drain() {
    let answer = r#"{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User"}"#;
    let run = invoke(StatusCode::TOO_MANY_REQUESTS, answer).await;
    assert!(
        !run.is_success
            && run
                .errors
                .contains("Nothing was sent. Wait for the running invocations"),
        "{}",
        run.errors
    );
    assert_eq!(run.invocations, 1);
}
