//! Errors of the environment, of privileges and of the event.
//!
//! Each has one line that names the remedy, and an `errorType` for alarms. No output has a secret.

use std::process::Stdio;
use std::time::Duration;

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use scenarios::lambda::function::drain_binary;
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use scenarios::wait::free_port;
use serde_json::json;

use crate::support::expected_errors::{
    REPLICA_WAL_LEVEL, assert_invocation_fails, assert_not_logged, assert_tick_fails,
    assert_wal_level_is_named,
};

crate::scenarios![
    an_invalid_variable_is_named_with_its_allowed_values,
    a_missing_variable_is_named,
    the_binary_exits_without_a_runtime_api,
    a_rejected_role_is_named_without_its_password,
    a_missing_database_is_named,
    an_unreachable_host_is_named,
    an_error_names_the_missing_replication_grant,
    an_error_names_the_wal_level_setting,
    missing_credentials_are_named,
    a_missing_stream_is_named,
    a_denied_stream_call_names_the_missing_permission,
    a_denied_parameter_call_names_the_missing_permission,
    a_service_without_an_answer_is_named_before_the_deadline,
    an_invalid_event_is_named_with_its_allowed_values,
    a_payload_that_is_not_json_is_an_invalid_event,
];

/// Fixture whose slot has one change.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture
        .sql("create table t (id int primary key); insert into t values (1)")
        .await;
    fixture
}

/// Drains the slot, and checks that the change arrives.
async fn assert_drained(fixture: &Fixture) {
    fixture.drain().await;
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 1);
}

async fn an_invalid_variable_is_named_with_its_allowed_values() {
    let mut fixture = fixture().await;
    let wrong = [
        ("PGPORT", "postgres", "1 to 65535"),
        ("PGSSLMODE", "prefer", "verify-full"),
        ("DB_AUTH", "kerberos", "iam, secret or password"),
        ("SLOT_NAME", "My Slot", "lower-case"),
        (
            "STREAM_NAME",
            "arn:aws:kinesis:eu-central-1:1:stream/s",
            "123456789012:stream/NAME",
        ),
        ("CHECKPOINT_PARAMETER", "with blanks in it", "letters, digits"),
        ("TABLES", "orders", "public.orders"),
        ("ENVELOPE", "avro", "debezium"),
        ("AGGREGATION", "zip", "none"),
        ("PARTITION_BY", "moon", "key"),
        ("OVERSIZE", "ignore", "fail"),
        ("LINGER_SECONDS", "1.5", "whole seconds"),
        ("MARKERS", "yes", "on"),
        ("STANDBY_ACK", "always", "required"),
        ("LOG_LEVEL", "loud", "info"),
    ];
    for (variable, value, part) in wrong {
        let before = fixture.function.second_instance();
        fixture.function.set(variable, value).await;
        // Every invocation has this answer, not only the first.
        assert_eq!(fixture.failing_tick().await.0, "ConfigInvalid");
        assert_tick_fails(&fixture, "ConfigInvalid", &[variable, value, part]).await;
        let lines = fixture.function.log();
        assert_eq!(
            lines.iter().filter(|line| line.contains(value)).count(),
            1,
            "one line: {lines:#?}"
        );
        fixture.function = before;
    }
    assert_drained(&fixture).await;
}

async fn a_missing_variable_is_named() {
    let mut fixture = fixture().await;
    for variable in [
        "PGHOST",
        "PGUSER",
        "PGDATABASE",
        "PGPASSWORD",
        "SLOT_NAME",
        "STREAM_NAME",
    ] {
        let before = fixture.function.second_instance();
        fixture.function.unset(variable).await;
        assert_tick_fails(&fixture, "ConfigInvalid", &[variable, "not set"]).await;
        fixture.function.set(variable, "").await;
        assert_tick_fails(&fixture, "ConfigInvalid", &[variable, "not set"]).await;
        fixture.function = before;
    }
    fixture.function.set("DB_AUTH", "secret").await;
    assert_tick_fails(&fixture, "ConfigInvalid", &["DB_SECRET"]).await;
    fixture.function.set("DB_AUTH", "iam").await;
    assert_tick_fails(&fixture, "ConfigInvalid", &["PGSSLMODE", "TLS"]).await;
    fixture.function.set("DB_AUTH", "password").await;
    assert_drained(&fixture).await;
}

async fn the_binary_exits_without_a_runtime_api() {
    let output = tokio::process::Command::new(drain_binary())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await;
    let output = output.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(output.status.code(), Some(2));
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    assert!(text.contains("AWS_LAMBDA_RUNTIME_API"), "{text}");
}

async fn a_rejected_role_is_named_without_its_password() {
    let mut fixture = fixture().await;
    fixture.function.set("LOG_LEVEL", "debug").await;
    fixture.function.set("PGPASSWORD", "not the right one").await;
    assert_tick_fails(
        &fixture,
        "PostgresAuthentication",
        &[REPLUSER.0, "PGUSER", "PGPASSWORD"],
    )
    .await;
    assert_not_logged(&fixture, "not the right one").await;
    fixture.function.set("PGPASSWORD", REPLUSER.1).await;
    fixture.function.set("PGUSER", "nobody we know").await;
    assert_tick_fails(&fixture, "PostgresAuthentication", &["nobody we know", "PGUSER"]).await;
    fixture.function.set("PGUSER", REPLUSER.0).await;
    assert_drained(&fixture).await;
    assert_not_logged(&fixture, REPLUSER.1).await;
}

async fn a_missing_database_is_named() {
    let mut fixture = fixture().await;
    fixture.function.set("PGDATABASE", "not there").await;
    assert_tick_fails(&fixture, "DatabaseMissing", &["not there", "PGDATABASE"]).await;
}

async fn an_unreachable_host_is_named() {
    let mut fixture = fixture().await;
    let port = free_port().to_string();
    fixture.function.set("PGPORT", &port).await;
    assert_tick_fails(
        &fixture,
        "PostgresUnreachable",
        &["127.0.0.1", &port, "PGHOST", "security group"],
    )
    .await;
    fixture.function.set("PGHOST", "no-such-host.invalid").await;
    assert_tick_fails(
        &fixture,
        "PostgresUnreachable",
        &["no-such-host.invalid", "PGHOST"],
    )
    .await;
}

async fn an_error_names_the_missing_replication_grant() {
    let mut fixture = fixture().await;
    let role = format!("{}_role", fixture.database);
    fixture
        .sql(&format!("create role {role} login password 'of the role'"))
        .await;
    fixture.function.set("PGUSER", &role).await;
    fixture.function.set("PGPASSWORD", "of the role").await;
    let parts = [role.as_str(), "rds_replication", "replication"];
    assert_tick_fails(&fixture, "RoleLacksReplication", &parts).await;
    assert_invocation_fails(
        &fixture,
        json!({"action": "setup"}),
        "RoleLacksReplication",
        &parts,
    )
    .await;
    fixture.sql(&format!("alter role {role} replication")).await;
    assert_drained(&fixture).await;
    fixture.function.kill9().await;
    fixture.sql(&format!("drop role {role}")).await;
}

async fn an_error_names_the_wal_level_setting() {
    let settings = PostgresSettings::with_conf(REPLICA_WAL_LEVEL);
    assert_wal_level_is_named(Postgres::start(settings).await).await;
}

async fn missing_credentials_are_named() {
    let mut fixture = fixture().await;
    let before = fixture.function.second_instance();
    fixture.function.set("AWS_SECRET_ACCESS_KEY", "").await;
    assert_tick_fails(
        &fixture,
        "CheckpointRefused",
        &["AWS_SECRET_ACCESS_KEY is missing or empty"],
    )
    .await;
    fixture.function = before;
    assert_drained(&fixture).await;
}

async fn a_missing_stream_is_named() {
    let mut fixture = fixture().await;
    fixture.function.set("STREAM_NAME", "not-there").await;
    assert_tick_fails(&fixture, "StreamMissing", &["not-there", "STREAM_NAME"]).await;
    fixture.function.set("STREAM_NAME", &fixture.stream).await;
    assert_drained(&fixture).await;
}

fn denied_fault() -> Fault {
    Fault::refuse(
        "AccessDeniedException",
        "User: arn:aws:sts::1:assumed-role/drain is not authorized",
    )
}

async fn a_denied_stream_call_names_the_missing_permission() {
    let fixture = fixture().await;
    fixture.kinesis_proxy.inject("PutRecords", denied_fault());
    assert_tick_fails(
        &fixture,
        "StreamDenied",
        &[&fixture.stream, "kinesis:PutRecords", "is not authorized"],
    )
    .await;
    assert_eq!(
        fixture.kinesis_proxy.requests("PutRecords"),
        1,
        "the function retried a denied call"
    );
    fixture.kinesis_proxy.clear();
    assert_drained(&fixture).await;
}

async fn a_denied_parameter_call_names_the_missing_permission() {
    let fixture = fixture().await;
    fixture.ssm_proxy.inject("GetParameter", denied_fault());
    assert_tick_fails(
        &fixture,
        "CheckpointDenied",
        &[&fixture.parameter, "ssm:GetParameter", "is not authorized"],
    )
    .await;
    fixture.ssm_proxy.clear();
    fixture.ssm_proxy.inject("PutParameter", denied_fault());
    assert_tick_fails(
        &fixture,
        "CheckpointDenied",
        &[
            &fixture.parameter,
            "ssm:PutParameter",
            "ssm:DeleteParameter",
            "is not authorized",
        ],
    )
    .await;
    assert_eq!(
        fixture.kinesis_proxy.requests("PutRecords"),
        0,
        "the function sent records without a checkpoint"
    );
    fixture.ssm_proxy.clear();
    fixture.drain().await;
    fixture.sql("insert into t values (2)").await;
    fixture.ssm_proxy.inject("PutParameter", denied_fault());
    assert_tick_fails(&fixture, "CheckpointDenied", &[&fixture.parameter]).await;
    fixture.ssm_proxy.clear();
    fixture.drain().await;
    assert_eq!(fixture.compare(&["public.t"]).await.changes().len(), 2);
}

async fn a_service_without_an_answer_is_named_before_the_deadline() {
    let fixture = fixture().await;
    let short = Duration::from_secs(6);
    let fails = async |kind: &str, part: &str| {
        let (found, message) = loop {
            match fixture.function.invoke(&json!({}), short).await.error() {
                // On a busy machine the deadline may pass before the error is known.
                (found, _) if found == "OutOfTime" => {}
                error => break error,
            }
        };
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    };
    fixture.ssm_proxy.inject("GetParameter", Fault::internal());
    fails("CheckpointUnavailable", &fixture.parameter).await;
    fixture.ssm_proxy.clear();
    fixture.kinesis_proxy.inject("PutRecords", Fault::CutRequest);
    fails("StreamUnavailable", &fixture.stream).await;
    fixture.kinesis_proxy.clear();
    assert_drained(&fixture).await;
}

async fn a_payload_that_is_not_json_is_an_invalid_event() {
    let fixture = fixture().await;
    for payload in [
        "",
        "hello",
        "{",
        r#"{"action":"status"} more"#,
        "\u{1}",
        &"[".repeat(1000),
    ] {
        let outcome = fixture.function.invoke_text(payload, DEADLINE).await;
        let (kind, message) = outcome.error();
        assert_eq!(kind, "EventInvalid", "{message}");
        assert!(message.contains("JSON object"), "{message}");
    }
    assert_drained(&fixture).await;
}

async fn an_invalid_event_is_named_with_its_allowed_values() {
    let fixture = fixture().await;
    let actions = "drain, backfill, setup, status, plan or teardown";
    let wrong = [
        (json!([]), "JSON object"),
        (json!({"actoin": "drain"}), "actoin"),
        (json!({"action": 7}), actions),
        (json!({"action": "flush"}), actions),
        (json!({"action": "backfill"}), "field tables is missing"),
        (
            json!({"action": "backfill", "wait": true, "tables": []}),
            "field tables must be",
        ),
        (json!({"action": "drain", "accept_gaps": "0/1"}), "accept_gap"),
        (
            json!({"action": "drain", "accept_gap": "yes"}),
            "confirmed_flush_lsn",
        ),
        (
            json!({"action": "setup", "plugin": "decoderbufs"}),
            "pgoutput, wal2json or test_decoding",
        ),
        (json!({"action": "setup", "slot": "s"}), "plugin"),
        (json!({"action": "status", "verbose": true}), "verbose"),
        (json!({"action": "teardown", "force": true}), "force"),
    ];
    for (event, part) in wrong {
        assert_invocation_fails(&fixture, event, "EventInvalid", &[part]).await;
    }
    assert_drained(&fixture).await;
}
