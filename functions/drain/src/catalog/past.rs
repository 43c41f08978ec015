//! Which facts of the catalog also hold for earlier rows of the log.
//!
//! The catalog is read after the rows were written. Each of its rows has the id of the transaction that wrote
//! it. A fact holds for a row of the log if it was written by an earlier transaction: a change of a table's
//! definition waits until the writers of the table have ended.
//!
//! Ids are assigned at the first write of a transaction. The rule depends on nothing but the catalog and the
//! row's transaction, so a row that is sent again has the same key. It is too generous for one case: a
//! transaction that wrote something else first, and changed the table after a later transaction wrote to it.

use std::collections::HashMap;

use super::{Catalog, CatalogTable};

/// Transactions that wrote a table's rows of the catalog, and may be newer than rows of the log.
///
/// An empty list means that the fact is older than every row.
#[derive(Debug, Default, Clone)]
pub struct RecentChanges {
    /// The transaction that created the table.
    pub created: Option<u32>,
    /// Those that gave the table its name.
    pub name: Vec<u32>,
    /// Those that wrote the row of the table itself, which has its replica identity.
    pub identity: Vec<u32>,
    /// Those that wrote one of its indexes.
    pub indexes: Vec<u32>,
    /// Those that wrote [`CatalogTable::key`].
    pub key: Vec<u32>,
    /// Those that wrote [`CatalogTable::primary_key`].
    pub primary_key: Vec<u32>,
    /// Those that wrote its columns, by the column's name.
    pub columns: HashMap<String, u32>,
    /// Those that dropped columns.
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

/// The transaction of the rows that are read, among those that wrote the catalog.
#[derive(Debug, Default)]
pub(super) struct ReadTransaction {
    /// Those that wrote the catalog, and may be newer than rows of the log, in the order of their ids.
    recent: Vec<u32>,
    /// The transaction of the rows; `None` if the catalog is as old as any row.
    xid: Option<u32>,
    generation: usize,
}

impl ReadTransaction {
    fn add(&mut self, xid: u32) {
        // The ids are near each other, so they have an order although they wrap around.
        let place = self.recent.partition_point(|recent| precedes(*recent, xid));
        if self.recent.get(place) != Some(&xid) {
            self.recent.insert(place, xid);
        }
    }

    /// Numbers the facts that hold. A table that is read later may add facts, so their count is a part of it.
    fn number_generation(&mut self) {
        let Some(xid) = self.xid else { return };
        let earlier = self.recent.partition_point(|recent| precedes(*recent, xid));
        let is_own = self.recent.get(earlier) == Some(&xid);
        self.generation = (self.recent.len() << 32) + 2 * earlier + usize::from(is_own);
    }
}

impl Catalog {
    /// Notes that the rows that follow belong to this transaction.
    pub fn begin_transaction(&mut self, xid: u32) {
        self.read.xid = Some(xid);
        self.read.number_generation();
    }

    /// A number that differs between transactions for whose rows other facts hold.
    pub fn generation(&self) -> usize {
        self.read.generation
    }

    /// The table with this OID, for rows that the server described with it.
    pub fn past_table(&self, oid: u32) -> Option<PastTable<'_>> {
        let table = self.table(self.names.get(&oid)?)?;
        let catalog = self;
        Some(PastTable {
            catalog,
            table,
            by_oid: true,
        })
    }

    /// The table of this name; `None` also if another table may have had the name when the row was written.
    pub fn past_table_named(&self, name: &crate::table_name::TableName) -> Option<PastTable<'_>> {
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

/// A table of the catalog, with the facts that hold for the rows that are being read.
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

    /// Whether a fact that these transactions wrote holds.
    ///
    /// What was written with the table itself holds for all its rows. Rows that have only the table's name
    /// may be those of an earlier table, unless the table's own transaction wrote them.
    fn holds(&self, transactions: &[u32]) -> bool {
        let row = self.catalog.read.xid;
        transactions.iter().all(|xid| {
            let is_creation = self.table.recent.created == Some(*xid);
            row.is_some_and(|row| precedes(*xid, row)) || is_creation && (self.by_oid || row == Some(*xid))
        })
    }

    /// The columns of the key; empty if the table may have had another key, or none.
    pub fn key(&self) -> &'c [String] {
        match self.holds(&self.table.recent.key) {
            true => &self.table.key,
            false => &[],
        }
    }

    /// The columns of the primary key; empty if it may have had others.
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

    /// Whether an update without an old row has left the key as it was.
    ///
    /// PostgreSQL logs the old values of the columns of the replica identity only. No index of the table may
    /// have been marked as the identity since.
    pub fn logs_key_changes(&self) -> bool {
        self.table.identity != 'n' && self.holds(&self.table.recent.indexes)
    }

    /// Whether the table had this column, with its present name and kind.
    pub fn has_column(&self, name: &str) -> bool {
        let recent = self.table.recent.columns.get(name);
        let is_column = self.table.columns.iter().any(|column| column.name == name);
        is_column && recent.is_none_or(|xid| self.holds(&[*xid]))
    }

    /// Whether a null of this column may stand for a value that no log has: the column is, or was, virtual.
    pub fn may_be_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name) || !self.has_column(name)
    }

    /// Whether the columns that a description marks are the whole replica identity.
    ///
    /// The server neither marks nor sends columns that it does not publish: generated columns, and columns
    /// outside of a column list. `is_primary` is whether the identity is the primary key, and `sent` are all
    /// columns of the description.
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
        // The identity of that time is not known. It is whole if the server sent every column.
        let mut columns = self.table.columns.iter();
        self.holds(&self.table.recent.dropped) && columns.all(|column| sent.contains(&column.name.as_str()))
    }

    /// The partitions that hold its rows, as far as they existed.
    pub fn partitions(&self) -> Vec<&'c CatalogTable> {
        let partitions = self.table.partitions.iter();
        let known = partitions.filter_map(|oid| self.catalog.past_table(*oid));
        let existed = known.filter(|past| {
            let row = past.catalog.read.xid;
            let created = past.table.recent.created;
            created.is_none_or(|xid| row.is_some_and(|row| row == xid || precedes(xid, row)))
        });
        existed.map(|past| past.table).collect()
    }

    /// The columns that decide a row's partition, on all levels; `None` if they are not known.
    pub fn partition_columns(&self) -> Option<&'c [String]> {
        let columns = self.table.partition_columns.as_deref()?;
        columns
            .iter()
            .all(|column| self.has_column(column))
            .then_some(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogColumn;
    use crate::table_name::TableName;

    /// A catalog with `public.t`, created in 10; 20 wrote its key and its column `b`.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let column = |name: &str| CatalogColumn {
            name: name.into(),
            type_oid: 23,
            modifier: -1,
            type_name: "integer".into(),
            toastable: false,
        };
        let recent = RecentChanges {
            created: Some(10),
            name: vec![10],
            key: vec![20],
            primary_key: vec![10],
            columns: [("a".to_owned(), 10), ("b".to_owned(), 20)].into(),
            ..RecentChanges::default()
        };
        let table = CatalogTable {
            oid: 7,
            key: vec!["b".into()],
            primary_key: vec!["a".into()],
            columns: vec![column("a"), column("b"), column("c")],
            recent,
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("public", "t"), table);
        catalog
    }

    fn name() -> TableName {
        TableName::new("public", "t")
    }

    #[test]
    fn a_fact_holds_for_rows_of_later_transactions() {
        let mut catalog = catalog();
        for (xid, is_held) in [(15, false), (20, false), (21, true), (u32::MAX - 5, false)] {
            catalog.begin_transaction(xid);
            assert_eq!(catalog.past_table(7).unwrap().key().is_empty(), !is_held, "{xid}");
        }
    }

    #[test]
    fn transactions_have_the_same_generation_if_the_same_facts_hold() {
        let mut catalog = catalog();
        let generations = [9, 10, 11, 15, 20, 21].map(|xid| {
            catalog.begin_transaction(xid);
            catalog.generation()
        });
        assert_eq!(
            generations.map(|number| number - generations[0]),
            [0, 1, 2, 2, 3, 4]
        );
    }

    #[test]
    fn a_table_that_is_read_later_begins_a_generation() {
        let mut catalog = catalog();
        let generation = |catalog: &mut Catalog, xid| {
            catalog.begin_transaction(xid);
            catalog.generation()
        };
        let before = generation(&mut catalog, 15);
        let recent = RecentChanges {
            key: vec![5],
            ..RecentChanges::default()
        };
        catalog.insert(
            TableName::new("public", "later"),
            CatalogTable {
                oid: 8,
                recent,
                ..CatalogTable::default()
            },
        );
        assert_ne!(catalog.generation(), before);
        // As many facts hold, but others.
        assert_ne!(generation(&mut catalog, 9), before);
    }

    #[test]
    fn a_fact_of_the_tables_creation_holds_for_every_row_of_its_oid() {
        let catalog = catalog();
        let past = catalog.past_table(7).unwrap();
        assert_eq!(past.primary_key(), ["a"]);
        assert!(past.has_column("a") && past.has_column("c") && !past.has_column("b"));
        assert!(catalog.past_table(8).is_none());
    }

    #[test]
    fn a_name_may_have_been_another_tables_before_the_creation() {
        let mut catalog = catalog();
        for (xid, is_held) in [(9, false), (10, true), (11, true)] {
            catalog.begin_transaction(xid);
            assert_eq!(catalog.past_table_named(&name()).is_some(), is_held, "{xid}");
        }
    }

    #[test]
    fn an_identity_is_whole_if_the_server_marked_every_column_of_it() {
        let catalog = catalog();
        let past = catalog.past_table(7).unwrap();
        assert!(past.is_whole_identity(true, &["a"], &["a"]));
        assert!(!past.is_whole_identity(true, &["b"], &["b", "c"]));
        // The index of the past is not known.
        assert!(past.is_whole_identity(false, &["b"], &["a", "b", "c"]));
        assert!(!past.is_whole_identity(false, &["b"], &["a", "b"]));
    }
}
