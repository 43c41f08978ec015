//! The harness does what scenarios lean on.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use scenarios::consumer::Delivery;
use scenarios::fault_proxy::{Fault, FaultProxy, Side};
use scenarios::fixture::{Fixture, Plugin};
use scenarios::function::{Function, Outcome};
use scenarios::kinesis::{Kinesis, Limits};
use scenarios::postgres::{Postgres, Settings};
use scenarios::programs::VERSIONS;
use scenarios::ssm::Ssm;
use serde_json::json;

crate::scenarios![
    a_server_of_each_version_is_of_that_version,
    a_crashed_server_comes_back_with_what_it_had_committed,
    a_server_with_tls_lets_the_role_in_by_tls_only,
    a_parameter_is_stored_and_deleted,
    a_held_request_is_applied_only_after_its_release,
    a_flaky_gate_fails_some_records_and_puts_the_others,
    a_gate_refuses_cuts_and_notices_keys_in_flight,
    a_function_answers_fails_exits_and_is_killed_at_its_deadline,
    a_lab_drains_what_sql_wrote,
];

async fn a_server_of_each_version_is_of_that_version() {
    for version in VERSIONS {
        let postgres = Postgres::start(Settings {
            version: Some(version),
            ..Settings::default()
        })
        .await;
        let admin = postgres.admin("postgres").await;
        let row = admin.query_one("show server_version_num", &[]).await.unwrap();
        let number: u32 = row.get::<_, String>(0).parse().unwrap();
        assert_eq!(number / 10_000, version);
    }
}

async fn a_crashed_server_comes_back_with_what_it_had_committed() {
    let postgres = Postgres::start(Settings::default()).await;
    postgres.create_database("crashed").await;
    let admin = postgres.admin("crashed").await;
    admin
        .batch_execute("create table t (id int primary key); insert into t values (7)")
        .await
        .unwrap();
    postgres.crash().await;
    assert!(
        postgres.try_admin("crashed").await.is_err(),
        "a crashed server lets nobody in"
    );
    assert!(
        admin.query("select 1", &[]).await.is_err(),
        "the old connection is dead"
    );
    postgres.restart().await;
    let row = postgres
        .admin("crashed")
        .await
        .query_one("select id from t", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
}

async fn a_server_with_tls_lets_the_role_in_by_tls_only() {
    let postgres = Postgres::start(Settings {
        tls: true,
        ..Settings::default()
    })
    .await;
    let connect = |mode: &str, authority: &std::path::Path, host: &str| {
        let (role, password) = scenarios::postgres::REPLUSER;
        let to = format!(
            "host={host} port={} user={role} dbname=postgres sslmode={mode}",
            postgres.port()
        );
        let mut psql = std::process::Command::new(postgres.clients().join("psql"));
        psql.arg(format!("{to} sslrootcert={}", authority.display()))
            .args(["-Xtc", "select 1"]);
        psql.env("PGPASSWORD", password)
            .output()
            .unwrap()
            .status
            .success()
    };
    let files = postgres.certificates();
    assert!(connect("verify-full", &files.authority, "localhost"));
    assert!(
        !connect("verify-full", &files.stranger, "localhost"),
        "an authority that did not sign it"
    );
    assert!(
        !connect("verify-full", &files.authority, "127.0.0.1"),
        "a host that it does not name"
    );
    assert!(connect("verify-ca", &files.authority, "127.0.0.1"));
    assert!(!connect("disable", &files.authority, "localhost"));
}

async fn a_parameter_is_stored_and_deleted() {
    let ssm = Ssm::shared().await;
    let name = format!("/{}", scenarios::unique("parameter"));
    assert_eq!(ssm.get(&name).await, None);
    ssm.put(&name, "one").await;
    ssm.put(&name, "two").await;
    assert_eq!(ssm.get(&name).await.as_deref(), Some("two"));
    ssm.delete(&name).await;
    assert_eq!(ssm.get(&name).await, None);
}

/// A client that goes through the fault proxy.
fn through(proxy: &FaultProxy) -> aws_sdk_kinesis::Client {
    use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
    aws_sdk_kinesis::Client::from_conf(
        aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "scenario"))
            .retry_config(aws_sdk_kinesis::config::retry::RetryConfig::disabled())
            .endpoint_url(proxy.endpoint())
            .build(),
    )
}

async fn put(proxy: &FaultProxy, stream: &str, keys: &[&str]) -> Result<Vec<Option<String>>, String> {
    use aws_sdk_kinesis::{primitives::Blob, types::PutRecordsRequestEntry};
    let entry = |key: &&str| {
        PutRecordsRequestEntry::builder()
            .partition_key(*key)
            .data(Blob::new(key.as_bytes()))
            .build()
            .unwrap()
    };
    let records: Vec<PutRecordsRequestEntry> = keys.iter().map(entry).collect();
    let put = through(proxy)
        .put_records()
        .stream_name(stream)
        .set_records(Some(records))
        .send()
        .await;
    let put = put.map_err(|error| format!("{error:?}"))?;
    let codes: Vec<Option<String>> = put
        .records()
        .iter()
        .map(|it| it.error_code().map(str::to_owned))
        .collect();
    assert_eq!(
        put.failed_record_count().unwrap_or(0) as usize,
        codes.iter().flatten().count()
    );
    Ok(codes)
}

async fn count(kinesis: &Kinesis, stream: &str) -> usize {
    Delivery::read(kinesis, stream).await.foreign.len()
}

async fn a_held_request_is_applied_only_after_its_release() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let proxy = std::sync::Arc::new(FaultProxy::before(kinesis.endpoint()).await);
    let mut before = proxy.hold("PutRecords", Side::Request);
    let mut after = proxy.hold("PutRecords", Side::Answer);
    let putting = tokio::spawn({
        let proxy = std::sync::Arc::clone(&proxy);
        async move { (put(&proxy, "s", &["a"]).await, put(&proxy, "s", &["b"]).await) }
    });
    before.reached().await;
    assert_eq!(count(&kinesis, "s").await, 0);
    before.release();
    after.reached().await;
    assert_eq!(
        count(&kinesis, "s").await,
        2,
        "the second is applied and not answered"
    );
    assert!(!putting.is_finished());
    after.release();
    assert_eq!(putting.await.unwrap(), (Ok(vec![None]), Ok(vec![None])));
}

async fn a_flaky_gate_fails_some_records_and_puts_the_others() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 4).await;
    let proxy = FaultProxy::before(kinesis.endpoint()).await;
    proxy.flaky(1, 50);
    let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let codes = put(&proxy, "s", &keys).await.unwrap();
    let failed = codes.iter().flatten().count();
    assert!((20..80).contains(&failed), "about half of them: {failed}");
    assert!(codes.contains(&Some("InternalFailure".into())));
    assert!(codes.contains(&Some("ProvisionedThroughputExceededException".into())));
    assert_eq!(count(&kinesis, "s").await, 100 - failed);
    proxy.flaky(1, 100);
    assert!(put(&proxy, "s", &["a"]).await.unwrap()[0].is_some());
    proxy.clear();
    assert_eq!(put(&proxy, "s", &["a"]).await, Ok(vec![None]));
    proxy.put_log().assert_within_limits();
}

async fn a_gate_refuses_cuts_and_notices_keys_in_flight() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let proxy = FaultProxy::before(kinesis.endpoint()).await;
    proxy.next("PutRecords", Fault::refuse("AccessDeniedException", "not you"));
    proxy.next("PutRecords", Fault::CutRequest);
    proxy.next("PutRecords", Fault::CutAnswer);
    assert!(
        put(&proxy, "s", &["a"])
            .await
            .unwrap_err()
            .contains("AccessDeniedException")
    );
    assert!(put(&proxy, "s", &["a"]).await.is_err());
    assert_eq!(count(&kinesis, "s").await, 0);
    assert!(put(&proxy, "s", &["a"]).await.is_err());
    assert_eq!(
        count(&kinesis, "s").await,
        1,
        "applied, but the caller does not know"
    );
    proxy.put_log().assert_within_limits();
    assert_eq!(put(&proxy, "s", &["b", "b"]).await, Ok(vec![None, None]));
    assert!(proxy.put_log().shared_keys.contains("b"));
    assert_eq!(proxy.requests("PutRecords"), 4);
    assert_eq!(proxy.put_log().requests[3].bytes(), 4);
}

/// A bootstrap in shell: answers its event, fails, exits or hangs, as the event says.
const FAKE: &str = r#"#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
while event=$(curl -sS -D "$HEADERS" "$api/next"); do
    id=$(tr -d '\r' <"$HEADERS" | sed -n 's/^lambda-runtime-aws-request-id: //Ip')
    echo "got $event" >&2
    case $event in
    *exit*) exit 3 ;;
    *hang*) exec sleep 60 ;;
    *fail*) curl -sS -d '{"errorType":"Kind","errorMessage":"why"}' "$api/$id/error" >/dev/null ;;
    *) curl -sS -d "$event" "$api/$id/response" >/dev/null ;;
    esac
done
"#;

async fn a_function_answers_fails_exits_and_is_killed_at_its_deadline() {
    let folder = std::env::temp_dir().join(scenarios::unique("fake"));
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("bootstrap");
    std::fs::write(&program, FAKE).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = |value: &std::path::Path| value.display().to_string();
    let environment: BTreeMap<String, String> = [
        ("PATH".to_owned(), std::env::var("PATH").unwrap()),
        ("HEADERS".to_owned(), text(&folder.join("headers"))),
    ]
    .into();
    let function = Function::of_program(program, environment);
    let long = Duration::from_secs(30);
    assert_eq!(
        function.invoke(&json!({"n": 1}), long).await,
        Outcome::Answer(json!({"n": 1}))
    );
    let failed = function.invoke(&json!("fail"), long).await;
    assert_eq!(failed.error(), ("Kind".to_owned(), "why".to_owned()));
    assert!(function.peak_memory_bytes() > 0);
    let Outcome::Exited(status) = function.invoke(&json!("exit"), long).await else {
        panic!("it exits")
    };
    assert_eq!(status.code(), Some(3));
    assert_eq!(
        function.invoke(&json!("hang"), Duration::from_secs(1)).await,
        Outcome::TimedOut
    );
    let hang = json!("hang");
    let hangs = || function.log().iter().filter(|line| line.contains("hang")).count();
    // A program that starts slowly is killed before it has the event.
    let before = hangs();
    let (hung, ()) = tokio::join!(function.invoke(&hang, long), async {
        let told = || async { hangs() > before };
        scenarios::wait::until("the function has the event", long, told).await;
        function.kill9().await;
    });
    assert!(matches!(hung, Outcome::Exited(_)), "{hung:?}");
    assert_eq!(
        function.invoke(&json!([]), long).await,
        Outcome::Answer(json!([])),
        "a fresh sandbox"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

async fn a_lab_drains_what_sql_wrote() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql("create table t (id int primary key, name text)")
            .await;
        fixture
            .sql("insert into t select n, 'row ' || n from generate_series(1, 1000) n")
            .await;
        fixture
            .sql("update t set name = 'other' where id % 2 = 0; delete from t where id % 3 = 0")
            .await;
        fixture.kinesis_proxy.flaky(7, 10);
        let reports = fixture.drain().await;
        assert_eq!(reports.last().unwrap()["stopped"], "empty");
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.counts()["public.t"], 1000 + 500 + 333);
        assert!(fixture.checkpoint().await.is_some());
        // How far the server's log reaches by now is others' doing too; the slot stands where the last tick said.
        assert_eq!(reports.last().unwrap()["to"], fixture.confirmed_flush().await);
    })
    .await;
}
