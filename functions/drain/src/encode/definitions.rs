//! Table definitions that the DMS envelope announced with an event.
//!
//! Each has the position of the change after that event. The definitions are kept for the lifetime of the
//! Lambda sandbox. In each sandbox, an event announces a table before the first change of one of its rows. If
//! the columns of the table change later, another event announces them. A row's change that is read again
//! gets the same announcement again, if its definition is one of the last 16 of its table.
//!
//! A definition counts only if its event is acknowledged. So each drain forgets the others of earlier drains.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::base::table_name::TableName;
use crate::change::{ColumnCoverage, Relation};

/// Maximum number of definitions per table.
///
/// A window that is read again rarely contains more definitions of one table. If it does, a change may get
/// another announcement than before.
const MAX_PER_TABLE: usize = 16;

/// Announced definitions of all tables. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Definitions(Arc<Mutex<HashMap<TableName, BTreeMap<Position, Definition>>>>);

/// An announced definition of one table.
#[derive(Debug)]
struct Definition {
    relation: Arc<Relation>,
    operation: TableOperation,
}

/// Operation that announces a definition. The names are those of DMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableOperation {
    /// The definition is the first one of its table.
    CreateTable,
    /// The definition differs from the one before.
    ChangeColumns,
}

impl Definitions {
    /// Records the table definition at a change. Returns the operation that announces it.
    ///
    /// The announcement precedes the change. `None` if no announcement is necessary. A relation that has only
    /// the columns of one row is never announced.
    pub(super) fn announce(&self, relation: &Arc<Relation>, position: Position) -> Option<TableOperation> {
        if relation.coverage == ColumnCoverage::Row {
            return None;
        }
        // A panic elsewhere cannot leave the map half changed: each insert below is complete by itself.
        let mut tables = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let definitions = match tables.get_mut(&relation.table) {
            Some(definitions) => definitions,
            None => tables.entry(relation.table.clone()).or_default(),
        };
        let operation = match definitions.range(..=position).next_back() {
            Some((at, definition)) if *at == position => return Some(definition.operation),
            Some((_, definition)) if definition.relation.has_same_columns(relation) => return None,
            // Some columns are from the present catalog. So a difference does not prove that the definition
            // changed.
            Some(_) if relation.coverage == ColumnCoverage::Completed => return None,
            Some(_) => TableOperation::ChangeColumns,
            None => TableOperation::CreateTable,
        };
        let relation = Arc::clone(relation);
        definitions.insert(position, Definition { relation, operation });
        if definitions.len() > MAX_PER_TABLE {
            // In a window that is read again, the new definition may be the oldest. It must stay: otherwise
            // each later change of that window would get another announcement.
            let oldest = definitions.keys().find(|at| **at != position).copied();
            oldest.and_then(|oldest| definitions.remove(&oldest));
        }
        Some(operation)
    }

    /// Forgets the definitions after an LSN.
    ///
    /// No acknowledgement proves that the stream has their events. So they must be announced again.
    pub(super) fn forget_after(&self, acknowledged: Lsn) {
        self.retain(|_, position| position.commit_end <= acknowledged);
    }

    /// Forgets the definition of a table at a position.
    ///
    /// Its event is dropped, so a later row must announce the table again.
    pub(super) fn forget(&self, table: &TableName, position: Position) {
        self.retain(|of, at| of != table || *at != position);
    }

    fn retain(&self, is_kept: impl Fn(&TableName, &Position) -> bool) {
        let mut tables = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (table, definitions) in tables.iter_mut() {
            definitions.retain(|position, _| is_kept(table, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(columns: &[&str], coverage: ColumnCoverage) -> Arc<Relation> {
        let columns: Vec<_> = columns.iter().map(|name| (*name, "text", false)).collect();
        Arc::new(Relation {
            coverage,
            ..Relation::of_columns(TableName::new("public", "t"), &columns)
        })
    }

    fn at(commit: u64) -> Position {
        Position {
            commit_end: Lsn(commit),
            lsn: Lsn(commit),
            index: 0,
        }
    }

    /// Announcements of changes with these columns of the table.
    ///
    /// The changes have the positions 1, 2 and so on.
    fn announce_all(definitions: &Definitions, changes: &[&[&str]]) -> Vec<Option<TableOperation>> {
        (1..)
            .zip(changes)
            .map(|(n, columns)| definitions.announce(&relation(columns, ColumnCoverage::Whole), at(n)))
            .collect()
    }

    const OLD: &[&str] = &["a"];
    const NEW: &[&str] = &["a", "b"];

    #[test]
    fn a_table_is_announced_at_its_first_change_and_after_each_change_of_its_definition() {
        let announced = announce_all(&Definitions::default(), &[OLD, OLD, NEW, NEW, OLD]);
        use TableOperation::{ChangeColumns, CreateTable};
        assert_eq!(
            announced,
            [
                Some(CreateTable),
                None,
                Some(ChangeColumns),
                None,
                Some(ChangeColumns)
            ]
        );
    }

    #[test]
    fn changes_that_are_sent_again_have_the_same_announcements() {
        let definitions = Definitions::default();
        let changes = [OLD, OLD, NEW, NEW];
        let first = announce_all(&definitions, &changes);
        assert_eq!(announce_all(&definitions, &changes), first);
    }

    #[test]
    fn a_relation_with_uncertain_columns_is_not_announced_as_changed() {
        let definitions = Definitions::default();
        let announce = |columns: &[&str], extent, n| definitions.announce(&relation(columns, extent), at(n));
        assert_eq!(announce(&["a"], ColumnCoverage::Row, 1), None);
        assert_eq!(
            announce(NEW, ColumnCoverage::Whole, 2),
            Some(TableOperation::CreateTable)
        );
        assert_eq!(announce(&["b"], ColumnCoverage::Row, 3), None);
        assert_eq!(announce(&["a", "b", "c"], ColumnCoverage::Completed, 4), None);
    }
}
