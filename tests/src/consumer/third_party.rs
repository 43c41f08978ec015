//! Third-party consumers of the stream.
//!
//! Programs in `tests/consumers` pass the records of a stream to them, and print the results.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::aws::kinesis::Kinesis;

/// A third-party consumer.
#[derive(Debug, Clone, Copy)]
pub enum ThirdPartyConsumer<'a> {
    /// `aws-kinesis-agg`, Amazon's Python package that splits aggregates of the KPL.
    Deaggregator,
    /// Apache Flink's format `debezium-json`, for a table with this row type.
    ///
    /// It is the most common reader of Debezium's messages without Kafka Connect. It is strict: it fails on
    /// unexpected input.
    Debezium(&'a str),
    /// Apache Paimon's format `aws-dms-json`.
    ///
    /// It is the only maintained public parser of DMS messages for Kinesis and Kafka that we found; others
    /// are samples.
    Dms,
    /// Kafka Connect's JSON converter with `schemas.enable`. It fails on a value that its schema does not
    /// allow.
    Connect,
    /// Apache Flink with the SQL of `examples/consumers/flink_sql`, its rows in its state.
    FlinkSql,
    /// The same, with its rows in Apache Paimon.
    ///
    /// The warehouse is in this folder.
    FlinkSqlToPaimon(&'a Path),
}

impl ThirdPartyConsumer<'_> {
    /// Reads `stream` to its end; returns the output of this consumer.
    ///
    /// It reads shard after shard. Each line is a JSON object; the program in `tests/consumers` describes its
    /// fields.
    ///
    /// # Panics
    /// The consumer rejects the stream. The message has its standard error.
    pub async fn read(self, kinesis: &Kinesis, stream: &str) -> Vec<String> {
        self.read_all(kinesis, &[stream]).await
    }

    /// Reads several streams, one after the other, as [`ThirdPartyConsumer::read`] does.
    ///
    /// The consumer starts only once. A program in Java takes seconds to start.
    ///
    /// # Panics
    /// The consumer rejects a stream.
    pub async fn read_all(self, kinesis: &Kinesis, streams: &[&str]) -> Vec<String> {
        let mut records = String::new();
        for stream in streams {
            append_records(&mut records, kinesis, stream).await;
        }
        self.run(records).await
    }

    async fn run(self, records: String) -> Vec<String> {
        let (program, arguments) = match self {
            Self::Deaggregator => ("deaggregate.py", vec![]),
            Self::Debezium(row) => ("debezium.py", vec![OsStr::new(row)]),
            Self::Dms => ("dms.py", vec![]),
            Self::Connect => ("connect.py", vec![]),
            Self::FlinkSql => ("flink_sql.py", vec![OsStr::new("state")]),
            Self::FlinkSqlToPaimon(folder) => {
                ("flink_sql.py", vec![OsStr::new("paimon"), folder.as_os_str()])
            }
        };
        let mut command = program_command(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut input = child.stdin.take().expect("standard input is a pipe");
        // Concurrently, or both sides could block on full pipes. A consumer that fails early does not read
        // all input.
        let write = async move {
            let _ = input.write_all(records.as_bytes()).await;
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "{program} rejects the stream:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(str::to_owned).collect()
    }
}

/// Appends the records of a stream, shard after shard.
///
/// They have the form that the programs of `tests/consumers` read.
async fn append_records(records: &mut String, kinesis: &Kinesis, stream: &str) {
    for shard in kinesis.shards(stream).await {
        let range = shard.hash_key_range();
        let start = range.map(|range| range.starting_hash_key());
        let end = range.map(|range| range.ending_hash_key());
        let each = |key: &str, data: &[u8]| {
            let data = STANDARD.encode(data);
            let record = json!({"shard": shard.shard_id(), "start": start, "end": end,
                "partition_key": key, "data": data});
            records.push_str(&format!("{record}\n"));
        };
        kinesis.read_shard(stream, shard.shard_id(), each).await;
    }
}

/// Command of a program of `tests/consumers`, killed when it is dropped.
///
/// `CONSUMERS_PYTHON` names another interpreter than that of `make tools-consumers`.
///
/// # Panics
/// There is no interpreter.
pub(super) fn program_command(program: &str) -> Command {
    let python = std::env::var_os("CONSUMERS_PYTHON").map_or_else(
        || crate::project_path(".tools/consumers/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "no {}: `make tools-consumers` installs it",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .arg(crate::project_path("tests/consumers").join(program))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    command
}
