//! Random tables, writes and DDL: rows and keys in the stream are those that the server had.
//!
//! `make tables` plays more rounds.

use scenarios::random_tables::{RoundSettings, Tally, run};

crate::scenarios![rows_and_keys_of_random_tables_are_those_of_the_server];

async fn rows_and_keys_of_random_tables_are_those_of_the_server() {
    let settings = RoundSettings {
        first: 1,
        count: 60,
        batch: 10,
        parallel: 2,
    };
    let mut failed = String::new();
    let report = |text: &str, _: &Tally| failed.push_str(text);
    let tally = Box::pin(run(settings, report)).await;
    assert!(failed.is_empty(), "{failed}\n{:#?}", tally.kinds);
    assert_eq!(tally.rounds, settings.count);
    assert!(tally.changes > 1_000, "{} changes are too few", tally.changes);
    assert!(
        tally.compared > 100,
        "{} rows of backfills are too few",
        tally.compared
    );
}
