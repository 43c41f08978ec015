//! Warns of changes that do not identify their row.

use crate::change::{Change, Datum};
use crate::drain::report::Report;

/// Warns of a change that does not identify its row.
///
/// The log has neither the whole key of the old row nor the whole old row. So the event has no key, and a
/// consumer may not find the row. Each table causes at most one warning.
pub(super) fn warn_of_unidentified_row(slot: &str, change: &Change<'_>, report: &mut Report) {
    let (relation, old) = match change {
        Change::Delete { relation, old } => (relation, old),
        Change::Update {
            relation,
            old: Some(old),
            ..
        } => (relation, old),
        _ => return,
    };
    let is_incomplete = old.is_empty() || old.contains(&Datum::Absent);
    if relation.has_key() || !is_incomplete || report.unidentified_tables.contains(&relation.table) {
        return;
    }
    let table = relation.table.to_string();
    tracing::warn!(
        slot,
        table,
        "the log does not have the key of an old row: its event has the table's partition key. \
         The action status names tables whose replica identity is the cause."
    );
    report.unidentified_tables.insert(relation.table.clone());
}
