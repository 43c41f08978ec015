//! Settings and bytes of other users.
//!
//! Settings for the output of values do not change what the drain sends. Bytes that are not text stop the
//! drain before them, with an error.

use scenarios::fixture::{Fixture, Plugin};
use scenarios::postgres::{ADMIN, Postgres};
use serde_json::json;

use crate::support::positions::SlotPositions;

crate::scenarios![
    settings_of_the_database_do_not_change_a_value,
    invalid_text_stops_the_drain_before_it,
];

async fn settings_of_the_database_do_not_change_a_value() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table v (id int primary key, raw bytea, day date, at timestamptz,
             long interval, number float8)",
            )
            .await;
        for setting in [
            "bytea_output = 'escape'",
            "datestyle = 'German'",
            "timezone = 'Asia/Kathmandu'",
            "intervalstyle = 'postgres_verbose'",
            "extra_float_digits = -10",
        ] {
            fixture
                .sql(&format!("alter database {} set {setting}", fixture.database))
                .await;
        }
        fixture
            .sql(
                r"insert into v values (1, '\x00ff5c27', '2024-02-29', '2024-02-29 12:34:56.789+00',
               '1 day 2 hours', 0.30000000000000004)",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.compare(&["v"]).await;
        let row = json!({"id": 1, "raw": "AP9cJw==", "day": "2024-02-29Z",
            "at": "2024-02-29T12:34:56.789000Z", "long": "P0Y0M1DT2H0M0S", "number": 0.30000000000000004});
        assert_eq!(delivery.of_table("public.v")[0]["after"], row);
    })
    .await;
}

/// A database of SQL_ASCII accepts any bytes as text.
async fn invalid_text_stops_the_drain_before_it() {
    for plugin in Plugin::ALL {
        let fixture = Fixture::builder(plugin).without_slot().build().await;
        let admin = Postgres::shared().await.admin(ADMIN.0).await;
        let database = &fixture.database;
        for sql in [
            format!("drop database {database} with (force)"),
            format!("create database {database} encoding 'SQL_ASCII' locale 'C' template template0"),
        ] {
            admin
                .batch_execute(&sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        fixture
            .sql("create publication spillway for all tables; create table t (id int primary key, what text)")
            .await;
        fixture.create_slot().await;
        fixture.sql("insert into t values (1, 'größe')").await;
        fixture.sql(r"insert into t values (2, e'\xff\xfe')").await;
        fixture.sql("insert into t values (3, 'more')").await;
        let (kind, message) = fixture.failing_tick().await;
        assert_eq!(kind, "Undecodable", "{}: {message}", plugin.name());
        let positions = SlotPositions::read(&fixture).await;
        let (again, repeated) = fixture.failing_tick().await;
        assert_eq!((again, repeated), (kind, message));
        assert_eq!(SlotPositions::read(&fixture).await, positions);
        let delivery = fixture.consume().await;
        let events = delivery.of_table("public.t");
        assert_eq!(
            events.len(),
            1,
            "the stream has other events than the earlier ones"
        );
        assert_eq!(events[0]["after"], json!({"id": 1, "what": "größe"}));
        assert_eq!(delivery.duplicates(), 0);
    }
}
