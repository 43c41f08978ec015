//! The Lambda bootstrap: reads the environment, builds the clients, and serves invocations.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use drain::actions::app::App;
use drain::base::clock;
use drain::config::{self, Config};
use drain::error::Error;
use drain::handler::handle;
use drain::logging::format::{LineFields, LineFormat};
use drain::logging::panics::{catch_panic, log_panics};
use drain::logging::summary;
use lambda_runtime::tower::util::MapRequestLayer;
use lambda_runtime::{Diagnostic, LambdaEvent, LambdaInvocation, Runtime, service_fn};
use serde_json::{Map, Value};
use tokio::task::LocalSet;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let config = Config::from_env(variable);
    let fields = LineFields::new(&config::service_name(variable));
    let level = config
        .as_ref()
        .map_or(Ok(LevelFilter::INFO), |config| config.log_level.parse());
    let events = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("drain", level.unwrap_or(LevelFilter::INFO))
        // The runtime would log each failed invocation a second time.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LineFormat::new(fields.clone()))
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(events).init();
    log_panics();
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        eprintln!(
            "drain: AWS_LAMBDA_RUNTIME_API is not set: this is an AWS Lambda bootstrap and serves only that \
             API; `make demo` runs it on this machine"
        );
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("drain: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // The drain and its connections share this thread: a batch of rows then wakes no other thread. Requests
    // to AWS run on the other threads.
    let tasks = LocalSet::new();
    match tasks.block_on(&runtime, serve(config.map_err(Error::from), &fields)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drain: the Lambda Runtime API failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves invocations.
///
/// If the configuration is not valid, each invocation returns this error, so the caller sees it. If the
/// process exited instead, Lambda would report a crash without the reason.
///
/// # Errors
/// The Lambda Runtime API failed.
async fn serve(config: Result<Config, Error>, fields: &LineFields) -> Result<(), lambda_runtime::Error> {
    let app = match config {
        Ok(config) => Ok(App::new(config)),
        Err(error) => {
            tracing::error!(error_type = error.name(), kind = ?error.kind(), "{}", error.chain());
            Err(error)
        }
    };
    let app = &app;
    let service = service_fn(move |event: LambdaEvent<Value>| async move {
        let context = &event.context;
        fields.begin(&context.request_id, context.xray_trace_id.as_deref());
        let app = match app {
            Ok(app) => app,
            Err(error) => return Err(diagnostic(error)),
        };
        let invocation = handle(app, &event.payload, deadline(event.context.deadline));
        let outcome = catch_panic(invocation).await;
        let (namespace, now) = (app.config.metrics_namespace.as_str(), now_millis());
        match outcome {
            Ok(answer) => {
                write_line(summary::answer_line(&answer, namespace, now), fields);
                Ok(answer)
            }
            Err(error) => {
                let report = app.failure_fields();
                write_line(summary::failure_line(&error, &report, namespace, now), fields);
                tracing::error!(
                    error_type = error.name(),
                    kind = ?error.kind(),
                    slot = report["slot"].as_str(),
                    action = report["action"].as_str(),
                    "{}",
                    error.chain()
                );
                Err(diagnostic(&error))
            }
        }
    });
    let runtime = Runtime::new(service);
    runtime.layer(MapRequestLayer::new(with_json_payload)).run().await
}

/// The invocation, with `null` if its payload is not JSON.
///
/// The runtime would refuse such a payload itself. Its `errorType` would be the name of a Rust type of the
/// library. `null` is not a valid event, and its `errorType` is stable: `EventInvalid`.
fn with_json_payload(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if serde_json::from_slice::<Value>(&invocation.body).is_err() {
        invocation.body = "null".into();
    }
    invocation
}

/// Writes a summary line with the invocation's fields to the log.
///
/// The line has no `level`. Lambda treats such a line as INFO.
fn write_line(mut line: Map<String, Value>, fields: &LineFields) {
    fields.add_to(&mut line);
    let _ = std::io::stderr().write_all(format!("{}\n", Value::Object(line)).as_bytes());
}

/// The present time in ms since 1970-01-01 UTC.
fn now_millis() -> i64 {
    i64::try_from(clock::now().as_millis()).unwrap_or(i64::MAX)
}

fn diagnostic(error: &Error) -> Diagnostic {
    Diagnostic {
        error_type: error.name().to_owned(),
        error_message: error.chain(),
    }
}

/// The deadline on the monotonic clock. `millis` is Lambda's deadline, ms since 1970-01-01 UTC.
///
/// Some local runtimes send a deadline in the past. The result is then one minute from now.
fn deadline(millis: u64) -> Instant {
    let left = Duration::from_millis(millis).saturating_sub(clock::now());
    let left = match left.is_zero() {
        true => Duration::from_secs(60),
        false => left,
    };
    Instant::now() + left
}
