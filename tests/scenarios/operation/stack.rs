//! Creation of the stack sets up its slot; deletion drops it.
//!
//! The whole template is deployed in an emulator of AWS, and the real function runs there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scenarios::aws::alarms::{Metrics, alarms};
use scenarios::aws::stack::{Account, StackOutcome};
use scenarios::postgres::sql_text::drop_slot_sql;
use scenarios::postgres::{Postgres, PostgresSettings, REPLUSER};
use scenarios::wait;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::reports::reported_sum;

crate::scenarios![
    a_stack_is_deployed_drains_answers_while_it_drains_and_leaves_nothing,
    a_kept_slot_is_continued_by_the_next_stack_and_never_dropped_by_it,
    a_slot_of_others_survives_a_failed_deployment,
    a_failed_setup_says_why_and_leaves_nothing,
    a_checkpoint_that_shows_a_gap_survives_the_next_stack,
    another_slot_name_drops_no_slot,
    a_slot_that_an_update_creates_is_the_stacks_own,
    a_delete_without_the_database_ends,
    the_example_is_deployed_whole_and_leaves_nothing,
];

/// The parameters of a slot that is kept.
const KEPT: [&str; 2] = ["/spillway/spillway", "/spillway/spillway.tables"];

/// Empty account, and a server whose database `app` has the table `t`.
struct StackFixture {
    account: Account,
    postgres: Postgres,
    admin: Client,
}

impl StackFixture {
    async fn new() -> Self {
        let settings = PostgresSettings {
            tls: true,
            trust: true,
            ..PostgresSettings::default()
        };
        let (account, postgres) = tokio::join!(Account::start(), Postgres::start(settings));
        postgres.create_database("app").await;
        let admin = postgres.admin("app").await;
        let role = REPLUSER.0;
        let script = format!(
            "grant create on database app to {role}; create table t (id int primary key); \
             alter table t owner to {role}; insert into t select generate_series(1, 100)"
        );
        admin.batch_execute(&script).await.unwrap();
        Self {
            account,
            postgres,
            admin,
        }
    }

    /// Deploys with these parameters besides those that every stack needs.
    async fn deploy(&self, parameters: &[&str]) -> StackOutcome {
        let port = format!("DbPort={}", self.postgres.port());
        let user = format!("DbUser={}", REPLUSER.0);
        let needed = [
            "DbHost=127.0.0.1",
            &port,
            &user,
            "DbName=app",
            "DbResourceId=cluster-ABC",
            "SslMode=require",
            "SubnetIds=subnet-12345678",
            "SecurityGroupIds=sg-12345678",
            "StreamShards=1",
            // The emulator has a schedule, too, and its tick would hold the lock.
            "ScheduleState=DISABLED",
        ];
        let all: Vec<String> = needed
            .iter()
            .chain(parameters)
            .map(|it| (*it).to_owned())
            .collect();
        self.account.deploy(&all).await
    }

    /// Deletes the stack, which succeeds. Asserts that only the stream and these parameters are left.
    async fn delete(&self, parameters: &[&str]) {
        let deleted = self.account.delete().await;
        assert_eq!(
            deleted.status,
            "DELETE_COMPLETE",
            "{deleted:?}\n{}",
            self.account.log()
        );
        assert_eq!(self.account.resources().await, left(parameters));
    }

    async fn sql(&self, statement: &str) {
        self.admin.batch_execute(statement).await.unwrap();
    }

    async fn slots(&self) -> Vec<String> {
        let query = "select slot_name::text as slot_name from pg_replication_slots order by slot_name";
        let rows = self.admin.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get("slot_name")).collect()
    }

    async fn tick(&self) -> Value {
        self.account.invoke(&json!({})).await
    }

    /// Alarms that fire on the metrics that the functions have written.
    ///
    /// All metrics so far count as written in one minute.
    fn alarms_that_fire(&self) -> Vec<String> {
        // Later than the longest time that an alarm evaluates.
        const NOW: u64 = 7_200;
        let lines: Vec<String> = self.account.log().lines().map(str::to_owned).collect();
        let mut metrics = Metrics::default();
        metrics.add_lines(NOW, &lines);
        assert!(!metrics.values("Drains").is_empty(), "no metrics");
        let fired = alarms(&[])
            .into_iter()
            .filter(|(_, it)| it.fires(&metrics, NOW + 60));
        fired.map(|(name, _)| name).collect()
    }
}

/// Resources of an account with the stream and these parameters only.
fn left(parameters: &[&str]) -> Value {
    json!({"parameters": parameters, "functions": [], "schedules": [], "alarms": [], "logs": [], "roles": [],
           "streams": ["spillway"], "clusters": [], "networks": []})
}

async fn a_stack_is_deployed_drains_answers_while_it_drains_and_leaves_nothing() {
    let fixture = StackFixture::new().await;
    let deployed = fixture.deploy(&["LingerSeconds=8"]).await;
    assert_eq!(
        deployed.status,
        "CREATE_COMPLETE",
        "{deployed:?}\n{}",
        fixture.account.log()
    );
    let made = "created publication spillway of 1 tables; created slot spillway; \
                created checkpoint /spillway/spillway";
    assert_eq!(deployed.outputs["Setup"], made);
    assert_eq!(fixture.slots().await, ["spillway"]);
    // The alarm on silence is new, and evaluates the time before: the drain of the deployment keeps it quiet.
    assert_eq!(fixture.alarms_that_fire(), Vec::<String>::new());
    let backfill = json!({"action": "backfill", "tables": ["public.t"]});
    assert_eq!(fixture.account.invoke(&backfill).await["action"], "backfill");
    fixture.sql("insert into t values (101)").await;
    let limit = Duration::from_secs(60);
    let is_answered = AtomicBool::new(false);
    let answered = async {
        let what = "status names the drain, and the finished backfill";
        let status = wait::until_some(what, limit, || async {
            let status = fixture.account.invoke(&json!({"action": "status"})).await;
            let is_awaited =
                status["drainer"]["pid"].is_number() && status["backfill"]["state"] == "finished";
            is_awaited.then_some(status)
        });
        let status = status.await;
        is_answered.store(true, Ordering::Relaxed);
        status
    };
    let drained = async {
        let mut reports = Vec::new();
        // On a busy machine, the answer may take longer than one tick.
        while !is_answered.load(Ordering::Relaxed) {
            reports.push(fixture.tick().await);
        }
        reports
    };
    let (drained, status) = tokio::join!(drained, answered);
    assert!(
        drained.iter().all(|report| report["stopped"] == "empty"),
        "{drained:?}"
    );
    assert_eq!(status["problems"], json!([]), "{status}");
    // From the answers: the emulator may miss a line that is written just before an answer.
    assert_eq!(reported_sum(&drained, "changes"), 1, "{drained:?}");
    fixture.delete(&[]).await;
    assert_eq!(fixture.slots().await, Vec::<String>::new());
    assert_eq!(fixture.alarms_that_fire(), Vec::<String>::new());
}

async fn a_kept_slot_is_continued_by_the_next_stack_and_never_dropped_by_it() {
    let fixture = StackFixture::new().await;
    fixture.deploy(&["OnDelete=keep"]).await;
    fixture.delete(&KEPT).await;
    assert_eq!(fixture.slots().await, ["spillway"]);
    fixture.sql("insert into t values (101), (102)").await;
    let again = fixture.deploy(&["OnDelete=drop", "CreateStream=false"]).await;
    assert_eq!(again.status, "CREATE_COMPLETE", "{again:?}");
    assert_eq!(again.outputs["Setup"], "nothing was missing");
    // The deployment drained once, so nothing is left.
    let report = fixture.tick().await;
    assert_eq!(
        (&report["changes"], &report["stopped"]),
        (&json!(0), &json!("empty")),
        "{report}"
    );
    fixture.delete(&KEPT).await;
    assert_eq!(fixture.slots().await, ["spillway"]);
}

async fn a_slot_of_others_survives_a_failed_deployment() {
    let fixture = StackFixture::new().await;
    fixture
        .sql("select pg_create_physical_replication_slot('spillway')")
        .await;
    let deployed = fixture.deploy(&[]).await;
    assert_eq!(deployed.status, "ROLLBACK_COMPLETE", "{deployed:?}");
    assert!(
        deployed.failures.concat().contains("SlotUnusable"),
        "{deployed:?}"
    );
    assert_eq!(fixture.slots().await, ["spillway"]);
}

async fn a_failed_setup_says_why_and_leaves_nothing() {
    let fixture = StackFixture::new().await;
    fixture
        .sql(&format!("alter role {} noreplication", REPLUSER.0))
        .await;
    let deployed = fixture.deploy(&[]).await;
    assert_eq!(deployed.status, "ROLLBACK_COMPLETE", "{deployed:?}");
    let failures = deployed.failures.join("\n");
    assert!(
        failures.contains("SlotSetup: RoleLacksReplication: "),
        "{failures}"
    );
    assert_eq!(fixture.slots().await, Vec::<String>::new());
    let functions = &fixture.account.resources().await["functions"];
    assert_eq!(*functions, json!([]));
}

/// A rollback deletes no more than this deletion does.
async fn a_checkpoint_that_shows_a_gap_survives_the_next_stack() {
    let fixture = StackFixture::new().await;
    fixture.deploy(&["OnDelete=keep"]).await;
    fixture.delete(&KEPT).await;
    fixture.sql(&drop_slot_sql("spillway")).await;
    let again = fixture.deploy(&["CreateStream=false"]).await;
    assert_eq!(again.status, "CREATE_COMPLETE", "{again:?}");
    let setup = &again.outputs["Setup"];
    assert!(
        setup.contains("created slot spillway") && setup.contains("Gap"),
        "{setup}"
    );
    fixture.delete(&KEPT).await;
    assert_eq!(fixture.slots().await, ["spillway"]);
}

async fn another_slot_name_drops_no_slot() {
    let fixture = StackFixture::new().await;
    fixture.deploy(&[]).await;
    let updated = fixture.deploy(&["SlotName=other"]).await;
    assert_eq!(updated.status, "UPDATE_COMPLETE", "{updated:?}");
    assert_eq!(fixture.slots().await, ["other", "spillway"]);
    fixture.delete(&KEPT).await;
    assert_eq!(fixture.slots().await, ["spillway"]);
}

async fn a_slot_that_an_update_creates_is_the_stacks_own() {
    let fixture = StackFixture::new().await;
    let deployed = fixture.deploy(&["OnCreate=nothing"]).await;
    assert_eq!(deployed.outputs["Setup"], "not asked for", "{deployed:?}");
    assert_eq!(fixture.slots().await, Vec::<String>::new());
    let updated = fixture.deploy(&["OnCreate=setup"]).await;
    assert_eq!(updated.status, "UPDATE_COMPLETE", "{updated:?}");
    assert_eq!(fixture.slots().await, ["spillway"]);
    fixture.delete(&[]).await;
    assert_eq!(fixture.slots().await, Vec::<String>::new());
}

async fn a_delete_without_the_database_ends() {
    let fixture = StackFixture::new().await;
    fixture.deploy(&[]).await;
    fixture.postgres.crash().await;
    fixture.delete(&KEPT).await;
}

/// The walk-through of examples/cluster.yaml. A role of the harness has the rights that RDS gives its own
/// role.
async fn the_example_is_deployed_whole_and_leaves_nothing() {
    let settings = PostgresSettings {
        tls: true,
        trust: true,
        ..PostgresSettings::default()
    };
    let (account, postgres) = tokio::join!(Account::start(), Postgres::start(settings));
    postgres.create_database("example").await;
    let admin = postgres.admin("example").await;
    // On RDS membership in rds_replication is enough. PostgreSQL does not inherit the attribute.
    let roles = "create role rds_iam; create role rds_replication; create role spillway login replication";
    admin.batch_execute(roles).await.unwrap();
    let deployed = account.deploy_example(&postgres).await;
    assert_eq!(
        deployed.status,
        "CREATE_COMPLETE",
        "{deployed:?}\n{}",
        account.log()
    );
    let written = account
        .invoke_example("write", &json!({"transactions": 20}))
        .await;
    assert_eq!(written, json!({"transactions": 20}));
    let drained = account.invoke_example("drain", &json!({})).await;
    assert_eq!(
        (&drained["changes"], &drained["stopped"]),
        (&json!(80), &json!("empty")),
        "{drained}"
    );
    let status = account
        .invoke_example("drain", &json!({"action": "status"}))
        .await;
    assert_eq!(status["problems"], json!([]), "{status}");
    let deleted = account.delete().await;
    assert_eq!(
        deleted.status,
        "DELETE_COMPLETE",
        "{deleted:?}\n{}",
        account.log()
    );
    let mut nothing = left(&[]);
    nothing["streams"] = json!([]);
    assert_eq!(account.resources().await, nothing);
    let slots = admin
        .query("select from pg_replication_slots", &[])
        .await
        .unwrap();
    assert!(slots.is_empty());
}
