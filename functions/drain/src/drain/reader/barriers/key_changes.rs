//! Detector of changed keys: a table's key got other columns, or a column another name or type.
//!
//! Rows then have other partition keys than before. Events with the former partition keys must be
//! acknowledged first. The rows of a table without a key also get other partition keys when its replica
//! identity becomes `full`, or is no longer `full`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::table_name::TableName;
use crate::change::Relation;

/// The keys of the tables.
#[derive(Debug, Default)]
pub(super) struct KeyChangeDetector {
    /// The relation of each table's last change.
    tables: HashMap<TableName, Arc<Relation>>,
    /// The last table, since consecutive changes are mostly of one table.
    last: Option<Arc<Relation>>,
}

impl KeyChangeDetector {
    /// Remembers the table's key.
    ///
    /// Returns whether it differs from the key of the table's last change, and `false` for the first change.
    pub(super) fn remember_key(&mut self, relation: &Arc<Relation>) -> bool {
        if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, relation)) {
            return false;
        }
        self.last = Some(Arc::clone(relation));
        match self.tables.get_mut(&relation.table) {
            Some(known) if Arc::ptr_eq(known, relation) => false,
            Some(known) => {
                let is_changed = !has_same_key(known, relation);
                *known = Arc::clone(relation);
                is_changed
            }
            None => {
                self.tables.insert(relation.table.clone(), Arc::clone(relation));
                false
            }
        }
    }
}

/// Whether both relations have the same key columns and types.
///
/// [`Relation::is_insert_only`] must also be the same.
fn has_same_key(one: &Relation, other: &Relation) -> bool {
    fn key(relation: &Relation) -> impl Iterator<Item = (&str, &str)> {
        let columns = relation.columns.iter().filter(|column| column.key);
        columns.map(|column| (column.name.as_str(), column.type_name.as_str()))
    }
    one.is_insert_only == other.is_insert_only && key(one).eq(key(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, columns: &[(&str, &str, bool)]) -> Arc<Relation> {
        Arc::new(Relation::of_columns(TableName::new("public", name), columns))
    }

    #[test]
    fn a_key_changes_only_with_its_columns_and_their_types() {
        let mut keys = KeyChangeDetector::default();
        let (id, x) = (("id", "integer", true), ("x", "text", false));
        for (columns, changed) in [
            (&[("id", "integer", false), x][..], false),
            (&[id, x], true),
            (&[id], false),
            (&[("id", "bigint", true)], true),
            (&[("k", "bigint", true)], true),
            (&[("k", "bigint", true), x], false),
        ] {
            assert_eq!(keys.remember_key(&table("t", columns)), changed, "{columns:?}");
            assert!(!keys.remember_key(&table("other", &[id])));
        }
    }

    #[test]
    fn a_table_without_a_key_gets_other_partition_keys_with_another_replica_identity() {
        let mut keys = KeyChangeDetector::default();
        let with_identity = |is_insert_only| {
            let relation = Relation::clone(&table("t", &[("x", "text", false)]));
            Arc::new(Relation {
                is_insert_only,
                ..relation
            })
        };
        let changes = [true, true, false, false, true].map(|it| keys.remember_key(&with_identity(it)));
        assert_eq!(changes, [false, false, true, false, true]);
    }
}
