//! Published tables whose updates and deletes lack the key of their row.
//!
//! Of an old row, pgoutput sends only the published columns of the replica identity. If they lack a column of
//! the key, the events have no key. Such events stay in the order of their table.

use std::collections::BTreeSet;

use super::database_schema::{DatabaseSchema, PublicationInfo, RelationInfo};
use crate::base::table_name::TableName;
use crate::catalog::CatalogTable;
use crate::rules::pattern;

impl DatabaseSchema {
    /// Problems of the published tables whose events lack a key.
    ///
    /// The list has one text for each such table that `TABLES` includes. A table without a key is not listed
    /// if no partition of it has a key. A table is always listed if a partition has no replica identity.
    pub fn identity_problems(&self) -> Vec<String> {
        let relations = self.relations.iter();
        let included = relations.filter(|info| pattern::matches_any(&self.tables, &info.table));
        included.filter_map(|info| self.identity_problem(info)).collect()
    }

    /// The reason why a table's updates and deletes lack its key.
    ///
    /// `None` if the table has no such problem.
    fn identity_problem(&self, info: &RelationInfo) -> Option<String> {
        let table = self.published_table(info)?;
        let problem = table
            .unpublished_key()
            .or_else(|| table.partition_without_identity())
            .or_else(|| table.mismatched_partition(|_| true))?;
        Some(format!("{}: {problem}", info.table))
    }

    /// The problem of a partition whose changes do not identify their row.
    ///
    /// Each update of such a partition would make the chunk invalid. A partition with the replica identity
    /// `full` logs the whole old row, so it is not a problem.
    pub(super) fn partition_problem(&self, info: &RelationInfo) -> Option<String> {
        let table = self.published_table(info)?;
        table
            .mismatched_partition(|leaf| !leaf.identity_full)
            .or_else(|| table.partition_without_reading_key())
    }

    /// The key of the events of a table's live changes.
    ///
    /// A partitioned table without a key has that of its partitions.
    pub(super) fn live_key(&self, info: &RelationInfo) -> Vec<String> {
        let own = self.catalog.table(&info.table).map(|table| table.key.clone());
        let own = own.unwrap_or_default();
        match self.published_table(info) {
            Some(table) if own.is_empty() => table.key_of_partitions(),
            _ => own,
        }
    }

    /// Whether the changes of a table have its key.
    pub(super) fn sends_key(&self, info: &RelationInfo) -> bool {
        let table = self.published_table(info);
        table.is_none_or(|table| {
            table.unpublished_key().is_none() && table.mismatched_partition(|_| true).is_none()
        })
    }

    /// The table, if it is published.
    fn published_table<'s>(&'s self, info: &'s RelationInfo) -> Option<PublishedTable<'s>> {
        Some(PublishedTable {
            schema: self,
            info,
            catalog: self.catalog.table(&info.table)?,
            publication: self.published.as_ref()?.get(&info.table)?,
        })
    }
}

struct PublishedTable<'s> {
    schema: &'s DatabaseSchema,
    info: &'s RelationInfo,
    catalog: &'s CatalogTable,
    publication: &'s PublicationInfo,
}

impl<'s> PublishedTable<'s> {
    /// The problem of a key column that pgoutput does not send.
    fn unpublished_key(&self) -> Option<String> {
        let is_sent = |name: &&String| {
            let mut columns = self.info.columns.iter();
            let is_stored = columns.any(|column| column.name == **name && !column.is_generated);
            let listed = self.publication.columns.as_ref();
            is_stored && listed.is_none_or(|listed| listed.contains(name))
        };
        let hidden = self.catalog.key.iter().find(|name| !is_sent(name))?;
        Some(format!(
            "pgoutput does not send column {hidden} of its key, so its events have no key: \
             choose a replica identity without this column, or publish it"
        ))
    }

    /// The problem of a partition without replica identity.
    fn partition_without_identity(&self) -> Option<String> {
        let (leaf, _) = self.leaves().into_iter().find(|(_, leaf)| lacks_identity(leaf))?;
        Some(format!(
            "partition {leaf} has no replica identity, so PostgreSQL refuses its updates and deletes, \
             and nothing names its rows: add a primary key to it, or \
             alter table {leaf} replica identity full (only if no publication has a column list of it, \
             and from PostgreSQL 18 on, if it has no generated column)"
        ))
    }

    /// The problem of a partition whose replica identity lacks the key.
    ///
    /// The key is that of the partitioned table. Only partitions for which `is_relevant` is true count.
    fn mismatched_partition(&self, is_relevant: impl Fn(&CatalogTable) -> bool) -> Option<String> {
        let mut leaves = self.leaves();
        leaves.retain(|(_, leaf)| !lacks_identity(leaf));
        let key: BTreeSet<&String> = self.catalog.key.iter().collect();
        let mut relevant = leaves.iter().filter(|(_, leaf)| is_relevant(leaf));
        let (leaf, _) = relevant.find(|(_, leaf)| match key.is_empty() {
            // The table has no key, and the partition logs whole old rows. Such rows need no key.
            true if leaf.identity_full && leaf.key.is_empty() => false,
            true => !self.is_key_of_root(&leaves, leaf),
            false => !leaf.identity_full && !key.iter().all(|name| leaf.key.contains(name)),
        })?;
        Some(format!(
            "the replica identity of partition {leaf} is not a key of the partitioned table, so its \
             events have no key: add a primary key to {}, and use it in {leaf} as the replica identity",
            self.info.table
        ))
    }

    /// The problem of a partition that does not log the reading key.
    ///
    /// The reading key is the key by which the backfill reads the table. Without it in the log, nothing shows
    /// which row of a chunk an update has changed.
    fn partition_without_reading_key(&self) -> Option<String> {
        let leaves = self.leaves().into_iter();
        let mut logging = leaves.filter(|(_, leaf)| !leaf.identity_full && !lacks_identity(leaf));
        let lacks = |leaf: &CatalogTable| self.info.key.iter().find(|name| !leaf.key.contains(name));
        let (leaf, name) = logging.find_map(|(leaf, table)| Some((leaf, lacks(table)?)))?;
        let table = &self.info.table;
        Some(format!(
            "the replica identity of partition {leaf} lacks column {name} of the index by which the table is \
             read. Either run alter table {table} replica identity using index …, with an index on the \
             columns of the partitions' identity. Or add a primary key to {table}, and make it the replica \
             identity of {leaf}"
        ))
    }

    /// The key of all partitions, if it is one of the table.
    ///
    /// Otherwise it is empty.
    fn key_of_partitions(&self) -> Vec<String> {
        let mut leaves = self.leaves();
        leaves.retain(|(_, leaf)| !lacks_identity(leaf));
        match leaves.first() {
            Some((_, leaf)) if self.is_key_of_root(&leaves, leaf) => leaf.key.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether the key of `leaf` is a key of the partitioned table.
    ///
    /// All partitions must have this key. It must contain the columns of the partitioning.
    fn is_key_of_root(&self, leaves: &[(&TableName, &CatalogTable)], leaf: &CatalogTable) -> bool {
        let set = |table: &CatalogTable| -> BTreeSet<String> { table.key.iter().cloned().collect() };
        let key = set(leaf);
        let partitioning = self.catalog.partition_columns.as_ref();
        !key.is_empty()
            && partitioning.is_some_and(|columns| columns.iter().all(|column| key.contains(column)))
            && leaves.iter().all(|(_, other)| set(other) == key)
    }

    /// The partitions that hold the table's rows, with their keys.
    ///
    /// The list is empty for a table without partitions.
    fn leaves(&self) -> Vec<(&'s TableName, &'s CatalogTable)> {
        let relations = self.schema.relations.iter();
        let below = relations.filter(|leaf| leaf.kind == 'r' && leaf.roots.contains(&self.info.oid));
        below
            .filter_map(|leaf| Some((&leaf.table, self.schema.catalog.table(&leaf.table)?)))
            .collect()
    }
}

/// Whether a table has no replica identity.
fn lacks_identity(table: &CatalogTable) -> bool {
    !table.identity_full && (table.identity == 'n' || table.key.is_empty())
}
