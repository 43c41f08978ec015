//! Stack of template.yaml in an emulator of AWS.
//!
//! The emulator runs the functions of the stack as processes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::aws::emulator::Emulator;
use crate::aws::kinesis::{KEY_ID, REGION, SECRET};
use crate::lambda::function::drain_binary;
use crate::postgres::{Postgres, certificates};

/// Name of the stack.
const NAME: &str = "orders";

/// The administrator of a server of the harness.
const ADMINISTRATOR: &str = "postgres";

/// An account of AWS in which the stack can be deployed.
#[derive(Debug)]
pub struct Account(Emulator);

/// Result of a deployment or a removal.
#[derive(Debug, Deserialize)]
pub struct StackOutcome {
    /// Status of the stack, such as `CREATE_COMPLETE`.
    pub status: String,
    /// Values of the outputs by their names.
    pub outputs: BTreeMap<String, String>,
    /// A line for each resource that failed: its name and the reason.
    pub failures: Vec<String>,
}

impl Account {
    /// Starts an empty account, and waits until it answers.
    pub async fn start() -> Self {
        let python = python();
        let emulator = Emulator::start(|port| {
            format!(
                "TMPDIR=\"$folder\" BIND_HOST=127.0.0.1 MINISTACK_HOST=127.0.0.1 GATEWAY_PORT={port} \
                 AWS_ENDPOINT_URL=http://127.0.0.1:{port} \
                 PYTHONDONTWRITEBYTECODE=1 '{}' -m ministack",
                python.display()
            )
        })
        .await;
        Self(emulator)
    }

    /// Creates the stack, or updates it. `parameters` are `NAME=VALUE`.
    pub async fn deploy(&self, parameters: &[String]) -> StackOutcome {
        let binary = drain_binary();
        let mut arguments = vec!["deploy".as_ref(), NAME.as_ref(), binary.as_os_str()];
        arguments.extend(parameters.iter().map(OsStr::new));
        self.outcome(&arguments).await
    }

    /// Creates the stack of examples/cluster.yaml with a local server.
    ///
    /// The server of this machine takes the place of the cluster.
    pub async fn deploy_example(&self, server: &Postgres) -> StackOutcome {
        let (binary, port) = (drain_binary(), server.port().to_string());
        let arguments: [&OsStr; 7] = [
            "deploy".as_ref(),
            NAME.as_ref(),
            binary.as_os_str(),
            server.certificates().authority.as_os_str(),
            certificates::HOST.as_ref(),
            port.as_ref(),
            ADMINISTRATOR.as_ref(),
        ];
        let outcome = self.run("example_stack.py", &arguments).await;
        serde_json::from_value(outcome).expect("example_stack.py prints an outcome")
    }

    /// Sends an event to a function of the example; returns its answer.
    ///
    /// The function is `write` or `drain`.
    pub async fn invoke_example(&self, function: &str, event: &Value) -> Value {
        let event = event.to_string();
        let arguments: [&OsStr; 4] = [
            "invoke".as_ref(),
            NAME.as_ref(),
            function.as_ref(),
            event.as_ref(),
        ];
        self.run("example_stack.py", &arguments).await
    }

    /// Deletes the stack.
    pub async fn delete(&self) -> StackOutcome {
        self.outcome(&["delete".as_ref(), NAME.as_ref()]).await
    }

    /// Sends an event to the stack's drain function; returns its answer.
    pub async fn invoke(&self, event: &Value) -> Value {
        let event = event.to_string();
        let arguments: [&OsStr; 3] = ["invoke".as_ref(), NAME.as_ref(), event.as_ref()];
        self.run("stack.py", &arguments).await
    }

    /// Names of the resources of the account, by kind: `parameters`, `functions`, `alarms` and others.
    pub async fn resources(&self) -> Value {
        self.run("stack.py", &["resources".as_ref()]).await
    }

    async fn outcome(&self, arguments: &[&OsStr]) -> StackOutcome {
        serde_json::from_value(self.run("stack.py", arguments).await).expect("stack.py prints an outcome")
    }

    async fn run(&self, script: &str, arguments: &[&OsStr]) -> Value {
        let output = Command::new(python())
            .arg(crate::project_path("tests/stack").join(script))
            .args(arguments)
            .envs([
                ("AWS_ENDPOINT_URL", self.0.endpoint()),
                ("AWS_ACCESS_KEY_ID", KEY_ID),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
                ("AWS_DEFAULT_REGION", REGION),
                ("PYTHONDONTWRITEBYTECODE", "1"),
            ])
            .kill_on_drop(true)
            .output()
            .await
            .expect("`make tools-stack` installs Python");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{script} {arguments:?}: {errors}\n{}",
            self.log()
        );
        serde_json::from_slice(&output.stdout).expect("the script prints JSON")
    }

    /// The emulator's log, which has the lines of the functions.
    pub fn log(&self) -> String {
        self.0.log()
    }
}

fn python() -> PathBuf {
    let python = crate::project_path(".tools/stack/bin/python");
    assert!(
        python.exists(),
        "no {}: `make tools-stack` installs it",
        python.display()
    );
    python
}
