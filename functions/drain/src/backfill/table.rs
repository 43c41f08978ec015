//! Which tables a request means, and what is known of each: its key, and the columns that the stream has of it. Pure: the server's answers
//! come from `slot::tables`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::change::{Column, ColumnCoverage, Relation};
use crate::event::BackfillRequest;
use crate::pattern::{self, TablePattern};

use crate::table_name::{TableName, quoted_if_needed};

/// A table that can be backfilled.
#[derive(Debug, Clone)]
pub struct BackfillTable {
    /// As its rows' events describe it.
    pub relation: Arc<Relation>,
    /// Its object id.
    pub oid: u32,
    /// The names of the columns by which its rows are told apart and read in order.
    pub key: Vec<String>,
    /// Where these stand among the columns of `relation`.
    pub key_indexes: Vec<usize>,
    /// How each of these is compared.
    pub key_order: Vec<KeyOrder>,
    /// Which columns of `relation` are read.
    pub(super) selected: Vec<bool>,
    /// Which columns may hold values that are large.
    pub(super) size_probes: Vec<SizeProbe>,
    /// Whether its rows lie in partitions, of which it is the root.
    pub(super) is_root: bool,
    /// SQL conditions that a row must meet: the publications' filter, and the request's.
    pub(super) conditions: Vec<String>,
    /// Rows, as the server's statistics estimate them.
    pub estimate: Option<u64>,
}

/// How a column of a key is compared: the operators of its index, in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOrder {
    /// `operator(pg_catalog.<)`
    pub less: String,
    /// `operator(pg_catalog.=)`
    pub equal: String,
    /// `operator(pg_catalog.>=)`
    pub at_least: String,
    /// `operator(pg_catalog.>)`
    pub greater: String,
    /// The collation of the index, in SQL, where it is not the column's.
    pub collation: Option<String>,
    /// What the order follows from: the object ids of type, operator class and collation.
    pub identity: String,
}

/// How the size of a column's value is told without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeProbe {
    /// It is never large.
    No,
    /// A text or binary value.
    Text,
    /// Another type.
    Other,
}

#[cfg(test)]
impl KeyOrder {
    /// That of PostgreSQL's own types.
    pub(crate) fn plain(collation: Option<String>) -> Self {
        let operator = |name: &str| format!("operator(pg_catalog.{name})");
        KeyOrder {
            less: operator("<"),
            equal: operator("="),
            at_least: operator(">="),
            greater: operator(">"),
            collation,
            identity: "25 3126 100".to_owned(),
        }
    }
}

impl BackfillTable {
    /// Whether a change's table is this one.
    pub fn matches(&self, relation: &Relation) -> bool {
        self.relation.table == relation.table
    }

    /// Its name.
    pub fn name(&self) -> &TableName {
        &self.relation.table
    }

    /// What a cursor is bound to: the table itself, which another may have taken the name of, and the columns of its key, each with what its
    /// order follows from.
    pub fn cursor_identity(&self) -> Vec<String> {
        let columns = self.key.iter().zip(&self.key_order);
        let columns = columns.map(|(name, order)| format!("{name} {}", order.identity));
        std::iter::once(self.oid.to_string()).chain(columns).collect()
    }

    /// Whether the column at this place is read.
    pub fn selects(&self, place: usize) -> bool {
        self.selected.get(place).copied().unwrap_or(false)
    }
}

impl fmt::Display for BackfillTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.relation.fmt(f)
    }
}

/// What the server says of a relation.
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
    /// The partitioned tables above it, by object id.
    pub roots: Vec<u32>,
    /// The columns of the best index to read it by; empty when there is none.
    pub key: Vec<String>,
    /// How these are compared.
    pub key_order: Vec<KeyOrder>,
    /// Whether updates and deletes tell which row they were of.
    pub is_identified: bool,
    /// Its columns, in table order.
    pub columns: Vec<ColumnInfo>,
    /// Whether the role may use its schema.
    pub may_use_schema: bool,
    /// Whether policies hide rows from the role.
    pub hides_rows: bool,
    /// Rows, as the server's statistics estimate them.
    pub estimate: Option<u64>,
}

/// What the server says of a column.
#[derive(Debug, Clone)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Whether the role may read it.
    pub may_read: bool,
    /// Whether it is generated, and pgoutput does not tell of it (before PostgreSQL 18).
    pub is_generated: bool,
    /// Whether its value is not stored, but computed each time.
    pub is_virtual: bool,
    /// See [`SizeProbe`].
    pub size_probe: SizeProbe,
}

/// What the publications say of a table.
#[derive(Debug, Clone, Default)]
pub struct PublicationInfo {
    /// Its columns, where the server says so (PostgreSQL 15 on).
    pub columns: Option<Vec<String>>,
    /// A row is published that meets one of these; `None` means all.
    pub filters: Option<Vec<String>>,
}

/// All that a request is held against.
#[derive(Debug, Default)]
pub struct DatabaseSchema {
    /// The database's relations.
    pub relations: Vec<RelationInfo>,
    /// By schema and name, what is published; `None` where the plugin needs no publication.
    pub published: Option<BTreeMap<TableName, PublicationInfo>>,
    /// `TABLES`; empty means all.
    pub tables: Vec<TablePattern>,
    /// The types of columns.
    pub catalog: Catalog,
    /// Who reads.
    pub role: String,
}

/// Why a table, or what a pattern means, cannot be backfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRefusal {
    /// The table, or the pattern.
    pub subject: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for TableRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

impl DatabaseSchema {
    /// The names of the tables that a request means, whether they can be backfilled or not, in order.
    pub fn table_names(&self, request: &BackfillRequest) -> Vec<TableName> {
        let patterns = request.tables.iter();
        let everything = TablePattern::all();
        let everything = request.tables.is_empty().then_some(&everything);
        let meant = |pattern: &TablePattern| -> Vec<TableName> {
            let found = self.matching_relations(pattern).into_iter();
            let found: Vec<_> = found.map(|info| info.table.clone()).collect();
            match pattern.exact_name() {
                // A table that was named and is gone is a failure. It is not passed over.
                Some(name) if found.is_empty() => vec![name],
                _ => found,
            }
        };
        let names: BTreeSet<TableName> = patterns.chain(everything).flat_map(meant).collect();
        names.into_iter().collect()
    }

    /// The tables that a request means, by schema and name.
    ///
    /// # Errors
    /// Each that cannot be backfilled, and each pattern that means none.
    pub fn backfill_tables(
        &self,
        request: &BackfillRequest,
    ) -> Result<Vec<BackfillTable>, Vec<TableRefusal>> {
        let mut meant: BTreeMap<&TableName, Result<BackfillTable, TableRefusal>> = BTreeMap::new();
        let mut refused = Vec::new();
        let everything = [TablePattern::all()];
        let patterns = match request.tables.is_empty() {
            true => &everything[..],
            false => &request.tables,
        };
        for pattern in patterns {
            let found = self.matching_relations(pattern);
            if found.is_empty() {
                let reason = match &self.published {
                    Some(_) if pattern.has_wildcard() => "no published table is meant by it",
                    _ if pattern.has_wildcard() => "no table is meant by it",
                    _ => "there is no table of this name",
                };
                refused.push(TableRefusal {
                    subject: pattern.to_string(),
                    reason: reason.to_owned(),
                });
            }
            for described in found {
                meant
                    .entry(&described.table)
                    .or_insert_with(|| self.backfill_table(described, request));
            }
        }
        let mut tables = Vec::new();
        for table in meant.into_values() {
            match table {
                Ok(table) => tables.push(table),
                Err(refusal) => refused.push(refusal),
            }
        }
        match refused.is_empty() {
            true => Ok(tables),
            false => Err(refused),
        }
    }

    /// The relations that a pattern means. An open one means tables only, and of these what is published and wanted; one name means
    /// that relation, whatever it is, and of a partitioned table the partitions that hold its rows.
    fn matching_relations(&self, pattern: &TablePattern) -> Vec<&RelationInfo> {
        let open = pattern.has_wildcard();
        let matching = self
            .relations
            .iter()
            .filter(|relation| pattern.matches(&relation.table));
        let mut meant = Vec::new();
        for relation in matching {
            let leaves = self.relations.iter().filter(|leaf| {
                leaf.roots.contains(&relation.oid) && leaf.kind != 'p' && !self.is_root_published(leaf)
            });
            match relation.kind {
                _ if open && self.is_root_published(relation) => {}
                'p' if self.is_published(relation) => meant.push(relation),
                'p' if open => {}
                'p' => meant.extend(leaves),
                'r' if open => {
                    let drained = self.is_included(relation) && relation.is_permanent;
                    if drained && self.is_published(relation) {
                        meant.push(relation);
                    }
                }
                _ if open => {}
                _ => meant.push(relation),
            }
        }
        meant
    }

    /// Whether changes come under this name.
    fn is_published(&self, relation: &RelationInfo) -> bool {
        match &self.published {
            Some(published) => published.contains_key(&relation.table),
            // The other plugins tell of the tables that hold the rows.
            None => relation.kind != 'p',
        }
    }

    /// Whether changes of a partition come under the name of a table above it.
    fn is_root_published(&self, relation: &RelationInfo) -> bool {
        let roots = self
            .relations
            .iter()
            .filter(|root| relation.roots.contains(&root.oid) && root.oid != relation.oid);
        self.published.is_some() && roots.into_iter().any(|root| self.is_published(root))
    }

    fn is_included(&self, relation: &RelationInfo) -> bool {
        pattern::matches_any(&self.tables, &relation.table)
    }

    /// What is to be read of a relation.
    ///
    /// # Errors
    /// It cannot be backfilled: why.
    pub fn backfill_table(
        &self,
        described: &RelationInfo,
        request: &BackfillRequest,
    ) -> Result<BackfillTable, TableRefusal> {
        let subject = described.table.to_string();
        self.check_readable(described)
            .and_then(|()| self.build_table(described, request, &subject))
            .map_err(|reason| TableRefusal { subject, reason })
    }

    /// Whether it is a table whose changes come, and which the role may read in an order.
    fn check_readable(&self, described: &RelationInfo) -> Result<(), String> {
        let why = match described.kind {
            'v' | 'm' => "it is a view: the log does not tell of its changes",
            'S' => "it is a sequence: the log does not tell of its changes",
            'f' => "it is a foreign table: its rows and their changes are another server's",
            kind if !matches!(kind, 'r' | 'p') => "it is not a table",
            _ if !described.is_permanent => {
                "it is temporary or unlogged: the log does not tell of its changes"
            }
            _ if !self.is_included(described) => "TABLES leaves it out, so its changes do not come",
            _ if self.is_root_published(described) => {
                "its changes come under the name of the partitioned table above it: backfill that one"
            }
            _ if !self.is_published(described) => "it is not in PUBLICATIONS, so its changes do not come",
            _ if !described.may_use_schema => {
                return Err(format!(
                    "the role may not use its schema: grant usage on schema {} to {}",
                    quoted_if_needed(&described.table.schema),
                    self.role
                ));
            }
            _ if described.hides_rows => {
                "row security may hide rows of it from the role: give the role bypassrls"
            }
            _ if described.key.is_empty() => {
                "it has no primary key, and no unique index over not-null columns that is neither partial, nor deferrable, nor over expressions"
            }
            _ => return Ok(()),
        };
        Err(why.to_owned())
    }

    /// How it is read.
    fn build_table(
        &self,
        described: &RelationInfo,
        request: &BackfillRequest,
        what: &str,
    ) -> Result<BackfillTable, String> {
        let published = self.published.as_ref();
        let published = published.and_then(|published| published.get(&described.table));
        let columns = published_columns(described, published);
        let has = |name: &String| columns.iter().any(|column| column.name == *name);
        if let Some(hidden) = described.key.iter().find(|name| !has(name)) {
            return Err(format!("column {hidden} of its key is not published"));
        }
        if let Some(unknown) = request.columns.iter().find(|name| !has(name)) {
            return Err(format!("it has no column {unknown} that its changes tell"));
        }
        let wanted = |column: &ColumnInfo| {
            request.columns.is_empty()
                || request.columns.contains(&column.name)
                || described.key.contains(&column.name)
        };
        if let Some(column) = columns.iter().find(|column| wanted(column) && !column.may_read) {
            return Err(format!(
                "the role may not read column {}: grant select on {what} to {}",
                column.name, self.role
            ));
        }
        let known = self.catalog.table(&described.table);
        let is_bare = known.is_some_and(|table| table.key.is_empty() && !table.full);
        if self.published.is_none() && (is_bare || !described.is_identified) {
            return Err(
                "it has no replica identity, so its updates and deletes do not come: alter table … replica identity using index …"
                    .to_owned(),
            );
        }
        let type_name = |name: &str| {
            let declared = known.and_then(|table| table.columns.iter().find(|column| column.name == name));
            declared.map_or_else(
                || "unknown".to_owned(),
                |column| self.catalog.resolved(&column.type_name),
            )
        };
        // The key of the events is that of live changes, which need not be the one to read by.
        let is_key = |name: &String| known.is_some_and(|table| table.key.contains(name));
        let relation = Relation {
            table: described.table.clone(),
            columns: columns
                .iter()
                .map(|column| Column::new(column.name.clone(), type_name(&column.name), is_key(&column.name)))
                .collect(),
            primary: known.map(|table| self.catalog.primary(table)).unwrap_or_default(),
            // The log tells what a table was, the catalog what it is.
            extent: match request.columns.is_empty() {
                true => ColumnCoverage::Completed,
                false => ColumnCoverage::Row,
            },
        };
        let places = relation.columns_named(&described.key);
        let filters = published.and_then(|published| published.filters.as_ref());
        let filter = filters.map(|filters| format!("({})", filters.join(") or (")));
        Ok(BackfillTable {
            oid: described.oid,
            key: described.key.clone(),
            key_indexes: places.into_iter().flatten().collect(),
            key_order: described.key_order.clone(),
            selected: columns.iter().map(|column| wanted(column)).collect(),
            size_probes: columns.iter().map(|column| column.size_probe).collect(),
            is_root: described.kind == 'p',
            conditions: filter.into_iter().chain(request.condition.clone()).collect(),
            estimate: described.estimate,
            relation: Arc::new(relation),
        })
    }
}

/// The columns that its changes tell.
fn published_columns<'d>(
    described: &'d RelationInfo,
    published: Option<&PublicationInfo>,
) -> Vec<&'d ColumnInfo> {
    let named = published.and_then(|published| published.columns.as_ref());
    let is_published = |column: &&ColumnInfo| match (named, published) {
        (Some(named), _) => named.contains(&column.name) && !column.is_generated,
        (None, Some(_)) => !column.is_generated,
        (None, None) => !column.is_virtual,
    };
    described.columns.iter().filter(is_published).collect()
}

#[cfg(test)]
pub(crate) mod tests;
