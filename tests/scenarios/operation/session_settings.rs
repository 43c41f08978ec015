//! Settings that a role or a database makes: they change neither the drain nor its events.

use std::time::Duration;

use scenarios::aws::fake_kinesis::{FakeKinesisSettings, Faults};
use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::json;

use crate::support::expected_errors::assert_tick_fails;
use crate::support::positions::{save_slot, set_slot_back};
use crate::support::versions::pgoutput;

crate::scenarios![
    literals_do_not_depend_on_the_role,
    a_limit_on_temporary_files_makes_windows_smaller,
    a_limit_on_temporary_files_does_not_stop_the_search_for_commits,
];

crate::version_scenarios![since 17: timeouts_of_the_role_do_not_end_a_drain];

/// Every timeout of a session that a role may have.
const TIMEOUTS: [&str; 5] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
];

/// Drain with a peek that stays open, under timeouts of the role.
///
/// One row is updated, so that each of its records waits for the previous one. The peek stays open meanwhile.
async fn timeouts_of_the_role_do_not_end_a_drain(version: u32) {
    let settings = FakeKinesisSettings {
        faults: Faults {
            slow_requests: 1.0,
            slowest: Duration::from_millis(300),
            ..Faults::default()
        },
        ..FakeKinesisSettings::default()
    };
    let fixture = pgoutput(version)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .on_fake_kinesis(settings)
        .build()
        .await;
    let (role, database) = (REPLUSER.0, &fixture.database);
    for timeout in TIMEOUTS {
        let exists = format!("select from pg_settings where name = '{timeout}'");
        let exists = format!("select exists ({exists})");
        if fixture.value(&exists).await.as_deref() == Some("t") {
            fixture
                .sql(&format!(
                    "alter role {role} in database {database} set {timeout} = '2s'"
                ))
                .await;
        }
    }
    fixture
        .sql("create table t (id int primary key, what text); insert into t values (1, '')")
        .await;
    for _ in 0..40 {
        fixture
            .sql(
                "update t set what = (select string_agg(md5(random()::text), '') \
                  from generate_series(1, 25000))",
            )
            .await;
    }
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 41);
}

/// With this setting, a backslash in a literal begins an escape.
///
/// The server warns of it.
async fn literals_do_not_depend_on_the_role() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(&format!(
                "alter role {} in database {} set standard_conforming_strings = off;
                 create table t (id int primary key, what text)",
                REPLUSER.0, fixture.database
            ))
            .await;
        fixture.sql(r"insert into t values (1, 'a\b')").await;
        let report = fixture.tick().await;
        assert_eq!(
            (&report["changes"], &report["notices"]),
            (&json!(1), &json!(0)),
            "{report}"
        );
        fixture.compare(&["t"]).await;
    })
    .await;
}

/// Limits the temporary files of the function's next sessions.
async fn limit_temporary_files(fixture: &Fixture, limit: &str) {
    let (role, database) = (REPLUSER.0, &fixture.database);
    let sql = format!("alter role {role} in database {database} set temp_file_limit = '{limit}'");
    fixture.sql(&sql).await;
    fixture.function.kill9().await;
}

/// The server stores the rows of a window in temporary files.
///
/// It does so for the search for the marker, too. The slot goes back, as after a crash. So the drain searches
/// for the marker behind the whole backlog.
async fn a_limit_on_temporary_files_makes_windows_smaller() {
    let fixture = Fixture::builder(Plugin::Pgoutput).without_slot().build().await;
    fixture
        .sql("create table t (id int primary key, what text); create publication spillway for all tables")
        .await;
    fixture.create_slot().await;
    fixture.drain().await;
    save_slot(&fixture).await;
    let backlog = "do $$ begin for i in 1..400 loop
                       insert into t values (i, repeat(md5(i::text), 2000)); commit;
                   end loop; end $$";
    fixture.connect().await.batch_execute(backlog).await.unwrap();
    limit_temporary_files(&fixture, "2MB").await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 400);

    set_slot_back(&fixture).await;
    fixture.sql("insert into t values (401, 'new')").await;
    fixture.function.kill9().await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 401);
    let one = "insert into t select 500, string_agg(md5(i::text), '') from generate_series(1, 300000) i";
    fixture.sql(one).await;
    // It sends what is before the transaction.
    let (kind, message) = fixture.failing_tick().await;
    assert_eq!(kind, "PostgresFailed", "{message}");
    let parts = [fixture.slot.as_str(), "temp_file_limit"];
    assert_tick_fails(&fixture, "PostgresFailed", &parts).await;
}

/// The search needs twice the space of the window.
async fn a_limit_on_temporary_files_does_not_stop_the_search_for_commits() {
    let fixture = Fixture::builder(Plugin::Pgoutput).build().await;
    fixture
        .sql("create table t (id int primary key, what text)")
        .await;
    fixture.drain().await;
    let backlog = "do $$ begin for i in 1..5000 loop
                       insert into t values (i, 'small'); commit;
                   end loop; end $$";
    fixture.connect().await.batch_execute(backlog).await.unwrap();
    let large = "insert into t select i, repeat(md5(i::text), 10) from generate_series(10001, 60000) i";
    fixture.sql(large).await;
    limit_temporary_files(&fixture, "32MB").await;
    fixture.drain().await;
    assert_eq!(fixture.compare(&["t"]).await.changes().len(), 55_000);
}
