//! The actions around the drain, each of which may be run again, and what an invocation does with its time.

use std::time::Duration;

use scenarios::consumer::Delivery;
use scenarios::function::Outcome;
use scenarios::kinesis::{Kinesis, Limits};
use scenarios::lab::{DEADLINE, Lab, Plan, Plugin};
use scenarios::postgres::{Postgres, REPLUSER, Settings};
use scenarios::wait;
use serde_json::json;

use crate::backlog;
use crate::marks::{Marks, let_go, lsn};
use crate::refusal::invocation_fails;

crate::scenarios![
    setup_creates_what_is_missing_and_nothing_twice,
    setup_needs_no_publication_for_text_plugins,
    setup_says_which_right_it_lacks,
    status_tells_how_things_stand_and_consumes_nothing,
    status_names_problems_and_is_no_error,
    teardown_drops_slot_and_checkpoint_and_may_be_repeated,
    an_event_of_eventbridge_is_a_tick,
    a_function_that_lingers_picks_up_what_is_committed_meanwhile,
    a_slot_that_waits_for_a_transaction_names_it,
    a_publication_without_tables_is_a_problem,
    lingering_ends_before_the_deadline,
    a_backlog_that_does_not_fit_ends_before_the_deadline_and_goes_on,
];

/// A database without publication and slot, whose table belongs to the role of the function.
async fn bare(plan: Plan) -> Lab {
    let lab = plan.without_slot().build().await;
    let (role, database) = (REPLUSER.0, &lab.database);
    lab.sql("create table t (id int primary key)").await;
    lab.sql(&format!(
        "alter table t owner to {role}; grant create on database {database} to {role}"
    ))
    .await;
    lab
}

async fn setup_creates_what_is_missing_and_nothing_twice() {
    set_up(Lab::plan(Plugin::Pgoutput)).await;
}

pub(crate) async fn set_up(plan: Plan) {
    let lab = bare(plan).await;
    let first = lab.invoke(json!({"action": "setup"})).await.answer();
    let (slot, parameter) = (
        format!("slot {}", lab.slot),
        format!("checkpoint {}", lab.parameter),
    );
    assert_eq!(
        first["created"],
        json!(["publication spillway of 1 tables", slot, parameter]),
        "{first}"
    );
    assert_eq!(
        (&first["plugin"], &first["problems"]),
        (&json!("pgoutput"), &json!([])),
        "{first}"
    );
    let marks = Marks::of(&lab).await;
    assert_eq!(marks.confirmed, marks.checkpoint);

    lab.sql("insert into t values (1)").await;
    let second = lab.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(
        (&second["created"], &second["problems"]),
        (&json!([]), &json!([])),
        "{second}"
    );
    assert_eq!(Marks::of(&lab).await, marks, "what was there stays as it was");
    lab.drain().await;
    assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);

    // It only looks for what is missing, whatever is asked for.
    let third = lab
        .invoke(json!({"action": "setup", "plugin": "wal2json"}))
        .await
        .answer();
    assert_eq!(
        (&third["created"], &third["plugin"]),
        (&json!([]), &json!("pgoutput")),
        "{third}"
    );
}

async fn setup_needs_no_publication_for_text_plugins() {
    for plugin in [Plugin::Wal2json, Plugin::TestDecoding] {
        let lab = bare(Lab::plan(plugin)).await;
        let report = lab
            .invoke(json!({"action": "setup", "plugin": plugin.name()}))
            .await
            .answer();
        let created = [
            format!("slot {}", lab.slot),
            format!("checkpoint {}", lab.parameter),
        ];
        assert_eq!(
            (&report["created"], &report["plugin"]),
            (&json!(created), &json!(plugin.name())),
            "{report}"
        );
        assert_eq!(
            lab.value("select count(*) from pg_publication").await.as_deref(),
            Some("0")
        );
        lab.sql("insert into t values (1)").await;
        lab.drain().await;
        assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
    }
}

async fn setup_says_which_right_it_lacks() {
    let lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    let parts = [
        "creating the publication",
        "create on the database",
        "permission denied",
    ];
    invocation_fails(&lab, json!({"action": "setup"}), "PostgresFailed", &parts).await;
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        lab.slot
    );
    assert_eq!(
        lab.value(&slots).await.as_deref(),
        Some("0"),
        "no slot that would hold the log back"
    );
    assert_eq!(lab.checkpoint().await, None);
}

async fn status_tells_how_things_stand_and_consumes_nothing() {
    status(Lab::plan(Plugin::Pgoutput)).await;
}

pub(crate) async fn status(plan: Plan) {
    let lab = plan.build().await;
    backlog::create(&lab).await;
    lab.drain().await;
    backlog::write(&lab, 1, 100, 20).await;
    let (marks, checkpoint) = (Marks::of(&lab).await, lab.checkpoint().await);
    for _ in 0..2 {
        let status = lab.invoke(json!({"action": "status"})).await.answer();
        let text = |name: &str| {
            status[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {status}"))
                .to_owned()
        };
        assert_eq!(lsn(&text("confirmed_flush_lsn")), marks.confirmed);
        assert_eq!(lsn(&text("checkpoint")), marks.checkpoint);
        assert!(lsn(&text("flush_lsn")) > marks.confirmed);
        assert!(status["lag_bytes"].as_u64() > Some(0), "{status}");
        assert_eq!(status["problems"], json!([]), "{status}");
        assert_eq!(
            (text("plugin"), text("stream_status")),
            ("pgoutput".to_owned(), "ACTIVE".to_owned())
        );
    }
    assert_eq!(
        (Marks::of(&lab).await, lab.checkpoint().await),
        (marks, checkpoint)
    );
    assert_eq!(lab.kinesis_gate.requests("PutRecords"), 0);
    lab.drain().await;
    assert_eq!(
        lab.compare(&[backlog::TABLE]).await.changes().len(),
        backlog::events(&lab).await
    );
}

async fn status_names_problems_and_is_no_error() {
    let mut lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    lab.function.set("STREAM_NAME", "not-there").await;
    let status = lab.invoke(json!({"action": "status"})).await.answer();
    let problems = status["problems"].to_string();
    assert!(
        problems.contains(&lab.slot) && problems.contains("not-there"),
        "{status}"
    );
    lab.create_slot().await;
    let status = lab.invoke(json!({"action": "status"})).await.answer();
    assert!(
        status["problems"].to_string().contains("publication spillway"),
        "{status}"
    );
}

async fn teardown_drops_slot_and_checkpoint_and_may_be_repeated() {
    torn_down(Lab::plan(Plugin::Pgoutput)).await;
}

pub(crate) async fn torn_down(plan: Plan) {
    let lab = plan.build().await;
    lab.drain().await;
    let report = lab.invoke(json!({"action": "teardown"})).await.answer();
    let dropped = [
        format!("slot {}", lab.slot),
        format!("checkpoint {}", lab.parameter),
    ];
    assert_eq!(report["dropped"], json!(dropped), "{report}");
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        lab.slot
    );
    assert_eq!(lab.value(&slots).await.as_deref(), Some("0"));
    assert_eq!(lab.checkpoint().await, None);
    let again = lab.invoke(json!({"action": "teardown"})).await.answer();
    assert_eq!(again["dropped"], json!([]), "nothing was there: {again}");
    let (kind, _) = lab.fail().await;
    assert_eq!(kind, "SlotMissing");
}

async fn an_event_of_eventbridge_is_a_tick() {
    let lab = Lab::new(Plugin::Pgoutput).await;
    lab.sql("create table t (id int primary key); insert into t values (1)")
        .await;
    let event = json!({"version": "0", "id": "7bf73129-1428-4cd3-a780-95db273d1602", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "123456789012", "time": "2026-11-23T12:00:00Z", "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/tick"], "detail": {}});
    let report = lab.invoke(event).await.answer();
    assert_eq!(
        (&report["action"], &report["changes"]),
        (&json!("drain"), &json!(1)),
        "{report}"
    );
    assert_eq!(lab.compare(&["public.t"]).await.changes().len(), 1);
}

async fn a_function_that_lingers_picks_up_what_is_committed_meanwhile() {
    let mut lab = Lab::new(Plugin::Pgoutput).await;
    lab.function.set("LINGER_SECONDS", "55").await;
    lab.sql("create table t (id int primary key); insert into t values (0)")
        .await;
    let arrived = async |count: usize| {
        let lab = &lab;
        wait::until(
            "a row arrives while the function lingers",
            DEADLINE,
            || async move { Delivery::read(&lab.kinesis, &lab.stream).await.changes().len() == count },
        )
        .await;
    };
    let (ended, ()) = tokio::join!(lab.invoke(json!({})), async {
        arrived(1).await;
        for id in 1..3 {
            lab.sql(&format!("insert into t values ({id})")).await;
            arrived(id + 1).await;
        }
        lab.function.kill9().await;
    });
    assert!(
        matches!(ended, Outcome::Exited(_)),
        "one invocation did it all: {ended:?}"
    );
    let_go(&lab).await;
    lab.function.unset("LINGER_SECONDS").await;
    lab.drain().await;
    lab.compare(&["public.t"]).await;
}

async fn lingering_ends_before_the_deadline() {
    let lab = Lab::plan(Plugin::Pgoutput)
        .env("LINGER_SECONDS", "900")
        .build()
        .await;
    let outcome = lab.function.invoke(&json!({}), Duration::from_secs(4)).await;
    let report = outcome.answer();
    assert_eq!(report["stopped"], "empty", "{report}");
    assert!(report["elapsed_ms"].as_u64() > Some(1_000), "it stayed: {report}");
}

async fn a_backlog_that_does_not_fit_ends_before_the_deadline_and_goes_on() {
    let kinesis = Kinesis::start(Limits::Enforced).await;
    let lab = Lab::plan(Plugin::Pgoutput)
        .shards(1)
        .with_kinesis(kinesis)
        .build()
        .await;
    backlog::create(&lab).await;
    lab.drain().await;
    // At a thousand records a second it takes nine seconds.
    backlog::write(&lab, 1, 10_000, 2_000).await;
    let mut to = Marks::of(&lab).await.checkpoint;
    let mut stopped = Vec::new();
    while stopped.last().is_none_or(|last| last != "empty") {
        let outcome = lab.function.invoke(&json!({}), Duration::from_secs(4)).await;
        let report = outcome.answer();
        let moved = lsn(report["to"].as_str().unwrap_or_default());
        assert_eq!(
            lsn(report["from"].as_str().unwrap_or_default()),
            to,
            "it goes on where it stopped: {report}"
        );
        assert!(moved > to, "each tick comes further: {report}");
        assert_eq!(
            Marks::of(&lab).await,
            Marks {
                confirmed: moved,
                checkpoint: moved
            }
        );
        to = moved;
        stopped.push(report["stopped"].as_str().unwrap_or_default().to_owned());
        assert!(stopped.len() < 50, "{stopped:?}");
    }
    assert!(
        stopped.len() > 1 && stopped[..stopped.len() - 1].iter().all(|it| it == "deadline"),
        "{stopped:?}"
    );
    let delivery = lab.compare(&[backlog::TABLE]).await;
    assert_eq!(
        delivery.changes().len(),
        backlog::events(&lab).await,
        "every event, and no other"
    );
}

async fn a_slot_that_waits_for_a_transaction_names_it() {
    // Not the shared server, where others write all the time.
    let postgres = Postgres::start(Settings::default()).await;
    let lab = Lab::plan(Plugin::TestDecoding)
        .on(postgres)
        .without_slot()
        .build()
        .await;
    let open = lab.connect().await;
    open.batch_execute("create table t (id int); begin; insert into t values (1)")
        .await
        .unwrap();
    let pid: i32 = open
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let setup = json!({"action": "setup", "plugin": "test_decoding"});
    let (kind, message) = lab.invoke(setup.clone()).await.error();
    assert_eq!(kind, "PostgresFailed", "{message}");
    assert!(
        message.contains(&format!("it waits for process {pid}")),
        "{message}"
    );
    open.batch_execute("commit").await.unwrap();
    lab.invoke(setup).await.answer();
}

async fn a_publication_without_tables_is_a_problem() {
    let lab = Lab::plan(Plugin::Pgoutput).without_slot().build().await;
    lab.sql("create publication spillway").await;
    for action in ["setup", "status"] {
        let answer = lab.invoke(json!({"action": action})).await.answer();
        assert!(
            answer["problems"].to_string().contains("hold no tables"),
            "{answer}"
        );
    }
}
