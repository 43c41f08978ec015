//! Kinesis: ferrokinesis inside this process. It holds every record in memory until its stream is deleted.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use aws_sdk_kinesis::types::{Shard, StreamStatus};
use ferrokinesis::store::StoreOptions;

use crate::wait;

/// The region and the keys of all our doubles; none of them checks.
pub const REGION: &str = "eu-central-1";
pub(crate) const KEY_ID: &str = "AKIDSCENARIO";
pub(crate) const SECRET: &str = "scenario";

/// A region of Kinesis for ourselves.
#[derive(Debug)]
pub struct Kinesis {
    endpoint: String,
    client: Client,
    task: tokio::task::JoinHandle<()>,
}

/// Whether shards take 1 MiB and 1,000 records a second, record by record, as Amazon's do, or all they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// As Amazon's: more is throttled.
    Enforced,
    /// None.
    Off,
}

impl Kinesis {
    /// What the emulator takes at most in one PutRecords: half of what Kinesis takes.
    pub const MOST_BYTES: usize = 5 << 20;

    /// Starts one on a free port.
    pub async fn start(limits: Limits) -> Self {
        let (app, _store) = ferrokinesis::create_app(StoreOptions {
            create_stream_ms: 0,
            delete_stream_ms: 0,
            update_stream_ms: 0,
            shard_limit: 10_000,
            enforce_limits: limits == Limits::Enforced,
            aws_region: REGION.to_owned(),
            ..StoreOptions::default()
        });
        // As its own program does, or axum refuses more than 2 MB: 5 MiB are 7 in base64.
        let app = app.layer(axum::extract::DefaultBodyLimit::max(8 << 20));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("loopback has a free port");
        let endpoint = format!(
            "http://{}",
            listener.local_addr().expect("a bound socket has an address")
        );
        let task = tokio::spawn(async move {
            // The emulator has limits of its own, on what a request says; axum's is on the bytes that say it.
            let app = app.layer(axum::extract::DefaultBodyLimit::disable());
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("ferrokinesis ended: {error}");
            }
        });
        let client = Client::from_conf(
            aws_sdk_kinesis::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(REGION))
                .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "scenario"))
                .endpoint_url(&endpoint)
                .build(),
        );
        Self {
            endpoint,
            client,
            task,
        }
    }

    /// The one without limits that the scenarios of this process share.
    pub async fn shared() -> &'static Self {
        static SHARED: tokio::sync::OnceCell<Kinesis> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(Limits::Off)).await
    }

    /// As `AWS_ENDPOINT_URL_KINESIS` takes it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The SDK's client, straight to the emulator.
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

    /// Deletes a stream with all it holds; one that is not there is not missed.
    pub async fn delete_stream(&self, name: &str) {
        let _ = self
            .client
            .delete_stream()
            .stream_name(name)
            .enforce_consumer_deletion(true)
            .send()
            .await;
    }

    /// Puts one record, as a producer that is not ours would.
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
        // Numbered in the order in which they were made.
        shards.sort_by(|one, other| one.shard_id().cmp(other.shard_id()));
        shards
    }

    /// Hands every record of one shard, oldest first, to `each`: partition key and data.
    pub async fn read_shard(&self, stream: &str, shard: &str, mut each: impl FnMut(&str, &[u8])) {
        let start = self
            .client
            .get_shard_iterator()
            .stream_name(stream)
            .shard_id(shard);
        let start = start
            .shard_iterator_type(aws_sdk_kinesis::types::ShardIteratorType::TrimHorizon)
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
                each(record.partition_key().unwrap_or_default(), record.data().as_ref());
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

/// Credentials and region as Lambda sets them in a function's environment.
pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", KEY_ID),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
    ("AWS_SESSION_TOKEN", "scenario"),
    ("AWS_REGION", REGION),
];
