//! Consumers of `examples/consumers`, driven by an event source mapping.
//!
//! `tests/consumers/event_source.py` emulates the mapping, and describes its input and output.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use aws_sdk_kinesis::types::Shard;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::aws::kinesis::Kinesis;
use crate::consumer::event::Row;
use crate::consumer::position::position_parts;
use crate::consumer::rebuild::RebuiltTables;
use crate::consumer::third_party::program_command;

/// A running example, with the records that it was sent.
#[derive(Debug)]
pub struct ExampleConsumer {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// Sequence number of the last record that it was sent, by shard.
    sent: BTreeMap<String, String>,
}

/// Counts of the records and batches that an example handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ExampleFigures {
    /// Records that it was sent.
    pub records: usize,
    /// Batches.
    pub batches: usize,
    /// Batches of which a part failed.
    pub partial: usize,
    /// Batches that were sent again although they had succeeded.
    pub sent_again: usize,
    /// Events that the example refused.
    pub given_up: usize,
}

#[derive(Deserialize)]
struct SparkFigures {
    refused: usize,
}

#[derive(Deserialize)]
struct StoredRow {
    /// Source, schema, table and key.
    id: [String; 4],
    row: Row,
}

impl ExampleConsumer {
    /// Starts the example of this folder, with options of `event_source.py` and variables.
    ///
    /// # Panics
    /// There is no interpreter: `make tools-consumers` installs it.
    pub fn start(folder: &str, options: &[&str], variables: &[(String, String)]) -> Self {
        let mut child = program_command("event_source.py")
            .arg(folder)
            .args(options)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("event_source.py: {error}"));
        let input = child.stdin.take();
        let output = child.stdout.take().expect("standard output is a pipe");
        Self {
            child,
            input,
            output: BufReader::new(output).lines(),
            sent: BTreeMap::new(),
        }
    }

    /// Sends the records of a stream that were not sent yet.
    pub async fn send(&mut self, kinesis: &Kinesis, stream: &str) {
        for shard in kinesis.shards(stream).await {
            let id = shard.shard_id();
            let mut lines = String::new();
            let each = |key: &str, data: &[u8]| lines.push_str(&line(&shard, key, data));
            let after = self.sent.get(id).cloned();
            let last = kinesis.read_shard_after(stream, id, after, each).await;
            self.sent.extend(last.map(|last| (id.to_owned(), last)));
            self.write(&lines).await;
        }
    }

    /// Lets it process all records that it was sent; returns its figures.
    pub async fn flush(&mut self) -> ExampleFigures {
        self.write("{\"flush\": true}\n").await;
        self.figures().await
    }

    /// Ends it; returns its figures, and its tables by source.
    ///
    /// # Panics
    /// It failed. Its standard error is that of this process.
    pub async fn finish(mut self) -> (ExampleFigures, BTreeMap<String, RebuiltTables>) {
        drop(self.input.take());
        let figures = self.figures().await;
        let mut sources = BTreeMap::new();
        while let Some(line) = self.next_line().await {
            add_row(&mut sources, &line);
        }
        let status = self.child.wait().await;
        assert!(status.is_ok_and(|status| status.success()), "the consumer failed");
        (figures, sources)
    }

    async fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open until the end");
        let written = input.write_all(text.as_bytes()).await;
        written.unwrap_or_else(|error| panic!("the consumer has ended: {error}"));
    }

    async fn figures(&mut self) -> ExampleFigures {
        match self.next_line().await {
            Some(line) => parse(&line),
            None => panic!("the consumer has failed"),
        }
    }

    async fn next_line(&mut self) -> Option<String> {
        let line = self.output.next_line().await;
        line.unwrap_or_else(|error| panic!("the consumer's output cannot be read: {error}"))
    }
}

/// Reads a stream with the example in `examples/consumers/spark`.
///
/// Returns the number of records that it refused, and its tables by source.
///
/// # Panics
/// It failed, or `make tools-spark` did not run.
pub async fn read_with_spark(kinesis: &Kinesis, stream: &str) -> (usize, BTreeMap<String, RebuiltTables>) {
    let mut records = 0;
    for shard in kinesis.shards(stream).await {
        let each = |_: &str, _: &[u8]| records += 1;
        kinesis.read_shard(stream, shard.shard_id(), each).await;
    }
    let python = crate::project_path(".tools/spark/bin/python");
    assert!(
        python.exists(),
        "`make tools-spark` installs {}",
        python.display()
    );
    let output = Command::new(python)
        .arg(crate::project_path("tests/consumers/spark_run.py"))
        .args([kinesis.endpoint(), stream, &records.to_string()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // The emulator adds child shards to answers in JSON only.
        .env("AWS_CBOR_DISABLE", "true")
        .kill_on_drop(true)
        .output();
    let output = output
        .await
        .unwrap_or_else(|error| panic!("spark_run.py: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Spark failed:\n{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().skip_while(|line| !line.starts_with("{\"refused\""));
    let figures: SparkFigures = parse(lines.next().unwrap_or_else(|| panic!("no figures:\n{errors}")));
    let mut sources = BTreeMap::new();
    lines.for_each(|line| add_row(&mut sources, line));
    (figures.refused, sources)
}

/// Adds a row that an example has stored.
fn add_row(sources: &mut BTreeMap<String, RebuiltTables>, line: &str) {
    let StoredRow { id, row } = parse(line);
    let [source, schema, table, key] = id;
    // The key of a row without a key is its position.
    let key = position_parts(&key).is_none().then_some(key.as_str());
    let tables = sources.entry(source).or_default();
    tables.add_row(&format!("{schema}.{table}"), key, row);
}

/// Rows of a query in a file of DuckDB. The last of the statements is the query.
///
/// # Panics
/// A statement fails. The message has the error.
pub async fn query_duckdb(file: &Path, statements: &[&str]) -> Vec<Vec<String>> {
    let output = program_command("duckdb_query.py")
        .arg(file)
        .args(statements)
        .output()
        .await;
    let output = output.unwrap_or_else(|error| panic!("duckdb_query.py: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{errors}", file.display());
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(parse)
        .collect()
}

/// A record as a line of JSON.
fn line(shard: &Shard, key: &str, data: &[u8]) -> String {
    let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
    let parents: Vec<&str> = parents.into_iter().flatten().collect();
    let data = STANDARD.encode(data);
    let line = json!({"shard": shard.shard_id(), "parents": parents, "partition_key": key, "data": data});
    format!("{line}\n")
}

fn parse<T: for<'a> Deserialize<'a>>(line: &str) -> T {
    let parsed: Result<T, serde_json::Error> = serde_json::from_str(line);
    parsed.unwrap_or_else(|error| panic!("{error}: {line}"))
}
