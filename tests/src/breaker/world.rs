//! The parts of one play, what befalls them, and what they were seen to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use super::clock::Clock;
use super::draw::Draw;
use super::faults::{Due, FunctionFault, ParameterFault, ServerFault, StreamFault};
use super::parameter::{self, Parameter};
use super::site::Site;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::fault_proxy::{Fault, FaultProxy};
use crate::lambda::function::{Function, Outcome};
use crate::postgres::tcp_proxy;

/// What passes by itself while faults are on.
pub(crate) const TRANSIENT: [&str; 9] = [
    "PostgresUnreachable",
    "PostgresFailed",
    "NotWriter",
    "PeekTimeout",
    "Busy",
    "OutOfTime",
    "StreamUnavailable",
    "CheckpointUnavailable",
    "StandbyUnseen",
];
/// The longest that a kill waits for its moment.
const PATIENCE: Duration = Duration::from_secs(3);

/// Cases that are told of what was seen on the way.
const MOST_CASES: usize = 10;

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Invocations by how they ended.
    pub(super) ticks: BTreeMap<String, u64>,
    /// Faults by kind.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Sums of the reports.
    pub(super) skipped: u64,
    pub(super) replayed: u64,
    pub(super) retried: u64,
    /// How often slot and checkpoint were looked at.
    pub(super) looks: u64,
    /// What may never happen.
    pub(super) broken: Vec<String>,
}

impl Seen {
    /// Tells what may never happen, the first few times.
    fn tell(&mut self, what: String) {
        if self.broken.len() < MOST_CASES {
            self.broken.push(what);
        }
    }
}

/// All of a play.
#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Arc<Site>,
    pub(super) stream: Arc<FakeKinesis>,
    stream_proxy: FaultProxy,
    pub(super) parameter: Parameter,
    parameter_proxy: FaultProxy,
    function: Function,
    twin: Function,
    clock: Clock,
    seed: u64,
    seen: Mutex<Seen>,
}

impl World {
    pub(super) async fn make(site: Site, seed: u64, draw: &Draw) -> Self {
        let slot = site.database();
        let stream = Arc::new(FakeKinesis::open(slot, draw.stream).await);
        let stream_proxy = FaultProxy::open(stream.endpoint()).await;
        let parameter = Parameter::beside(Arc::clone(&stream)).await;
        let parameter_proxy = FaultProxy::open(parameter.endpoint()).await;
        let clock = Clock::new();
        let environment = [
            ("DB_AUTH", "password"),
            ("SLOT_NAME", slot),
            ("STREAM_NAME", slot),
            ("ENVELOPE", draw.envelope),
            ("AGGREGATION", draw.aggregation),
            ("MARKERS", draw.markers),
            ("AWS_ENDPOINT_URL_KINESIS", stream_proxy.endpoint()),
            ("AWS_ENDPOINT_URL_SSM", parameter_proxy.endpoint()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = site.environment().into_iter().chain(environment);
        let function = Function::new(environment.chain(clock.environment()));
        let twin = function.second_instance();
        Self {
            site: Arc::new(site),
            stream,
            stream_proxy,
            parameter,
            parameter_proxy,
            function,
            twin,
            clock,
            seed,
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

    fn happens(&self, fault: &'static str) {
        *self.seen().faults.entry(fault).or_default() += 1;
    }

    /// Ticks with short deadlines until it is told to stop.
    pub(super) async fn tick_until(&self, mut random: Rng, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let deadline = Duration::from_millis(random.u64(2_000..6_000));
            self.note(self.function.invoke(&json!({}), deadline).await);
            tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        }
    }

    /// One tick with this deadline; its report, if it succeeded.
    pub(super) async fn tick(&self, deadline: Duration) -> Option<Value> {
        self.note(self.function.invoke(&json!({}), deadline).await)
    }

    fn note(&self, outcome: Outcome) -> Option<Value> {
        use std::os::unix::process::ExitStatusExt as _;
        let mut seen = self.seen();
        let (ended, report) = match outcome {
            Outcome::Answer(report) => {
                let count = |name: &str| report[name].as_u64().unwrap_or(0);
                seen.skipped += count("skipped");
                seen.replayed += count("replayed");
                seen.retried += count("retried");
                (report["stopped"].as_str().unwrap_or("?").to_owned(), Some(report))
            }
            Outcome::Error { kind, message } => {
                if !TRANSIENT.contains(&kind.as_str()) {
                    seen.tell(format!("a tick failed with {kind}: {message}"));
                }
                (kind, None)
            }
            Outcome::Exited(status) if status.signal() == Some(9) => ("killed".to_owned(), None),
            Outcome::Exited(status) => {
                seen.tell(format!("a tick ended with {status}"));
                ("exited".to_owned(), None)
            }
            Outcome::TimedOut => ("timed out".to_owned(), None),
        };
        *seen.ticks.entry(ended).or_default() += 1;
        report
    }

    /// Everything goes well from now on.
    pub(super) async fn calm(&self) {
        self.stream_proxy.clear();
        self.parameter_proxy.clear();
        self.site.calm();
        self.clock.jump(0);
        // One that was invoked while its clock was wrong may take its time.
        self.function.kill9().await;
        self.twin.kill9().await;
    }

    /// Ends the function, and looks through all that it logged for what may never happen.
    pub(super) async fn end(&self) {
        self.function.kill9().await;
        self.twin.kill9().await;
        let lines = self.function.log().into_iter().chain(self.twin.log());
        let bad = lines.filter(|line| line.contains(r#""kind":"Definite""#) || line.contains("panicked"));
        self.seen().broken.extend(bad.take(5));
    }

    /// Holds `confirmed_flush <= checkpoint` until it is told to stop.
    pub(super) async fn look_until(&self, stop: &AtomicBool) {
        const SLOT: &str = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
        while !stop.load(Ordering::Relaxed) {
            let pause = || tokio::time::sleep(Duration::from_millis(30));
            let Ok(client) = self.site.connect().await else {
                pause().await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) {
                let Ok(row) = client.query_opt(SLOT, &[&self.slot()]).await else {
                    break;
                };
                let confirmed = row.and_then(|row| row.get::<_, Option<String>>(0));
                self.look(confirmed.and_then(|it| parameter::lsn(&Value::String(it))));
                pause().await;
            }
        }
    }

    fn look(&self, confirmed: Option<u64>) {
        // Asked for after the slot was: until then it may only have grown.
        let stored = self.parameter.stored();
        let mut seen = self.seen();
        seen.looks += 1;
        if let (Some(confirmed), Some(stored)) = (confirmed, stored)
            && confirmed > stored.commit_end
        {
            let stored = stored.commit_end;
            seen.tell(format!(
                "confirmed_flush {confirmed:X} was beyond the checkpoint {stored:X}"
            ));
        }
    }

    /// One thing after the other.
    pub(super) async fn befall_function(&self, faults: &[Due<FunctionFault>]) {
        for due in faults {
            tokio::time::sleep(due.after).await;
            match due.fault {
                FunctionFault::Kill => {
                    self.happens("kill");
                    self.function.kill9().await;
                }
                FunctionFault::KillAtRecords(more) => {
                    self.happens("kill at records");
                    let upto = self.stream_proxy.requests("PutRecords") + more;
                    let began = Instant::now();
                    while self.stream_proxy.requests("PutRecords") < upto && began.elapsed() < PATIENCE {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    self.function.kill9().await;
                }
                FunctionFault::KillAtStore(side) => {
                    self.happens("kill at store");
                    let mut held = self.parameter_proxy.hold("PutParameter", side);
                    held.is_held_within(PATIENCE).await;
                    tokio::join!(self.function.kill9(), self.twin.kill9());
                }
                FunctionFault::Twice(time) => {
                    self.happens("two at once");
                    self.note(self.twin.invoke(&json!({}), time).await);
                }
                FunctionFault::Clock(seconds) => {
                    self.happens("clock jump");
                    self.clock.jump(seconds);
                    tokio::time::sleep(due.lasts).await;
                    self.clock.jump(0);
                }
            }
        }
    }

    /// One thing after the other.
    pub(super) async fn befall_stream(&self, faults: &[Due<StreamFault>]) {
        for (number, due) in faults.iter().enumerate() {
            tokio::time::sleep(due.after).await;
            let (name, fault) = match due.fault {
                StreamFault::Partial(percent) => {
                    self.stream_proxy.flaky(self.seed + number as u64, percent);
                    ("kinesis partial failure", None)
                }
                StreamFault::Throttling => {
                    let throttled = "ProvisionedThroughputExceededException";
                    (
                        "kinesis throttling",
                        Some(Fault::refuse(throttled, "Rate exceeded.")),
                    )
                }
                StreamFault::Outage => ("kinesis outage", Some(Fault::CutRequest)),
                StreamFault::Failure => ("kinesis failure", Some(Fault::internal())),
                StreamFault::Mute => ("kinesis mute", Some(Fault::CutAnswer)),
                StreamFault::Slow(time) => ("kinesis slow", Some(Fault::Delay(time))),
            };
            self.happens(name);
            let Some(fault) = fault else {
                tokio::time::sleep(due.lasts).await;
                self.stream_proxy.clear();
                continue;
            };
            let also = match fault {
                Fault::CutRequest => &["PutRecords", "ListShards", "DescribeStreamSummary"][..],
                _ => &["PutRecords"],
            };
            befall(&self.stream_proxy, also, fault, due.lasts).await;
        }
    }

    /// One thing after the other.
    pub(super) async fn befall_parameter(&self, faults: &[Due<ParameterFault>]) {
        for due in faults {
            tokio::time::sleep(due.after).await;
            let throttled = || Fault::refuse("ThrottlingException", "Rate exceeded");
            let (name, fault) = match due.fault {
                ParameterFault::Throttling => ("ssm throttling", throttled()),
                ParameterFault::Outage => ("ssm outage", Fault::CutRequest),
                ParameterFault::Mute => ("ssm mute", Fault::CutAnswer),
                ParameterFault::Slow(time) => ("ssm slow", Fault::Delay(time)),
            };
            self.happens(name);
            befall(
                &self.parameter_proxy,
                &["PutParameter", "GetParameter"],
                fault,
                due.lasts,
            )
            .await;
        }
    }

    /// One thing after the other.
    pub(super) async fn befall_server(&self, faults: &[Due<ServerFault>]) {
        for due in faults {
            tokio::time::sleep(due.after).await;
            match due.fault {
                ServerFault::Crash(down) => {
                    self.happens("server crash");
                    self.site.crash(down).await;
                }
                ServerFault::FailOver(down) => {
                    self.happens("failover");
                    self.site.fail_over(down).await;
                }
                ServerFault::Network(fault) => {
                    self.happens(match fault {
                        tcp_proxy::ConnectionFault::Cut | tcp_proxy::ConnectionFault::CutAfter(..) => {
                            "network cut"
                        }
                        tcp_proxy::ConnectionFault::HalfClose(_) => "network half closed",
                        tcp_proxy::ConnectionFault::Stall(..) => "network stall",
                        tcp_proxy::ConnectionFault::Refuse(_) => "network refuses",
                    });
                    self.site.suffer(fault).await;
                }
                ServerFault::Wire(fault) => {
                    self.happens("standby cut off");
                    self.site.suffer_within(fault).await;
                }
            }
        }
    }
}

async fn befall(proxy: &FaultProxy, operations: &[&str], fault: Fault, lasts: Duration) {
    for operation in operations {
        proxy.inject(operation, fault.clone());
    }
    tokio::time::sleep(lasts).await;
    for operation in operations {
        // Not cleared: what is held for a kill stays planned.
        proxy.inject(operation, Fault::Delay(Duration::ZERO));
    }
}
