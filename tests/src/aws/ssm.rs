//! SSM: moto's server. Python starts slowly, so one serves all scenarios of the process, and starts with the first
//! that asks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::{BehaviorVersion, Region};
use aws_sdk_ssm::types::ParameterType;

use crate::aws::kinesis::{KEY_ID, REGION, SECRET};
use crate::wait;
use crate::watchdog::{Watchdog, alive};

/// A region of SSM for ourselves.
#[derive(Debug)]
pub struct Ssm {
    endpoint: String,
    client: Client,
    _watchdog: Watchdog,
}

impl Ssm {
    /// Starts one on a free port, and waits until it answers.
    pub async fn start() -> Self {
        let program = program();
        for _ in 0..5 {
            let mut watchdog = Watchdog::start(None, &std::env::temp_dir());
            let port = wait::free_port();
            let pid = watchdog.serve(&format!("'{}' -H 127.0.0.1 -p {port}", program.display()), "log");
            if answers(port, pid).await {
                let endpoint = format!("http://127.0.0.1:{port}");
                let client = Client::from_conf(
                    aws_sdk_ssm::Config::builder()
                        .behavior_version(BehaviorVersion::latest())
                        .region(Region::new(REGION))
                        .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "scenario"))
                        .endpoint_url(&endpoint)
                        .build(),
                );
                let ssm = Self {
                    endpoint,
                    client,
                    _watchdog: watchdog,
                };
                // It loads what it knows of SSM with the first request, which on a busy machine takes longer than a function waits.
                ssm.get("/first").await;
                return ssm;
            }
            let log = std::fs::read_to_string(watchdog.folder().join("log")).unwrap_or_default();
            assert!(
                log.contains("in use"),
                "{} does not start:\n{log}",
                program.display()
            );
        }
        panic!(
            "five ports that were free were taken before {} could have them",
            program.display()
        );
    }

    /// The one that the scenarios of this process share.
    pub async fn shared() -> &'static Self {
        static SHARED: tokio::sync::OnceCell<Ssm> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// As `AWS_ENDPOINT_URL_SSM` takes it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The value of a parameter, `None` when there is no such parameter.
    pub async fn get(&self, name: &str) -> Option<String> {
        match self.client.get_parameter().name(name).send().await {
            Ok(found) => found
                .parameter()
                .and_then(|parameter| parameter.value())
                .map(str::to_owned),
            Err(error) => {
                let error = error.into_service_error();
                assert!(
                    error.is_parameter_not_found(),
                    "cannot get parameter {name}: {error:?}"
                );
                None
            }
        }
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

    /// Deletes a parameter; one that is not there is not missed.
    pub async fn delete(&self, name: &str) {
        let _ = self.client.delete_parameter().name(name).send().await;
    }
}

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("MOTO_SERVER") {
        return PathBuf::from(program);
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/venv/bin/moto_server");
    assert!(
        program.exists(),
        "no {}: `make tools-demo` installs it, MOTO_SERVER names another one",
        program.display()
    );
    program
}

/// Whether the server answers; false when its process ended first.
async fn answers(port: u16, pid: u32) -> bool {
    wait::until_some("moto_server answers", Duration::from_secs(60), || async {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Some(alive(pid));
        }
        (!alive(pid)).then_some(false)
    })
    .await
}
