//! The definitions of tables as they were announced: which change came with which. Kept as long as the sandbox lives, so that a table
//! is announced once, and again when it has changed; and when a change is sent again, so is what it came with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::change::{ColumnCoverage, Relation};
use crate::position::Position;
use crate::table_name::TableName;

/// Announcements that are remembered of one table: more than a window that is read again can bring.
const MOST: usize = 16;

/// What was announced. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Definitions(Arc<Mutex<HashMap<TableName, BTreeMap<Position, AnnouncedTable>>>>);

#[derive(Debug)]
struct AnnouncedTable {
    relation: Arc<Relation>,
    announcement: Announcement,
}

/// What is to be said of a table before a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announcement {
    /// It was not seen before.
    First,
    /// It is not as it was before.
    Changed,
}

impl Definitions {
    /// Whether the table of a change must be announced before it. Only what describes a whole table can tell.
    pub(super) fn announce(&self, relation: &Arc<Relation>, position: Position) -> Option<Announcement> {
        if relation.coverage == ColumnCoverage::Row {
            return None;
        }
        // A panic elsewhere leaves nothing half done here.
        let mut tables = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let of_table = match tables.get_mut(&relation.table) {
            Some(of_table) => of_table,
            None => tables.entry(relation.table.clone()).or_default(),
        };
        let announcement = match of_table.range(..=position).next_back() {
            Some((at, before)) if *at == position => return Some(before.announcement),
            Some((_, before)) if same(&before.relation, relation) => return None,
            // Some of its columns were only supposed.
            Some(_) if relation.coverage == ColumnCoverage::Completed => return None,
            Some(_) => Announcement::Changed,
            None => Announcement::First,
        };
        let relation = Arc::clone(relation);
        of_table.insert(
            position,
            AnnouncedTable {
                relation,
                announcement,
            },
        );
        if of_table.len() > MOST {
            // Not the one that was just noted, or all that follows would be announced again.
            let oldest = of_table.keys().find(|at| **at != position).copied();
            oldest.and_then(|oldest| of_table.remove(&oldest));
        }
        Some(announcement)
    }
}

fn same(one: &Arc<Relation>, other: &Arc<Relation>) -> bool {
    Arc::ptr_eq(one, other) || one.columns == other.columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Column;
    use crate::lsn::Lsn;

    fn relation(columns: &[&str], coverage: ColumnCoverage) -> Arc<Relation> {
        let column = |name: &&str| Column::new((*name).into(), "text".into(), false);
        Arc::new(Relation {
            table: TableName::new("public", "t"),
            columns: columns.iter().map(column).collect(),
            primary_key: Vec::new(),
            coverage,
        })
    }

    fn at(commit: u64) -> Position {
        Position {
            commit_end: Lsn(commit),
            lsn: Lsn(commit),
            index: 0,
        }
    }

    #[test]
    fn a_table_is_announced_when_it_is_first_seen_and_when_it_has_changed() {
        let definitions = Definitions::default();
        let (old, new) = (
            relation(&["a"], ColumnCoverage::Whole),
            relation(&["a", "b"], ColumnCoverage::Whole),
        );
        let told: Vec<_> = [(1, &old), (2, &old), (3, &new), (4, &new), (5, &old)]
            .iter()
            .map(|(n, relation)| definitions.announce(relation, at(*n)))
            .collect();
        use Announcement::{Changed, First};
        assert_eq!(told, [Some(First), None, Some(Changed), None, Some(Changed)]);
    }

    #[test]
    fn a_change_that_is_sent_again_is_announced_again_and_the_others_are_not() {
        let definitions = Definitions::default();
        let (old, new) = (
            relation(&["a"], ColumnCoverage::Whole),
            relation(&["a", "b"], ColumnCoverage::Whole),
        );
        let play = || -> Vec<_> {
            [(1, &old), (2, &old), (3, &new), (4, &new)]
                .iter()
                .map(|(n, relation)| definitions.announce(relation, at(*n)))
                .collect()
        };
        assert_eq!(play(), play());
    }

    #[test]
    fn a_row_that_does_not_describe_its_whole_table_announces_nothing() {
        let definitions = Definitions::default();
        assert_eq!(
            definitions.announce(&relation(&["a"], ColumnCoverage::Row), at(1)),
            None
        );
        let whole = relation(&["a", "b"], ColumnCoverage::Whole);
        assert_eq!(definitions.announce(&whole, at(2)), Some(Announcement::First));
        assert_eq!(
            definitions.announce(&relation(&["b"], ColumnCoverage::Row), at(3)),
            None
        );
        assert_eq!(
            definitions.announce(&relation(&["a", "b", "c"], ColumnCoverage::Completed), at(4)),
            None
        );
    }
}
