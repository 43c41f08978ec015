//! Notices when a table's key becomes another: columns were added to it, renamed, or given another type. Rows then travel under
//! other partition keys than before, and what is on its way under the old ones must not be overtaken.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::Relation;
use crate::table_name::TableName;

/// The keys of the tables that were seen in one window; nothing is on its way between two.
#[derive(Debug, Default)]
pub(super) struct KeyChanges {
    tables: HashMap<TableName, Vec<(String, String)>>,
    /// The table that was looked at last, which mostly comes again.
    last: Option<Arc<Relation>>,
}

impl KeyChanges {
    /// Whether the key of this table is made of other columns than it was.
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
    fn a_key_of_other_columns_or_types_is_another_and_other_columns_do_not_matter() {
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
