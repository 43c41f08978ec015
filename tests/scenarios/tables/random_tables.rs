//! Random tables, writes and DDL: rows and keys in the stream are those that the server had.
//!
//! `make tables` plays more rounds.

use scenarios::random_tables::{RoundCounts, RoundSettings, run};

crate::scenarios![rows_and_keys_of_random_tables_are_those_of_the_server];

async fn rows_and_keys_of_random_tables_are_those_of_the_server() {
    let settings = RoundSettings {
        first: 1,
        count: 60,
        batch: 10,
        parallel: 2,
    };
    let mut failed = String::new();
    let report = |text: &str, _: &RoundCounts| failed.push_str(text);
    let counts = Box::pin(run(settings, report)).await;
    assert!(failed.is_empty(), "{failed}\n{:#?}", counts.kinds);
    assert_eq!(counts.rounds, settings.count);
    assert!(counts.changes > 1_000, "{} changes are too few", counts.changes);
    assert!(
        counts.compared > 100,
        "{} rows of backfills are too few",
        counts.compared
    );
}
