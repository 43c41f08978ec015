//! Emulator of SSM and Secrets Manager: the server of moto.
//!
//! Python starts slowly. So all scenarios of a process share one server, which starts on first use. Most
//! scenarios store their parameters in a [`FakeSsm`](crate::aws::fake_ssm::FakeSsm), which answers quickly.

use std::path::PathBuf;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::ParameterType;

use crate::aws::emulator::Emulator;
use crate::aws::sdk;

/// A running emulator.
#[derive(Debug)]
pub struct Ssm {
    emulator: Emulator,
    client: Client,
    secrets: aws_sdk_secretsmanager::Client,
}

impl Ssm {
    /// Starts an emulator on a free port, and waits until it answers.
    pub async fn start() -> Self {
        let program = program();
        let emulator =
            Emulator::start(|port| format!("'{}' -H 127.0.0.1 -p {port}", program.display())).await;
        let config = sdk::config(emulator.endpoint());
        let ssm = Self {
            emulator,
            client: Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
        };
        // moto loads its SSM model with the first request. On a busy machine, that takes longer than
        // the function's timeout.
        ssm.delete("/first").await;
        ssm
    }

    /// The emulator that all scenarios of this process share.
    pub async fn shared() -> &'static Self {
        static SHARED: tokio::sync::OnceCell<Ssm> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// URL for `AWS_ENDPOINT_URL_SSM`.
    pub fn endpoint(&self) -> &str {
        self.emulator.endpoint()
    }

    /// Creates or replaces a parameter.
    pub async fn put(&self, name: &str, value: &str) {
        let put = self
            .client
            .put_parameter()
            .name(name)
            .value(value)
            .overwrite(true);
        let put = put.r#type(ParameterType::String).send().await;
        put.unwrap_or_else(|error| panic!("cannot put parameter {name}: {error:?}"));
    }

    /// Creates a secret; returns its ARN.
    pub async fn create_secret(&self, name: &str, value: &str) -> String {
        let created = self
            .secrets
            .create_secret()
            .name(name)
            .secret_string(value)
            .send()
            .await;
        let created = created.unwrap_or_else(|error| panic!("cannot create secret {name}: {error:?}"));
        created.arn.unwrap_or_default()
    }

    /// Deletes a parameter. Errors are ignored.
    pub async fn delete(&self, name: &str) {
        let _ = self.client.delete_parameter().name(name).send().await;
    }
}

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("MOTO_SERVER") {
        return PathBuf::from(program);
    }
    let program = crate::project_path(".tools/venv/bin/moto_server");
    assert!(
        program.exists(),
        "no {}: `make tools-demo` installs it, or set MOTO_SERVER to another one",
        program.display()
    );
    program
}
