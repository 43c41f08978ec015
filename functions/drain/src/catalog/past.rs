//! Facts of the catalog that are valid for earlier rows.
//!
//! The catalog is read after the rows of the log were written. Each row of the catalog has the id of the
//! transaction that wrote it. The fact in it is valid for a row of the log if that id precedes the id of the
//! log row's transaction. The reason: a change of a table's definition waits until all transactions that have
//! written to the table have ended.
//!
//! The rule depends only on the catalog and on the log row's transaction. So a row that is sent again has the
//! same key, or no key if the table was altered in between.
//!
//! The rule is wrong in one case, because a transaction receives its id at its first write. Transaction 10
//! writes to another table. Transaction 11 writes to this table, and ends. Then transaction 10 alters this
//! table. By the rule, its facts are valid for the rows of transaction 11. The events of these rows then have
//! the key that the table has after the change. Spillway does not notice this.

use std::collections::HashMap;

use super::{Catalog, CatalogColumn, CatalogTable};
use crate::base::table_name::TableName;

/// Transactions since the horizon that wrote the catalog's rows about a table.
///
/// They may be newer than rows of the log. If a list is empty, its fact is valid for every row of the log.
#[derive(Debug, Default, Clone)]
pub struct RecentWriters {
    /// The transaction that created the table.
    pub created: Option<u32>,
    /// Transactions that set the table's name.
    pub name: Vec<u32>,
    /// Transactions that wrote the table's row in `pg_class`.
    ///
    /// That row contains the replica identity.
    pub identity: Vec<u32>,
    /// Transactions that wrote one of its indexes.
    pub indexes: Vec<u32>,
    /// Transactions that wrote [`CatalogTable::key`].
    pub key: Vec<u32>,
    /// Indexes that may be former replica identities.
    pub former_identities: Vec<FormerIdentity>,
    /// Transactions that wrote [`CatalogTable::primary_key`].
    pub primary_key: Vec<u32>,
    /// The transaction that wrote a column, by the column's name.
    pub columns: HashMap<String, u32>,
    /// Transactions that dropped columns.
    pub dropped: Vec<u32>,
}

/// The transactions of an index that may be a former replica identity.
#[derive(Debug, Clone, Copy)]
pub struct FormerIdentity {
    /// The transaction that last wrote its row in `pg_index`.
    pub written: u32,
    /// The transaction that created it.
    ///
    /// `None` if it is unknown, or before the horizon.
    pub created: Option<u32>,
}

impl RecentWriters {
    /// Whether another index than now may have been the replica identity.
    ///
    /// Only the time since the horizon counts.
    pub fn may_have_former_identity(&self) -> bool {
        !self.former_identities.is_empty() && !self.identity.is_empty()
    }

    /// Whether every fact is older than every row of the log.
    pub fn is_empty(&self) -> bool {
        self.transactions().next().is_none()
    }

    /// All transactions of the table.
    fn transactions(&self) -> impl Iterator<Item = u32> {
        let lists = [
            &self.name,
            &self.identity,
            &self.indexes,
            &self.key,
            &self.primary_key,
            &self.dropped,
        ];
        let listed = lists.into_iter().flatten().chain(self.columns.values());
        let former = self.former_identities.iter();
        let former = former.flat_map(|index| [Some(index.written), index.created]);
        listed.copied().chain(former.flatten()).chain(self.created)
    }
}

/// Whether the id `xid` was assigned before `other`. Ids have 32 bits and wrap around.
pub fn precedes(xid: u32, other: u32) -> bool {
    (xid.wrapping_sub(other) as i32) < 0
}

/// The transaction that is being decoded, and the catalog's generation for it.
#[derive(Debug, Default)]
pub(super) struct CatalogGeneration {
    /// Transactions that wrote the catalog, ordered by id.
    ///
    /// They may be newer than rows of the log.
    recent: Vec<u32>,
    /// The transaction of the current rows; `None` before the first one.
    xid: Option<u32>,
    generation: usize,
}

impl CatalogGeneration {
    fn add(&mut self, xid: u32) {
        // The ids are close to each other, so they have an order although ids wrap around.
        let place = self.recent.partition_point(|recent| precedes(*recent, xid));
        if self.recent.get(place) != Some(&xid) {
            self.recent.insert(place, xid);
        }
    }

    /// Computes the number of the generation.
    ///
    /// A table that is read later may add facts, so the number contains the count of their transactions.
    fn number_generation(&mut self) {
        let Some(xid) = self.xid else { return };
        let earlier = self.recent.partition_point(|recent| precedes(*recent, xid));
        let is_own = self.recent.get(earlier) == Some(&xid);
        self.generation = (self.recent.len() << 32) + 2 * earlier + usize::from(is_own);
    }
}

impl Catalog {
    /// Sets the transaction of the rows that follow.
    pub fn begin_transaction(&mut self, xid: u32) {
        self.read.xid = Some(xid);
        self.read.number_generation();
    }

    /// A number: transactions with the same number have the same valid facts.
    ///
    /// It may also change when another table is read, although the facts stay the same.
    pub fn generation(&self) -> usize {
        self.read.generation
    }

    /// The table with this OID, for rows whose description contains the OID.
    pub fn past_table(&self, oid: u32) -> Option<PastTable<'_>> {
        // A table that was read later may have the same name.
        let table = self
            .table(self.names.get(&oid)?)
            .filter(|table| table.oid == oid)?;
        let catalog = self;
        Some(PastTable {
            catalog,
            table,
            by_oid: true,
        })
    }

    /// The table that had this name when the row was written.
    ///
    /// `None` if another table may have had the name, or if the catalog has no table of this name.
    pub fn past_table_named(&self, name: &TableName) -> Option<PastTable<'_>> {
        let past = PastTable {
            catalog: self,
            table: self.table(name)?,
            by_oid: false,
        };
        past.is_valid(&past.table.recent.name).then_some(past)
    }

    pub(super) fn note_recent(&mut self, changes: &RecentWriters) {
        changes.transactions().for_each(|xid| self.read.add(xid));
        self.read.number_generation();
    }
}

/// A table, with the facts that are valid for the current transaction.
///
/// The current transaction is that of the rows that are being decoded.
#[derive(Clone, Copy)]
pub struct PastTable<'c> {
    catalog: &'c Catalog,
    table: &'c CatalogTable,
    /// Whether the rows have the table's OID. Otherwise they have only its name.
    by_oid: bool,
}

impl<'c> PastTable<'c> {
    /// The table as it is now.
    pub fn now(&self) -> &'c CatalogTable {
        self.table
    }

    /// Whether a fact that these transactions wrote is valid.
    ///
    /// A fact from the table's creation is valid for every row with the table's OID. A row with only the
    /// table's name may belong to an earlier table of that name. For such a row, the fact is valid only if
    /// the row's transaction created the table or is a later one.
    fn is_valid(&self, transactions: &[u32]) -> bool {
        let row = self.catalog.read.xid;
        transactions.iter().all(|xid| {
            let is_creation = self.table.recent.created == Some(*xid);
            row.is_some_and(|row| precedes(*xid, row)) || is_creation && (self.by_oid || row == Some(*xid))
        })
    }

    /// The columns of the key when the row was written.
    ///
    /// Empty if the table may have had another key or no key.
    pub fn key(&self) -> &'c [String] {
        match self.is_valid(&self.table.recent.key) {
            true => &self.table.key,
            false => &[],
        }
    }

    /// Whether another index than now may have been the replica identity.
    pub fn may_have_had_another_identity_index(&self) -> bool {
        let recent = &self.table.recent;
        match self.table.identity {
            'i' => !self.is_valid(&recent.key),
            // The change of the identity wrote the rows of the index and of the table.
            _ => {
                let mut former = recent.former_identities.iter();
                !self.is_valid(&recent.identity) && former.any(|index| self.may_have_been_identity(*index))
            }
        }
    }

    /// Whether an index may have been the identity at that time.
    ///
    /// The index may have existed when the log's row was written. Its row in `pg_index` was written later.
    fn may_have_been_identity(&self, index: FormerIdentity) -> bool {
        let row = self.catalog.read.xid;
        let is_newer = |created: u32| row.is_some_and(|row| precedes(row, created));
        !index.created.is_some_and(is_newer) && !self.is_valid(&[index.written])
    }

    /// The columns of the primary key when the row was written.
    ///
    /// Empty if the primary key may have had other columns.
    pub fn primary_key(&self) -> &'c [String] {
        match self.is_valid(&self.table.recent.primary_key) {
            true => &self.table.primary_key,
            false => &[],
        }
    }

    /// Whether the replica identity was certainly `full` when the row was written.
    pub fn was_full(&self) -> bool {
        self.table.identity_full && self.is_valid(&self.table.recent.identity)
    }

    /// Whether the table certainly had no replica identity, not even `full`.
    ///
    /// It may have had a primary key. See [`crate::change::Relation::is_insert_only`].
    ///
    /// `lacks_primary_key` is true if the row itself shows that the table had no primary key. A missing index
    /// in the catalog does not prove it, because the index may have been dropped.
    pub fn lacked_replica_identity(&self, lacks_primary_key: bool) -> bool {
        let lacks_identity = match self.table.identity {
            'n' => true,
            'd' => lacks_primary_key || self.never_had_primary_key(),
            _ => false,
        };
        lacks_identity && self.is_valid(&self.table.recent.identity)
    }

    /// Whether the catalog proves that the table had no primary key.
    ///
    /// A primary key makes its columns `not null`. They stay `not null` after it is dropped.
    fn never_had_primary_key(&self) -> bool {
        let recent = &self.table.recent;
        let is_unaltered = recent.columns.values().all(|xid| self.is_valid(&[*xid]));
        !self.table.has_not_null && is_unaltered && self.is_valid(&recent.dropped)
    }

    /// Whether the server logged an old row for each key change.
    ///
    /// If so, an update without an old row left the key unchanged. False if an index of the table was written
    /// after the log's row, because the replica identity may have been another index. The answer may be
    /// wrongly true in two cases: the identity was `nothing` then, or an index that was dropped since. The
    /// writer of the table's row in `pg_class` does not show these cases: each truncate writes that row, too.
    pub fn logs_key_changes(&self) -> bool {
        self.table.identity != 'n' && self.is_valid(&self.table.recent.indexes)
    }

    /// Whether the index of the replica identity was dropped. Then the log identifies no row.
    pub fn has_dropped_identity_index(&self) -> bool {
        self.table.identity == 'i' && self.table.key.is_empty()
    }

    /// The column of this name, if it is unchanged since the row.
    ///
    /// `None` if it may have been altered or added since. Also `None` if the table no longer has the column.
    pub fn column(&self, name: &str) -> Option<&'c CatalogColumn> {
        let mut columns = self.table.columns.iter();
        columns
            .find(|column| column.name == name)
            .filter(|_| self.is_unaltered(name))
    }

    /// Whether the table had this column, with its present name and type.
    pub fn has_column(&self, name: &str) -> bool {
        self.column(name).is_some()
    }

    /// Whether a column was not altered after the row was written.
    fn is_unaltered(&self, column: &str) -> bool {
        let altered = self.table.recent.columns.get(column);
        altered.is_none_or(|xid| self.is_valid(&[*xid]))
    }

    /// Whether the column of this name was certainly virtual.
    pub fn was_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name) && self.is_unaltered(name)
    }

    /// Whether the column of this name was virtual, or may have been.
    ///
    /// A null of this column may then replace a value that the log does not contain.
    pub fn may_be_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name)
            || !self.has_column(name) && !self.missing_column_was_ordinary()
    }

    /// Whether a column of the table may have been virtual.
    pub fn may_have_virtual_columns(&self) -> bool {
        !self.table.virtual_columns.is_empty() || !self.table.recent.is_empty()
    }

    /// Whether a column that the catalog lacks was certainly ordinary.
    ///
    /// After the row was written, the column was dropped or renamed. If no column was dropped since, it was
    /// renamed, so it is one of the columns that were altered since. If no virtual column was altered since,
    /// the renamed column is ordinary. It was ordinary before, too: PostgreSQL 18 cannot turn a virtual
    /// column into an ordinary one.
    fn missing_column_was_ordinary(&self) -> bool {
        let recent = &self.table.recent;
        let row = self.catalog.read.xid;
        let mut dropped = recent.dropped.iter();
        // A row of the transaction that dropped a column may be older than the drop.
        dropped.all(|xid| row.is_some_and(|row| precedes(*xid, row)))
            && recent.columns.values().any(|xid| !self.is_valid(&[*xid]))
            && self.table.virtual_columns.iter().all(|it| self.is_unaltered(it))
    }

    /// The columns of the index that was the replica identity.
    ///
    /// `identity` is that of the description: `d` for the primary key, `i` for another index. Empty if the
    /// index at the time of the row is not known, and for the other identities.
    pub fn identity_columns(&self, identity: u8) -> &'c [String] {
        let is_index = self.table.identity == 'i' && self.is_valid(&self.table.recent.indexes);
        match identity {
            b'd' => self.primary_key(),
            b'i' if is_index => self.key(),
            _ => &[],
        }
    }

    /// Whether the marked columns of a relation are its whole replica identity.
    ///
    /// The description of the relation marks these columns. The server neither marks nor sends columns that
    /// it does not publish: generated columns, and columns outside of a column list. `identity` is that of
    /// the description. `sent` are all columns of the description.
    pub fn is_whole_identity(&self, identity: u8, marked: &[&str], sent: &[&str]) -> bool {
        let key = self.identity_columns(identity);
        if !key.is_empty() {
            return key.iter().all(|column| marked.contains(&column.as_str()));
        }
        // The identity at the time of the row is unknown. The marked columns are certainly the whole identity
        // if the server sent every column.
        let mut columns = self.table.columns.iter();
        self.is_valid(&self.table.recent.dropped)
            && columns.all(|column| sent.contains(&column.name.as_str()))
    }

    /// Whether it was a partitioned table when the row was written.
    ///
    /// An ordinary table cannot become a partitioned one, but an earlier table may have had the name.
    pub fn is_partitioned(&self) -> bool {
        let created = self.table.recent.created;
        self.table.is_partitioned && created.is_none_or(|xid| self.is_valid(&[xid]))
    }

    /// Its leaf partitions that existed when the row was written.
    pub fn partitions(&self) -> Vec<PastTable<'c>> {
        let partitions = self.table.partitions.iter();
        let known = partitions.filter_map(|oid| self.catalog.past_table(*oid));
        let existed = known.filter(|past| {
            let row = past.catalog.read.xid;
            let created = past.table.recent.created;
            created.is_none_or(|xid| row.is_some_and(|row| row == xid || precedes(xid, row)))
        });
        existed.collect()
    }

    /// The columns that determine a row's partition; `None` if unknown.
    pub fn partition_columns(&self) -> Option<&'c [String]> {
        let columns = self.table.partition_columns.as_deref()?;
        columns
            .iter()
            .all(|column| self.has_column(column))
            .then_some(columns)
    }
}

#[cfg(test)]
mod tests;
