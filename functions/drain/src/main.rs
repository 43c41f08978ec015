//! The Lambda bootstrap: reads the environment, builds the clients, and serves invocations.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use drain::actions::app::App;
use drain::config::Config;
use drain::error::Error;
use drain::handler::handle;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = Config::from_env(|name| std::env::var(name).ok());
    let level = config.as_ref().map_or("info", |config| config.log_level.as_str());
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        // The runtime logs each failed invocation once more.
        .with_env_filter(EnvFilter::new(format!(
            "warn,lambda_runtime::layers::panic=off,drain={level}"
        )))
        .with_writer(std::io::stderr)
        .init();
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        eprintln!(
            "drain: AWS_LAMBDA_RUNTIME_API is not set: this is an AWS Lambda bootstrap and serves only that API; `make demo` shows it at work"
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
    match runtime.block_on(serve(config.map_err(Error::from))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drain: the Lambda Runtime API failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves invocations. A configuration that is not valid is the answer to each of them, where the caller sees it; a
/// process that exits would only show as a crash.
async fn serve(config: Result<Config, Error>) -> Result<(), lambda_runtime::Error> {
    let app = match config {
        Ok(config) => Ok(App::new(config).await),
        Err(error) => {
            tracing::error!(error_type = error.name(), "{}", error.chain());
            Err(error)
        }
    };
    let app = &app;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let outcome = match app {
            Ok(app) => handle(app, &event.payload, deadline(event.context.deadline)).await,
            Err(error) => return Err(diagnostic(error)),
        };
        match outcome {
            Ok(answer) => {
                // The one summary line, as it is answered: metric filters read it.
                let line = format!("{answer}\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
                Ok(answer)
            }
            Err(error) => {
                tracing::error!(error_type = error.name(), kind = ?error.kind(), "{}", error.chain());
                Err(diagnostic(&error))
            }
        }
    }))
    .await
}

fn diagnostic(error: &Error) -> Diagnostic {
    Diagnostic {
        error_type: error.name().to_owned(),
        error_message: error.chain(),
    }
}

/// Lambda's deadline, ms since 1970, on the clock that does not jump. One that lies in the past, as some local runtimes send, means
/// a minute.
fn deadline(millis: u64) -> Instant {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let left = Duration::from_millis(millis).saturating_sub(now);
    Instant::now()
        + if left.is_zero() {
            Duration::from_secs(60)
        } else {
            left
        }
}
