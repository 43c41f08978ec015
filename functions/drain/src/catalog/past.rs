//! Facts of the catalog that are valid for earlier rows.
//!
//! The catalog is read after the rows of the log were written. Each row of the catalog has the id of the
//! transaction that wrote it. Its fact is valid for a row of the log if that transaction is earlier than the
//! row's. The reason is that a change of a table's definition waits until the table's writers have ended.
//!
//! The rule depends on the catalog and the row's transaction only. So a row that is sent again has the same
//! key, unless the table was altered in between: then it may have no key.
//!
//! The rule is wrong in one case, because a transaction gets its id at its first write. Transaction 10 writes
//! to another table. Transaction 11 writes to this table, and ends. Then transaction 10 alters this table.
//! Its facts count as valid for the rows of transaction 11.

use std::collections::HashMap;

use super::{Catalog, CatalogColumn, CatalogTable};

/// Transactions that wrote a table's rows of the catalog.
///
/// They may be later than rows of the log. With an empty list, the fact is older than every row of the log.
#[derive(Debug, Default, Clone)]
pub struct RecentChanges {
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
    /// Transactions that wrote [`CatalogTable::primary_key`].
    pub primary_key: Vec<u32>,
    /// The transaction that wrote a column, by the column's name.
    pub columns: HashMap<String, u32>,
    /// Transactions that dropped columns.
    pub dropped: Vec<u32>,
}

impl RecentChanges {
    /// Whether every fact is older than every row.
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
        listed.copied().chain(self.created)
    }
}

/// Whether a transaction got its id before another one. Ids have 32 bits and wrap around.
pub fn precedes(xid: u32, other: u32) -> bool {
    (xid.wrapping_sub(other) as i32) < 0
}

/// The transaction of the rows, and the transactions that wrote the catalog.
#[derive(Debug, Default)]
pub(super) struct ReadTransaction {
    /// Transactions that wrote the catalog, ordered by id.
    ///
    /// They may be later than rows of the log.
    recent: Vec<u32>,
    /// The transaction of the rows; `None` before the first one.
    xid: Option<u32>,
    generation: usize,
}

impl ReadTransaction {
    fn add(&mut self, xid: u32) {
        // The ids are close together, so they can be ordered although ids wrap around.
        let place = self.recent.partition_point(|recent| precedes(*recent, xid));
        if self.recent.get(place) != Some(&xid) {
            self.recent.insert(place, xid);
        }
    }

    /// Computes the number of the generation.
    ///
    /// A table that is read later may add facts, so the number contains the count of all facts.
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

    /// A number that is equal for transactions with the same valid facts.
    pub fn generation(&self) -> usize {
        self.read.generation
    }

    /// The table with this OID, for rows whose description contains the OID.
    pub fn past_table(&self, oid: u32) -> Option<PastTable<'_>> {
        // The name may have become that of another table since.
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

    /// The table of this name when the row was written.
    ///
    /// `None` if another table may have had the name then.
    pub fn past_table_named(&self, name: &crate::base::table_name::TableName) -> Option<PastTable<'_>> {
        let past = PastTable {
            catalog: self,
            table: self.table(name)?,
            by_oid: false,
        };
        past.holds(&past.table.recent.name).then_some(past)
    }

    pub(super) fn note_recent(&mut self, changes: &RecentChanges) {
        changes.transactions().for_each(|xid| self.read.add(xid));
        self.read.number_generation();
    }
}

/// A table, with the facts that are valid for one transaction.
///
/// It is the transaction that is being read.
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
    /// table's name may be of an earlier table of that name. Then the fact is valid only if the row's
    /// transaction is the creation or a later one.
    fn holds(&self, transactions: &[u32]) -> bool {
        let row = self.catalog.read.xid;
        transactions.iter().all(|xid| {
            let is_creation = self.table.recent.created == Some(*xid);
            row.is_some_and(|row| precedes(*xid, row)) || is_creation && (self.by_oid || row == Some(*xid))
        })
    }

    /// The columns of the key when the row was written.
    ///
    /// They are empty if the table may have had another key, or none.
    pub fn key(&self) -> &'c [String] {
        match self.holds(&self.table.recent.key) {
            true => &self.table.key,
            false => &[],
        }
    }

    /// The columns of the primary key when the row was written.
    ///
    /// They are empty if the primary key may have had other columns.
    pub fn primary_key(&self) -> &'c [String] {
        match self.holds(&self.table.recent.primary_key) {
            true => &self.table.primary_key,
            false => &[],
        }
    }

    /// Whether the replica identity was `full`.
    pub fn is_full(&self) -> bool {
        self.table.identity_full && self.holds(&self.table.recent.identity)
    }

    /// Whether the log holds nothing that identifies a row: see [`crate::change::Relation::is_insert_only`].
    ///
    /// `lacks_primary_key` is whether the row itself shows that there was no primary key. A dropped index
    /// leaves no trace in the catalog, so a missing one proves nothing.
    pub fn is_insert_only(&self, lacks_primary_key: bool) -> bool {
        let is_bare = match self.table.identity {
            'n' => true,
            'd' => lacks_primary_key || self.never_had_primary_key(),
            _ => false,
        };
        is_bare && self.holds(&self.table.recent.identity)
    }

    /// Whether the catalog proves that the table had no primary key.
    ///
    /// A primary key makes its columns `not null`, and they stay so when it is dropped.
    fn never_had_primary_key(&self) -> bool {
        let recent = &self.table.recent;
        let is_unaltered = recent.columns.values().all(|xid| self.holds(&[*xid]));
        !self.table.has_not_null && is_unaltered && self.holds(&recent.dropped)
    }

    /// Whether an update without an old row left the key unchanged.
    ///
    /// PostgreSQL logs the old values only of the replica identity's columns. So no index of the table may
    /// have become the identity since. The identity may have been `nothing` if the table's row in `pg_class`
    /// was written since, but every truncate writes that row, too.
    pub fn logs_key_changes(&self) -> bool {
        self.table.identity != 'n' && self.holds(&self.table.recent.indexes)
    }

    /// Whether the index of the replica identity was dropped. Then the log identifies no row.
    pub fn lost_its_identity(&self) -> bool {
        self.table.identity == 'i' && self.table.key.is_empty()
    }

    /// The column of this name, if the table had it then.
    ///
    /// It had its present name and type.
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

    /// Whether a column of the catalog is the same as then.
    fn is_unaltered(&self, column: &str) -> bool {
        let altered = self.table.recent.columns.get(column);
        altered.is_none_or(|xid| self.holds(&[*xid]))
    }

    /// Whether the column of this name was virtual.
    pub fn is_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name) && self.is_unaltered(name)
    }

    /// Whether a null may replace a value that is in no log: the column is virtual, or may have been.
    pub fn may_be_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name)
            || !self.has_column(name) && !self.kept_its_virtual_columns()
    }

    /// Whether a column of the table may have been virtual.
    pub fn may_have_virtual_columns(&self) -> bool {
        !self.table.virtual_columns.is_empty() || !self.table.recent.is_empty()
    }

    /// Whether the virtual columns are still the same, with the same names.
    ///
    /// PostgreSQL 18 does not make a virtual column an ordinary one. So it would have been dropped or renamed
    /// since. Without an altered column, the reason why the catalog lacks a column of the row is not known.
    fn kept_its_virtual_columns(&self) -> bool {
        let recent = &self.table.recent;
        let row = self.catalog.read.xid;
        let mut dropped = recent.dropped.iter();
        // A row of the transaction that dropped a column may be older than the drop.
        dropped.all(|xid| row.is_some_and(|row| precedes(*xid, row)))
            && recent.columns.values().any(|xid| !self.holds(&[*xid]))
            && self.table.virtual_columns.iter().all(|it| self.is_unaltered(it))
    }

    /// Whether the marked columns of a relation are its whole replica identity.
    ///
    /// The description of the relation marks these columns. The server neither marks nor sends columns that
    /// it does not publish: generated columns, and columns outside of a column list. `is_primary` is true if
    /// the identity is the primary key. `sent` are all columns of the description.
    pub fn is_whole_identity(&self, is_primary: bool, marked: &[&str], sent: &[&str]) -> bool {
        let is_index = self.table.identity == 'i' && self.holds(&self.table.recent.indexes);
        let key = match is_primary {
            true => self.primary_key(),
            false if is_index => self.key(),
            false => &[],
        };
        if !key.is_empty() {
            return key.iter().all(|column| marked.contains(&column.as_str()));
        }
        // The identity at the time of the row is unknown. It is whole if the server sent every column.
        let mut columns = self.table.columns.iter();
        self.holds(&self.table.recent.dropped) && columns.all(|column| sent.contains(&column.name.as_str()))
    }

    /// Whether it was a partitioned table when the row was written.
    ///
    /// A table with rows cannot become one, but an earlier table may have had the name.
    pub fn is_partitioned(&self) -> bool {
        let created = self.table.recent.created;
        self.table.is_partitioned && created.is_none_or(|xid| self.holds(&[xid]))
    }

    /// Its partitions with rows that existed when the row was written.
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

    /// The partition keys' columns of all levels; `None` if they are unknown.
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
