//! The relations of a database, and those that a backfill selects.
//!
//! A pure module: the queries are in `postgres/tables/schema.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use super::refusal::TableRefusal;
use super::table::{BackfillTable, KeyOrder, SizeProbe};
use crate::base::table_name::{TableName, quoted_if_needed};
use crate::catalog::{Catalog, CatalogTable};
use crate::change::{Column, ColumnCoverage, ColumnType, Relation};
use crate::invocation::BackfillRequest;
use crate::rules::column_rules::ColumnRule;
use crate::rules::pattern::{self, TablePattern};

/// The server's description of a relation.
#[derive(Debug, Clone, Default)]
pub struct RelationInfo {
    /// Its name.
    pub table: TableName,
    /// Its object id.
    pub oid: u32,
    /// `pg_class.relkind`
    pub kind: char,
    /// Whether it is neither temporary nor unlogged.
    pub is_permanent: bool,
    /// The object ids of the partitioned tables above it.
    pub roots: Vec<u32>,
    /// Whether it has no columns: there are no values to read.
    pub lacks_columns: bool,
    /// The columns of the best index for reading; empty without one.
    pub key: Vec<String>,
    /// The order of each of these columns.
    pub key_order: Vec<KeyOrder>,
    /// Whether its replica identity is not `nothing`.
    pub is_identified: bool,
    /// Its columns, in table order.
    pub columns: Vec<ColumnInfo>,
    /// Whether the role may use its schema.
    pub may_use_schema: bool,
    /// Whether row security policies hide rows from the role.
    pub hides_rows: bool,
    /// The number of rows that the server's statistics estimate.
    pub estimate: Option<u64>,
}

/// The server's description of a column.
#[derive(Debug, Clone)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Whether the role may read it.
    pub may_read: bool,
    /// Whether it is a generated column that pgoutput never sends.
    ///
    /// `false` from PostgreSQL 18 on: the published columns then include the generated columns that are sent.
    pub is_generated: bool,
    /// Whether it is a virtual generated column: PostgreSQL computes its value at each read.
    pub is_virtual: bool,
    /// The probe of the size of its values.
    pub size_probe: SizeProbe,
}

/// Columns and rows of a table that the publications publish.
#[derive(Debug, Clone, Default)]
pub struct PublicationInfo {
    /// The published columns; `None` before PostgreSQL 15, without column lists.
    pub columns: Option<Vec<String>>,
    /// The row filters; `None` means all rows. A row that meets one of them is published.
    pub filters: Option<Vec<String>>,
}

/// The description of a database, for the checks of backfill requests.
#[derive(Debug, Default)]
pub struct DatabaseSchema {
    /// The database's relations.
    pub relations: Vec<RelationInfo>,
    /// The published tables; `None` where the plugin needs no publication.
    pub published: Option<BTreeMap<TableName, PublicationInfo>>,
    /// The patterns of `TABLES`; empty means all.
    pub tables: Vec<TablePattern>,
    /// Columns that are omitted or hashed.
    pub column_rules: Vec<ColumnRule>,
    /// The types of columns, and the keys of tables.
    pub catalog: Catalog,
    /// The role that reads the tables, as an SQL identifier.
    pub role: String,
}

impl RelationInfo {
    /// Whether one of these partitioned tables is above it.
    fn is_below(&self, roots: &BTreeSet<u32>) -> bool {
        self.roots
            .iter()
            .any(|root| *root != self.oid && roots.contains(root))
    }
}

impl DatabaseSchema {
    /// Replaces relations of this list by their descriptions in `details`.
    pub fn add_details(&mut self, details: DatabaseSchema) {
        let mut details_of: BTreeMap<u32, RelationInfo> = details
            .relations
            .into_iter()
            .map(|info| (info.oid, info))
            .collect();
        for info in &mut self.relations {
            if let Some(details) = details_of.remove(&info.oid) {
                *info = details;
            }
        }
        if let (Some(published), Some(details)) = (&mut self.published, details.published) {
            published.extend(details);
        }
        self.catalog = details.catalog;
    }

    /// The names of the tables that a request selects, in order.
    ///
    /// The list includes tables that cannot be backfilled.
    pub fn table_names(&self, request: &BackfillRequest) -> Vec<TableName> {
        let matching_names = |pattern: &TablePattern| -> Vec<TableName> {
            let relations = self.matching_relations(pattern).into_iter();
            let names: Vec<_> = relations.map(|info| info.table.clone()).collect();
            match pattern.exact_name() {
                // If the request names a table that was dropped, this table must fail. It is not skipped.
                Some(name) if names.is_empty() && !self.is_without_partitions(&name) => vec![name],
                _ => names,
            }
        };
        let patterns = patterns_of(request);
        let names: BTreeSet<TableName> = patterns.iter().flat_map(matching_names).collect();
        names.into_iter().collect()
    }

    /// The tables that a request selects, in the order of their names.
    ///
    /// # Errors
    /// One refusal for each table that cannot be backfilled, and one for each pattern that matches no table.
    pub fn backfill_tables(
        &self,
        request: &BackfillRequest,
    ) -> Result<Vec<BackfillTable>, Vec<TableRefusal>> {
        let mut selected: BTreeMap<&TableName, Result<BackfillTable, TableRefusal>> = BTreeMap::new();
        let mut refusals = Vec::new();
        for pattern in &patterns_of(request) {
            let matching = self.matching_relations(pattern);
            let is_empty = |name| self.is_without_partitions(&name);
            if matching.is_empty() && !pattern.exact_name().is_some_and(is_empty) {
                refusals.push(self.no_match(pattern));
            }
            for info in matching {
                selected
                    .entry(&info.table)
                    .or_insert_with(|| self.backfill_table(info, request));
            }
        }
        let mut tables = Vec::new();
        for table in selected.into_values() {
            match table {
                Ok(table) => tables.push(table),
                Err(refusal) => refusals.push(refusal),
            }
        }
        match refusals.is_empty() {
            true => Ok(tables),
            false => Err(refusals),
        }
    }

    /// Whether `name` is a partitioned table that has no partitions.
    ///
    /// Such a table has no rows.
    fn is_without_partitions(&self, name: &TableName) -> bool {
        let root = self.relations.iter().find(|info| info.table == *name);
        root.is_some_and(|root| {
            root.kind == 'p' && !self.relations.iter().any(|leaf| leaf.roots.contains(&root.oid))
        })
    }

    /// The refusal of a pattern that matches no relation.
    fn no_match(&self, pattern: &TablePattern) -> TableRefusal {
        let reason = match &self.published {
            Some(_) if pattern.has_wildcard() => "no published table matches it",
            _ if pattern.has_wildcard() => "no table matches it",
            _ => "there is no table of this name",
        };
        let similar = self
            .relations
            .iter()
            .find(|info| is_similar(pattern, &info.table));
        TableRefusal {
            subject: pattern.to_string(),
            reason: match similar {
                Some(info) => format!("{reason}: case matters, and there is {}", info.table.unquoted()),
                None => reason.to_owned(),
            },
        }
    }

    /// The relations that a pattern selects.
    ///
    /// A pattern with a wildcard selects the tables that have columns, are published and match `TABLES`. A
    /// name selects its relation, of any kind. The name of a partitioned table selects the table itself if
    /// changes are sent under this name. Otherwise it selects the partitions with its rows.
    fn matching_relations(&self, pattern: &TablePattern) -> Vec<&RelationInfo> {
        let has_wildcard = pattern.has_wildcard();
        let roots = self.published_roots();
        let matching = self
            .relations
            .iter()
            .filter(|relation| pattern.matches(&relation.table));
        let mut selected = Vec::new();
        for relation in matching {
            match relation.kind {
                _ if has_wildcard && (relation.is_below(&roots) || !self.is_included(relation)) => {}
                'p' if self.has_changes_named(relation) => selected.push(relation),
                'p' if has_wildcard => {}
                'p' => selected.extend(self.unpublished_root_leaves(relation, &roots)),
                'r' if has_wildcard => {
                    let has_values = relation.is_permanent && !relation.lacks_columns;
                    if has_values && self.has_changes_named(relation) {
                        selected.push(relation);
                    }
                }
                _ if has_wildcard => {}
                _ => selected.push(relation),
            }
        }
        selected
    }

    /// The leaf partitions of `root` whose changes have their own name.
    fn unpublished_root_leaves(
        &self,
        root: &RelationInfo,
        roots: &BTreeSet<u32>,
    ) -> impl Iterator<Item = &RelationInfo> {
        let leaves = self.relations.iter().filter(|leaf| leaf.kind != 'p');
        leaves.filter(move |leaf| leaf.roots.contains(&root.oid) && !leaf.is_below(roots))
    }

    /// Whether the plugin sends changes under the name of this relation.
    fn has_changes_named(&self, relation: &RelationInfo) -> bool {
        match &self.published {
            Some(published) => published.contains_key(&relation.table),
            // A plugin without publications sends the name of the partition with the row.
            None => relation.kind != 'p',
        }
    }

    /// Object ids of the published partitioned tables.
    ///
    /// The changes of their partitions are sent under the name of the partitioned table.
    fn published_roots(&self) -> BTreeSet<u32> {
        let relations = self.relations.iter().filter(|_| self.published.is_some());
        relations
            .filter(|root| root.kind == 'p' && self.has_changes_named(root))
            .map(|root| root.oid)
            .collect()
    }

    /// Whether `TABLES` includes it.
    fn is_included(&self, relation: &RelationInfo) -> bool {
        pattern::matches_any(&self.tables, &relation.table)
    }

    /// The table to read of a relation.
    ///
    /// # Errors
    /// The reason why it cannot be backfilled.
    pub fn backfill_table(
        &self,
        info: &RelationInfo,
        request: &BackfillRequest,
    ) -> Result<BackfillTable, TableRefusal> {
        let columns = self.published_columns(info);
        let checked = self
            .check_relation(info)
            .and_then(|()| check_names(info, &columns, request))
            .and_then(|()| self.check_privileges(info, &columns, request))
            .and_then(|()| self.check_replica_identity(info));
        match checked {
            Ok(()) => Ok(self.build_table(info, &columns, request)),
            Err(reason) => Err(TableRefusal {
                subject: info.table.to_string(),
                reason,
            }),
        }
    }

    /// Checks that a backfill can read this relation.
    ///
    /// It must be a permanent table whose changes are sent. The role may use its schema, and sees all its
    /// rows. It must have a key, because its rows are read in the order of a key.
    fn check_relation(&self, info: &RelationInfo) -> Result<(), String> {
        let reason = match info.kind {
            'v' | 'm' => "it is a view: logical decoding emits no changes of it",
            'S' => "it is a sequence: logical decoding emits no changes of it",
            'f' => "it is a foreign table: another server holds its rows and their changes",
            kind if !matches!(kind, 'r' | 'p') => "it is not a table",
            _ if !info.is_permanent => "it is temporary or unlogged: the log has no changes of it",
            _ if !self.is_included(info) => "TABLES does not include it, so its changes are not sent",
            _ if info.is_below(&self.published_roots()) => {
                "its changes are sent under the name of the partitioned table above it: backfill that table"
            }
            _ if !self.has_changes_named(info) => "it is not in PUBLICATIONS, so its changes are not sent",
            _ if !info.may_use_schema => {
                return Err(format!(
                    "the role may not use its schema: grant usage on schema {} to {}",
                    quoted_if_needed(&info.table.schema),
                    self.role
                ));
            }
            _ if info.hides_rows => {
                "row security may hide rows of it from the role: give the role the attribute bypassrls"
            }
            _ if info.key.is_empty() => {
                "it has no primary key, and no unique index over not-null columns that is neither partial, \
                 nor deferrable, nor over expressions"
            }
            _ => return Ok(()),
        };
        Err(reason.to_owned())
    }

    /// Checks that the role may read all columns that the request selects.
    fn check_privileges(
        &self,
        info: &RelationInfo,
        columns: &[&ColumnInfo],
        request: &BackfillRequest,
    ) -> Result<(), String> {
        let unreadable = columns
            .iter()
            .find(|column| is_selected(info, request, column) && !column.may_read);
        match unreadable {
            Some(column) => Err(format!(
                "the role may not read column {}: grant select on {} to {}",
                column.name, info.table, self.role
            )),
            None => Ok(()),
        }
    }

    /// Checks that its updates and deletes are logged with its key.
    ///
    /// With publications, the server refuses updates and deletes of a table without a replica identity.
    fn check_replica_identity(&self, info: &RelationInfo) -> Result<(), String> {
        let lacks_identity = self
            .catalog
            .table(&info.table)
            .is_some_and(|table| table.key.is_empty() && !table.identity_full);
        if self.published.is_none() && (lacks_identity || !info.is_identified) {
            let why = "it has no replica identity, so its updates and deletes are not sent: \
                       alter table … replica identity using index …";
            return Err(why.to_owned());
        }
        self.partition_problem(info).map_or(Ok(()), Err)
    }

    /// The table to read of a relation that passed the checks.
    ///
    /// `columns` are the columns that its changes have.
    fn build_table(
        &self,
        info: &RelationInfo,
        columns: &[&ColumnInfo],
        request: &BackfillRequest,
    ) -> BackfillTable {
        let relation = self.relation_of(info, columns, request);
        let filters = self.publication(info).and_then(|info| info.filters.as_ref());
        let filter = filters.map(|filters| format!("({})", filters.join(") or (")));
        BackfillTable {
            oid: info.oid,
            key: info.key.clone(),
            key_indexes: relation.column_indexes(&info.key).into_iter().flatten().collect(),
            key_order: info.key_order.clone(),
            selected: columns
                .iter()
                .map(|column| is_selected(info, request, column))
                .collect(),
            size_probes: columns.iter().map(|column| column.size_probe).collect(),
            is_root: info.kind == 'p',
            has_request_condition: request.condition.is_some(),
            conditions: filter.into_iter().chain(request.condition.clone()).collect(),
            estimate: info.estimate,
            relation: Arc::new(relation),
        }
    }

    /// The relation of the table's events.
    fn relation_of(
        &self,
        info: &RelationInfo,
        columns: &[&ColumnInfo],
        request: &BackfillRequest,
    ) -> Relation {
        let table = self.catalog.table(&info.table);
        // This is the key of the events of live changes. The key for reading the table may be another one,
        // and the request may leave out a part of this key.
        let key = self.live_key(info);
        let is_sent = |name: &String| {
            let mut columns = columns.iter().filter(|column| is_selected(info, request, column));
            columns.any(|column| column.name == *name)
        };
        let is_whole = key.iter().all(is_sent) && self.sends_key(info);
        let is_key = |name: &String| is_whole && key.contains(name);
        let columns = columns.iter().map(|column| {
            let column_type = self.column_type(table, &column.name);
            Column::new(column.name.clone(), column_type, is_key(&column.name))
        });
        Relation {
            table: info.table.clone(),
            columns: columns.collect(),
            primary_key: table
                .map(|table| self.catalog.primary_key_columns(table))
                .unwrap_or_default(),
            is_insert_only: table.is_some_and(|table| self.catalog.is_insert_only(table)),
            partition_key_may_change: false,
            // The catalog shows the present table. A change in the log may have other columns.
            coverage: match request.columns.is_empty() {
                true => ColumnCoverage::Completed,
                false => ColumnCoverage::Row,
            },
        }
    }

    /// A column's type with domains resolved; `unknown` if the catalog lacks it.
    fn column_type(&self, table: Option<&CatalogTable>, name: &str) -> ColumnType {
        let declared = table.and_then(|table| table.columns.iter().find(|column| column.name == name));
        match declared {
            Some(column) => self.catalog.declared_type(column),
            None => ColumnType::unknown("unknown"),
        }
    }

    /// The columns that its changes have.
    fn published_columns<'d>(&self, info: &'d RelationInfo) -> Vec<&'d ColumnInfo> {
        let publication = self.publication(info);
        let listed = publication.and_then(|publication| publication.columns.as_ref());
        let is_published = |column: &&ColumnInfo| match (listed, publication) {
            (Some(listed), _) => listed.contains(&column.name) && !column.is_generated,
            (None, Some(_)) => !column.is_generated,
            (None, None) => !column.is_virtual,
        };
        let omits = |column: &ColumnInfo| ColumnRule::omits(&self.column_rules, &info.table, &column.name);
        // A column that `COLUMN_RULES` omits is read only if it is part of the key.
        let is_read = |column: &&ColumnInfo| !omits(column) || info.key.contains(&column.name);
        info.columns.iter().filter(is_published).filter(is_read).collect()
    }

    fn publication(&self, info: &RelationInfo) -> Option<&PublicationInfo> {
        self.published
            .as_ref()
            .and_then(|published| published.get(&info.table))
    }
}

/// The patterns of a request. A request without patterns selects all tables.
fn patterns_of(request: &BackfillRequest) -> Vec<TablePattern> {
    match request.tables.is_empty() {
        true => vec![TablePattern::all()],
        false => request.tables.clone(),
    }
}

/// Whether a pattern differs from a table's name in case only.
///
/// The pattern must have no wildcard.
fn is_similar(pattern: &TablePattern, table: &TableName) -> bool {
    let lower = |name: &TableName| name.unquoted().to_lowercase();
    let name = pattern.exact_name();
    name.is_some_and(|name| name != *table && lower(&name) == lower(table))
}

/// Whether a request selects a column. The columns of the key are always selected.
fn is_selected(info: &RelationInfo, request: &BackfillRequest, column: &ColumnInfo) -> bool {
    request.columns.is_empty() || request.columns.contains(&column.name) || info.key.contains(&column.name)
}

/// Checks that the changes have the key's and the request's columns.
fn check_names(
    info: &RelationInfo,
    columns: &[&ColumnInfo],
    request: &BackfillRequest,
) -> Result<(), String> {
    let is_missing = |name: &&String| !columns.iter().any(|column| column.name == **name);
    if let Some(hidden) = info.key.iter().find(is_missing) {
        return Err(format!("column {hidden} of its key is not published"));
    }
    match request.columns.iter().find(is_missing) {
        Some(unknown) => Err(format!("its changes have no column {unknown}")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
