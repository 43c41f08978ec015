//! Tables that the server described, and the key of a row.
//!
//! **Partitions.** With `publish_via_partition_root`, a row has the OID and the columns of a partitioned
//! table, and its old row has the values that the *partition* logs. The server describes the partitioned
//! table and then the partition, directly before the first row of that partition. So the partitions that can
//! have written a row are known, with their replica identities of that time.
//!
//! **Keys.** A key must be in every old row, must not change without an old row, and must be unique in the
//! whole table. A row for which this is not certain has no key.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::catalog::PastTable;
use crate::change::{Column, Datum, Relation, Tuple};

/// Tables by their OIDs.
#[derive(Debug, Default)]
pub(super) struct DescribedTables {
    tables: HashMap<u32, DescribedTable>,
    /// OIDs of the tables that were described since the last row.
    since_row: Vec<u32>,
    /// A number that changes with every description, and with every partition that is found.
    version: u64,
}

/// A table as the server described it.
#[derive(Debug)]
pub(super) struct DescribedTable {
    /// The table with its own key.
    relation: Arc<Relation>,
    /// The columns whose values every old row has; `None` if an old row is the whole row.
    logged: Option<BTreeSet<String>>,
    /// Whether it has no replica identity: the server refuses its updates and deletes.
    is_insert_only: bool,
    /// Whether the catalog has a partitioned table of this OID.
    is_partitioned: bool,
    /// The columns that decide a row's partition; `None` if they are not known.
    partition_columns: Option<Vec<String>>,
    /// The partitions that have written rows of this table.
    partitions: BTreeSet<u32>,
    /// The table with other keys, for rows of partitions.
    variants: Vec<Arc<Relation>>,
    /// The table with the key that rows of all its partitions have, and the version that it is of.
    common: Option<(u64, Arc<Relation>)>,
}

impl DescribedTable {
    /// A table whose columns are marked as the server marks the replica identity.
    ///
    /// With replica identity `full` every column is marked, and with `nothing` none is. Then the key of the
    /// catalog identifies the rows.
    pub(super) fn new(mut relation: Relation, identity: u8, past: Option<PastTable<'_>>) -> Self {
        let names = |is_included: fn(bool) -> bool| -> Vec<&str> {
            let columns = relation.columns.iter().filter(|column| is_included(column.key));
            columns.map(|column| column.name.as_str()).collect()
        };
        let (marked, sent) = (names(|is_marked| is_marked), names(|_| true));
        let is_primary = identity == b'd';
        let is_whole = past.is_none_or(|past| past.is_whole_identity(is_primary, &marked, &sent));
        let catalog_key = past.map(|past| past.key()).unwrap_or_default();
        let key: BTreeSet<String> = match identity {
            b'f' | b'n' if catalog_key.iter().all(|name| sent.contains(&name.as_str())) => {
                catalog_key.iter().cloned().collect()
            }
            b'f' | b'n' => BTreeSet::new(),
            _ if is_whole => marked.iter().map(|name| (*name).to_owned()).collect(),
            _ => BTreeSet::new(),
        };
        let logged = match identity {
            b'f' => None,
            _ => Some(marked.iter().map(|name| (*name).to_owned()).collect()),
        };
        let primary_key = match past.map(|past| past.primary_key()) {
            _ if is_primary => key.clone(),
            Some(columns) if columns.iter().all(|name| sent.contains(&name.as_str())) => {
                columns.iter().cloned().collect()
            }
            _ => BTreeSet::new(),
        };
        for column in &mut relation.columns {
            column.key = key.contains(&column.name);
        }
        let columns = relation.columns.iter();
        relation.primary_key = columns
            .filter(|column| primary_key.contains(&column.name))
            .map(|column| (column.name.clone(), column.type_name.clone()))
            .collect();
        DescribedTable {
            relation: Arc::new(relation),
            is_insert_only: is_whole && logged.as_ref().is_some_and(BTreeSet::is_empty),
            logged,
            is_partitioned: past.is_some_and(|past| past.now().is_partitioned),
            partition_columns: past
                .and_then(|past| past.partition_columns())
                .map(<[String]>::to_vec),
            partitions: BTreeSet::new(),
            variants: Vec::new(),
            common: None,
        }
    }

    /// Names of the key's columns.
    fn key(&self) -> BTreeSet<&str> {
        let columns = self.relation.columns.iter().filter(|column| column.key);
        columns.map(|column| column.name.as_str()).collect()
    }

    /// Whether this partition logs every former value of these columns.
    fn logs(&self, key: &BTreeSet<&str>) -> bool {
        let logged = self.logged.as_ref();
        self.is_insert_only || logged.is_none_or(|logged| key.iter().all(|name| logged.contains(*name)))
    }

    /// Whether rows with the same values of these columns are in the same partition.
    ///
    /// A key of each partition is then a key of the whole table.
    fn tells_partition(&self, columns: &BTreeSet<&str>) -> bool {
        let decisive = self.partition_columns.as_ref();
        decisive.is_some_and(|decisive| decisive.iter().all(|name| columns.contains(name.as_str())))
    }

    /// The table with this key.
    fn with_key(&mut self, key: &BTreeSet<String>) -> Arc<Relation> {
        let has_key = |relation: &Arc<Relation>| {
            let mut columns = relation.columns.iter();
            columns.all(|column| column.key == key.contains(&column.name))
        };
        let known = std::iter::once(&self.relation).chain(&self.variants);
        if let Some(relation) = known.into_iter().find(|relation| has_key(relation)) {
            return Arc::clone(relation);
        }
        let mut relation = Relation::clone(&self.relation);
        for column in &mut relation.columns {
            column.key = key.contains(&column.name);
        }
        let relation = Arc::new(relation);
        self.variants.push(Arc::clone(&relation));
        relation
    }
}

impl DescribedTables {
    /// Adds a table, or replaces its description.
    pub(super) fn insert(&mut self, oid: u32, mut table: DescribedTable) {
        // The server describes a partitioned table again before each of its partitions.
        if let Some(before) = self.tables.remove(&oid) {
            table.partitions = before.partitions;
            if before.relation == table.relation {
                (table.relation, table.variants) = (before.relation, before.variants);
            }
        }
        self.tables.insert(oid, table);
        self.since_row.push(oid);
        self.version += 1;
    }

    /// The table with its own key.
    pub(super) fn relation(&self, oid: u32) -> Option<Arc<Relation>> {
        self.tables.get(&oid).map(|table| Arc::clone(&table.relation))
    }

    /// Notes that the next row has this OID, and which partition wrote it.
    pub(super) fn begin_row(&mut self, oid: u32) {
        let described = std::mem::take(&mut self.since_row);
        let is_partitioned = |oid: &u32| self.tables.get(oid).is_some_and(|table| table.is_partitioned);
        // The rows between two descriptions are missing if a transaction is resumed.
        let pairs = described.iter().zip(described.iter().skip(1));
        let mut pairs: Vec<(u32, u32)> = pairs
            .filter(|(root, partition)| is_partitioned(root) && !is_partitioned(partition))
            .map(|(root, partition)| (*root, *partition))
            .collect();
        pairs.extend(
            described
                .last()
                .filter(|last| **last != oid)
                .map(|last| (oid, *last)),
        );
        for (root, partition) in pairs {
            if let Some(table) = self.tables.get_mut(&root) {
                self.version += u64::from(table.partitions.insert(partition));
            }
        }
    }

    /// Notes a truncate: the tables that were described before it are its own.
    pub(super) fn end_truncate(&mut self) {
        self.since_row.clear();
    }

    /// Whether a null of an old row is a null. `is_whole` is whether the server marked the row as whole.
    ///
    /// The mark follows the replica identity of the partitioned table, and the values follow that of the
    /// partition.
    pub(super) fn logs_whole_rows(&self, oid: u32, is_whole: bool) -> bool {
        let mut partitions = self.partitions(oid).peekable();
        match partitions.peek() {
            None => is_whole,
            Some(_) => partitions.all(|partition| partition.is_insert_only || partition.logged.is_none()),
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
        self.tables.get_mut(&oid).map(|table| table.with_key(&key))
    }

    /// The key of one partition, if that is what an old row has; otherwise empty.
    fn key_of_partition(&self, oid: u32, old: &Tuple<'_>) -> BTreeSet<String> {
        let Some(table) = self.tables.get(&oid).filter(|table| table.key().is_empty()) else {
            return BTreeSet::new();
        };
        let columns = table.relation.columns.iter().zip(old);
        let held = columns.filter(|(_, datum)| **datum != Datum::Absent);
        let held: BTreeSet<&str> = held.map(|(column, _)| column.name.as_str()).collect();
        let is_key = table.tells_partition(&held) && self.partitions(oid).any(|it| it.key() == held);
        let held = held.into_iter().filter(|_| is_key);
        held.map(str::to_owned).collect()
    }

    /// The table with the key that rows of all its partitions have.
    fn common_relation(&mut self, oid: u32) -> Option<Arc<Relation>> {
        let table = self.tables.get(&oid)?;
        if let Some((version, relation)) = &table.common
            && *version == self.version
        {
            return Some(Arc::clone(relation));
        }
        let key: BTreeSet<String> = self
            .common_key(oid, table)
            .into_iter()
            .map(str::to_owned)
            .collect();
        let table = self.tables.get_mut(&oid)?;
        let relation = table.with_key(&key);
        table.common = Some((self.version, Arc::clone(&relation)));
        Some(relation)
    }

    /// The key that all rows of this table have, whichever partition wrote them; empty if there is none.
    fn common_key<'t>(&'t self, oid: u32, table: &'t DescribedTable) -> BTreeSet<&'t str> {
        let own = table.key();
        if !own.is_empty() {
            return match self.partitions(oid).all(|partition| partition.logs(&own)) {
                true => own,
                false => BTreeSet::new(),
            };
        }
        let mut keys = self.partitions(oid).map(DescribedTable::key);
        let first = keys.next().unwrap_or_default();
        match table.tells_partition(&first) && keys.all(|key| key == first) {
            true => first,
            false => BTreeSet::new(),
        }
    }

    /// The partitions that have written rows of this table.
    fn partitions(&self, oid: u32) -> impl Iterator<Item = &DescribedTable> {
        let partitions = self
            .tables
            .get(&oid)
            .into_iter()
            .flat_map(|table| &table.partitions);
        partitions.filter_map(|oid| self.tables.get(oid))
    }
}

#[cfg(test)]
mod tests;
