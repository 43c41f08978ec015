//! The storm: one backlog whose keys follow Zipf's law, drained again and again into a fake Kinesis that does everything wrong
//! that Kinesis may do. However it went, every event has arrived, and those of one key in order.
//!
//! Each play has its own copy of the slot, its own stream and checkpoint; what happens to it is drawn from its seed. Answers
//! come over a network and lanes run beside each other, so a seed that failed shows the same weather again, not the very
//! same run.

mod backlog;
mod verdict;

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_postgres::Client;

use crate::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings, Faults};
use crate::aws::ssm::Ssm;
use crate::lambda::function::{Function, Outcome};
use crate::postgres::{self, Postgres};

use verdict::{Expected, Verdict};

const DATABASE: &str = "storm";
/// Where every play starts. Nobody drains it.
const TEMPLATE: &str = "template";
/// Longer than a play takes; what hangs fails.
const DEADLINE: Duration = Duration::from_secs(600);
/// What may pass by itself: the stream's doing, or that of a machine which plays much at a time.
const TRANSIENT: [&str; 5] = [
    "StreamUnavailable",
    "CheckpointUnavailable",
    "Busy",
    "OutOfTime",
    "PeekTimeout",
];
/// Ticks that a play may need.
const MOST_TICKS: usize = 50;

/// A backlog, and what a quiet stream made of it.
#[derive(Debug)]
pub struct Storm {
    postgres: Postgres,
    ssm: &'static Ssm,
    /// The end of the backlog, as PostgreSQL writes it.
    end: String,
    expected: Expected,
    /// How long the quiet drain took.
    pub calm: Duration,
}

/// How one play went.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// How long it took.
    pub took: Duration,
    /// Invocations, failed ones included.
    pub ticks: usize,
    /// PutRecords requests.
    pub requests: u64,
    /// Records of them, each as often as it was tried.
    pub tried: u64,
    /// Records that were put.
    pub put: u64,
    /// Events that the reports count as sent again.
    pub retried: u64,
    /// Events that arrived although they had arrived before.
    pub duplicates: usize,
    /// Splits and merges.
    pub reshards: u64,
    /// Records of aggregates that the KCL drops, because one of them lies in the wrong shard.
    pub dropped: usize,
    /// What broke the promise.
    pub broken: Vec<String>,
}

impl Storm {
    /// Writes a backlog of `events` changes of `keys` keys, and drains it once in calm weather.
    ///
    /// # Panics
    /// That drain did not bring exactly what PostgreSQL counts.
    pub async fn brew(events: usize, keys: usize) -> Self {
        let settings = postgres::PostgresSettings {
            // Nothing but the backlog is to be decoded.
            conf: "max_wal_size = '8GB'\nautovacuum = off\n".to_owned(),
            ..postgres::PostgresSettings::default()
        };
        let postgres = Postgres::start(settings).await;
        postgres.create_database(DATABASE).await;
        let admin = postgres.admin(DATABASE).await;
        let end = backlog::write(&admin, TEMPLATE, events, keys).await;
        let mut storm = Self {
            postgres,
            ssm: Ssm::shared().await,
            end,
            expected: Expected::default(),
            calm: Duration::ZERO,
        };
        let settings = FakeKinesisSettings {
            shards: 8,
            ..FakeKinesisSettings::default()
        };
        let (fake_kinesis, played) = storm.drain("calm", "none", settings).await;
        assert!(
            played.broken.is_empty(),
            "it fails in calm weather: {:?}",
            played.broken
        );
        storm.expected = Expected::of(&fake_kinesis);
        storm.calm = played.took;
        assert_eq!(
            storm.expected.events(),
            events,
            "what arrives in calm weather is what was written"
        );
        storm
    }

    /// Plays the storm of one seed with this `AGGREGATION`.
    pub async fn play(&self, seed: u64, aggregation: &str) -> Played {
        let mut random = fastrand::Rng::with_seed(seed);
        // Aggregates are few, and so are their requests: each has to fear more.
        let times = if aggregation == "kpl" { 15.0 } else { 1.0 };
        let settings = FakeKinesisSettings {
            shards: random.usize(4..=16),
            faults: Faults::of_seed(seed).times(times),
            ..FakeKinesisSettings::default()
        };
        let name = format!("seed_{seed}_{aggregation}");
        let (fake_kinesis, mut played) = self.drain(&name, aggregation, settings).await;
        let Verdict {
            duplicates,
            dropped,
            broken,
        } = self.expected.judge(&fake_kinesis);
        (played.duplicates, played.dropped) = (duplicates, dropped);
        played.broken.extend(broken);
        let log = fake_kinesis.put_log();
        let under_way = log.shared_keys.iter().take(3);
        played
            .broken
            .extend(under_way.map(|key| format!("two records under way for one key: {key}")));
        played
    }

    /// Drains a copy of the slot to its end into a new fake_kinesis, tick after tick.
    async fn drain(
        &self,
        name: &str,
        aggregation: &str,
        settings: FakeKinesisSettings,
    ) -> (FakeKinesis, Played) {
        let admin = self.postgres.admin(DATABASE).await;
        let copy = format!("select pg_copy_logical_replication_slot('{TEMPLATE}', '{name}')");
        run(&admin, &copy).await;
        let fake_kinesis = FakeKinesis::open(name, settings).await;
        let parameter = format!("/spillway/{}", crate::unique(name));
        let function = self.function(name, aggregation, &fake_kinesis, &parameter);
        let began = Instant::now();
        let mut played = Played::default();
        loop {
            let outcome = function.invoke(&json!({}), DEADLINE).await;
            played.ticks += 1;
            match outcome {
                Outcome::Answer(report) => {
                    played.retried += report["retried"].as_u64().unwrap_or(0);
                    if report["stopped"] == "empty" && self.is_through(&admin, name).await {
                        break;
                    }
                }
                // The next tick is the retry.
                Outcome::Error { kind, .. } if TRANSIENT.contains(&kind.as_str()) => {}
                other => played.broken.push(format!("a tick ended with {other:?}")),
            }
            if played.ticks == MOST_TICKS {
                played
                    .broken
                    .push(format!("{MOST_TICKS} ticks did not empty the slot"));
            }
            if !played.broken.is_empty() {
                break;
            }
        }
        played.took = began.elapsed();
        function.kill9().await;
        let counts = fake_kinesis.counts();
        (played.requests, played.tried, played.put) = (counts.requests, counts.tried, counts.put);
        played.reshards = counts.reshards;
        self.ssm.delete(&parameter).await;
        // A slot that a session still holds is dropped when that has ended.
        crate::wait::until("the slot of the play is dropped", DEADLINE, || async {
            let drop = format!("select pg_drop_replication_slot('{name}')");
            admin.batch_execute(&drop).await.is_ok()
        })
        .await;
        (fake_kinesis, played)
    }

    fn function(
        &self,
        name: &str,
        aggregation: &str,
        fake_kinesis: &FakeKinesis,
        parameter: &str,
    ) -> Function {
        let environment = [
            ("SLOT_NAME", name),
            ("STREAM_NAME", name),
            // An event names its source, which is the slot unless it is said.
            ("SOURCE_NAME", DATABASE),
            ("CHECKPOINT_PARAMETER", parameter),
            ("AGGREGATION", aggregation),
            ("AWS_ENDPOINT_URL_KINESIS", fake_kinesis.endpoint()),
            ("AWS_ENDPOINT_URL_SSM", self.ssm.endpoint()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Function::new(self.postgres.environment(DATABASE).into_iter().chain(environment))
    }

    /// Whether the slot is confirmed to the end of the backlog.
    async fn is_through(&self, admin: &Client, slot: &str) -> bool {
        let sql = format!(
            "select confirmed_flush_lsn >= '{}' from pg_replication_slots where slot_name = '{slot}'",
            self.end
        );
        let row = admin.query_one(&sql, &[]).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }
}

async fn run(admin: &Client, sql: &str) {
    admin
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
