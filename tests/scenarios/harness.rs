//! The harness does what scenarios lean on.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use scenarios::consumer::Delivery;
use scenarios::function::{Function, Outcome};
use scenarios::gate::{Fault, Gate, Side};
use scenarios::kinesis::{Kinesis, Limits};
use scenarios::oracle::{self, Rows};
use scenarios::postgres::{Postgres, Settings};
use scenarios::ssm::Ssm;
use serde_json::{Value, json};

crate::scenarios![
    a_crashed_server_comes_back_with_what_it_had_committed,
    a_server_with_tls_lets_the_role_in_by_tls_only,
    a_parameter_is_stored_and_deleted,
    a_held_request_is_applied_only_after_its_release,
    a_flaky_gate_fails_some_records_and_puts_the_others,
    a_gate_refuses_cuts_and_notices_keys_in_flight,
    a_function_answers_fails_exits_and_is_killed_at_its_deadline,
    a_consumer_rebuilds_rows_and_drops_duplicates,
    a_consumer_notices_a_broken_promise,
    every_type_is_compared_as_an_event_writes_it,
];

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
        let mut psql = std::process::Command::new(postgres.bin().join("psql"));
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

/// A client that goes through the gate.
fn through(gate: &Gate) -> aws_sdk_kinesis::Client {
    use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
    aws_sdk_kinesis::Client::from_conf(
        aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "scenario"))
            .retry_config(aws_sdk_kinesis::config::retry::RetryConfig::disabled())
            .endpoint_url(gate.endpoint())
            .build(),
    )
}

async fn put(gate: &Gate, stream: &str, keys: &[&str]) -> Result<Vec<Option<String>>, String> {
    use aws_sdk_kinesis::{primitives::Blob, types::PutRecordsRequestEntry};
    let entry = |key: &&str| {
        PutRecordsRequestEntry::builder()
            .partition_key(*key)
            .data(Blob::new(key.as_bytes()))
            .build()
            .unwrap()
    };
    let records: Vec<PutRecordsRequestEntry> = keys.iter().map(entry).collect();
    let put = through(gate)
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
    let gate = std::sync::Arc::new(Gate::before(kinesis.endpoint()).await);
    let mut before = gate.hold("PutRecords", Side::Request);
    let mut after = gate.hold("PutRecords", Side::Answer);
    let putting = tokio::spawn({
        let gate = std::sync::Arc::clone(&gate);
        async move { (put(&gate, "s", &["a"]).await, put(&gate, "s", &["b"]).await) }
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
    let gate = Gate::before(kinesis.endpoint()).await;
    gate.flaky(1, 50);
    let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let codes = put(&gate, "s", &keys).await.unwrap();
    let failed = codes.iter().flatten().count();
    assert!((20..80).contains(&failed), "about half of them: {failed}");
    assert!(codes.contains(&Some("InternalFailure".into())));
    assert!(codes.contains(&Some("ProvisionedThroughputExceededException".into())));
    assert_eq!(count(&kinesis, "s").await, 100 - failed);
    gate.flaky(1, 100);
    assert!(put(&gate, "s", &["a"]).await.unwrap()[0].is_some());
    gate.clear();
    assert_eq!(put(&gate, "s", &["a"]).await, Ok(vec![None]));
    gate.seen().assert_within_limits();
}

async fn a_gate_refuses_cuts_and_notices_keys_in_flight() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    let gate = Gate::before(kinesis.endpoint()).await;
    gate.next("PutRecords", Fault::refuse("AccessDeniedException", "not you"));
    gate.next("PutRecords", Fault::CutRequest);
    gate.next("PutRecords", Fault::CutAnswer);
    assert!(
        put(&gate, "s", &["a"])
            .await
            .unwrap_err()
            .contains("AccessDeniedException")
    );
    assert!(put(&gate, "s", &["a"]).await.is_err());
    assert_eq!(count(&kinesis, "s").await, 0);
    assert!(put(&gate, "s", &["a"]).await.is_err());
    assert_eq!(
        count(&kinesis, "s").await,
        1,
        "applied, but the caller does not know"
    );
    gate.seen().assert_within_limits();
    assert_eq!(put(&gate, "s", &["b", "b"]).await, Ok(vec![None, None]));
    assert!(gate.seen().shared_keys.contains("b"));
    assert_eq!(gate.requests("PutRecords"), 4);
    assert_eq!(gate.seen().requests[3].bytes(), 4);
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
    let (hung, ()) = tokio::join!(function.invoke(&hang, long), async {
        let told = || async { function.log().iter().filter(|line| line.contains("hang")).count() == 2 };
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

/// An event of table `public.t` at the given transaction and index.
fn event(commit: u32, index: u32, op: &str, before: Value, after: Value) -> Vec<u8> {
    let position = format!("{commit:016x}.{commit:016x}.{index:08x}");
    let source = json!({"schema": "public", "table": "t", "position": position});
    json!({"op": op, "before": before, "after": after, "source": source, "ts_ms": fastrand::u32(..)})
        .to_string()
        .into_bytes()
}

async fn a_consumer_rebuilds_rows_and_drops_duplicates() {
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 3).await;
    let one = [
        event(1, 0, "c", Value::Null, json!({"id": 1, "big": "stays", "n": 1})),
        event(
            2,
            0,
            "u",
            Value::Null,
            json!({"id": 1, "big": "__debezium_unavailable_value", "n": 2}),
        ),
    ];
    for data in one.iter().chain(&one) {
        kinesis.put("s", r#"{"id":1}"#, data).await;
    }
    // The row moves from key 1 to key 9.
    kinesis
        .put(
            "s",
            r#"{"id":1}"#,
            &event(3, 0, "d", json!({"id": 1}), Value::Null),
        )
        .await;
    let moved = json!({"id": 9, "big": "__debezium_unavailable_value", "n": 3});
    kinesis
        .put("s", r#"{"id":9}"#, &event(3, 1, "c", Value::Null, moved))
        .await;
    kinesis
        .put(
            "s",
            r#"{"id":5}"#,
            &event(4, 0, "c", Value::Null, json!({"id": 5, "big": null, "n": 0})),
        )
        .await;
    let delivery = Delivery::read(&kinesis, "s").await;
    delivery.assert_promise();
    assert_eq!((delivery.duplicates(), delivery.changes().len()), (2, 5));
    assert_eq!(delivery.counts()["public.t"], 5);
    let rebuilt = delivery.rebuild();
    assert_eq!(rebuilt.disagreements, Vec::<String>::new());
    let table = &rebuilt.tables["public.t"];
    assert_eq!(table.len(), 2);
    assert_eq!(
        Value::from(table.keyed[r#"{"id":9}"#].row.clone()),
        json!({"id": 9, "big": "stays", "n": 3})
    );

    kinesis
        .put("s", "public.t", &event(6, 0, "t", Value::Null, Value::Null))
        .await;
    kinesis
        .put(
            "s",
            r#"{"id":6}"#,
            &event(7, 0, "c", Value::Null, json!({"id": 6, "big": null, "n": 0})),
        )
        .await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    assert_eq!(rebuilt.disagreements, Vec::<String>::new());
    assert_eq!(
        rebuilt.tables["public.t"].len(),
        1,
        "what was before the truncate is gone"
    );
}

async fn a_consumer_notices_a_broken_promise() {
    let kinesis = Kinesis::start(Limits::Off).await;
    let cases = [
        (
            "order",
            "out of order",
            event(1, 0, "c", Value::Null, json!({"id": 1})),
        ),
        (
            "sameness",
            "not always the same",
            event(2, 0, "c", Value::Null, json!({"id": 1, "n": 2})),
        ),
        (
            "placement",
            "lies under the key",
            event(3, 0, "c", Value::Null, json!({"id": 2})),
        ),
        ("envelope", "no event", b"{}".to_vec()),
    ];
    for (stream, complaint, data) in cases {
        kinesis.create_stream(stream, 1).await;
        let good = event(2, 0, "c", Value::Null, json!({"id": 1}));
        kinesis.put(stream, r#"{"id":1}"#, &good).await;
        Delivery::read(&kinesis, stream).await.assert_promise();
        kinesis.put(stream, r#"{"id":1}"#, &data).await;
        let broken = Delivery::read(&kinesis, stream).await.broken();
        assert!(
            broken.iter().any(|it| it.contains(complaint)),
            "{stream}: {broken:?}"
        );
    }
}

async fn every_type_is_compared_as_an_event_writes_it() {
    let postgres = Postgres::shared().await;
    let database = scenarios::unique("types");
    postgres.create_database(&database).await;
    let client = postgres.admin(&database).await;
    let sql = r#"
        create type mood as enum ('ok'); create type pair as (a int, b text); create domain small as int;
        create table t (id int primary key, b bool, f float8, n numeric, by bytea, j jsonb, d date, dn date,
            ts timestamp, tz timestamptz, ti time, tt timetz, iv interval, ch char(4), m mood, p pair, pp pair[],
            s small, ia int[], ta text[], "Ünï" text, g int generated always as (id * 2) stored);
        insert into t values (1, true, 1e20, 'NaN', '\x00ff', '{"a": 1}', '2024-02-29', 'infinity',
            '2024-02-29 12:34:56.789', '2024-02-29 12:34:56+02', '12:34:56.5', '12:34:56+02', '1 day 2 h', 'ab',
            'ok', '(1,"x y")', '{"(1,a)"}', 3, '{{1,2},{3,null}}', '{}', null)"#;
    client.batch_execute(sql).await.unwrap();
    let mut row = json!({"id": 1, "b": true, "f": 1e20, "n": "NaN", "by": "AP8=", "j": "{\"a\": 1}",
        "d": "2024-02-29Z", "dn": "infinity", "ts": "2024-02-29T12:34:56.789Z", "tz": "2024-02-29T10:34:56Z",
        "ti": "12:34:56.5Z", "tt": "10:34:56Z", "iv": "P1DT2H", "ch": "ab  ", "m": "ok", "p": "(1,\"x y\")",
        "pp": ["(1,a)"], "s": 3, "ia": [[1, 2], [3, null]], "ta": [], "Ünï": null});
    let kinesis = Kinesis::start(Limits::Off).await;
    kinesis.create_stream("s", 1).await;
    kinesis
        .put("s", r#"{"id":1}"#, &event(1, 0, "c", Value::Null, row.clone()))
        .await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    for rows in [Rows::All, Rows::Changed] {
        let compared = oracle::compare(&client, "public.t", &rebuilt, rows).await;
        compared.assert_equal();
        assert_eq!(compared.rows, 1);
    }
    row["ia"] = json!([1, 2, 3, 4]);
    kinesis
        .put("s", r#"{"id":1}"#, &event(2, 0, "u", Value::Null, row))
        .await;
    let rebuilt = Delivery::read(&kinesis, "s").await.rebuild();
    let compared = oracle::compare(&client, "public.t", &rebuilt, Rows::All).await;
    assert!(
        compared.differences.len() == 1 && compared.differences[0].contains("ia"),
        "{compared:?}"
    );
    client
        .batch_execute("insert into t (id) values (2)")
        .await
        .unwrap();
    assert_eq!(
        oracle::compare(&client, "t", &rebuilt, Rows::All)
            .await
            .differences
            .len(),
        2
    );
    assert_eq!(
        oracle::compare(&client, "t", &rebuilt, Rows::Changed)
            .await
            .differences
            .len(),
        1
    );
    drop(client);
    postgres.drop_database(&database).await;
}
