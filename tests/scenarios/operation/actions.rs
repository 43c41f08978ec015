//! Actions besides the drain, and how an invocation uses its time.
//!
//! Each action can be repeated.

use std::time::Duration;

use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::consumer::Delivery;
use scenarios::fixture::{DEADLINE, Fixture, FixtureBuilder, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::sql_text::create_slot_sql;
use scenarios::postgres::{PostgresSettings, REPLUSER};
use scenarios::wait;
use serde_json::json;

use crate::support::backfill::LATE;
use crate::support::backlog;
use crate::support::expected_errors::assert_invocation_fails;
use crate::support::positions::{SlotPositions, expect_lsn, wait_until_sessions_end};
use crate::support::project_files::read_project_file;
use crate::support::versions::pgoutput;

crate::scenarios![
    setup_creates_missing_objects_only_once,
    setup_needs_no_publication_for_text_plugins,
    setup_names_the_missing_privilege,
    status_reports_the_slot_and_consumes_nothing,
    status_reports_problems_without_an_error,
    status_and_setup_name_rights_and_secrets_that_are_missing,
    a_slot_that_is_being_created_is_busy,
    an_event_of_eventbridge_is_a_tick,
    a_lingering_function_sends_new_commits,
    setup_names_the_transaction_that_delays_the_slot,
    setup_names_a_prepared_transaction_that_delays_the_slot,
    a_publication_without_tables_is_a_problem,
    lingering_ends_before_the_deadline,
    a_large_backlog_takes_several_invocations,
    each_field_of_an_answer_is_documented,
];

crate::version_scenarios![setup_creates_missing_objects, status_reports_the_slot];

/// Fixture without publication and slot; its table belongs to the function's role.
async fn fixture_without_slot(builder: FixtureBuilder) -> Fixture {
    let fixture = builder.without_slot().build().await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    fixture.sql("create table t (id int primary key)").await;
    fixture
        .sql(&format!(
            "alter table t owner to {role}; grant create on database {database} to {role}"
        ))
        .await;
    fixture
}

async fn setup_creates_missing_objects_only_once() {
    assert_setup(Fixture::builder(Plugin::Pgoutput)).await;
}

async fn assert_setup(builder: FixtureBuilder) {
    let fixture = fixture_without_slot(builder).await;
    let first = fixture.invoke(json!({"action": "setup"})).await.answer();
    let (slot, parameter) = (
        format!("slot {}", fixture.slot),
        format!("checkpoint {}", fixture.parameter),
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
    let positions = SlotPositions::read(&fixture).await;
    assert_eq!(positions.confirmed, positions.checkpoint);

    fixture.sql("insert into t values (1)").await;
    let second = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert_eq!(
        (&second["created"], &second["problems"]),
        (&json!([]), &json!([])),
        "{second}"
    );
    assert_eq!(
        SlotPositions::read(&fixture).await,
        positions,
        "setup changed existing objects"
    );
    fixture.drain().await;
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);

    // The plugin of a slot cannot be changed, so an event that names another is refused.
    assert_invocation_fails(
        &fixture,
        json!({"action": "setup", "plugin": "wal2json"}),
        "EventInvalid",
        &["wal2json", "pgoutput", &fixture.slot],
    )
    .await;
    let named = fixture
        .invoke(json!({"action": "setup", "plugin": "pgoutput"}))
        .await
        .answer();
    assert_eq!(named["created"], json!([]), "{named}");
}

async fn setup_needs_no_publication_for_text_plugins() {
    for plugin in [Plugin::Wal2json, Plugin::TestDecoding] {
        let fixture = fixture_without_slot(Fixture::builder(plugin)).await;
        let report = fixture
            .invoke(json!({"action": "setup", "plugin": plugin.name()}))
            .await
            .answer();
        let created = [
            format!("slot {}", fixture.slot),
            format!("checkpoint {}", fixture.parameter),
        ];
        assert_eq!(
            (&report["created"], &report["plugin"]),
            (&json!(created), &json!(plugin.name())),
            "{report}"
        );
        assert_eq!(
            fixture
                .value("select count(*) from pg_publication")
                .await
                .as_deref(),
            Some("0")
        );
        fixture.sql("insert into t values (1)").await;
        fixture.drain().await;
        assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);

        // After the loss of the slot, a deployment runs setup without a plugin.
        fixture.drop_slot().await;
        let again = fixture.invoke(json!({"action": "setup"})).await.answer();
        assert_eq!(again["plugin"], plugin.name(), "{again}");
    }
}

async fn setup_names_the_missing_privilege() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    let parts = [
        "creating the publication",
        "create on the database",
        "permission denied",
    ];
    assert_invocation_fails(&fixture, json!({"action": "setup"}), "PostgresFailed", &parts).await;
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        fixture.slot
    );
    assert_eq!(
        fixture.value(&slots).await.as_deref(),
        Some("0"),
        "a slot would retain the log"
    );
    assert_eq!(fixture.checkpoint().await, None);
}

async fn status_reports_the_slot_and_consumes_nothing() {
    status(Fixture::builder(Plugin::Pgoutput)).await;
}

async fn status(builder: FixtureBuilder) {
    let fixture = builder.build().await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    backlog::write(&fixture, 1, 100, 20).await;
    let (positions, checkpoint) = (SlotPositions::read(&fixture).await, fixture.checkpoint().await);
    for _ in 0..2 {
        let status = fixture.status().await;
        let text = |name: &str| {
            status[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {status}"))
                .to_owned()
        };
        assert_eq!(expect_lsn(&text("confirmed_flush_lsn")), positions.confirmed);
        assert_eq!(expect_lsn(&text("checkpoint")), positions.checkpoint);
        assert!(expect_lsn(&text("flush_lsn")) > positions.confirmed);
        assert!(status["lag_bytes"].as_u64() > Some(0), "{status}");
        assert_eq!(status["problems"], json!([]), "{status}");
        assert_eq!(
            (text("plugin"), text("stream_status")),
            ("pgoutput".to_owned(), "ACTIVE".to_owned())
        );
    }
    assert_eq!(
        (SlotPositions::read(&fixture).await, fixture.checkpoint().await),
        (positions, checkpoint)
    );
    assert_eq!(fixture.kinesis_proxy.requests("PutRecords"), 0);
    fixture.drain().await;
    assert_eq!(
        fixture.compare(&[backlog::TABLE]).await.changes().len(),
        backlog::events(&fixture).await
    );
}

async fn each_field_of_an_answer_is_documented() {
    let fixture = Fixture::builder(Plugin::Pgoutput).build().await;
    let page = read_project_file("docs/operating.md");
    for action in ["setup", "drain", "status", "teardown"] {
        let answer = fixture.invoke(json!({"action": action})).await.answer();
        for field in answer.as_object().expect("an answer is an object").keys() {
            assert!(page.contains(&format!("`{field}`")), "{action}: {field}");
        }
    }
}

async fn status_reports_problems_without_an_error() {
    let mut fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture.function.set("STREAM_NAME", "not-there").await;
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    assert!(
        problems.contains(&fixture.slot) && problems.contains("not-there"),
        "{status}"
    );
    fixture.create_slot().await;
    let status = fixture.status().await;
    assert!(
        status["problems"].to_string().contains("publication spillway"),
        "{status}"
    );
}

async fn status_and_setup_name_rights_and_secrets_that_are_missing() {
    let builder = Fixture::builder(Plugin::Pgoutput).on_new_server(PostgresSettings::default());
    let mut fixture = builder.build().await;
    fixture.tick().await;
    let function = &mut fixture.function;
    function.set("COLUMN_RULES", "*.*.ssn:hash").await;
    function.set("COLUMN_SALT_SECRET", "no/such/secret").await;
    let salt = "COLUMN_SALT_SECRET=no/such/secret";
    let setup = fixture.invoke(json!({"action": "setup"})).await.answer();
    assert!(setup["problems"].to_string().contains(salt), "{setup}");
    fixture
        .sql(&format!("alter role {} noreplication", REPLUSER.0))
        .await;
    let status = fixture.status().await;
    let problems = status["problems"].to_string();
    for problem in [salt, "grant rds_replication"] {
        assert!(problems.contains(problem), "{problem}: {status}");
    }
}

async fn a_slot_that_is_being_created_is_busy() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture
        .sql("create table t (id int primary key); create publication spillway for table t")
        .await;
    let writer = fixture.connect().await;
    writer
        .batch_execute("begin; insert into t values (1)")
        .await
        .expect("a transaction begins");
    let creator = fixture.connect().await;
    let create = create_slot_sql(&fixture.slot, "pgoutput");
    let creating = tokio::spawn(async move { creator.batch_execute(&create).await });
    let pending = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}' and active_pid is not null",
        fixture.slot
    );
    wait::until("the slot exists", Duration::from_secs(60), || async {
        fixture.value(&pending).await.as_deref() == Some("1")
    })
    .await;
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "Busy", "{message}");
    assert!(message.contains("is creating it"), "{message}");
    writer.batch_execute("rollback").await.expect("it ends");
    creating.await.expect("no panic").expect("the slot is created");
    fixture.tick().await;
}

async fn an_event_of_eventbridge_is_a_tick() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    let event = json!({"version": "0", "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "detail-type": "Scheduled Event", "source": "aws.events", "account": "123456789012",
        "time": "2026-11-23T12:00:00Z", "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/tick"], "detail": {}});
    let report = fixture.invoke(event).await.answer();
    assert_eq!(
        (&report["action"], &report["changes"]),
        (&json!("drain"), &json!(1)),
        "{report}"
    );
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);
}

async fn a_lingering_function_sends_new_commits() {
    let mut fixture = Fixture::new(Plugin::Pgoutput).await;
    // The pause after a slow first window would last longer than the invocation.
    fixture.function.set("POLL_CPU_PERCENT", "50").await;
    fixture.function.set("LINGER_SECONDS", "55").await;
    fixture
        .sql("create table t (id int primary key); insert into t values (0)")
        .await;
    let arrived = async |count: usize| {
        let fixture = &fixture;
        wait::until(
            "a row arrives while the function lingers",
            DEADLINE,
            || async move {
                Delivery::read(&fixture.kinesis, &fixture.stream)
                    .await
                    .changes()
                    .len()
                    == count
            },
        )
        .await;
    };
    let (outcome, ()) = tokio::join!(fixture.invoke(json!({})), async {
        arrived(1).await;
        for id in 1..3 {
            fixture.sql(&format!("insert into t values ({id})")).await;
            arrived(id + 1).await;
        }
        fixture.function.kill9().await;
    });
    assert!(
        matches!(outcome, Outcome::Exited(_)),
        "the invocation ended before the kill: {outcome:?}"
    );
    wait_until_sessions_end(&fixture).await;
    fixture.function.unset("LINGER_SECONDS").await;
    fixture.drain().await;
    fixture.compare(&["public.t"]).await;
}

async fn lingering_ends_before_the_deadline() {
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .env("LINGER_SECONDS", "900")
        .env("POLL_CPU_PERCENT", "50")
        .build()
        .await;
    let deadline = Duration::from_secs(10);
    let report = fixture.function.invoke(&json!({}), deadline).await.answer();
    // The time may end during the last poll.
    let stopped = report["stopped"].as_str().unwrap_or_default();
    assert!(["empty", "deadline"].contains(&stopped), "{report}");
    assert!(
        report["elapsed_ms"].as_u64() > Some(1_000),
        "the function did not linger: {report}"
    );
}

async fn a_large_backlog_takes_several_invocations() {
    let kinesis = Kinesis::start(Limits::Enforced).await;
    let fixture = Fixture::builder(Plugin::Pgoutput)
        .shards(1)
        .on_kinesis(kinesis)
        .build()
        .await;
    backlog::create(&fixture).await;
    fixture.drain().await;
    // At 1,000 records a second the backlog takes nine seconds. An invocation has less than five for it.
    backlog::write(&fixture, 1, 10_000, 2_000).await;
    let mut to = SlotPositions::read(&fixture).await.checkpoint;
    let mut stopped = Vec::new();
    let mut confirmed_at_deadlines = 0;
    while stopped.last().is_none_or(|last| last != "empty") {
        let report = match fixture.function.invoke(&json!({}), Duration::from_secs(6)).await {
            // On a busy machine the deadline may pass before the servers answer.
            Outcome::Error { kind, .. } if LATE.contains(&kind.as_str()) && stopped.len() < 50 => {
                to = SlotPositions::read(&fixture).await.checkpoint;
                stopped.push("deadline".to_owned());
                continue;
            }
            outcome => outcome.answer(),
        };
        let reached = expect_lsn(report["to"].as_str().unwrap_or_default());
        assert_eq!(
            expect_lsn(report["from"].as_str().unwrap_or_default()),
            to,
            "the tick does not start where the last one stopped: {report}"
        );
        let positions = SlotPositions::read(&fixture).await;
        assert_eq!(positions.checkpoint, reached, "{report}");
        // A busy server may not advance the slot in time, and a tick may have no time to send.
        assert!(reached >= to, "the tick moved the checkpoint back: {report}");
        confirmed_at_deadlines += u32::from(report["stopped"] == "deadline" && positions.confirmed > to);
        to = reached;
        stopped.push(report["stopped"].as_str().unwrap_or_default().to_owned());
        assert!(stopped.len() < 50, "{stopped:?}");
    }
    assert!(
        stopped.len() > 1 && stopped[..stopped.len() - 1].iter().all(|it| it == "deadline"),
        "{stopped:?}"
    );
    assert!(
        confirmed_at_deadlines > 0,
        "no tick confirmed a part of the backlog: {stopped:?}"
    );
    backlog::compare(&fixture).await;
}

/// Fixture without a slot, on a server of its own.
///
/// `conf` is a line of its configuration. On the shared server, other sessions write all the time.
async fn fixture_on_own_server(conf: &str) -> Fixture {
    let settings = PostgresSettings::with_conf(conf);
    let builder = Fixture::builder(Plugin::TestDecoding).on_new_server(settings);
    builder.without_slot().build().await
}

async fn setup_names_the_transaction_that_delays_the_slot() {
    let fixture = fixture_on_own_server("").await;
    let open = fixture.connect().await;
    open.batch_execute("create table t (id int); begin; insert into t values (1)")
        .await
        .unwrap();
    let pid: i32 = open
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get("pg_backend_pid");
    let setup = json!({"action": "setup", "plugin": "test_decoding"});
    let (kind, message) = fixture.invoke(setup.clone()).await.error();
    assert_eq!(kind, "PostgresFailed", "{message}");
    assert!(
        message.contains(&format!("it waits for process {pid}")),
        "{message}"
    );
    open.batch_execute("commit").await.unwrap();
    fixture.invoke(setup).await.answer();
}

async fn setup_names_a_prepared_transaction_that_delays_the_slot() {
    let fixture = fixture_on_own_server("max_prepared_transactions = 2\n").await;
    fixture.sql("create table t (id int)").await;
    fixture
        .sql("begin; insert into t values (1); prepare transaction 'forgotten'")
        .await;
    let setup = json!({"action": "setup", "plugin": "test_decoding"});
    let (kind, message) = fixture.invoke(setup.clone()).await.error();
    assert_eq!(kind, "PostgresFailed", "{message}");
    assert!(message.contains("pg_prepared_xacts"), "{message}");
    fixture.sql("rollback prepared 'forgotten'").await;
    fixture.invoke(setup).await.answer();
}

async fn a_publication_without_tables_is_a_problem() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture.sql("create publication spillway").await;
    for action in ["setup", "status"] {
        let answer = fixture.invoke(json!({"action": action})).await.answer();
        assert!(
            answer["problems"].to_string().contains("hold no tables"),
            "{answer}"
        );
    }
}

async fn setup_creates_missing_objects(version: u32) {
    assert_setup(pgoutput(version)).await;
}

async fn status_reports_the_slot(version: u32) {
    status(pgoutput(version)).await;
}
