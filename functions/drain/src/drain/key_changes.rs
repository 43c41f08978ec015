//! Detector of changed keys: columns of a table's key were added, renamed, or got another type.
//!
//! Rows then have other partition keys than before. Events under the former keys must be acknowledged first.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::Relation;
use crate::table_name::TableName;

/// The keys of the tables of one window. Between two windows no event is in flight.
#[derive(Debug, Default)]
pub(super) struct KeyChanges {
    tables: HashMap<TableName, Vec<(String, String)>>,
    /// The last table, since consecutive changes are mostly of one table.
    last: Option<Arc<Relation>>,
}

impl KeyChanges {
    /// Whether the key of this table has other columns or types than at its last change.
    pub(super) fn is_changed(&mut self, relation: &Arc<Relation>) -> bool {
        if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, relation)) {
            return false;
        }
        self.last = Some(Arc::clone(relation));
        let key = relation.columns.iter().filter(|column| column.key);
        let key: Vec<_> = key
            .map(|column| (column.name.clone(), column.type_name.clone()))
            .collect();
        match self.tables.get_mut(&relation.table) {
            Some(known) if *known == key => false,
            Some(known) => {
                *known = key;
                true
            }
            None => {
                self.tables.insert(relation.table.clone(), key);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ColumnCoverage};

    fn table(name: &str, columns: &[(&str, &str, bool)]) -> Arc<Relation> {
        let column =
            |(name, kind, key): &(&str, &str, bool)| Column::new((*name).into(), (*kind).into(), *key);
        Arc::new(Relation {
            table: TableName::new("public", name),
            columns: columns.iter().map(column).collect(),
            primary_key: Vec::new(),
            coverage: ColumnCoverage::Whole,
        })
    }

    #[test]
    fn only_the_columns_and_types_of_the_key_make_it_another_key() {
        let mut keys = KeyChanges::default();
        let (id, x) = (("id", "integer", true), ("x", "text", false));
        for (columns, changed) in [
            (&[("id", "integer", false), x][..], false),
            (&[id, x], true),
            (&[id], false),
            (&[("id", "bigint", true)], true),
            (&[("k", "bigint", true)], true),
            (&[("k", "bigint", true), x], false),
        ] {
            assert_eq!(keys.is_changed(&table("t", columns)), changed, "{columns:?}");
            assert!(!keys.is_changed(&table("other", &[id])));
        }
    }
}
