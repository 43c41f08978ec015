//! One drainer per slot: a second one answers `busy`, which is not an error, and changes nothing.
//!
//! It drains as soon as the first one has ended or died.

use std::process::Stdio;
use std::time::Duration;

use scenarios::aws::fault_proxy::{FaultProxy, FaultSide};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::{Function, Outcome};
use scenarios::postgres::ADMIN;
use scenarios::postgres::slots::{wait_until_free, wait_until_used};
use scenarios::wait;
use serde_json::{Value, json};

use crate::support::backlog;
use crate::support::gap::{accept_gap, advance_slot, gap_events};
use crate::support::positions::wait_until_sessions_end;

crate::scenarios![
    a_second_drainer_is_busy_and_changes_nothing,
    a_killed_drainer_releases_the_lock,
    a_slot_of_another_reader_is_busy,
    a_gap_is_not_accepted_beside_another_reader,
    an_action_waits_for_a_drain_and_then_names_the_drainer,
    a_drainer_that_lost_its_session_does_not_judge_the_checkpoint_of_another,
];

/// Maximum number of tries to end a session at the intended moment.
const MAX_TRIES: u32 = 20;

/// Fixture with a backlog of one key.
///
/// One request at a time is in flight, so a held request stops the drain.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    fixture.sql("insert into t values (1, 0)").await;
    fixture.sql("update t set n = n + 1").await;
    fixture
}

/// Second instance of the function, with its own proxies.
///
/// The proxies count what this instance does to Kinesis and SSM. The first instance may store its checkpoint
/// meanwhile, and send its held request again.
struct SecondDrainer {
    function: Function,
    kinesis_proxy: FaultProxy,
    ssm_proxy: FaultProxy,
}

impl SecondDrainer {
    async fn of(fixture: &Fixture) -> Self {
        let kinesis_proxy = FaultProxy::open(fixture.kinesis_proxy.endpoint()).await;
        let ssm_proxy = FaultProxy::open(fixture.ssm_proxy.endpoint()).await;
        let mut function = fixture.function.second_instance();
        function
            .set("AWS_ENDPOINT_URL_KINESIS", kinesis_proxy.endpoint())
            .await;
        function.set("AWS_ENDPOINT_URL_SSM", ssm_proxy.endpoint()).await;
        Self {
            function,
            kinesis_proxy,
            ssm_proxy,
        }
    }

    /// Asserts that a tick is busy, reports no work, and changes nothing.
    async fn assert_busy(&self, fixture: &Fixture) {
        let confirmed = fixture.confirmed_flush().await;
        let report = self.function.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "busy", "{report}");
        assert_eq!(
            (&report["changes"], &report["records"]),
            (&json!(0), &json!(0)),
            "{report}"
        );
        assert_eq!(fixture.confirmed_flush().await, confirmed);
        assert_eq!(self.kinesis_proxy.requests("PutRecords"), 0);
        assert_eq!(self.ssm_proxy.requests("PutParameter"), 0);
    }
}

/// Drains the rest; asserts that exactly the log's events arrived.
async fn finish(fixture: &Fixture) {
    fixture.drain().await;
    backlog::compare(fixture).await;
}

/// Outcome of an invocation that overlaps with `meanwhile`.
///
/// Its first PutRecords and the retries of this request are held while `meanwhile` runs.
async fn invoke_with_held_put(fixture: &Fixture, meanwhile: impl AsyncFnOnce()) -> Outcome {
    let proxy = &fixture.kinesis_proxy;
    let mut held = proxy.hold_with_retries("PutRecords", FaultSide::Request);
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.wait_until_held().await;
        meanwhile().await;
        held.release();
    });
    outcome
}

async fn a_second_drainer_is_busy_and_changes_nothing() {
    let fixture = fixture().await;
    let drainer = SecondDrainer::of(&fixture).await;
    let second = &drainer.function;
    let first = invoke_with_held_put(&fixture, async || {
        drainer.assert_busy(&fixture).await;
        let busy = second.invoke(&json!({}), DEADLINE).await.answer();
        let status = second
            .invoke(&json!({"action": "status"}), DEADLINE)
            .await
            .answer();
        for answer in [&busy, &status] {
            let drainer = &answer["drainer"];
            assert!(
                drainer["pid"].is_i64() && drainer["age_seconds"].is_i64(),
                "{answer}"
            );
        }
        assert_eq!(status["problems"], json!([]), "{status}");
    })
    .await;
    let first = first.answer();
    assert_eq!(
        (&first["stopped"], &first["drainer"]),
        (&json!("empty"), &Value::Null),
        "{first}"
    );
    wait_until_sessions_end(&fixture).await;
    let status = second
        .invoke(&json!({"action": "status"}), DEADLINE)
        .await
        .answer();
    assert_eq!(status["drainer"], Value::Null, "{status}");
    let after = second.invoke(&json!({}), DEADLINE).await.answer();
    assert_eq!(after["stopped"], "empty", "the lock is free again: {after}");
    assert_eq!(fixture.consume().await.duplicates(), 0);
    finish(&fixture).await;
}

async fn a_killed_drainer_releases_the_lock() {
    let fixture = fixture().await;
    let drainer = SecondDrainer::of(&fixture).await;
    let second = &drainer.function;
    let first = invoke_with_held_put(&fixture, async || {
        drainer.assert_busy(&fixture).await;
        fixture.function.kill9().await;
    })
    .await;
    assert!(matches!(first, Outcome::Exited(_)), "{first:?}");
    wait::until("the next invocation gets the lock", DEADLINE, || async {
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        report["stopped"] == "empty" && report["changes"] != 0
    })
    .await;
    finish(&fixture).await;
}

/// Starts pg_recvlogical on the fixture's slot. It neither confirms what it reads nor connects again.
fn start_reader(fixture: &Fixture) -> tokio::process::Child {
    let (port, database) = (fixture.postgres.port(), &fixture.database);
    let to = format!("host=127.0.0.1 port={port} dbname={database} user={}", ADMIN.0);
    let slot = fixture.slot.as_str();
    tokio::process::Command::new(fixture.postgres.client_programs().join("pg_recvlogical"))
        .args(["--dbname", &to, "--slot", slot, "--start", "--no-loop"])
        .args(["--file", "/dev/null", "--status-interval", "0"])
        .args([
            "--option",
            "proto_version=1",
            "--option",
            "publication_names=spillway",
        ])
        .env("PGPASSWORD", ADMIN.1)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("pg_recvlogical: {error}"))
}

async fn a_slot_of_another_reader_is_busy() {
    let fixture = fixture().await;
    let mut reader = start_reader(&fixture);
    wait_until_used(&fixture.connect().await, &fixture.slot).await;
    let drainer = SecondDrainer::of(&fixture).await;
    drainer.assert_busy(&fixture).await;
    let killed = reader.kill().await;
    killed.unwrap_or_else(|error| panic!("pg_recvlogical: {error}"));
    wait_until_free(&fixture.connect().await, &fixture.slot).await;
    finish(&fixture).await;
}

async fn a_gap_is_not_accepted_beside_another_reader() {
    let fixture = backlog::fixture_with_backlog().await;
    let confirmed = advance_slot(&fixture).await;
    let mut reader = start_reader(&fixture);
    wait_until_used(&fixture.connect().await, &fixture.slot).await;
    let answer = fixture
        .function
        .invoke(&accept_gap(&confirmed), DEADLINE)
        .await
        .answer();
    assert_eq!(answer["stopped"], "busy", "{answer}");
    assert!(answer["drainer"].is_null(), "{answer}");
    assert_eq!(gap_events(&fixture.consume().await).len(), 0);
    let killed = reader.kill().await;
    killed.unwrap_or_else(|error| panic!("pg_recvlogical: {error}"));
    wait_until_free(&fixture.connect().await, &fixture.slot).await;
    fixture.invoke(accept_gap(&confirmed)).await.answer();
    assert_eq!(gap_events(&fixture.consume().await).len(), 1);
}

async fn an_action_waits_for_a_drain_and_then_names_the_drainer() {
    let fixture = fixture().await;
    let (second, third) = (
        fixture.function.second_instance(),
        fixture.function.second_instance(),
    );
    let teardown = json!({"action": "teardown"});
    let mut waiting = Box::pin(second.invoke(&teardown, DEADLINE));
    let first = invoke_with_held_put(&fixture, async || {
        let confirmed = fixture.confirmed_flush().await;
        // Its own time is over before the drain ends.
        let (kind, message) = third.invoke(&teardown, Duration::from_secs(8)).await.error();
        assert_eq!(kind, "Busy", "{message}");
        assert!(message.contains("(server process "), "{message}");
        let answered = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(answered.is_err(), "{answered:?}");
        assert_eq!(fixture.confirmed_flush().await, confirmed);
    })
    .await;
    assert_eq!(first.answer()["stopped"], "empty");
    let dropped = waiting.await.answer()["dropped"].to_string();
    assert!(dropped.contains(&fixture.slot), "{dropped}");
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(delivery.changes().len(), backlog::events(&fixture).await);
}

/// Drainer whose checkpoint another one stored.
///
/// The first drainer has inspected the server, and waits for the checkpoint. Then it loses its session, and
/// the second one drains. The server shows a prepared statement as if it had been executed. So the session
/// may be lost before the inspection, and the drainers try again.
async fn a_drainer_that_lost_its_session_does_not_judge_the_checkpoint_of_another() {
    let fixture = fixture().await;
    let drainer = SecondDrainer::of(&fixture).await;
    for _ in 0..MAX_TRIES {
        let (name, message) = lose_session_after_inspection(&fixture, &drainer).await.error();
        assert_eq!(name, "PostgresFailed", "{message}");
        if message.contains("checking the lock") {
            return finish(&fixture).await;
        }
    }
    panic!("the session was lost before the inspection {MAX_TRIES} times");
}

/// Outcome of an invocation that loses its session.
///
/// The second drainer drains before the first one reads its checkpoint.
async fn lose_session_after_inspection(fixture: &Fixture, drainer: &SecondDrainer) -> Outcome {
    let sessions = "from pg_stat_activity where usename = 'repluser' and datname = current_database()";
    let inspected =
        format!("select count(*) {sessions} and state = 'idle' and query like '%pg_control_system%'");
    let mut held = fixture
        .ssm_proxy
        .hold_with_retries("GetParameter", FaultSide::Request);
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.wait_until_held().await;
        wait::until("the server is inspected", DEADLINE, || async {
            fixture.value(&inspected).await.as_deref() == Some("1")
        })
        .await;
        fixture
            .sql(&format!("select pg_terminate_backend(pid) {sessions}"))
            .await;
        wait_until_sessions_end(fixture).await;
        fixture.sql("update t set n = n + 1").await;
        let report = drainer.function.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(report["stopped"], "empty", "{report}");
        held.release();
    });
    outcome
}
