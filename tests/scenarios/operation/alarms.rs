//! Alarms of the template fire when their cause exists, and only then.
//!
//! The function writes the metrics. The thresholds come from template.yaml, or from parameters that it
//! accepts. Time is simulated: each tick takes a minute.

use std::time::Duration;

use scenarios::aws::alarms::{Metrics, alarms};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::{PostgresSettings, REPLUSER};
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, start_event};
use crate::support::project_files::read_project_file;

crate::scenarios![
    an_open_transaction_fires_an_alarm_before_the_lag_grows,
    a_slot_in_danger_of_invalidation_fires_an_alarm,
    a_backlog_fires_an_alarm,
    busy_ticks_do_not_stop_the_alarm_of_a_backlog,
    log_that_an_unopenable_slot_retains_fires_an_alarm,
    a_forgotten_prepared_transaction_fires_an_alarm,
    a_dropped_slot_fires_an_alarm_at_once,
    several_slow_failures_fire_an_alarm_and_a_single_one_does_not,
    no_alarm_fires_before_setup_and_silence_fires_one_after_it,
    a_failed_table_of_a_backfill_fires_an_alarm,
    commands_of_a_backfill_do_not_end_a_silence,
    a_wrong_identifier_of_the_cluster_fires_an_alarm,
    metrics_of_aws_fire_alarms_beyond_their_thresholds,
    each_alarm_and_each_error_is_documented,
];

const MINUTE: u64 = 60;

/// The longest `Timeout` of the template, less one minute.
///
/// [`AlarmFixture::collect`] lets this minute pass.
const LONGEST_DRAIN: u64 = 14 * MINUTE;

/// The parameter that creates the alarm on storage.
const CLUSTER: &str = "DbClusterIdentifier=orders";

/// A fixture whose function is invoked, with the metrics of its ticks.
struct AlarmFixture {
    fixture: Fixture,
    metrics: Metrics,
    /// The simulated second.
    now: u64,
    lines: usize,
}

impl AlarmFixture {
    fn new(fixture: Fixture) -> Self {
        AlarmFixture {
            fixture,
            metrics: Metrics::default(),
            // Later than the longest time that an alarm evaluates.
            now: 7_200,
            lines: 0,
        }
    }

    /// A fixture with [`TABLES`] on a server of its own.
    ///
    /// The server's postgresql.conf ends with `conf`.
    async fn on_server_with(conf: &str) -> Self {
        let settings = PostgresSettings::with_conf(conf);
        let builder = Fixture::builder(Plugin::Pgoutput).on_new_server(settings);
        let fixture = builder.build().await;
        fixture.sql(TABLES).await;
        AlarmFixture::new(fixture)
    }

    /// Invokes the function, and collects its metrics. A minute passes.
    async fn invoke(&mut self, event: Value) -> Outcome {
        let outcome = self.fixture.invoke(event).await;
        self.collect(outcome).await
    }

    /// Collects the metrics of an invocation. A minute passes.
    async fn collect(&mut self, outcome: Outcome) -> Outcome {
        let lines = wait::until_some(
            "the summary line is in the log",
            Duration::from_secs(20),
            || async {
                let log = self.fixture.function.log();
                let new = log.get(self.lines..).unwrap_or_default();
                new.iter()
                    .any(|line| line.contains("\"_aws\""))
                    .then(|| new.to_vec())
            },
        )
        .await;
        self.lines += lines.len();
        self.metrics.add_lines(self.now, &lines);
        if !matches!(outcome, Outcome::Answer(_)) {
            self.metrics.add(self.now, "Errors", 1.0);
        }
        self.now += MINUTE;
        outcome
    }

    async fn tick(&mut self) -> Value {
        self.invoke(json!({})).await.answer()
    }

    /// A tick that does not wait for the end of another drainer.
    async fn impatient_tick(&mut self) -> Value {
        let outcome = self.fixture.function.invoke(&json!({}), DEADLINE).await;
        self.collect(outcome).await.answer()
    }

    /// Names of the alarms that fire now.
    fn firing(&self, parameters: &[&str]) -> Vec<String> {
        let alarms = alarms(parameters).into_iter();
        let firing = alarms.filter(|(_, alarm)| alarm.fires(&self.metrics, self.now));
        firing.map(|(name, _)| name).collect()
    }
}

/// Writes about this many MiB of log into an unpublished table.
async fn write_log(fixture: &Fixture, mebibytes: u32) {
    let sql = format!(
        "insert into unpublished select repeat(md5(i::text), 32) from generate_series(1, {}) i",
        mebibytes * 1_000
    );
    fixture.sql(&sql).await;
}

const TABLES: &str = "
    create table t (id int primary key);
    create table unpublished (what text);
    alter table unpublished alter what set storage external;
    drop publication if exists spillway;
    create publication spillway for table t";

async fn an_open_transaction_fires_an_alarm_before_the_lag_grows() {
    let parameters = [
        "AlarmRetainedBytes=8388608",
        "AlarmLagBytes=8388608",
        "AlarmTransactionSeconds=5",
    ];
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql(TABLES).await;
    fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    let mut watched = AlarmFixture::new(fixture);
    watched.tick().await;
    assert_eq!(watched.firing(&parameters), Vec::<String>::new());
    let open = watched.fixture.postgres.admin(&watched.fixture.database).await;
    let begin = "begin; insert into t values (1)";
    open.batch_execute(begin).await.expect("a transaction begins");
    let mut retained = None;
    for _ in 0..4 {
        write_log(&watched.fixture, 4).await;
        let report = watched.tick().await;
        assert_eq!(report["stopped"], "empty", "{report}");
        assert!(report["lag_bytes"].as_u64() < Some(1 << 20), "{report}");
        assert_eq!(report["behind_seconds"], 0, "{report}");
        assert_eq!(report["wal_status"], "reserved", "{report}");
        retained = report["retained_bytes"].as_u64();
    }
    // The server keeps the log from the start of the transaction on. At first, it may keep older log, too.
    assert!(retained > Some(12 << 20), "{retained:?}");
    let lag = watched.metrics.values("LagBytes");
    assert!(lag.iter().all(|bytes| *bytes < 1e6), "{lag:?}");
    wait_until_transaction_is_old(&watched.fixture).await;
    // The alarm on retained log compares the minimum of five minutes.
    for _ in 0..5 {
        watched.tick().await;
    }
    assert_eq!(
        watched.firing(&parameters),
        ["OldTransactionAlarm", "RetainedAlarm"]
    );
    // The next drain may take as long as the longest `Timeout`, and is counted when it ends.
    watched.now += LONGEST_DRAIN;
    assert!(
        watched
            .firing(&parameters)
            .contains(&"OldTransactionAlarm".to_owned())
    );
    open.batch_execute("rollback").await.expect("it ends");
    // The slot keeps less once it has decoded a later snapshot of the running transactions.
    for _ in 0..6 {
        watched.fixture.sql("checkpoint").await;
        watched
            .fixture
            .sql("insert into t values (2) on conflict do nothing")
            .await;
        watched.tick().await;
    }
    for _ in 0..15 {
        watched.tick().await;
    }
    assert_eq!(watched.firing(&parameters), Vec::<String>::new());
}

/// Waits until a transaction is old enough: a younger one is not reported.
async fn wait_until_transaction_is_old(fixture: &Fixture) {
    wait::until("the transaction is old", Duration::from_secs(60), || async {
        let sql = "select max(extract(epoch from clock_timestamp() - xact_start)) > 6 from pg_stat_activity \
                   where state = 'idle in transaction'";
        fixture.value(sql).await.as_deref() == Some("t")
    })
    .await;
}

async fn a_slot_in_danger_of_invalidation_fires_an_alarm() {
    let parameters = ["AlarmSafeWalBytes=67108864"];
    let mut watched =
        AlarmFixture::on_server_with("max_slot_wal_keep_size = '96MB'\nmax_wal_size = '64MB'\n").await;
    let report = watched.tick().await;
    assert!(report["safe_wal_size"].as_i64() > Some(67_108_864), "{report}");
    assert_eq!(watched.firing(&parameters), Vec::<String>::new());
    let open = watched.fixture.postgres.admin(&watched.fixture.database).await;
    let begin = "begin; insert into t values (1)";
    open.batch_execute(begin).await.expect("a transaction begins");
    write_log(&watched.fixture, 60).await;
    let report = watched.tick().await;
    assert!(report["safe_wal_size"].as_i64() < Some(67_108_864), "{report}");
    assert_eq!(watched.firing(&parameters), ["SafeWalAlarm"]);
}

async fn a_backlog_fires_an_alarm() {
    let parameters = ["AlarmLagBytes=1048576"];
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("STANDBY_ACK", "required")
        .build()
        .await;
    fixture.sql(TABLES).await;
    fixture.sql(&format!("grant pg_monitor to {}", REPLUSER.0)).await;
    let mut watched = AlarmFixture::new(fixture);
    for minute in 0..15 {
        let lag = 2e6 + f64::from(minute);
        let second = watched.now;
        watched.metrics.add(second, "LagBytes", lag);
        watched.metrics.add(second, "Drains", 1.0);
        watched.now += MINUTE;
    }
    assert_eq!(watched.firing(&parameters), ["LagAlarm"]);
    // A drain that fails reports its lag, too.
    write_log(&watched.fixture, 2).await;
    let (kind, _) = watched.invoke(json!({})).await.error();
    assert_eq!(kind, "StandbyUnseen");
    let lag = watched.metrics.values("RetainedBytes");
    assert!(lag.last() > Some(&1e6), "{lag:?}");
}

async fn busy_ticks_do_not_stop_the_alarm_of_a_backlog() {
    let parameters = ["AlarmLagBytes=1048576"];
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql(TABLES).await;
    let mut watched = AlarmFixture::new(fixture);
    watched.tick().await;
    write_log(&watched.fixture, 4).await;
    let drainer = watched.fixture.postgres.admin(&watched.fixture.database).await;
    let lock = "select pg_advisory_lock(hashtextextended('spillway:' || $1, 0))";
    let slot = watched.fixture.slot.clone();
    drainer.query(lock, &[&slot]).await.expect("the lock is free");
    for _ in 0..15 {
        let report = watched.impatient_tick().await;
        assert_eq!(report["stopped"], "busy", "{report}");
        assert!(report["lag_bytes"].as_u64() > Some(1 << 20), "{report}");
    }
    let firing = watched.firing(&parameters);
    assert!(firing.contains(&"LagAlarm".to_owned()), "{firing:?}");
}

async fn log_that_an_unopenable_slot_retains_fires_an_alarm() {
    let parameters = ["AlarmRetainedBytes=8388608"];
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture.sql(TABLES).await;
    let mut watched = AlarmFixture::new(fixture);
    watched.tick().await;
    let function = &mut watched.fixture.function;
    function.set("STREAM_NAME", "no_such_stream").await;
    watched.lines = watched.fixture.function.log().len();
    write_log(&watched.fixture, 12).await;
    for _ in 0..6 {
        let (kind, _) = watched.invoke(json!({})).await.error();
        assert_eq!(kind, "StreamMissing");
    }
    let firing = watched.firing(&parameters);
    assert!(firing.contains(&"RetainedAlarm".to_owned()), "{firing:?}");
}

async fn a_forgotten_prepared_transaction_fires_an_alarm() {
    let parameters = ["AlarmTransactionSeconds=5"];
    let mut watched = AlarmFixture::on_server_with("max_prepared_transactions = 2\n").await;
    watched.tick().await;
    let prepare = "begin; insert into t values (1); prepare transaction 'forgotten'";
    watched.fixture.sql(prepare).await;
    let is_old = "select (clock_timestamp() - prepared > interval '6 seconds')::text from pg_prepared_xacts";
    wait::until("it is old", Duration::from_secs(60), || async {
        watched.fixture.value(is_old).await.as_deref() == Some("true")
    })
    .await;
    for _ in 0..6 {
        watched.tick().await;
    }
    assert_eq!(watched.firing(&parameters), ["OldTransactionAlarm"]);
    watched.fixture.sql("rollback prepared 'forgotten'").await;
}

async fn a_dropped_slot_fires_an_alarm_at_once() {
    let mut watched = AlarmFixture::new(Fixture::new(Plugin::Pgoutput).await);
    watched.fixture.sql(TABLES).await;
    watched.tick().await;
    watched.fixture.drop_slot().await;
    assert_eq!(watched.firing(&[]), Vec::<String>::new());
    let (kind, _) = watched.invoke(json!({})).await.error();
    assert_eq!(kind, "SlotMissing");
    assert_eq!(watched.firing(&[]), ["DiscontinuityAlarm"]);
    // The next tick may take minutes.
    watched.now += 5 * MINUTE;
    assert_eq!(watched.firing(&[]), ["DiscontinuityAlarm"]);
}

async fn several_slow_failures_fire_an_alarm_and_a_single_one_does_not() {
    let mut watched = AlarmFixture::new(Fixture::new(Plugin::Pgoutput).await);
    watched.fixture.sql(TABLES).await;
    watched.tick().await;
    watched
        .fixture
        .function
        .set("STREAM_NAME", "no_such_stream")
        .await;
    watched.lines = watched.fixture.function.log().len();
    let mut has_fired = Vec::new();
    for _ in 0..3 {
        let (kind, _) = watched.invoke(json!({})).await.error();
        assert_eq!(kind, "StreamMissing");
        // Each invocation fails after five minutes. Its datapoint has the time of its start.
        watched.now += 4 * MINUTE;
        watched.now += 2 * MINUTE;
        has_fired.push(watched.firing(&[]).contains(&"ErrorsAlarm".to_owned()));
        watched.now -= 2 * MINUTE;
    }
    assert_eq!(has_fired, [false, false, true]);
}

async fn no_alarm_fires_before_setup_and_silence_fires_one_after_it() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    let mut watched = AlarmFixture::new(fixture);
    for _ in 0..12 {
        let report = watched.tick().await;
        assert_eq!(
            (&report["stopped"], &report["errorType"]),
            (&json!("not_set_up"), &json!("NotSetUp")),
            "{report}"
        );
    }
    assert_eq!(watched.firing(&[]), Vec::<String>::new());
    watched.now += 11 * MINUTE;
    assert_eq!(watched.firing(&[]), ["SilenceAlarm"]);
}

async fn a_failed_table_of_a_backfill_fires_an_alarm() {
    let sql = "create table t (id int primary key); insert into t select generate_series(1, 9)";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    let mut watched = AlarmFixture::new(fixture);
    watched.tick().await;
    assert_eq!(watched.firing(&[]), Vec::<String>::new());
    let mut event = start_event(&["public.t"], 2);
    // The fifth row divides by zero.
    event["where"] = json!("1 / (id - 5) < 9");
    let report = watched.invoke(event).await.answer();
    assert_eq!(report["backfill"]["tables"]["failed"], 1, "{report}");
    assert_eq!(watched.firing(&[]), ["BackfillAlarm"]);
    watched.now += LONGEST_DRAIN;
    assert_eq!(watched.firing(&["AlarmSilentMinutes=20"]), ["BackfillAlarm"]);
}

async fn commands_of_a_backfill_do_not_end_a_silence() {
    let sql = "create table t (id int primary key); insert into t values (1)";
    let fixture = fixture_with_tables(Fixture::builder(Plugin::Pgoutput), sql).await;
    for command in [
        json!({"action": "backfill", "tables": ["public.t"]}),
        json!({"action": "backfill", "pause": true}),
        json!({"action": "backfill", "resume": true}),
        json!({"action": "backfill", "cancel": true}),
    ] {
        fixture.invoke(command).await.answer();
    }
    let answers = wait::until_some("four answers are logged", DEADLINE, || async {
        let mut log = fixture.function.log();
        log.retain(|line| line.contains(r#""action":"backfill""#));
        (log.len() == 4).then_some(log)
    })
    .await;
    assert!(!answers.concat().contains("Drains"), "{answers:#?}");
}

/// RDS writes no metric for a name that no cluster has.
async fn a_wrong_identifier_of_the_cluster_fires_an_alarm() {
    let without_metric = Metrics::default();
    assert!(alarms(&[CLUSTER])["StorageAlarm"].fires(&without_metric, 7_200));
    assert!(!alarms(&[]).contains_key("StorageAlarm"));
}

/// RDS and Kinesis write these metrics, so the scenario writes them here.
async fn metrics_of_aws_fire_alarms_beyond_their_thresholds() {
    let day = 24.0 * 3_600_000.0;
    for (alarm, metric, accepted, alarming) in [
        ("StorageAlarm", "FreeStorageSpace", 21e9 * 1.1, 5e9),
        (
            "LateConsumersAlarm",
            "GetRecords.IteratorAgeMilliseconds",
            3.0 * day,
            4.0 * day,
        ),
    ] {
        let all = alarms(&[CLUSTER]);
        for (value, fires) in [(accepted, false), (alarming, true)] {
            let mut metrics = Metrics::default();
            for minute in 0..20 {
                metrics.add(7_200 + minute * MINUTE, metric, value);
            }
            assert_eq!(
                all[alarm].fires(&metrics, 7_200 + 20 * MINUTE),
                fires,
                "{alarm} at {value}"
            );
        }
    }
}

async fn each_alarm_and_each_error_is_documented() {
    let runbook = read_project_file("docs/runbook.md").to_lowercase();
    for name in alarms(&[CLUSTER]).keys() {
        // `OldTransactionAlarm` has the section "Old transaction".
        let words = name.trim_end_matches("Alarm").chars();
        let words = words.flat_map(|c| [c.is_uppercase().then_some(' '), Some(c.to_ascii_lowercase())]);
        let words: String = words.flatten().collect();
        let heading = format!("\n###{words}");
        // `RetainedAlarm` and `SafeWalAlarm` watch the log.
        let heading = heading.trim_end_matches(" wal");
        assert!(runbook.contains(heading), "docs/runbook.md lacks {heading}");
    }
    let errors = read_project_file("docs/errors.md");
    let mut count = 0;
    for path in [
        "error.rs",
        "config/mod.rs",
        "ports/error.rs",
        "continuity/error.rs",
    ] {
        let source = read_project_file(&format!("functions/drain/src/{path}"));
        for name in error_types(&source) {
            count += 1;
            let rows = errors.matches(&format!("| `{name}` |")).count();
            assert_eq!(rows, 1, "rows of docs/errors.md for {name}");
        }
    }
    assert!(count > 48, "{count} error types were found");
}

/// The texts in the bodies of `name()`.
fn error_types(source: &str) -> Vec<&str> {
    let bodies = source.split("fn name(&self) -> &'static str {").skip(1);
    bodies
        .filter_map(|rest| rest.split("\n    }\n").next())
        .flat_map(|body| body.split('"').skip(1).step_by(2))
        .collect()
}
