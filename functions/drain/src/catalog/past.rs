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

use super::{Catalog, CatalogTable};

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

    /// Whether the table had this column, with its present name and kind.
    pub fn has_column(&self, name: &str) -> bool {
        let recent = self.table.recent.columns.get(name);
        let is_column = self.table.columns.iter().any(|column| column.name == name);
        is_column && recent.is_none_or(|xid| self.holds(&[*xid]))
    }

    /// Whether a null may replace a value that is in no log: the column is virtual, or may have been.
    pub fn may_be_virtual(&self, name: &str) -> bool {
        self.table.virtual_columns.iter().any(|column| column == name) || !self.has_column(name)
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
mod tests {
    use super::*;
    use crate::base::table_name::TableName;
    use crate::catalog::CatalogColumn;

    /// A catalog with the table `public.t`.
    ///
    /// Transaction 10 created the table. Transaction 20 wrote its key and its column `b`.
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
    fn a_fact_is_valid_for_rows_of_later_transactions() {
        let mut catalog = catalog();
        for (xid, has_key) in [(15, false), (20, false), (21, true), (u32::MAX - 5, false)] {
            catalog.begin_transaction(xid);
            assert_eq!(catalog.past_table(7).unwrap().key().is_empty(), !has_key, "{xid}");
        }
    }

    #[test]
    fn transactions_have_the_same_generation_if_the_same_facts_are_valid() {
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
        // The number of valid facts is the same, but the facts differ.
        assert_ne!(generation(&mut catalog, 9), before);
    }

    #[test]
    fn a_fact_of_the_tables_creation_is_valid_for_every_row_of_its_oid() {
        let catalog = catalog();
        let past = catalog.past_table(7).unwrap();
        assert_eq!(past.primary_key(), ["a"]);
        assert!(past.has_column("a") && past.has_column("c") && !past.has_column("b"));
        assert!(catalog.past_table(8).is_none());
    }

    #[test]
    fn a_name_may_have_been_another_tables_before_the_creation() {
        let mut catalog = catalog();
        for (xid, is_valid) in [(9, false), (10, true), (11, true)] {
            catalog.begin_transaction(xid);
            assert_eq!(catalog.past_table_named(&name()).is_some(), is_valid, "{xid}");
        }
    }

    #[test]
    fn a_row_is_of_an_insert_only_table_if_nothing_can_have_identified_it() {
        // Identity, whether a column is not null, whether the row shows that there is no primary key.
        for (identity, has_not_null, lacks_primary_key, is_insert_only) in [
            ('n', true, false, true),
            ('d', false, false, true),
            // The primary key may have been dropped since.
            ('d', true, false, false),
            ('d', true, true, true),
            // The index of the identity was dropped, perhaps since.
            ('i', false, true, false),
            ('f', false, true, false),
        ] {
            let mut catalog = Catalog::default();
            let recent = RecentChanges {
                identity: vec![20],
                columns: [("a".to_owned(), 10)].into(),
                ..RecentChanges::default()
            };
            let table = CatalogTable {
                oid: 7,
                identity,
                has_not_null,
                recent,
                ..CatalogTable::default()
            };
            catalog.insert(name(), table);
            for (xid, is_known) in [(15, false), (21, true)] {
                catalog.begin_transaction(xid);
                let past = catalog.past_table(7).unwrap();
                assert_eq!(
                    past.is_insert_only(lacks_primary_key),
                    is_insert_only && is_known,
                    "{identity} {has_not_null} {lacks_primary_key} {xid}"
                );
            }
        }
    }

    #[test]
    fn an_altered_column_may_have_been_that_of_a_primary_key() {
        for recent in [
            RecentChanges {
                columns: [("a".to_owned(), 20)].into(),
                ..RecentChanges::default()
            },
            RecentChanges {
                dropped: vec![20],
                ..RecentChanges::default()
            },
        ] {
            let mut catalog = Catalog::default();
            let table = CatalogTable {
                oid: 7,
                identity: 'd',
                recent,
                ..CatalogTable::default()
            };
            catalog.insert(name(), table);
            for (xid, is_known) in [(15, false), (21, true)] {
                catalog.begin_transaction(xid);
                assert_eq!(catalog.past_table(7).unwrap().is_insert_only(false), is_known);
            }
        }
    }

    #[test]
    fn an_identity_is_whole_if_the_server_marked_every_column_of_it() {
        let catalog = catalog();
        let past = catalog.past_table(7).unwrap();
        assert!(past.is_whole_identity(true, &["a"], &["a"]));
        assert!(!past.is_whole_identity(true, &["b"], &["b", "c"]));
        // The identity's index at the time of the row is unknown.
        assert!(past.is_whole_identity(false, &["b"], &["a", "b", "c"]));
        assert!(!past.is_whole_identity(false, &["b"], &["a", "b"]));
    }
}
