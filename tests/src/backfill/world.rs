//! The parts of one play, what befalls them, and what they were seen to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::draw::{Draw, Kill, ServerFault};
use super::ledger::Ledger;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::fault_proxy::FaultProxy;
use crate::breaker::parameter::Parameter;
use crate::breaker::site::Site;
use crate::breaker::world::TRANSIENT;
use crate::lambda::function::{Function, Outcome};
use crate::postgres::tcp_proxy::{self, Direction};

/// The longest that a kill waits for its moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at what arrived.
const GLANCE: Duration = Duration::from_millis(200);
/// Cases that are told of what was seen on the way.
const MOST_CASES: usize = 10;

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Invocations by how they ended: `stopped` of a report, `errorType`, `killed` or `timed out`.
    pub(super) invocations: BTreeMap<String, u64>,
    /// Rows that were read and not sent, as the reports have it.
    pub(super) overtaken: u64,
    /// The largest of the reports.
    pub(super) lag_bytes: u64,
    pub(super) kills: u64,
    pub(super) failovers: u64,
    pub(super) crashes: u64,
    /// How often the wire to the standby was cut.
    pub(super) stuck: u64,
    /// What may never happen.
    pub(super) broken: Vec<String>,
}

/// All of a play.
#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Arc<Site>,
    pub(super) ledger: Mutex<Ledger>,
    stream: Arc<FakeKinesis>,
    stream_proxy: FaultProxy,
    parameter: Parameter,
    parameter_proxy: FaultProxy,
    function: Function,
    rows: u64,
    /// Rows that were sent, as the state of the backfill had it last.
    sent: Arc<AtomicU64>,
    seen: Mutex<Seen>,
}

impl World {
    pub(super) async fn make(site: Site, draw: &Draw, rows: u64) -> Self {
        let slot = site.database();
        let stream = Arc::new(FakeKinesis::open(slot, draw.stream).await);
        let stream_proxy = FaultProxy::open(stream.endpoint()).await;
        let parameter = Parameter::beside(Arc::clone(&stream)).await;
        let parameter_proxy = FaultProxy::open(parameter.endpoint()).await;
        let standby = if draw.stuck.is_empty() { "auto" } else { "off" };
        let environment = [
            ("DB_AUTH", "password"),
            ("SLOT_NAME", slot),
            ("STREAM_NAME", slot),
            ("AGGREGATION", draw.aggregation),
            ("STANDBY_ACK", standby),
            ("MARKERS", draw.markers),
            ("AWS_ENDPOINT_URL_KINESIS", stream_proxy.endpoint()),
            ("AWS_ENDPOINT_URL_SSM", parameter_proxy.endpoint()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let function = Function::new(site.environment().into_iter().chain(environment));
        let key = draw.key.columns.iter().map(|(name, _)| *name);
        Self {
            site: Arc::new(site),
            ledger: Mutex::new(Ledger::of(key)),
            stream,
            stream_proxy,
            parameter,
            parameter_proxy,
            function,
            rows,
            sent: Arc::default(),
            seen: Mutex::default(),
        }
    }

    /// The slot, which has the name of the play.
    pub(super) fn slot(&self) -> &str {
        self.site.database()
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a consumer has so far.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most memory that the function had, in bytes.
    pub(super) fn peak_memory_bytes(&self) -> u64 {
        self.function.peak_memory_bytes()
    }

    /// Starts the backfill, and ticks until it is finished. False when that takes longer than `limit`.
    pub(super) async fn backfill(&self, draw: &Draw, limit: Duration) -> bool {
        let (mut random, began, mut started) = (draw.ticks.clone(), Instant::now(), false);
        let start = json!({"action": "backfill", "tables": ["public.t"], "chunk_rows": draw.chunk_rows});
        while began.elapsed() < limit {
            let deadline = Duration::from_millis(random.u64(4_000..12_000));
            let event = if started { json!({}) } else { start.clone() };
            let report = self.invoke(&event, deadline).await;
            // What an answer says may be lost, and one that found another drainer says nothing: the state tells.
            let stored = self.parameter.backfill();
            // One that was killed may have begun.
            started |= stored.is_some();
            let over = stored.is_some_and(|state| !state["finished_at"].is_null());
            match report.as_ref().map(|report| report["backfill"]["state"].as_str()) {
                Some(Some("failed")) => {
                    self.tell(format!("the backfill failed: {:?}", self.parameter.backfill()));
                    return false;
                }
                _ if over => return true,
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random.u64(5..100))).await;
        }
        false
    }

    /// Invokes the function; its answer, if it succeeded.
    pub(super) async fn invoke(&self, event: &Value, deadline: Duration) -> Option<Value> {
        use std::os::unix::process::ExitStatusExt as _;
        let outcome = self.function.invoke(event, deadline).await;
        let mut seen = self.seen();
        let (ended, report) = match outcome {
            Outcome::Answer(report) => {
                seen.overtaken += report["backfill"]["overtaken"].as_u64().unwrap_or(0);
                seen.lag_bytes = seen.lag_bytes.max(report["lag_bytes"].as_u64().unwrap_or(0));
                (report["stopped"].as_str().unwrap_or("?").to_owned(), Some(report))
            }
            Outcome::Error { kind, message } => {
                if !TRANSIENT.contains(&kind.as_str()) && seen.broken.len() < MOST_CASES {
                    seen.broken
                        .push(format!("an invocation failed with {kind}: {message}"));
                }
                (kind, None)
            }
            Outcome::Exited(status) if status.signal() == Some(9) => ("killed".to_owned(), None),
            Outcome::Exited(status) => {
                seen.broken.push(format!("an invocation ended with {status}"));
                ("exited".to_owned(), None)
            }
            Outcome::TimedOut => ("timed out".to_owned(), None),
        };
        *seen.invocations.entry(ended).or_default() += 1;
        report
    }

    fn tell(&self, what: String) {
        self.seen().broken.push(what);
    }

    /// Reads what arrives until it is told to stop.
    pub(super) async fn consume_until(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.look();
            self.consume();
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Reads what arrived.
    pub(super) fn consume(&self) {
        tokio::task::block_in_place(|| {
            let mut ledger = self.ledger();
            self.stream.take(|range, _, data| ledger.take(range, data));
        });
    }

    /// Kills the function, again and again.
    pub(super) async fn kill(&self, kills: &[(Duration, Kill)], stop: &AtomicBool) {
        for (after, kill) in kills {
            tokio::time::sleep(*after).await;
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let mut held = match kill {
                Kill::Now => None,
                Kill::AtPut(side) => Some(self.stream_proxy.hold("PutRecords", *side)),
                Kill::AtStore(side) => Some(self.parameter_proxy.hold("PutParameter", *side)),
            };
            if let Some(held) = &mut held {
                held.is_held_within(PATIENCE).await;
            }
            self.function.kill9().await;
            self.seen().kills += 1;
        }
    }

    /// How many rows were sent, for whoever wants to be near.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Looks how many rows were sent.
    fn look(&self) -> u64 {
        let rows = self.parameter.backfill().and_then(|state| state["rows"].as_u64());
        self.sent.fetch_max(rows.unwrap_or(0), Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so much of the table was sent. False when the backfill is over before.
    async fn reaches(&self, part: f64, stop: &AtomicBool) -> bool {
        let wanted = (self.rows as f64 * part) as u64;
        loop {
            let sent = self.look();
            if sent >= wanted || stop.load(Ordering::Relaxed) {
                return sent >= wanted;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// What becomes of the server when so much of the table was read.
    pub(super) async fn befall_server(&self, draw: &Draw, stop: &AtomicBool) {
        if !self.reaches(draw.amid, stop).await {
            return;
        }
        match draw.server {
            ServerFault::FailOver(down) => {
                self.seen().failovers += 1;
                self.site.fail_over(down).await;
            }
            ServerFault::Crash(down) => {
                self.seen().crashes += 1;
                self.site.crash(down).await;
            }
        }
    }

    /// Commits hang for a while, again and again, at even distances of the table: what is delivered is not visible.
    pub(super) async fn hang(&self, draw: &Draw, stop: &AtomicBool) {
        for (number, lasts) in draw.stuck.iter().enumerate() {
            let part = number as f64 / draw.stuck.len() as f64;
            if !self.reaches(part, stop).await {
                return;
            }
            self.seen().stuck += 1;
            self.site
                .suffer_within(tcp_proxy::ConnectionFault::Stall(Direction::ToServer, *lasts))
                .await;
        }
    }

    /// Everything goes well from now on.
    pub(super) async fn calm(&self) {
        self.stream_proxy.clear();
        self.parameter_proxy.clear();
        self.site.calm();
        self.function.kill9().await;
    }

    /// Ends the function, and looks through all that it logged for what may never happen.
    pub(super) async fn end(&self) {
        self.function.kill9().await;
        let lines = self.function.log().into_iter();
        let bad = lines.filter(|line| line.contains(r#""kind":"Definite""#) || line.contains("panicked"));
        self.seen().broken.extend(bad.take(5));
        self.consume();
    }
}
