//! Parts of one play: database, stream, parameter store, function, and the fault proxies between them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::clock::Clock;
use super::database::Database;
use super::parameter_store::ParameterStore;
use super::result::{Counter, Log, PlayResult};
use super::settings::PlaySettings;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::aws::fault_proxy::FaultProxy;
use crate::lambda::function::{Function, Outcome};
use crate::postgres::lsn::parse_lsn;
use crate::variables::owned;

/// Violations that are kept while a play runs.
const MAX_VIOLATIONS: usize = 10;
/// Pause between two comparisons of slot and checkpoint.
const CHECK_PAUSE: Duration = Duration::from_millis(30);

/// All parts of one play.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) database: Arc<Database>,
    pub(super) stream: Arc<FakeKinesis>,
    pub(super) stream_proxy: FaultProxy,
    pub(super) parameters: ParameterStore,
    pub(super) parameter_proxy: FaultProxy,
    pub(super) function: Function,
    pub(super) second_sandbox: Function,
    pub(super) clock: Clock,
    /// Name of the slot and the stream.
    pub(super) slot: String,
    tolerated_errors: &'static [&'static str],
    has_faults: bool,
    result: Mutex<PlayResult>,
}

impl Environment {
    /// Starts all parts around `database`.
    pub(super) async fn start(database: Arc<Database>, settings: &PlaySettings) -> Self {
        let slot = settings.name.clone();
        let stream = Arc::new(FakeKinesis::open(&slot, settings.stream).await);
        let stream_proxy = FaultProxy::open(stream.endpoint()).await;
        let parameters = ParameterStore::open(Arc::clone(&stream)).await;
        let parameter_proxy = FaultProxy::open(parameters.endpoint()).await;
        let clock = Clock::new();
        let has_faults = settings.faults.iter().any(|sequence| !sequence.is_empty());
        let [kinesis, ssm] = match has_faults {
            true => [stream_proxy.endpoint(), parameter_proxy.endpoint()],
            false => [stream.endpoint(), parameters.endpoint()],
        };
        let variables = [
            ("DB_AUTH", "password"),
            ("SLOT_NAME", &slot),
            ("STREAM_NAME", &slot),
            ("AWS_ENDPOINT_URL_KINESIS", kinesis),
            ("AWS_ENDPOINT_URL_SSM", ssm),
        ];
        let variables = variables.into_iter().chain(settings.variables.iter().copied());
        let clock_variables = clock.environment().into_iter().filter(|_| has_faults);
        let variables = owned(variables)
            .chain(clock_variables)
            .chain(database.environment(has_faults));
        let function = Function::new(variables);
        Self {
            database,
            second_sandbox: function.second_instance(),
            function,
            stream,
            stream_proxy,
            parameters,
            parameter_proxy,
            clock,
            slot,
            tolerated_errors: settings.tolerated_errors,
            has_faults,
            result: Mutex::new(PlayResult {
                settings: settings.summary.clone(),
                ..PlayResult::default()
            }),
        }
    }

    /// Result of the play so far.
    pub(super) fn result(&self) -> MutexGuard<'_, PlayResult> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a violation of the promise, unless there are many already.
    pub(super) fn add_violation(&self, what: String) {
        let mut result = self.result();
        if result.violations.len() < MAX_VIOLATIONS {
            result.violations.push(what);
        }
    }

    /// Invokes the function; returns its report, if it succeeded.
    pub(super) async fn invoke(&self, event: &Value, deadline: Duration) -> Option<Value> {
        self.record(self.function.invoke(event, deadline).await)
    }

    /// Counts the outcome of an invocation; returns its report, if any.
    pub(super) fn record(&self, outcome: Outcome) -> Option<Value> {
        use std::os::unix::process::ExitStatusExt as _;
        let is_tolerated = match &outcome {
            Outcome::Answer(_) => true,
            Outcome::Error { kind, .. } => self.tolerated_errors.contains(&kind.as_str()),
            // A fault kills the function, or delays it beyond its deadline.
            Outcome::Exited(status) => self.has_faults && status.signal() == Some(9),
            Outcome::TimedOut => self.has_faults,
        };
        if !is_tolerated {
            self.add_violation(format!("an invocation ended with {outcome:?}"));
        }
        let (ended, report) = match outcome {
            Outcome::Answer(report) => (report["stopped"].as_str().unwrap_or("?").to_owned(), Some(report)),
            Outcome::Error { kind, .. } => (kind, None),
            Outcome::Exited(status) if status.signal() == Some(9) => ("killed".to_owned(), None),
            Outcome::Exited(_) => ("exited".to_owned(), None),
            Outcome::TimedOut => ("timed out".to_owned(), None),
        };
        let mut result = self.result();
        *result.invocations.entry(ended).or_default() += 1;
        result.counts.add(Counter::Invocations, 1);
        if let Some(report) = &report {
            for (counter, value) in [
                (Counter::Skipped, &report["skipped"]),
                (Counter::Replayed, &report["replayed"]),
                (Counter::Retried, &report["retried"]),
                (Counter::LagBytes, &report["lag_bytes"]),
                (Counter::Overtaken, &report["backfill"]["overtaken"]),
            ] {
                result.counts.add(counter, value.as_u64().unwrap_or(0));
            }
        }
        report
    }

    /// Invokes the function without parameters: one tick.
    pub(super) async fn tick(&self, deadline: Duration) -> Option<Value> {
        self.invoke(&json!({}), deadline).await
    }

    /// Checks `confirmed_flush <= checkpoint` again and again until the play is `over`.
    pub(super) async fn check_slot_until(&self, over: &AtomicBool) {
        const CONFIRMED: &str =
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
        while !over.load(Ordering::Relaxed) {
            let Ok(client) = self.database.connect().await else {
                tokio::time::sleep(CHECK_PAUSE).await;
                continue;
            };
            while !over.load(Ordering::Relaxed) {
                let Ok(row) = client.query_opt(CONFIRMED, &[&self.slot]).await else {
                    break;
                };
                let confirmed = row.and_then(|row| row.get::<_, Option<String>>(0));
                self.check_slot(confirmed.as_deref().and_then(parse_lsn));
                tokio::time::sleep(CHECK_PAUSE).await;
            }
        }
    }

    fn check_slot(&self, confirmed: Option<u64>) {
        // The checkpoint is read after the slot: meanwhile it can only have grown.
        let stored = self.parameters.checkpoint().map(|stored| stored.commit_end);
        self.result().counts.add(Counter::Checks, 1);
        if let (Some(confirmed), Some(stored)) = (confirmed, stored)
            && confirmed > stored
        {
            self.add_violation(format!(
                "confirmed_flush {confirmed:X} was beyond the checkpoint {stored:X}"
            ));
        }
    }

    /// Ends all faults, and both sandboxes.
    pub(super) async fn end_faults(&self) {
        self.stream_proxy.clear();
        self.parameter_proxy.clear();
        self.database.end_network_faults();
        self.clock.jump(0);
        // An invocation that started with a wrong clock may run long beyond its deadline.
        self.kill_sandboxes().await;
    }

    /// Ends the function, and searches its log for forbidden lines.
    pub(super) async fn stop(&self) {
        self.kill_sandboxes().await;
        let lines = self.function.log().into_iter().chain(self.second_sandbox.log());
        let bad = lines.filter(|line| line.contains(r#""kind":"Definite""#) || line.contains("panicked"));
        let mut result = self.result();
        result.violations.extend(bad.take(5));
        let (peak, stores) = (
            self.function.peak_memory_bytes(),
            self.parameters.checkpoints().len(),
        );
        result.counts.add(Counter::PeakMemoryBytes, peak);
        result.counts.add(Counter::Stores, stores as u64);
    }

    /// Logs of both sandboxes, and of the servers of the database.
    pub(super) fn logs(&self) -> Vec<Log> {
        let sandboxes = [
            ("function.log", &self.function),
            ("second-sandbox.log", &self.second_sandbox),
        ];
        let sandboxes = sandboxes.map(|(name, function)| Log {
            name,
            text: function.log().join("\n"),
        });
        sandboxes.into_iter().chain(self.database.logs()).collect()
    }

    async fn kill_sandboxes(&self) {
        tokio::join!(self.function.kill9(), self.second_sandbox.kill9());
    }

    /// Takes the environment apart: the database and the result stay.
    pub(super) fn into_parts(self) -> (Arc<Database>, PlayResult) {
        let result = self.result.into_inner();
        (self.database, result.unwrap_or_else(PoisonError::into_inner))
    }
}
