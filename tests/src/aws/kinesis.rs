//! Kinesis emulator: ferrokinesis inside this process.
//!
//! It keeps every record in memory until its stream is deleted.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{Record, Shard, ShardIteratorType, StreamStatus};
use ferrokinesis::store::StoreOptions;

use crate::aws::{child_shards, sdk};
use crate::{loopback_server, wait};

/// Region of all emulators; none of them checks it, nor the keys.
pub const REGION: &str = "eu-central-1";
pub(crate) const KEY_ID: &str = "AKIDSCENARIO";
pub(crate) const SECRET: &str = "scenario";

/// A running Kinesis emulator.
#[derive(Debug)]
pub struct Kinesis {
    endpoint: String,
    client: Client,
    task: tokio::task::JoinHandle<()>,
}

/// Throughput limits of shards: 1 MiB and 1,000 records a second, as in Kinesis, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Records beyond the limits are throttled.
    Enforced,
    /// No record is throttled.
    Off,
}

impl Kinesis {
    /// Limit of one PutRecords in bytes: half the limit of Kinesis.
    pub const MAX_BYTES: usize = 5 << 20;

    /// Starts an emulator on a free port.
    pub async fn start(limits: Limits) -> Self {
        let (app, store) = ferrokinesis::create_app(StoreOptions {
            create_stream_ms: 0,
            delete_stream_ms: 0,
            update_stream_ms: 0,
            shard_limit: 10_000,
            enforce_limits: limits == Limits::Enforced,
            aws_region: REGION.to_owned(),
            ..StoreOptions::default()
        });
        // The default of axum is 2 MB. A request of 5 MiB has 7 MiB in base64. Its own program sets the same
        // limit.
        let app = app
            .layer(axum::extract::DefaultBodyLimit::max(8 << 20))
            .layer(axum::middleware::from_fn_with_state(store, child_shards::add));
        let serve = async move |listener| {
            // The emulator checks the decoded size itself. The limit of axum is for the encoded size.
            let app = app.layer(axum::extract::DefaultBodyLimit::disable());
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("ferrokinesis ended: {error}");
            }
        };
        let (address, task) = loopback_server::start(serve).await;
        let endpoint = format!("http://{address}");
        let client = Client::new(&sdk::config(&endpoint));
        Self {
            endpoint,
            client,
            task,
        }
    }

    /// The emulator without limits that all scenarios of this process share.
    pub async fn shared() -> &'static Self {
        static SHARED: tokio::sync::OnceCell<Kinesis> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(Limits::Off)).await
    }

    /// URL for `AWS_ENDPOINT_URL_KINESIS`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// SDK client of the emulator, without a fault proxy.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates a stream and waits until it is active.
    pub async fn create_stream(&self, name: &str, shards: i32) {
        let made = self
            .client
            .create_stream()
            .stream_name(name)
            .shard_count(shards)
            .send()
            .await;
        made.unwrap_or_else(|error| panic!("cannot create stream {name}: {error:?}"));
        wait::until("the stream is active", Duration::from_secs(10), || async {
            let summary = self
                .client
                .describe_stream_summary()
                .stream_name(name)
                .send()
                .await;
            let summary = summary.unwrap_or_else(|error| panic!("cannot describe stream {name}: {error:?}"));
            summary
                .stream_description_summary()
                .is_some_and(|it| *it.stream_status() == StreamStatus::Active)
        })
        .await;
    }

    /// Deletes a stream with its records. A missing stream is no error.
    pub async fn delete_stream(&self, name: &str) {
        let _ = self
            .client
            .delete_stream()
            .stream_name(name)
            .enforce_consumer_deletion(true)
            .send()
            .await;
    }

    /// Puts one record, as a foreign producer does.
    pub async fn put(&self, stream: &str, partition_key: &str, data: &[u8]) {
        let data = aws_sdk_kinesis::primitives::Blob::new(data);
        let put = self
            .client
            .put_record()
            .stream_name(stream)
            .partition_key(partition_key)
            .data(data)
            .send()
            .await;
        put.unwrap_or_else(|error| panic!("cannot put into {stream}: {error:?}"));
    }

    /// All shards of a stream, parents before their children.
    pub async fn shards(&self, stream: &str) -> Vec<Shard> {
        let mut shards = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let request = self.client.list_shards();
            let request = match next {
                Some(token) => request.next_token(token),
                None => request.stream_name(stream),
            };
            let page = request.send().await;
            let page = page.unwrap_or_else(|error| panic!("cannot list the shards of {stream}: {error:?}"));
            shards.extend(page.shards().iter().cloned());
            next = page.next_token().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        // Shard ids are numbered in the order of creation.
        shards.sort_by(|one, other| one.shard_id().cmp(other.shard_id()));
        shards
    }

    /// Calls `each` with every record of a shard, oldest first.
    ///
    /// The arguments are the partition key and the data.
    pub async fn read_shard(&self, stream: &str, shard: &str, each: impl FnMut(&str, &[u8])) {
        self.read_shard_after(stream, shard, None, each).await;
    }

    /// As `read_shard`, from the record after this sequence number on. Returns the last sequence number.
    pub async fn read_shard_after(
        &self,
        stream: &str,
        shard: &str,
        after: Option<String>,
        mut each: impl FnMut(&str, &[u8]),
    ) -> Option<String> {
        let mut last = after.clone();
        let each = |record: &Record| {
            each(record.partition_key().unwrap_or_default(), record.data().as_ref());
            last = Some(record.sequence_number().to_owned());
        };
        self.read_records(stream, shard, after, each).await;
        last
    }

    /// Sequence number of the last record of a shard; `None` without records.
    pub async fn last_sequence_number(&self, stream: &str, shard: &str) -> Option<String> {
        self.read_shard_after(stream, shard, None, |_, _| ()).await
    }

    async fn read_records(
        &self,
        stream: &str,
        shard: &str,
        after: Option<String>,
        mut each: impl FnMut(&Record),
    ) {
        let kind = match after {
            Some(_) => ShardIteratorType::AfterSequenceNumber,
            None => ShardIteratorType::TrimHorizon,
        };
        let start = self
            .client
            .get_shard_iterator()
            .stream_name(stream)
            .shard_id(shard)
            .shard_iterator_type(kind)
            .set_starting_sequence_number(after)
            .send()
            .await;
        let start = start.unwrap_or_else(|error| panic!("cannot read {shard} of {stream}: {error:?}"));
        let mut iterator = start.shard_iterator().map(str::to_owned);
        while let Some(at) = iterator {
            let page = self
                .client
                .get_records()
                .shard_iterator(at)
                .limit(10_000)
                .send()
                .await;
            let page = page.unwrap_or_else(|error| panic!("cannot read {shard} of {stream}: {error:?}"));
            for record in page.records() {
                each(record);
            }
            if page.records().is_empty() && page.millis_behind_latest().unwrap_or(0) == 0 {
                break;
            }
            iterator = page.next_shard_iterator().map(str::to_owned);
        }
    }
}

impl Drop for Kinesis {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Credentials and region that Lambda sets in the environment of a function.
pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", KEY_ID),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
    ("AWS_SESSION_TOKEN", "scenario"),
    ("AWS_REGION", REGION),
];
