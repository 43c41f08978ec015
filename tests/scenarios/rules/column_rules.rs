//! `COLUMN_RULES` keeps values out of events and log lines.
//!
//! Columns are omitted, or hashed with a salt.

use scenarios::aws::ssm::Ssm;
use scenarios::consumer::Delivery;
use scenarios::consumer::event::UNAVAILABLE;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::{
    ChunkLock, fixture_with_tables, invoke_ok, read_events, run_backfill, start_event, start_event_with_lock,
    tick_until_finished,
};
use crate::support::expected_errors::{assert_invocation_fails, assert_not_logged, assert_tick_fails};
use crate::support::keys::assert_steps;
use crate::support::log::warnings;

crate::scenarios![
    hidden_values_are_in_no_event_of_log_or_backfill,
    each_envelope_hides_the_values,
    a_value_that_a_backfill_fills_in_is_hashed,
    a_large_value_of_an_omitted_column_stops_nothing,
    a_table_whose_key_loses_a_column_has_no_key,
    a_rule_that_matches_no_column_is_reported,
    a_rule_for_a_table_without_events_is_reported,
    a_rule_for_a_partitioned_table_needs_its_own_name,
    the_salt_is_read_from_a_secret_and_never_quoted,
    a_rule_without_its_salt_is_refused,
];

const SALT: &str = "salt of the scenarios";
/// Part of each value that must not be sent.
const SECRET: &str = "hidden-";

/// Table whose key is hashed. Each text value except `plan` has [`SECRET`] in it.
///
/// The index of the key also stores a column that is omitted.
const USERS: &str = "
    create table users (
        email text, amount numeric(10,2), ok boolean, born date, doc jsonb, body text,
        ssn text, code char(12), plan text not null, primary key (email) include (ssn));
    alter table users alter body set storage external";
const RULES: &str = "public.users.email:hash,public.users.amount:hash,*.users.ok:hash,public.*.born:hash,\
    public.users.doc:hash,public.users.body:hash,public.users.code:hash,*.*.ssn:omit";

/// SQL of a row of this number.
fn row(number: u32) -> String {
    format!(
        "('{SECRET}{number}@example.com', 1234.5{number}, true, '1970-01-0{number}', \
         '{{\"a\": \"{SECRET}\"}}', repeat('{SECRET}', 1000), '{SECRET}{number}', '{SECRET}{number}', 'free')"
    )
}

fn builder(plugin: Plugin, rules: &str) -> FixtureBuilder {
    Fixture::builder(plugin)
        .env("COLUMN_RULES", rules)
        .env("COLUMN_SALT", SALT)
        .env("LOG_LEVEL", "debug")
}

/// The hash of an SQL expression, as the server computes it.
async fn hash(fixture: &Fixture, expression: &str) -> String {
    let sql =
        format!("select encode(sha256(convert_to(format('%s%s', '{SALT}', {expression}), 'UTF8')), 'hex')");
    fixture.value(&sql).await.unwrap()
}

/// The row with this number as it is sent: hashes, and `plan` in clear.
async fn hashes(fixture: &Fixture, number: u32) -> Value {
    let mut row = json!({"plan": "free"});
    for (column, expression) in [
        ("email", format!("'{SECRET}{number}@example.com'")),
        ("amount", format!("1234.5{number}::numeric(10,2)")),
        // The output function of boolean writes one letter.
        ("ok", "'t'::text".to_owned()),
        ("born", format!("date '1970-01-0{number}'")),
        ("doc", format!("'{{\"a\": \"{SECRET}\"}}'::jsonb")),
        ("body", format!("repeat('{SECRET}', 1000)")),
        ("code", format!("'{SECRET}{number}'::char(12)")),
    ] {
        row[column] = json!(hash(fixture, &expression).await);
    }
    row
}

/// Asserts that no event and no log line has a hidden value.
async fn assert_hidden(fixture: &Fixture, delivery: &Delivery) {
    for arrival in &delivery.arrivals {
        let data = String::from_utf8_lossy(&arrival.data);
        for hidden in [SECRET, "1234.5", "1970-01", "ssn"] {
            assert!(!data.contains(hidden), "{hidden}: {data}");
        }
        assert!(
            !arrival.partition_key.contains(SECRET),
            "{}",
            arrival.partition_key
        );
    }
    assert_not_logged(fixture, SECRET).await;
    assert_not_logged(fixture, SALT).await;
}

/// Fixture with users from before and after the slot, and changes.
///
/// One row is from before the slot. Two rows are from after it: one is updated, the other gets another key
/// and is deleted.
async fn changed_users(builder: FixtureBuilder) -> Fixture {
    let filled = format!("{USERS}; insert into users values {}", row(1));
    let fixture = fixture_with_tables(builder, &filled).await;
    fixture
        .sql(&format!("insert into users values {}, {}", row(2), row(3)))
        .await;
    // The large value is not in the log.
    fixture
        .sql("update users set plan = 'paid', amount = null where email like '%2@%'")
        .await;
    let renamed = format!("{SECRET}4@example.com");
    fixture
        .sql(&format!(
            "update users set email = '{renamed}' where email like '%3@%'"
        ))
        .await;
    fixture
        .sql(&format!("delete from users where email = '{renamed}'"))
        .await;
    fixture
}

async fn hidden_values_are_in_no_event_of_log_or_backfill() {
    Plugin::each(|plugin| async move {
        let fixture = changed_users(builder(plugin, RULES)).await;
        let plan = fixture
            .invoke(json!({"action": "plan", "keys": true}))
            .await
            .answer();
        assert!(!plan.to_string().contains(SECRET), "{plan}");
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let mut keys = Vec::new();
        for number in 1..=4 {
            let email = hash(&fixture, &format!("'{SECRET}{number}@example.com'")).await;
            keys.push(json!({"email": email}).to_string());
        }
        let [_, two, three, four] = &keys[..] else {
            panic!()
        };
        let expected = [
            ("c", two),
            ("c", three),
            ("u", two),
            ("d", three),
            ("c", four),
            ("d", four),
        ];
        assert_steps(&delivery, &expected.map(|(op, key)| (op, key.as_str())));
        let events = delivery.of_table("public.users");
        assert_eq!(events[0]["after"], hashes(&fixture, 2).await);
        let mut updated = hashes(&fixture, 2).await;
        updated["plan"] = json!("paid");
        updated["amount"] = Value::Null;
        updated["body"] = json!(UNAVAILABLE);
        assert_eq!(events[2]["after"], updated);
        let key: Value = serde_json::from_str(three).unwrap();
        assert_eq!(events[3]["before"], key, "the old key has the hash of its value");

        // The cursor of the backfill is inside of the table between two chunks.
        run_backfill(&fixture, start_event(&["public.users"], 1)).await;
        let delivery = fixture.consume().await;
        let read = read_events(&delivery, "public.users");
        updated["body"] = hashes(&fixture, 2).await["body"].clone();
        let first = hashes(&fixture, 1).await;
        assert_eq!(
            read.iter().map(|event| &event["after"]).collect::<Vec<_>>(),
            [&first, &updated]
        );
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([]), "{status}");
        assert_hidden(&fixture, &delivery).await;
    })
    .await;
}

async fn each_envelope_hides_the_values() {
    for envelope in ["dms", "wal2json"] {
        let builder = builder(Plugin::Pgoutput, RULES).env("ENVELOPE", envelope);
        let fixture = changed_users(builder).await;
        run_backfill(&fixture, start_event(&["public.users"], 10)).await;
        let delivery = fixture.consume().await;
        assert_hidden(&fixture, &delivery).await;
        let (one, two) = (hashes(&fixture, 1).await, hashes(&fixture, 2).await);
        let texts: Vec<String> = delivery
            .arrivals
            .iter()
            .map(|arrival| String::from_utf8_lossy(&arrival.data).into_owned())
            .collect();
        for row in [one, two] {
            for column in ["email", "ok", "born", "doc", "body", "code"] {
                let value = row[column].as_str().unwrap();
                assert!(
                    texts.iter().any(|text| text.contains(value)),
                    "{envelope}: {column}"
                );
            }
        }
        for (_, definition) in &delivery.definitions {
            let text = String::from_utf8_lossy(&definition.data);
            assert!(!text.contains("ssn") && text.contains("email"), "{text}");
        }
    }
}

/// Updates during a chunk, whose large values the backfill fills in.
///
/// An update of a row that is in memory takes the unchanged large value from that row.
async fn a_value_that_a_backfill_fills_in_is_hashed() {
    Plugin::each(|plugin| async move {
        let sql = format!(
            "create table t (id int primary key, n int, body text);
             alter table t alter body set storage external;
             insert into t select i, 0, repeat('{SECRET}' || i, 1000) from generate_series(1, 3) i"
        );
        let fixture = fixture_with_tables(builder(plugin, "public.t.body:hash"), &sql).await;
        fixture.sql(ChunkLock::SQL).await;
        let lock = ChunkLock::at_row(&fixture, 2).await;
        let update = fixture.sql("update t set n = 1 where id = 1; update t set id = 9 where id = 3");
        let event = start_event_with_lock("public.t", 10);
        let (first, ()) = tokio::join!(invoke_ok(&fixture, event), lock.release_after(&fixture, update));
        tick_until_finished(&fixture, first).await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.t");
        let body = |id: u32| format!("repeat('{SECRET}{id}', 1000)");
        let (one, three) = (hash(&fixture, &body(1)).await, hash(&fixture, &body(3)).await);
        let after = |op: &str, id: u32| {
            let event = events
                .iter()
                .find(|event| event["op"] == op && event["after"]["id"] == id);
            event.map_or_else(|| panic!("{op} {id}: {events:#?}"), |it| it["after"].clone())
        };
        assert_eq!(after("u", 1), json!({"id": 1, "n": 1, "body": one}));
        assert_eq!(after("c", 9), json!({"id": 9, "n": 0, "body": three}));
        for arrival in &delivery.arrivals {
            let data = String::from_utf8_lossy(&arrival.data);
            assert!(!data.contains(SECRET), "{data}");
        }
    })
    .await;
}

async fn a_large_value_of_an_omitted_column_stops_nothing() {
    Plugin::each(|plugin| async move {
        let row = "(1, repeat('x', 6000000), 'small')";
        let sql =
            format!("create table t (id int primary key, body text, note text); insert into t values {row}");
        let mut fixture = fixture_with_tables(builder(plugin, "public.t.body:omit"), &sql).await;
        let update = format!("delete from t; insert into t values {row}; update t set note = 'n'");
        fixture.sql(&update).await;
        run_backfill(&fixture, start_event(&["public.t"], 10)).await;
        let events = fixture.consume().await.of_table("public.t");
        let after: Vec<&Value> = events.iter().map(|event| &event["after"]).collect();
        let (small, n) = (json!({"id": 1, "note": "small"}), json!({"id": 1, "note": "n"}));
        assert_eq!(after, [&Value::Null, &small, &n, &n]);
        // The function does not keep such a value, so it cannot hash it.
        fixture.function.set("COLUMN_RULES", "public.t.body:hash").await;
        fixture.sql(&update).await;
        let (kind, message) = fixture.failing_tick().await;
        assert!(
            kind == "Oversize" && message.contains("public.t"),
            "{kind}: {message}"
        );
        fixture.function.set("OVERSIZE", "omit").await;
        fixture.drain().await;
        let events = fixture.consume().await.of_table("public.t");
        assert_eq!(events[5]["after"]["body"], json!(UNAVAILABLE), "{}", events[5]);
        assert_eq!(events[5]["source"]["omitted"], json!(["body"]));
    })
    .await;
}

async fn a_table_whose_key_loses_a_column_has_no_key() {
    Plugin::each(|plugin| async move {
        let sql = "create table t (tenant int, id int, note text, primary key (tenant, id));
                   insert into t values (1, 1, 'a')";
        let fixture = fixture_with_tables(builder(plugin, "public.t.id:omit"), sql).await;
        // Without their id, both rows would have the key {"tenant":1}.
        fixture
            .sql(
                "insert into t values (1, 2, 'b'), (1, 3, 'c'); update t set note = 'd' where id = 2;
                 update t set id = 4 where id = 3; delete from t where id = 4",
            )
            .await;
        run_backfill(&fixture, start_event(&["public.t"], 1)).await;
        let delivery = fixture.consume().await;
        let steps = ["c", "c", "u", "u", "d", "r", "r"].map(|op| (op, "public.t"));
        assert_steps(&delivery, &steps);
        for event in delivery.of_table("public.t") {
            assert!(
                event["after"]["id"].is_null() && event["before"]["id"].is_null(),
                "{event}"
            );
        }
        let expected = "COLUMN_RULES: column id of the key of public.t is omitted, so its events have no \
                        key: hash the column, or choose a replica identity without it";
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([expected]), "{status}");
        let warnings = warnings(&fixture, "COLUMN_RULES");
        assert!(warnings.concat().contains(expected), "{warnings:#?}");
    })
    .await;
}

async fn a_rule_that_matches_no_column_is_reported() {
    Plugin::each(|plugin| async move {
        let rules =
            "public.users.Email:hash,public.users.phone:omit,public.customers.*:omit,public.users.ssn:omit";
        let fixture = builder(plugin, rules).build().await;
        fixture.sql(USERS).await;
        let expected = [
            "COLUMN_RULES: public.users.Email:hash matches no column: case matters, and there is \
             public.users.email",
            "COLUMN_RULES: public.users.phone:omit matches tables, but none of their columns",
            "COLUMN_RULES: public.customers.*:omit matches no table whose changes are sent",
        ];
        for action in ["status", "setup"] {
            let answer = fixture.invoke(json!({"action": action})).await.answer();
            assert_eq!(answer["problems"], json!(expected), "{answer}");
        }
        assert_eq!(warnings(&fixture, "COLUMN_RULES"), [""; 0], "only a drain warns");
        fixture.tick().await;
        let warnings = warnings(&fixture, "COLUMN_RULES").concat();
        for text in expected {
            assert!(warnings.contains(text), "{text}");
        }
    })
    .await;
}

/// Rules for a table that `TABLES` excludes have no effect.
async fn a_rule_for_a_table_without_events_is_reported() {
    Plugin::each(|plugin| async move {
        let builder = builder(plugin, "public.left_out.id:omit,public.*.id:hash").env("TABLES", "public.t");
        let fixture = builder.build().await;
        fixture
            .sql("create table t (id int primary key); create table left_out (id int primary key)")
            .await;
        let expected = "COLUMN_RULES: public.left_out.id:omit matches no table whose changes are sent";
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([expected]), "{status}");
    })
    .await;
}

/// Without `publish_via_partition_root` the changes have the names of the partitions.
async fn a_rule_for_a_partitioned_table_needs_its_own_name() {
    Plugin::each(|plugin| async move {
        let rules = "public.people.name:omit,public.people_*.name:omit";
        let fixture = builder(plugin, rules).build().await;
        fixture
            .sql(&format!(
                "create table people (id int primary key, name text) partition by range (id);
                 create table people_1 partition of people for values from (0) to (100);
                 insert into people values (1, '{SECRET}')"
            ))
            .await;
        let expected = "COLUMN_RULES: public.people.name:omit matches no table whose changes are sent";
        let status = fixture.status().await;
        assert_eq!(status["problems"], json!([expected]), "{status}");
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.people_1");
        assert_eq!(events[0]["after"], json!({"id": 1}));
    })
    .await;
}

async fn the_salt_is_read_from_a_secret_and_never_quoted() {
    let mut fixture = Fixture::builder(Plugin::Pgoutput)
        .env("COLUMN_RULES", "public.t.name:hash")
        // moto has the secret.
        .env("AWS_ENDPOINT_URL_SSM", Ssm::shared().await.endpoint())
        .build()
        .await;
    fixture
        .sql("create table t (id int primary key, name text)")
        .await;
    fixture
        .sql(&format!("insert into t values (1, '{SECRET}')"))
        .await;
    let name = format!("app/{}", fixture.slot);
    fixture.function.set("COLUMN_SALT_SECRET", &name).await;
    assert_tick_fails(&fixture, "SaltUnreadable", &[&name, "COLUMN_SALT_SECRET"]).await;
    for (at, secret) in [json!(SALT), json!({"salt": "too short"})]
        .into_iter()
        .enumerate()
    {
        let name = format!("{name}-{at}");
        Ssm::shared()
            .await
            .create_secret(&name, &secret.to_string())
            .await;
        fixture.function.set("COLUMN_SALT_SECRET", &name).await;
        assert_tick_fails(&fixture, "SaltUnreadable", &[&name, "salt"]).await;
        assert_not_logged(&fixture, SALT).await;
        assert_not_logged(&fixture, "too short").await;
    }
    let arn = Ssm::shared()
        .await
        .create_secret(&name, &json!({"salt": SALT}).to_string())
        .await;
    fixture.function.set("COLUMN_SALT_SECRET", &arn).await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let expected = hash(&fixture, &format!("'{SECRET}'")).await;
    assert_eq!(delivery.of_table("public.t")[0]["after"]["name"], json!(expected));
    assert_not_logged(&fixture, SALT).await;
}

async fn a_rule_without_its_salt_is_refused() {
    let mut fixture = Fixture::builder(Plugin::Wal2json)
        .env("COLUMN_RULES", "public.t.name:hash")
        .build()
        .await;
    assert_invocation_fails(
        &fixture,
        json!({}),
        "ConfigInvalid",
        &["COLUMN_SALT_SECRET", "COLUMN_RULES"],
    )
    .await;
    fixture.function.set("COLUMN_SALT", "short").await;
    assert_invocation_fails(
        &fixture,
        json!({}),
        "ConfigInvalid",
        &["COLUMN_SALT=…", "16 characters"],
    )
    .await;
    assert_not_logged(&fixture, "short").await;
    // A column that is omitted is not read, so the role needs no right to read it.
    fixture.function.set("COLUMN_RULES", "*.*.name:omit").await;
    fixture.function.unset("COLUMN_SALT").await;
    fixture
        .sql(&format!(
            "create table t (id int primary key, name text); grant select (id) on t to {};
             insert into t values (1, '{SECRET}')",
            REPLUSER.0
        ))
        .await;
    run_backfill(&fixture, start_event(&["public.t"], 10)).await;
    let delivery = fixture.consume().await;
    let read = read_events(&delivery, "public.t");
    assert_eq!(read[0]["after"], json!({"id": 1}));
    let named = json!({"action": "backfill", "wait": true, "tables": ["public.t"], "columns": ["name"]});
    assert_invocation_fails(
        &fixture,
        named,
        "BackfillRefused",
        &["public.t", "no column name"],
    )
    .await;
}
