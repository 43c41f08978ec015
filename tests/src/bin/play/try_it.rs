//! `make try` prints the changes of the user's PostgreSQL.
//!
//! It prints each change when the function has sent it.
//!
//! This program creates a slot, and starts the function. The function drains the slot into a fake Kinesis of
//! this process, which prints each record. libpq's variables, such as `PGHOST`, name the server. At the end
//! the slot is dropped: see [`cleanup`].
//!
//! `make try` passes the variables `PLUGIN`, `TABLES`, `ENVELOPE` and `BACKFILL`. Changes are written to
//! standard output, and everything else to standard error.

mod cleanup;
mod psql;
mod screen;
mod server;
mod summary;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use scenarios::aws::aggregate;
use scenarios::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use scenarios::aws::fake_ssm::FakeSsm;
use scenarios::fixture::Plugin;
use scenarios::lambda::function::{Function, Outcome};
use scenarios::variables::owned;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use cleanup::Cleanup;
use psql::Psql;
use screen::TryItScreen;
use server::Server;

const STREAM: &str = "try";
/// Deadline of an invocation. A tick of a minute would show the state of a backfill late.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time between two reads of the stream: short for a reader.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two measurements of rate and lag.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);
/// Failed invocations in a row that count as a lasting failure.
const MAX_FAILURES: u32 = 5;

/// Settings of the user, from the environment.
struct Settings {
    plugin: Plugin,
    /// Envelope of the printed events; `None` prints one line for each change.
    envelope: Option<String>,
    /// Tables whose rows are read first.
    backfill: Vec<String>,
}

pub(crate) fn main() -> ExitCode {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match scenarios::block_on(Box::pin(run(&settings))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    fn from_env() -> Result<Self, String> {
        let plugin = variable("PLUGIN").unwrap_or_else(|| "test_decoding".to_owned());
        let Some(plugin) = Plugin::from_name(&plugin) else {
            return Err(format!(
                "PLUGIN={plugin} is not one of test_decoding, wal2json, pgoutput"
            ));
        };
        let backfill = variable("BACKFILL").unwrap_or_default();
        let backfill = backfill
            .split(',')
            .map(str::trim)
            .filter(|table| !table.is_empty());
        Ok(Self {
            plugin,
            envelope: variable("ENVELOPE"),
            backfill: backfill.map(str::to_owned).collect(),
        })
    }
}

/// Runs until a signal, the end of output or a failure.
///
/// The output is standard output. The slot is dropped at the end.
async fn run(settings: &Settings) -> Result<(), String> {
    // Before anything is created: from here on a signal ends the run in order.
    let mut signals = Signals::listen();
    let mut screen = TryItScreen::new(settings.envelope.is_none());
    let slot = format!(
        "spillway_try_{}_{:06x}",
        std::process::id(),
        fastrand::u32(..1 << 24)
    );
    let mut psql = Psql::start(&slot)?;
    let server = tokio::select! {
        () = signals.received() => return Ok(()),
        server = Server::inspect(&mut psql) => server?,
    };
    server.check(settings.plugin)?;
    screen.print_line(&server.describe(settings.plugin));
    for left in server.left_slots() {
        screen.print_line(&format!(
            "slot {left} is left from an earlier run: {}",
            cleanup::statement(left)
        ));
    }
    screen.print_line(&format!(
        "slot {slot} is created for this run, and dropped at its end. If it is left, run: {}",
        cleanup::statement(&slot)
    ));
    let mut cleanup = Cleanup::start(&slot)?;
    let stream = FakeKinesis::open(
        STREAM,
        FakeKinesisSettings {
            shards: 1,
            ..FakeKinesisSettings::default()
        },
    )
    .await;
    let ssm = FakeSsm::open(|_, _| ()).await;
    let function = Function::new(environment(settings, &server, &slot, &stream, &ssm));
    let (notices, printed) = unbounded_channel();
    let ended = tokio::select! {
        biased;
        () = signals.received() => Ok(()),
        ended = drain(settings, &function, &mut cleanup, &notices) => ended,
        () = print(&mut screen, &stream, printed, &mut psql, &slot) => Ok(()),
    };
    screen.clear_status();
    function.kill9().await;
    // Records that arrived before the end are printed, even after a failure.
    let _ = print_arrived(&mut screen, &stream);
    let dropped = cleanup.finish();
    ended.and(dropped)
}

/// The signals that end a run.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn listen() -> Self {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        Self(kinds.map(|kind| signal(kind).expect("these signals can be handled")))
    }

    /// Waits for the next of them.
    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    }
}

fn environment(
    settings: &Settings,
    server: &Server,
    slot: &str,
    stream: &FakeKinesis,
    ssm: &FakeSsm,
) -> Vec<(String, String)> {
    let linger = DEADLINE.as_secs().to_string();
    let variables = [
        ("SLOT_NAME", slot),
        ("PUBLICATIONS", slot),
        ("STREAM_NAME", STREAM),
        ("SOURCE_NAME", "spillway_try"),
        (
            "ENVELOPE",
            settings.envelope.as_deref().unwrap_or(summary::ENVELOPE),
        ),
        // One shard and whole records in order: changes are printed in the order of their commits.
        ("AGGREGATION", "kpl"),
        ("LINGER_SECONDS", &linger),
        // A marker would be written into the log of the server. Nobody needs its proof here.
        ("MARKERS", "off"),
        ("AWS_ENDPOINT_URL_KINESIS", stream.endpoint()),
        ("AWS_ENDPOINT_URL_SSM", ssm.endpoint()),
    ];
    let passed = [
        "TABLES",
        "SOURCE_NAME",
        "OVERSIZE",
        "POLL_CPU_PERCENT",
        "STANDBY_ACK",
        "DECIMAL_HANDLING_MODE",
        "TIME_PRECISION_MODE",
        "INTERVAL_HANDLING_MODE",
        "HSTORE_HANDLING_MODE",
        "PROVIDE_TRANSACTION_METADATA",
        "UNWRAP",
        "SCHEMAS_ENABLE",
    ];
    let passed = passed.map(|name| Some((name.to_owned(), variable(name)?)));
    owned(variables)
        .chain(server.environment())
        .chain(passed.into_iter().flatten())
        .collect()
}

/// The last printed state of the backfill.
#[derive(Debug, Default)]
struct PrintedBackfill {
    line: String,
}

impl PrintedBackfill {
    /// A line if the backfill has ended or waits for something else.
    ///
    /// `backfill` is the part of an answer; null without a backfill.
    fn news(&mut self, backfill: &Value) -> Option<String> {
        let rows = &backfill["rows"];
        let line = match (backfill["state"].as_str()?, backfill["waits_for"].as_str()) {
            ("finished", _) => format!("backfill: finished, {rows} rows"),
            ("failed", _) => format!(
                "backfill: ended after {rows} rows, and some tables failed: {}",
                backfill["tables"]["failed"]
            ),
            (_, Some(cause)) => format!("backfill: waits for {cause}"),
            (_, None) => return None,
        };
        (line != self.line).then(|| {
            self.line.clone_from(&line);
            line
        })
    }
}

/// A line for each failed table of an ended backfill.
async fn failed_tables(function: &Function, backfill: &Value) -> Vec<String> {
    if backfill["state"] != "failed" {
        return Vec::new();
    }
    let status = invoke(function, &json!({"action": "status"})).await;
    let tables = status.map_or(Value::Null, |status| status["backfill"]["tables"].clone());
    let tables = tables.as_array().into_iter().flatten();
    tables
        .filter_map(|table| {
            let reason = table["reason"].as_str()?;
            Some(format!("backfill of {}: {reason}", table["table"].as_str()?))
        })
        .collect()
}

/// Creates the slot, starts the backfill, and drains.
///
/// It drains until invocations fail again and again.
async fn drain(
    settings: &Settings,
    function: &Function,
    cleanup: &mut Cleanup,
    notices: &UnboundedSender<String>,
) -> Result<(), String> {
    let notify = |text: String| notices.send(text).unwrap_or(());
    let setup = json!({"action": "setup", "plugin": settings.plugin.name()});
    let setup = invoke(function, &setup).await.map_err(|error| {
        match error.starts_with("PluginNotAllowed") && settings.plugin != Plugin::Pgoutput {
            true => format!("{error}\nPLUGIN=pgoutput is a part of every server."),
            false => error,
        }
    })?;
    cleanup.slot_exists();
    for problem in setup["problems"].as_array().into_iter().flatten() {
        notify(format!("problem: {}", problem.as_str().unwrap_or_default()));
    }
    if !settings.backfill.is_empty() {
        invoke(
            function,
            &json!({"action": "backfill", "tables": settings.backfill}),
        )
        .await?;
    }
    notify("changes are printed as they are committed; ^C ends".to_owned());
    let (mut failures, mut backfill) = (0, PrintedBackfill::default());
    loop {
        match invoke(function, &json!({})).await {
            Ok(answer) => {
                failures = 0;
                if let Some(news) = backfill.news(&answer["backfill"]) {
                    notify(news);
                    for reason in failed_tables(function, &answer["backfill"]).await {
                        notify(reason);
                    }
                }
            }
            Err(error) if failures + 1 == MAX_FAILURES => return Err(error),
            Err(error) => {
                failures += 1;
                // An interrupt at the terminal ends the function, too. The signal arrives within this time.
                tokio::time::sleep(Duration::from_secs(1)).await;
                notify(format!("{error}; it is invoked again"));
            }
        }
    }
}

async fn invoke(function: &Function, event: &Value) -> Result<Value, String> {
    match function.invoke(event, DEADLINE).await {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Error { kind, message } => Err(format!("{kind}: {message}")),
        Outcome::Exited(status) => Err(format!("the function exited: {status}")),
        Outcome::TimedOut => Err("the function was killed at its deadline".to_owned()),
    }
}

/// Prints records and notices until standard output ends.
///
/// It also measures rate and lag.
async fn print(
    screen: &mut TryItScreen,
    stream: &FakeKinesis,
    mut notices: UnboundedReceiver<String>,
    psql: &mut Psql,
    slot: &str,
) {
    let (mut measured, mut before) = (Instant::now(), 0);
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        while let Ok(notice) = notices.try_recv() {
            screen.print_line(&notice);
        }
        if print_arrived(screen, stream).is_err() {
            return;
        }
        let elapsed = measured.elapsed();
        if screen.has_status() && elapsed >= MEASURE_INTERVAL {
            let rate = (screen.changes() - before) as f64 / elapsed.as_secs_f64();
            (measured, before) = (Instant::now(), screen.changes());
            let lag = server::lag_bytes(psql, slot).await;
            screen.status(rate, lag);
        }
    }
}

/// Prints what arrived since the last call.
///
/// # Errors
/// Standard output is closed.
fn print_arrived(screen: &mut TryItScreen, stream: &FakeKinesis) -> std::io::Result<()> {
    let mut events = Vec::new();
    stream.take(|_, _, data| match aggregate::split(data) {
        Ok(Some(records)) => events.extend(records.iter().map(|record| record.data.to_vec())),
        _ => events.push(data.to_vec()),
    });
    screen.print(&events)
}
