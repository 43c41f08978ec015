//! The windows of a slow stream overlap. The order of its changes stays.

use std::time::Duration;

use scenarios::aws::fake_kinesis::FakeKinesisSettings;
use scenarios::fixture::{DEADLINE, Fixture, Plugin};
use serde_json::json;

crate::scenarios![the_last_events_of_a_window_are_sent_while_the_next_one_is_decoded];

/// Transactions of one update each. A window has a third of 100,000 rows of them: begin, update and commit.
const UPDATES: usize = 45_000;
/// Keys of the updates. Each key sends one record for each request.
const KEYS: usize = 300;
/// The transaction before the end of the first window. It is large enough for sections.
const LARGE_AFTER: usize = 32_000;
const LARGE_ROWS: usize = 3_000;

async fn the_last_events_of_a_window_are_sent_while_the_next_one_is_decoded() {
    Plugin::each(|plugin| async move {
        let settings = FakeKinesisSettings {
            latency: Duration::from_millis(20),
            ..FakeKinesisSettings::default()
        };
        let builder = Fixture::builder(plugin).on_fake_kinesis(settings);
        let fixture = builder.env("LOG_LEVEL", "debug").build().await;
        fixture
            .sql("create table t (id int primary key, n int not null, what text)")
            .await;
        fixture
            .sql(&format!(
                "insert into t select i, 0 from generate_series(1, {KEYS}) i"
            ))
            .await;
        fixture.drain().await;
        let client = fixture.connect().await;
        let backlog = format!(
            "do $$ begin
                for i in 1..{UPDATES} loop
                    update t set n = i where id = 1 + i % {KEYS};
                    if i = {LARGE_AFTER} then
                        insert into t select -n, i, repeat('x', 500) from generate_series(1, {LARGE_ROWS}) n;
                    end if;
                    commit;
                end loop;
            end $$"
        );
        client.batch_execute(&backlog).await.unwrap();

        // A busy machine may need longer than the usual deadline.
        let outcome = fixture.function.invoke(&json!({}), 4 * DEADLINE).await;
        let report = outcome.answer();
        assert_eq!(report["stopped"], "empty", "{report}");
        assert_eq!(report["changes"], UPDATES + LARGE_ROWS, "{report}");
        let log = fixture.function.log();
        let overlaps = log
            .iter()
            .filter(|line| line.contains("the next window begins before"));
        assert!(overlaps.count() > 0, "no windows overlapped: {report}");
        let delivery = fixture.compare(&["t"]).await;
        assert_eq!(delivery.changes().len(), KEYS + UPDATES + LARGE_ROWS);
        assert_eq!(delivery.duplicates(), 0);
    })
    .await;
}
