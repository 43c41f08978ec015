//! Other people's consumers, which know nothing of us: programs of `tests/consumers` hand them the records of a stream and
//! print what they make of them.

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::aws::kinesis::Kinesis;

/// A consumer that others wrote.
#[derive(Debug, Clone, Copy)]
pub enum ThirdPartyConsumer<'a> {
    /// `aws-kinesis-agg`, Amazon's own Python package that takes apart what the KPL has put together.
    Deaggregator,
    /// Apache Flink's format `debezium-json`, for a table whose row type is declared so. What most people read Debezium's
    /// messages with when there is no Kafka Connect; and it is strict, it stops at what it does not expect.
    Debezium(&'a str),
    /// Apache Paimon's format `aws-dms-json`. The one maintained parser of the messages that DMS writes to Kinesis and Kafka
    /// which we found in public; others are samples.
    Dms,
}

impl ThirdPartyConsumer<'_> {
    /// Lets it read `stream` from its beginning to its end, shard after shard, and returns the lines that the program
    /// prints: JSON objects, whose fields the program itself describes.
    ///
    /// # Panics
    /// It does not take what the stream holds; the message ends with its own complaint.
    pub async fn read(self, kinesis: &Kinesis, stream: &str) -> Vec<String> {
        let mut records = String::new();
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
        self.run(records).await
    }

    async fn run(self, records: String) -> Vec<String> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = here.join("../.tools/consumers/bin/python");
        assert!(
            python.exists(),
            "no {}: `make tools-consumers` installs it",
            python.display()
        );
        let (program, argument) = match self {
            Self::Deaggregator => ("deaggregate.py", None),
            Self::Debezium(row) => ("debezium.py", Some(row)),
            Self::Dms => ("dms.py", None),
        };
        let mut command = Command::new(python);
        command
            .arg(here.join("consumers").join(program))
            .args(argument)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut input = child.stdin.take().expect("it is piped");
        // Together, or both would wait for room in a pipe. One that fails early does not read to the end.
        let write = async move {
            let _ = input.write_all(records.as_bytes()).await;
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "{program} does not take it:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(str::to_owned).collect()
    }
}
