//! `plan` predicts the events of a drain.
//!
//! It sends, stores and confirms nothing.

use std::io::Write as _;
use std::process::{Command, Stdio};

use scenarios::fixture::{Fixture, Plugin};
use serde_json::{Value, json};

use crate::support::backlog;
use crate::support::keys::partition_keys;
use crate::support::positions::SlotPositions;

crate::scenarios![
    a_plan_predicts_the_events_of_a_drain,
    a_plan_counts_oversize_events_and_continues,
    a_plan_of_an_empty_slot_is_empty,
    a_person_can_read_a_plan,
];

async fn plan(fixture: &Fixture) -> Value {
    fixture.invoke(json!({"action": "plan"})).await.answer()
}

/// Plan of this fixture; the plan sends nothing and moves no position.
async fn plan_without_effect(fixture: &Fixture) -> Value {
    let before = SlotPositions::read(fixture).await;
    let plan = plan(fixture).await;
    assert_eq!(
        SlotPositions::read(fixture).await,
        before,
        "the plan moved a position"
    );
    assert_eq!(
        fixture.kinesis_proxy.requests("PutRecords"),
        0,
        "the plan sent records"
    );
    plan
}

/// Compares the records of a plan with those of the drain.
fn assert_records(plan: &Value, report: &Value, aggregation: &str) {
    let packing = &plan[aggregation];
    match aggregation {
        "none" => {
            assert_eq!(
                (&packing["records"], &packing["bytes"]),
                (&report["records"], &report["bytes"])
            );
            let shards = packing["shards"].as_array().unwrap();
            let sum: u64 = shards
                .iter()
                .map(|shard| shard["records"].as_u64().unwrap())
                .sum();
            assert_eq!(sum, report["records"].as_u64().unwrap());
        }
        // In a drain, timing decides how many events a record of a shard gets.
        _ => assert!(
            packing["records"].as_u64() <= report["records"].as_u64(),
            "{packing} {report}"
        ),
    }
}

async fn a_plan_predicts_the_events_of_a_drain() {
    for (plugin, aggregation) in [
        (Plugin::Pgoutput, "none"),
        (Plugin::Pgoutput, "kpl"),
        (Plugin::Wal2json, "none"),
        (Plugin::TestDecoding, "kpl"),
    ] {
        let fixture = Fixture::builder(plugin)
            .shards(4)
            .env("AGGREGATION", aggregation)
            .build()
            .await;
        backlog::create(&fixture).await;
        fixture.drain().await;
        backlog::write(&fixture, 70, 2_000, 200).await;
        let plan = plan_without_effect(&fixture).await;
        assert_eq!(plan["complete"], true, "{plan}");
        assert_eq!(plan["aggregation"], aggregation);

        let report = fixture.tick().await;
        for figure in ["transactions", "changes", "events"] {
            assert_eq!(plan[figure], report[figure], "{figure}");
        }
        let table = &plan["tables"][0];
        assert_eq!(
            (&table["table"], &table["events"]),
            (&json!("public.t"), &report["events"])
        );
        let delivery = fixture.compare(&[backlog::TABLE]).await;
        assert_eq!(table["keys"], partition_keys(&delivery).len());
        assert_records(&plan, &report, aggregation);
        let (none, kpl) = (&plan["none"]["put_units"], &plan["kpl"]["put_units"]);
        assert!(none.as_u64().unwrap() > 20 * kpl.as_u64().unwrap(), "{plan}");
    }
}

async fn a_plan_counts_oversize_events_and_continues() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    fixture
        .sql("create table t (id int primary key, large text)")
        .await;
    fixture
        .sql("insert into t values (1, 'small'), (2, repeat('x', 1048576)), (3, 'small')")
        .await;
    let plan = plan(&fixture).await;
    assert_eq!(
        (&plan["oversize"], &plan["events"]),
        (&json!(1), &json!(3)),
        "{plan}"
    );
    assert_eq!(plan["record_limit_bytes"], 1 << 20);
    assert_eq!(fixture.failing_tick().await.0, "Oversize");
}

async fn a_plan_of_an_empty_slot_is_empty() {
    let fixture = Fixture::new(Plugin::Wal2json).await;
    let plan = plan(&fixture).await;
    assert_eq!(
        (&plan["events"], &plan["tables"]),
        (&json!(0), &json!([])),
        "{plan}"
    );
    assert_eq!(plan["none"]["records"], 0);
}

async fn a_person_can_read_a_plan() {
    let fixture = Fixture::new(Plugin::Pgoutput).await;
    backlog::create(&fixture).await;
    // One key of three has half of the events. A shard gets more than it accepts in a second.
    fixture.sql("insert into t values (1, 0), (2, 0), (3, 0)").await;
    fixture.sql(
        "do $$ begin for i in 1..3000 loop update t set n = i where id in (1, 2 + i % 2); end loop; end $$",
    )
    .await;
    // The first digits of the key's SHA-256.
    let hashed = plan(&fixture).await;
    assert_eq!(hashed["hottest_keys"][0]["key"], "037c9214eef74cc3");
    let event = json!({"action": "plan", "keys": true});
    let plan = fixture.invoke(event).await.answer();
    assert_eq!(plan["hottest_keys"][0]["key"], r#"{"id":1}"#);
    let script = scenarios::project_path("scripts/plan.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(plan.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    println!("{table}");
    for part in [
        "public.t",
        r#"{"id":1}"#,
        "6,003 events",
        "none (configured)",
        "Expect throttling",
        "shardId-0000",
    ] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
}
