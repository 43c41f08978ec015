//! Rows that were written before the replica identity, or an index, changed.
//!
//! The rows of wal2json and test_decoding do not show the replica identity. A row has the key of its former
//! identity or none, and never the primary key in place of it.

use scenarios::fixture::{Fixture, Plugin};

use crate::support::keys::assert_steps;
use crate::support::versions::with_each_plugin;

crate::version_scenarios![after_a_change_of_the_identity_a_row_has_its_former_key_or_none];

crate::scenarios![
    a_new_index_leaves_the_key_of_earlier_rows,
    a_deferrable_primary_key_leaves_the_key_of_the_identity,
];

/// Changes of the replica identity, or of its row in the catalog.
///
/// Each entry is the index of the identity, the key of the rows, and the changes. A change consists of
/// statements that follow the rows.
const FORMER_IDENTITIES: [(&str, &str, &[&[&str]]); 2] = [
    (
        "a",
        r#"{"a":2}"#,
        &[
            &[TO_DEFAULT],
            &[TO_FULL],
            &["alter table t replica identity nothing"],
            &["alter table t replica identity using index by_b"],
            &[TO_DEFAULT, REINDEX],
            &[TO_DEFAULT, "cluster t using former"],
            &[TO_DEFAULT, "alter table t owner to pg_monitor"],
        ],
    ),
    (
        "id, a",
        r#"{"id":1,"a":2}"#,
        &[
            &[TO_DEFAULT],
            &[TO_FULL],
            &[REINDEX],
            &["alter table t alter a set statistics 7"],
        ],
    ),
];
const TO_DEFAULT: &str = "alter table t replica identity default";
const TO_FULL: &str = "alter table t replica identity full";
const REINDEX: &str = "reindex index concurrently former";

/// Each change, with its index and key.
fn identity_changes() -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    let of_index =
        |(index, key, changes): (_, _, &'static [_])| changes.iter().map(move |it| (index, key, *it));
    FORMER_IDENTITIES.into_iter().flat_map(of_index).collect()
}

async fn after_a_change_of_the_identity_a_row_has_its_former_key_or_none(version: u32) {
    with_each_plugin(version, |builder| async move {
        let fixture = builder.build().await;
        let plugin = fixture.plugin;
        let mut arrived = 0;
        for (index, key, statements) in identity_changes() {
            fixture
                .sql(&format!(
                    "drop table if exists t;
                     create table t (id int primary key, a int not null, b int not null, body text);
                     create unique index by_b on t (b);
                     create unique index former on t ({index});
                     alter table t replica identity using index former"
                ))
                .await;
            fixture.drain().await;
            fixture
                .sql("insert into t values (1, 2, 3, ''); update t set body = 'x'; delete from t")
                .await;
            for statement in statements {
                fixture.sql(statement).await;
            }
            fixture.drain().await;
            let delivery = fixture.consume().await;
            let changes = delivery.changes();
            let keys: Vec<&str> = changes
                .iter()
                .skip(arrived)
                .map(|it| it.partition_key.as_str())
                .collect();
            arrived = changes.len();
            assert_eq!(keys.len(), 3, "{statements:?}: {keys:?}");
            let case = format!("{index}: {statements:?}: {keys:?}");
            let is_expected = |it: &&str| *it == "public.t" || *it == key;
            assert!(keys.iter().all(is_expected), "{case}");
            // pgoutput describes the identity. An old row of wal2json that is not whole has its columns.
            match plugin {
                Plugin::Pgoutput => assert_eq!(keys, [key; 3], "{case}"),
                Plugin::Wal2json if index == "a" => assert_eq!(keys[1..], [key; 2], "{case}"),
                Plugin::Wal2json => assert_eq!(keys[1], key, "{case}"),
                Plugin::TestDecoding => {}
            }
        }
    })
    .await;
}

/// The replica identity was always the primary key.
async fn a_new_index_leaves_the_key_of_earlier_rows() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        let statements: [&[&str]; 8] = [
            &[
                "alter table t add column c text",
                "create unique index concurrently on t (c)",
            ],
            &[
                "create table referring (x int references t)",
                "create unique index concurrently on t (n)",
            ],
            &["alter table t add column c text unique"],
            &["create unique index on t (n)", "grant select on t to public"],
            &["create unique index on t (n)", "truncate t"],
            &[
                "create unique index on t (n)",
                "alter table t set (fillfactor = 90)",
            ],
            &["create unique index concurrently on t (n)"],
            &["reindex table concurrently t"],
        ];
        let mut arrived = 0;
        for statements in statements {
            fixture
                .sql("drop table if exists t, referring; create table t (id int primary key, n int)")
                .await;
            fixture.drain().await;
            fixture
                .sql("insert into t values (1, 2), (2, 3); delete from t where id = 1")
                .await;
            for statement in statements {
                fixture.sql(statement).await;
            }
            fixture.drain().await;
            let delivery = fixture.consume().await;
            let changes = delivery.changes();
            let keys: Vec<&str> = changes
                .iter()
                .skip(arrived)
                .take(3)
                .map(|it| it.partition_key.as_str())
                .collect();
            arrived = changes.len();
            // test_decoding has the key from the catalog only, where a reindex replaces its index.
            let is_reindexed = plugin == Plugin::TestDecoding && statements[0].starts_with("reindex");
            if !is_reindexed {
                let expected = [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":1}"#];
                assert_eq!(keys, expected, "{statements:?}");
            }
        }
    })
    .await;
}

/// The index of the replica identity identifies the rows.
async fn a_deferrable_primary_key_leaves_the_key_of_the_identity() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create table t (id int primary key deferrable, email text not null, n int);
                 create unique index by_email on t (email);
                 alter table t replica identity using index by_email",
            )
            .await;
        fixture.drain().await;
        fixture
            .sql("insert into t values (1, 'a', 7); update t set n = 8; delete from t")
            .await;
        fixture.drain().await;
        let key = r#"{"email":"a"}"#;
        assert_steps(&fixture.consume().await, &[("c", key), ("u", key), ("d", key)]);
    })
    .await;
}
