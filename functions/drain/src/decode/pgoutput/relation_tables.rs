//! Tables that the server described, and the key of a row.
//!
//! **Partitions.** With `publish_via_partition_root`, a row has the OID and the columns of a partitioned
//! table, and its old row has the values that the *partition* logs. The server describes the partitioned
//! table and then the partition, directly before the first row of that partition. So each partition with rows
//! is known, with its replica identity of that time. The partitions of the catalog are used, too: otherwise a
//! row could have another key if a later peek starts after the descriptions of other partitions.
//!
//! **Keys.** A key must be in every old row, must not change without an old row, and must be unique in the
//! whole table. A row has no key if one of these conditions is not certain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::catalog::PastTable;
use crate::change::{Column, Datum, Relation, Tuple};

/// Tables by their OIDs.
#[derive(Debug, Default)]
pub(super) struct RelationTables {
    tables: FxHashMap<u32, RelationTable>,
    /// OIDs of the tables that were described after the last row.
    described_since_row: Vec<u32>,
    /// Version of all descriptions and known partitions.
    ///
    /// It increases with every description, and with every partition that is found.
    version: u64,
}

/// A table as the server described it.
#[derive(Debug)]
pub(super) struct RelationTable {
    /// The table with its own key.
    relation: Arc<Relation>,
    identity: RowIdentity,
    /// Whether the catalog has a partitioned table of this OID.
    ///
    /// `None` if it has no table of this OID.
    is_partitioned: Option<bool>,
    /// Columns that determine a row's partition; `None` if unknown.
    partition_columns: Option<Vec<String>>,
    /// Partitions that may have written rows of this table, by OID.
    ///
    /// The value is the partition's identity in the catalog. It is `None` for a partition whose description
    /// preceded a row: the identity of the description is used instead.
    partitions: BTreeMap<u32, Option<RowIdentity>>,
    /// The table with other keys, for rows of partitions.
    variants: Vec<Arc<Relation>>,
    /// Table with the key that rows of all its partitions have.
    ///
    /// The number is the version of the descriptions from which this key was computed.
    common: Option<(u64, Arc<Relation>)>,
}

/// Columns that the old rows of a table have.
#[derive(Debug)]
struct RowIdentity {
    /// Columns whose values every old row has.
    ///
    /// `None` if an old row is the whole row.
    logged: Option<BTreeSet<String>>,
    /// Whether there was no replica identity when the row was written: the server refused updates and
    /// deletes.
    is_insert_only: bool,
    /// Whether the description or the present catalog shows no replica identity.
    lacks_identity: bool,
    /// The columns of the key; may be empty.
    key: BTreeSet<String>,
}

impl RowIdentity {
    /// Identity of a table as the server described it.
    ///
    /// The columns of `relation` are marked as the server marks the replica identity. With replica identity
    /// `full` every column is marked, and with `nothing` none is. In both cases, the key of the catalog
    /// identifies the rows.
    fn of_description(relation: &Relation, identity: u8, past: Option<PastTable<'_>>) -> Self {
        let names = |is_included: fn(bool) -> bool| -> Vec<&str> {
            let columns = relation.columns.iter().filter(|column| is_included(column.key));
            columns.map(|column| column.name.as_str()).collect()
        };
        let (marked, sent) = (names(|is_marked| is_marked), names(|_| true));
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let is_whole = past.is_none_or(|past| past.is_whole_identity(identity, &marked, &sent));
        // Without the catalog, the identity may consist of columns that the server does not send.
        let lacks_unsent_identity = match identity {
            b'n' => true,
            b'f' => false,
            _ => past.is_some() && is_whole,
        };
        let key = match identity {
            b'f' | b'n' => sent_columns(past.map(|past| past.key()).unwrap_or_default(), relation),
            _ if is_whole => owned(&marked),
            _ => BTreeSet::new(),
        };
        let lacks_identity = marked.is_empty() && lacks_unsent_identity;
        // With a column list of its partitioned table, the description of a partition may lack columns: the
        // server applies the column numbers of the partitioned table to it. But it logs the whole identity.
        let identity_columns = past
            .map(|past| past.identity_columns(identity))
            .unwrap_or_default();
        let logged = match is_whole || identity_columns.is_empty() {
            true => owned(&marked),
            false => identity_columns.iter().cloned().collect(),
        };
        RowIdentity {
            logged: (identity != b'f').then_some(logged),
            is_insert_only: lacks_identity,
            lacks_identity,
            key,
        }
    }

    /// The identity of a partition as the catalog has it. Its rows have the columns of `root`.
    fn of_catalog(partition: PastTable<'_>, root: &Relation) -> Self {
        let table = partition.now();
        let lacks_identity = table.identity == 'n' || table.key.is_empty();
        let logged = match lacks_identity {
            true => BTreeSet::new(),
            false => table.key.iter().cloned().collect(),
        };
        RowIdentity {
            is_insert_only: partition.lacked_replica_identity(false),
            lacks_identity: lacks_identity && !table.identity_full,
            key: sent_columns(&table.key, root),
            logged: (!table.identity_full).then_some(logged),
        }
    }

    /// Whether every former value of these columns is logged.
    fn logs(&self, key: &BTreeSet<String>) -> bool {
        let logged = self.logged.as_ref();
        self.lacks_identity || logged.is_none_or(|logged| key.is_subset(logged))
    }
}

/// Columns of a key; empty unless the server sends all of them.
fn sent_columns(key: &[String], relation: &Relation) -> BTreeSet<String> {
    let is_whole = relation.column_indexes(key).iter().all(Option::is_some);
    let columns = key.iter().filter(|_| is_whole);
    columns.cloned().collect()
}

impl RelationTable {
    /// Table as the server described it.
    ///
    /// The columns of `relation` are marked as the server marks the replica identity `identity`.
    pub(super) fn new(mut relation: Relation, identity: u8, past: Option<PastTable<'_>>) -> Self {
        let row_identity = RowIdentity::of_description(&relation, identity, past);
        let primary_key = match (identity, past) {
            (b'd', _) => row_identity.key.clone(),
            (_, Some(past)) => sent_columns(past.primary_key(), &relation),
            (_, None) => BTreeSet::new(),
        };
        let leaves = past.map(|past| past.partitions()).unwrap_or_default();
        let partitions = leaves
            .into_iter()
            .map(|leaf| (leaf.now().oid, Some(RowIdentity::of_catalog(leaf, &relation))))
            .collect();
        for column in &mut relation.columns {
            column.key = row_identity.key.contains(&column.name);
        }
        relation.is_insert_only = row_identity.is_insert_only && row_identity.key.is_empty();
        let columns = relation.columns.iter();
        relation.primary_key = columns
            .filter(|column| primary_key.contains(&column.name))
            .map(|column| (column.name.clone(), column.type_name.clone()))
            .collect();
        RelationTable {
            relation: Arc::new(relation),
            identity: row_identity,
            is_partitioned: past.map(|past| past.now().is_partitioned),
            partition_columns: past
                .and_then(|past| past.partition_columns())
                .map(<[String]>::to_vec),
            partitions,
            variants: Vec::new(),
            common: None,
        }
    }

    /// Whether these columns determine the partition of a row.
    ///
    /// Rows with the same values of these columns are then in the same partition. So a key of each partition
    /// is a key of the whole table.
    fn determines_partition(&self, columns: &BTreeSet<String>) -> bool {
        let decisive = self.partition_columns.as_ref();
        decisive.is_some_and(|decisive| decisive.iter().all(|name| columns.contains(name)))
    }

    /// The table with this key. `is_insert_only` is that of the new relation.
    fn with_key(&mut self, key: &BTreeSet<String>, is_insert_only: bool) -> Arc<Relation> {
        let has_key = |relation: &Arc<Relation>| {
            let mut columns = relation.columns.iter();
            relation.is_insert_only == is_insert_only
                && columns.all(|column| column.key == key.contains(&column.name))
        };
        let known = std::iter::once(&self.relation).chain(&self.variants);
        if let Some(relation) = known.into_iter().find(|relation| has_key(relation)) {
            return Arc::clone(relation);
        }
        let mut relation = Relation::clone(&self.relation);
        for column in &mut relation.columns {
            column.key = key.contains(&column.name);
        }
        relation.is_insert_only = is_insert_only;
        let relation = Arc::new(relation);
        self.variants.push(Arc::clone(&relation));
        relation
    }
}

impl RelationTables {
    /// Adds a table, or replaces its description.
    pub(super) fn insert(&mut self, oid: u32, mut table: RelationTable) {
        // The server describes a partitioned table again before each of its partitions.
        if let Some(before) = self.tables.remove(&oid) {
            let found = before.partitions.into_iter();
            table
                .partitions
                .extend(found.filter(|(_, identity)| identity.is_none()));
            if before.relation == table.relation {
                (table.relation, table.variants) = (before.relation, before.variants);
            }
        }
        self.tables.insert(oid, table);
        self.described_since_row.push(oid);
        self.version += 1;
    }

    /// The table with its own key.
    pub(super) fn relation(&self, oid: u32) -> Option<Arc<Relation>> {
        self.tables.get(&oid).map(|table| Arc::clone(&table.relation))
    }

    /// Records which partition the next row belongs to.
    ///
    /// The next row has the OID `oid`.
    pub(super) fn begin_row(&mut self, oid: u32) {
        if self.described_since_row.is_empty() {
            return;
        }
        let described = std::mem::take(&mut self.described_since_row);
        let is_partitioned = |oid: &u32| self.tables.get(oid)?.is_partitioned;
        let last_pair = described.len().saturating_sub(2);
        // In a resumed transaction, rows between two descriptions are missing. So two neighbours in this list
        // may be any two tables.
        let neighbours = described.iter().copied().zip(described.iter().copied().skip(1));
        let pairs: Vec<(u32, u32)> = neighbours
            .enumerate()
            .filter(|(index, (root, partition))| match is_partitioned(root) {
                Some(is_root) => is_root && is_partitioned(partition) != Some(true),
                // The table was dropped since. Its next row shows whether it is a root.
                None => *root == oid && *partition != oid && *index == last_pair,
            })
            .map(|(_, pair)| pair)
            .collect();
        for (root, partition) in pairs {
            if let Some(table) = self.tables.get_mut(&root) {
                let before = table.partitions.insert(partition, None);
                self.version += u64::from(!matches!(before, Some(None)));
            }
        }
    }

    /// Forgets the tables that were described before a truncate.
    ///
    /// They are the truncated tables, and not a root with its partition.
    pub(super) fn forget_described(&mut self) {
        self.described_since_row.clear();
    }

    /// Whether a null of an old row is a value.
    ///
    /// `is_whole` is true if the server marked the row as whole. The mark depends on the replica identity of
    /// the partitioned table, but the values depend on that of the partition.
    pub(super) fn logs_whole_rows(&self, oid: u32, is_whole: bool) -> bool {
        let mut partitions = self.partitions(oid).peekable();
        match partitions.peek() {
            None => is_whole,
            // A dropped table is not in the catalog. Then nothing proves that the other table is its
            // partition, so the server's mark decides, too.
            Some(_) => {
                let table = self.tables.get(&oid);
                let is_root = table.is_some_and(|table| table.is_partitioned == Some(true));
                (is_root || is_whole)
                    && partitions.all(|partition| partition.is_insert_only || partition.logged.is_none())
            }
        }
    }

    /// The table with the key of one row. `old` is its old row, if the server sent one.
    pub(super) fn relation_of_row(&mut self, oid: u32, old: Option<&Tuple<'_>>) -> Option<Arc<Relation>> {
        let table = self.tables.get(&oid)?;
        if table.partitions.is_empty() {
            return Some(Arc::clone(&table.relation));
        }
        let common = self.common_relation(oid)?;
        let Some(old) = old else {
            return Some(common);
        };
        let is_held = |(column, datum): (&Column, &Datum<'_>)| !column.key || *datum != Datum::Absent;
        if common.has_key() && common.columns.iter().zip(old).all(is_held) {
            return Some(common);
        }
        let key = self.key_of_partition(oid, old);
        self.tables.get_mut(&oid).map(|table| table.with_key(&key, false))
    }

    /// Key of a partition, if an old row consists of this key.
    ///
    /// Otherwise empty. Also empty if any partition logs whole rows: a null of such a row looks like a value
    /// that is not logged.
    fn key_of_partition(&self, oid: u32, old: &Tuple<'_>) -> BTreeSet<String> {
        let Some(table) = self
            .tables
            .get(&oid)
            .filter(|table| table.identity.key.is_empty())
        else {
            return BTreeSet::new();
        };
        let columns = table.relation.columns.iter().zip(old);
        let held = columns.filter(|(_, datum)| **datum != Datum::Absent);
        let held: BTreeSet<String> = held.map(|(column, _)| column.name.clone()).collect();
        let has_this_key = self.partitions(oid).any(|it| it.key == held);
        let logs_whole_rows = self.partitions(oid).any(|it| it.logged.is_none());
        let is_key = table.determines_partition(&held) && has_this_key && !logs_whole_rows;
        if is_key { held } else { BTreeSet::new() }
    }

    /// The table with the key that rows of all its partitions have.
    fn common_relation(&mut self, oid: u32) -> Option<Arc<Relation>> {
        let table = self.tables.get(&oid)?;
        if let Some((version, relation)) = &table.common
            && *version == self.version
        {
            return Some(Arc::clone(relation));
        }
        let key = self.common_key(oid, table);
        let is_insert_only = key.is_empty() && self.partitions(oid).all(|it| it.is_insert_only);
        let table = self.tables.get_mut(&oid)?;
        let relation = table.with_key(&key, is_insert_only);
        table.common = Some((self.version, Arc::clone(&relation)));
        Some(relation)
    }

    /// Key that all rows of this table have; empty without one.
    ///
    /// The key is the same for the rows of every partition.
    fn common_key(&self, oid: u32, table: &RelationTable) -> BTreeSet<String> {
        let own = &table.identity.key;
        let mut partitions = self.partitions(oid);
        let key = match own.is_empty() {
            true => partitions.next().map(|first| &first.key).unwrap_or(own),
            false => own,
        };
        let is_common = match own.is_empty() {
            true => table.determines_partition(key) && partitions.all(|it| it.key == *key),
            false => partitions.all(|it| it.logs(key)),
        };
        if is_common { key.clone() } else { BTreeSet::new() }
    }

    /// Identities of the partitions that may have written this table's rows.
    fn partitions(&self, oid: u32) -> impl Iterator<Item = &RowIdentity> {
        let partitions = self
            .tables
            .get(&oid)
            .into_iter()
            .flat_map(|table| &table.partitions);
        partitions.filter_map(|(oid, of_catalog)| {
            let described = self.tables.get(oid).map(|table| &table.identity);
            described.or(of_catalog.as_ref())
        })
    }
}

#[cfg(test)]
mod tests;
