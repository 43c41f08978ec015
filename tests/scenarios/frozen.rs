//! Lambda freezes a sandbox while it holds the lock, or takes it for dead: the server lets go of it within seconds, the
//! next one drains on, and when the old one wakes up it may send again what was sent, and does no other harm.

use std::time::Duration;

use scenarios::aws::fault_proxy::{FaultSide, HeldRequest};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::{Function, Outcome};
use scenarios::wait;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::SlotPositions;

crate::scenarios![
    a_frozen_function_loses_the_lock_at_its_deadline,
    a_function_frozen_before_its_put_does_no_harm,
    a_function_frozen_after_its_put_does_no_harm,
    a_function_frozen_after_its_checkpoint_does_no_harm,
    the_server_probes_a_silent_function_every_few_seconds,
];

/// A few transactions of one key, so that one request at a time is under way: when it is held, nothing else moves.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    fixture.sql("insert into t values (1, 0)").await;
    for _ in 0..5 {
        fixture.sql("update t set n = n + 1").await;
    }
    fixture
}

/// Invokes the function, freezes it when the request is held, and plays `meanwhile`. Then it wakes up, and its request
/// goes on: how it ended.
async fn frozen_at(
    fixture: &Fixture,
    mut held: HeldRequest,
    deadline: Duration,
    meanwhile: impl AsyncFnOnce(),
) -> Outcome {
    let tick = json!({});
    let invocation = fixture.function.invoke_with_limit(&tick, deadline, 2 * DEADLINE);
    let (outcome, ()) = tokio::join!(invocation, async {
        held.wait_until_held().await;
        fixture.function.freeze();
        meanwhile().await;
        fixture.function.thaw();
        held.release();
    });
    outcome
}

/// Another sandbox. It goes past the fault proxy, which would take the two for one that has two records of a key under way.
async fn second(fixture: &Fixture) -> Function {
    let mut second = fixture.function.second_instance();
    second
        .set("AWS_ENDPOINT_URL_KINESIS", fixture.kinesis.endpoint())
        .await;
    second
}

/// Ticks of another sandbox: once one is let in it drains what there is, and what is committed then.
async fn takes_over(fixture: &Fixture, second: &Function) {
    wait::until("the next one is let in", DEADLINE, || async {
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        report["stopped"] == "empty"
    })
    .await;
    fixture.sql("update t set n = n + 1").await;
    let report = second.invoke(&json!({}), DEADLINE).await.answer();
    assert_eq!(
        (&report["stopped"], &report["changes"]),
        (&json!("empty"), &json!(1)),
        "{report}"
    );
    SlotPositions::read(fixture).await;
}

/// Nothing was lost, the order holds, and so does what slot and checkpoint promise each other.
async fn finish(fixture: &Fixture) {
    SlotPositions::read(fixture).await;
    fixture.sql("update t set n = n + 1").await;
    fixture.drain().await;
    SlotPositions::read(fixture).await;
    let delivery = fixture.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(fixture).await,
        "every event, and no other"
    );
}

/// A stopped process is not a stopped machine: its kernel goes on to answer for it. What ends its sessions here is what
/// the server knows of the invocation's time.
async fn a_frozen_function_loses_the_lock_at_its_deadline() {
    let fixture = fixture().await;
    let second = second(&fixture).await;
    let held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
    let old = frozen_at(&fixture, held, Duration::from_secs(8), async || {
        let report = second.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(
            report["stopped"], "busy",
            "the lock is held, and nobody runs: {report}"
        );
        takes_over(&fixture, &second).await;
    })
    .await;
    assert!(
        matches!(old, Outcome::Answer(_) | Outcome::Error { .. }),
        "{old:?}"
    );
    finish(&fixture).await;
}

/// The server has given it up as [`the_server_probes_a_silent_function_every_few_seconds`], and another one has drained all,
/// when it wakes up with most of its time before it.
async fn given_up_and_woken(fixture: &Fixture, held: HeldRequest) {
    let second = second(fixture).await;
    let old = frozen_at(fixture, held, DEADLINE, async || {
        fixture.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spillway {}'",
            fixture.slot
        ))
        .await;
        takes_over(fixture, &second).await;
    })
    .await;
    assert!(
        matches!(old, Outcome::Answer(_) | Outcome::Error { .. }),
        "{old:?}"
    );
    finish(fixture).await;
}

async fn a_function_frozen_before_its_put_does_no_harm() {
    let fixture = fixture().await;
    given_up_and_woken(
        &fixture,
        fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request),
    )
    .await;
    assert!(
        fixture.consume().await.duplicates() > 0,
        "the old one's records came late"
    );
}

async fn a_function_frozen_after_its_put_does_no_harm() {
    let fixture = fixture().await;
    given_up_and_woken(
        &fixture,
        fixture.kinesis_proxy.hold("PutRecords", FaultSide::Answer),
    )
    .await;
    assert!(fixture.consume().await.duplicates() > 0, "both put the first");
}

async fn a_function_frozen_after_its_checkpoint_does_no_harm() {
    let fixture = fixture().await;
    given_up_and_woken(
        &fixture,
        fixture.ssm_proxy.hold("PutParameter", FaultSide::Answer),
    )
    .await;
}

/// A frozen machine does not answer; then the server's kernel ends its sessions. That it does cannot be shown on loopback,
/// where the kernel answers for itself. That it asks can: its clock for the next question is running.
async fn the_server_probes_a_silent_function_every_few_seconds() {
    let fixture = fixture().await;
    let mut held = fixture.kinesis_proxy.hold("PutRecords", FaultSide::Request);
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.wait_until_held().await;
        let ports = format!(
            "select string_agg(client_port::text, ' ') from pg_stat_activity where application_name = 'spillway {}'",
            fixture.slot
        );
        let ports = fixture
            .value(&ports)
            .await
            .expect("the function is connected while it drains");
        for port in ports.split(' ') {
            let port = port.parse().expect("a port is a number");
            wait::until("the server will ask within 5 s", DEADLINE, || async {
                asks_in(fixture.postgres.port(), port).is_some_and(|when| when <= Duration::from_secs(5))
            })
            .await;
        }
        held.release();
    });
    outcome.answer();
}

/// When the kernel asks the other side of a connection on loopback whether it is still there; `None` when something is under
/// way, or it never asks.
fn asks_in(ours: u16, theirs: u16) -> Option<Duration> {
    /// An idle connection that will be asked (proc_net_tcp(5): `tr`, and `tm->when` in hundredths of a second).
    const KEEPALIVE: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    let (ours, theirs) = (format!(":{ours:04X}"), format!(":{theirs:04X}"));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, _, _, timer, ..] = fields[..] else {
            return None;
        };
        let (kind, when) = timer.split_once(':')?;
        let matches = local.ends_with(&ours) && remote.ends_with(&theirs) && kind == KEEPALIVE;
        let hundredths = u64::from_str_radix(when, 16).ok()?;
        matches.then(|| Duration::from_millis(10 * hundredths))
    })
}
