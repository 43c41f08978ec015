//! Frozen sandbox that holds the lock: the server releases the lock within seconds.
//!
//! The next sandbox drains. When the frozen one wakes up, it may send records again, and does no other harm.

use std::time::Duration;

use scenarios::aws::fault_proxy::{FaultSide, HeldRequest};
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::{Function, Outcome};
use scenarios::wait;
use serde_json::json;

use crate::support::backlog;
use crate::support::positions::{SlotPositions, wait_until_sessions_end};

crate::scenarios![
    a_frozen_function_loses_the_lock_at_its_deadline,
    a_function_frozen_before_its_put_does_no_harm,
    a_function_frozen_after_its_put_does_no_harm,
    a_function_frozen_after_its_checkpoint_does_no_harm,
    the_server_probes_a_silent_function_every_few_seconds,
];

/// Fixture with a few transactions of one key.
///
/// One request at a time is in flight, so a held request stops the drain.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    fixture.sql("insert into t values (1, 0)").await;
    for _ in 0..5 {
        fixture.sql("update t set n = n + 1").await;
    }
    wait_until_sessions_end(&fixture).await;
    fixture
}

/// Outcome of an invocation that is frozen while its request is held.
///
/// `meanwhile` runs during the freeze. Then the function wakes up, and the request passes.
async fn invoke_and_freeze(
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

/// Second sandbox of the function.
///
/// It bypasses the fault proxy, which takes both sandboxes for one and would report two records of a key in
/// flight.
async fn second_sandbox(fixture: &Fixture) -> Function {
    let mut second_sandbox = fixture.function.second_instance();
    second_sandbox
        .set("AWS_ENDPOINT_URL_KINESIS", fixture.kinesis.endpoint())
        .await;
    second_sandbox
}

/// Asserts that the second sandbox gets the lock and drains the slot.
///
/// It ticks until then. A change that is committed afterwards arrives, too.
async fn assert_second_drains(fixture: &Fixture, second_sandbox: &Function) {
    wait::until("the second sandbox gets the lock", DEADLINE, || async {
        let report = second_sandbox.invoke(&json!({}), DEADLINE).await.answer();
        report["stopped"] == "empty"
    })
    .await;
    fixture.sql("update t set n = n + 1").await;
    let report = second_sandbox.invoke(&json!({}), DEADLINE).await.answer();
    assert_eq!(
        (&report["stopped"], &report["changes"]),
        (&json!("empty"), &json!(1)),
        "{report}"
    );
    SlotPositions::read(fixture).await;
}

/// Checks the events, their order, and the positions of slot and checkpoint.
async fn assert_complete(fixture: &Fixture) {
    SlotPositions::read(fixture).await;
    fixture.sql("update t set n = n + 1").await;
    fixture.drain().await;
    SlotPositions::read(fixture).await;
    backlog::compare(fixture).await;
}

/// End of a frozen function's sessions at their deadline.
///
/// The function set the deadline, and the server ends the sessions. The process is stopped, and its machine
/// is not: the kernel still answers for it.
async fn a_frozen_function_loses_the_lock_at_its_deadline() {
    let fixture = fixture().await;
    let second_sandbox = second_sandbox(&fixture).await;
    let held = fixture
        .kinesis_proxy
        .hold_with_retries("PutRecords", FaultSide::Request);
    let old = invoke_and_freeze(&fixture, held, Duration::from_secs(8), async || {
        let report = second_sandbox.invoke(&json!({}), DEADLINE).await.answer();
        assert_eq!(
            report["stopped"], "busy",
            "the frozen function does not hold the lock: {report}"
        );
        assert_second_drains(&fixture, &second_sandbox).await;
    })
    .await;
    assert!(
        matches!(old, Outcome::Answer(_) | Outcome::Error { .. }),
        "{old:?}"
    );
    assert_complete(&fixture).await;
}

/// Asserts that a frozen function does no harm after it wakes up.
///
/// The server has ended its sessions, and most of its time is left. The end of the sessions is shown by
/// [`the_server_probes_a_silent_function_every_few_seconds`]. A second sandbox has drained the slot
/// meanwhile.
async fn assert_harmless_after_thaw(fixture: &Fixture, held: HeldRequest) {
    let second_sandbox = second_sandbox(fixture).await;
    let old = invoke_and_freeze(fixture, held, DEADLINE, async || {
        fixture.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spillway {}'",
            fixture.slot
        ))
        .await;
        assert_second_drains(fixture, &second_sandbox).await;
    })
    .await;
    assert!(
        matches!(old, Outcome::Answer(_) | Outcome::Error { .. }),
        "{old:?}"
    );
    assert_complete(fixture).await;
}

async fn a_function_frozen_before_its_put_does_no_harm() {
    let fixture = fixture().await;
    assert_harmless_after_thaw(
        &fixture,
        fixture
            .kinesis_proxy
            .hold_with_retries("PutRecords", FaultSide::Request),
    )
    .await;
    assert!(
        fixture.consume().await.duplicates() > 0,
        "the frozen function did not send its records again"
    );
}

async fn a_function_frozen_after_its_put_does_no_harm() {
    let fixture = fixture().await;
    assert_harmless_after_thaw(
        &fixture,
        fixture
            .kinesis_proxy
            .hold_with_retries("PutRecords", FaultSide::Answer),
    )
    .await;
    assert!(
        fixture.consume().await.duplicates() > 0,
        "only one sandbox put the first record"
    );
}

async fn a_function_frozen_after_its_checkpoint_does_no_harm() {
    let fixture = fixture().await;
    assert_harmless_after_thaw(
        &fixture,
        fixture
            .ssm_proxy
            .hold_with_retries("PutParameter", FaultSide::Answer),
    )
    .await;
}

/// The server probes an idle connection within five seconds.
///
/// A frozen machine does not answer, and the kernel of the server then ends its sessions. Loopback cannot
/// show this, because the kernel answers for the process. It can show the running timer of the next probe.
async fn the_server_probes_a_silent_function_every_few_seconds() {
    let fixture = fixture().await;
    let mut held = fixture
        .kinesis_proxy
        .hold_with_retries("PutRecords", FaultSide::Request);
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        held.wait_until_held().await;
        let ports = format!(
            "select string_agg(client_port::text, ' ')
             from pg_stat_activity where application_name = 'spillway {}'",
            fixture.slot
        );
        let ports = fixture
            .value(&ports)
            .await
            .expect("the function has no connection");
        for port in ports.split(' ') {
            let port = port.parse().expect("a port is a number");
            wait::until("the server probes within 5 s", DEADLINE, || async {
                time_to_probe(fixture.postgres.port(), port)
                    .is_some_and(|when| when <= Duration::from_secs(5))
            })
            .await;
        }
        held.release();
    });
    outcome.answer();
}

/// Time until the kernel probes a connection on loopback.
///
/// `None` when data are in flight, or when the connection is never probed.
fn time_to_probe(ours: u16, theirs: u16) -> Option<Duration> {
    /// Timer of an idle connection that will be probed (proc_net_tcp(5): `tr`, and `tm->when` in hundredths
    /// of a second sandbox).
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
