//! Projection of relations: omitted columns, hashed columns, and partition keys.
//!
//! A change is projected before it is encoded. So no event, partition key or hash of a key has a value that
//! the rules hide. But a change is compared with the rows of a backfill before it is projected, since the
//! rows have all their columns then. The module does no I/O.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::table_name::TableName;
use crate::change::{Change, Column, ColumnType, Datum, Relation, Tuple, ValueType};
use crate::rules::column_rules::{ColumnAction, ColumnRules, Salt};
use crate::rules::pattern::TableColumns;

/// OID of `text`, the type of all hashes (`pg_type.dat`).
const TEXT_OID: u32 = 25;

/// Maximum number of cached relations of one table.
///
/// With wal2json, rows that lack different large columns have different relations.
const MAX_RELATIONS: usize = 64;

/// Rules for the sent columns and the partition key of each table.
#[derive(Debug, Clone, Default)]
pub struct ProjectionRules {
    /// Columns that are omitted or hashed.
    pub column_rules: ColumnRules,
    /// Columns of the partition keys of some tables.
    ///
    /// If several entries match a table, the first one applies. If none matches, the table's own key is the
    /// partition key.
    pub partition_keys: Vec<TableColumns>,
}

impl ProjectionRules {
    /// Text of all rules. It has a hash of the salt instead of the salt.
    pub fn settings_text(&self) -> String {
        let salt = self.column_rules.salt().hash("");
        format!("{:?} {:?} {salt}", self.column_rules, self.partition_keys)
    }

    /// Whether columns are omitted or hashed.
    pub fn has_column_rules(&self) -> bool {
        !self.column_rules.is_empty()
    }

    /// Whether there are no rules: every relation is sent unchanged.
    fn is_empty(&self) -> bool {
        self.column_rules.is_empty() && self.partition_keys.is_empty()
    }

    /// Whether a relation of this table may be projected.
    fn matches_table(&self, table: &TableName) -> bool {
        self.column_rules.matches_table(table) || self.partition_key_columns(table).is_some()
    }

    /// The columns of a table's partition key.
    ///
    /// `None` if the partition key is the table's own key.
    fn partition_key_columns(&self, table: &TableName) -> Option<&[String]> {
        let mut keys = self.partition_keys.iter();
        let key = keys.find(|key| key.table.matches(table))?;
        Some(&key.columns)
    }
}

/// The projections of a window's relations.
#[derive(Debug)]
pub struct Projections<'r> {
    rules: &'r ProjectionRules,
    /// The last relation for which no rule was found.
    ///
    /// Consecutive changes are often of one table. For them, one comparison of pointers suffices.
    unchanged: Option<Arc<Relation>>,
    /// The relations of each table.
    ///
    /// `None` for a table that no rule matches.
    tables: HashMap<TableName, Option<Vec<KnownRelation>>>,
}

/// A relation and its projection.
///
/// The projection is `None` if the relation is sent unchanged.
#[derive(Debug)]
struct KnownRelation {
    relation: Arc<Relation>,
    projection: Option<Arc<Projection>>,
}

/// The relation that is sent, and the projection of each decoded column.
#[derive(Debug)]
struct Projection {
    relation: Arc<Relation>,
    /// In the order of the decoded relation's columns.
    columns: Vec<ColumnProjection>,
}

/// Projection of a column's values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ColumnProjection {
    Kept,
    Omitted,
    /// `kind` is the column's type, which determines the hashed text.
    Hashed {
        kind: ValueType,
    },
}

impl<'r> Projections<'r> {
    /// The projections by these rules.
    pub fn new(rules: &'r ProjectionRules) -> Self {
        Projections {
            rules,
            unchanged: None,
            tables: HashMap::new(),
        }
    }

    /// The change as it is sent.
    ///
    /// `None` if the change is sent unchanged.
    pub fn change<'c>(&mut self, change: &'c Change<'_>) -> Option<Change<'c>> {
        if self.rules.is_empty() {
            return None;
        }
        let salt = self.rules.column_rules.salt();
        match change {
            Change::Insert { relation, new } => {
                let projection = self.projection_of(relation)?;
                Some(Change::Insert {
                    new: projection.row(salt, new),
                    relation: Arc::clone(&projection.relation),
                })
            }
            Change::Update { relation, old, new } => {
                let projection = self.projection_of(relation)?;
                Some(Change::Update {
                    old: old.as_ref().map(|old| projection.row(salt, old)),
                    new: projection.row(salt, new),
                    relation: Arc::clone(&projection.relation),
                })
            }
            Change::Delete { relation, old } => {
                let projection = self.projection_of(relation)?;
                Some(Change::Delete {
                    old: projection.row(salt, old),
                    relation: Arc::clone(&projection.relation),
                })
            }
            Change::Truncate { relations } => {
                let relations = relations
                    .iter()
                    .map(|relation| match self.projection_of(relation) {
                        Some(projection) => Arc::clone(&projection.relation),
                        None => Arc::clone(relation),
                    });
                Some(Change::Truncate {
                    relations: relations.collect(),
                })
            }
            Change::Message(_) => None,
        }
    }

    /// The relation and the values of a row as they are sent.
    ///
    /// `None` if both are sent unchanged.
    pub fn row<'c>(
        &mut self,
        relation: &Arc<Relation>,
        row: &'c Tuple<'_>,
    ) -> Option<(Arc<Relation>, Tuple<'c>)> {
        if self.rules.is_empty() {
            return None;
        }
        let projection = self.projection_of(relation)?;
        let row = projection.row(self.rules.column_rules.salt(), row);
        Some((Arc::clone(&projection.relation), row))
    }

    /// The projection of a relation.
    ///
    /// `None` if the relation is sent unchanged.
    fn projection_of(&mut self, relation: &Arc<Relation>) -> Option<Arc<Projection>> {
        let is_same = |known: &Arc<Relation>| Arc::ptr_eq(known, relation);
        if self.unchanged.as_ref().is_some_and(is_same) {
            return None;
        }
        if !self.tables.contains_key(&relation.table) {
            let matches = self.rules.matches_table(&relation.table);
            self.tables.insert(relation.table.clone(), matches.then(Vec::new));
        }
        let projection = match self.tables.get_mut(&relation.table) {
            Some(Some(known)) => {
                let found = known
                    .iter()
                    .find(|known| is_same(&known.relation) || known.relation == *relation);
                match found {
                    Some(known) => known.projection.clone(),
                    None => {
                        let projection = Projection::new(self.rules, relation).map(Arc::new);
                        if known.len() == MAX_RELATIONS {
                            known.clear();
                        }
                        known.push(KnownRelation {
                            relation: Arc::clone(relation),
                            projection: projection.clone(),
                        });
                        projection
                    }
                }
            }
            _ => None,
        };
        if projection.is_none() {
            self.unchanged = Some(Arc::clone(relation));
        }
        projection
    }
}

impl Projection {
    /// The projection of a relation; `None` if no rule matches it.
    ///
    /// Without one of its columns, a key may match several rows. So if the rules omit a column of the key,
    /// the sent relation has no key. All its rows then have the same partition key, which keeps their order.
    fn new(rules: &ProjectionRules, relation: &Relation) -> Option<Self> {
        let action = |name: &str| rules.column_rules.action_of(&relation.table, name);
        let columns = relation.columns.iter();
        let columns: Vec<ColumnProjection> = columns
            .map(|column| match action(&column.name) {
                None => ColumnProjection::Kept,
                Some(ColumnAction::Omit) => ColumnProjection::Omitted,
                Some(ColumnAction::Hash) => ColumnProjection::Hashed {
                    kind: column.kind.clone(),
                },
            })
            .collect();
        let is_listed = |(name, _): &(String, String)| action(name).is_some();
        let is_projected = |column: &ColumnProjection| *column != ColumnProjection::Kept;
        let partition = rules.partition_key_columns(&relation.table);
        let hides_values = columns.iter().any(is_projected) || relation.primary_key.iter().any(is_listed);
        if !hides_values && partition.is_none() {
            return None;
        }
        let pairs = relation.columns.iter().zip(&columns);
        let loses_key = pairs
            .clone()
            .any(|(column, projection)| column.key && *projection == ColumnProjection::Omitted);
        let sent = pairs.filter_map(|(column, projection)| {
            let key = column.key && !loses_key;
            match projection {
                ColumnProjection::Omitted => None,
                ColumnProjection::Kept => Some(Column {
                    key,
                    ..column.clone()
                }),
                ColumnProjection::Hashed { .. } => Some(Column::new(column.name.clone(), hash_type(), key)),
            }
        });
        let mut relation = Relation {
            columns: sent.collect(),
            primary_key: primary_key(&rules.column_rules, relation),
            is_insert_only: relation.is_insert_only && !loses_key,
            partition_key_may_change: false,
            table: relation.table.clone(),
            coverage: relation.coverage,
        };
        if let Some(partition) = partition {
            set_partition_key_columns(&mut relation, partition);
        }
        Some(Projection {
            relation: Arc::new(relation),
            columns,
        })
    }

    /// The values of a row as they are sent.
    ///
    /// Only texts are hashed. A null, absent, unchanged or oversized value stays the same.
    fn row<'c>(&self, salt: &Salt, row: &'c Tuple<'_>) -> Tuple<'c> {
        let values = row.iter().zip(&self.columns);
        let sent = values.filter_map(|(datum, projection)| match (projection, datum) {
            (ColumnProjection::Omitted, _) => None,
            (ColumnProjection::Hashed { kind }, Datum::Text(text)) => {
                let hash = salt.hash(kind.server_text(text));
                Some(Datum::Text(Cow::Owned(hash)))
            }
            (_, Datum::Text(text)) => Some(Datum::Text(Cow::Borrowed(text))),
            (_, Datum::Null) => Some(Datum::Null),
            (_, Datum::Unchanged) => Some(Datum::Unchanged),
            (_, Datum::Absent) => Some(Datum::Absent),
            (_, Datum::Oversize { bytes }) => Some(Datum::Oversize { bytes: *bytes }),
        });
        sent.collect()
    }
}

/// Marks the columns of the partition key.
///
/// None is marked if the relation lacks one of them. The relation of a delete may lack some. Then the delete
/// has another partition key than the other changes of its row.
fn set_partition_key_columns(relation: &mut Relation, names: &[String]) {
    let indexes: Option<Vec<usize>> = relation.column_indexes(names).into_iter().collect();
    let indexes = indexes.unwrap_or_default();
    let mut columns = relation.columns.iter().enumerate();
    let is_in_key = columns.all(|(index, column)| column.key || !indexes.contains(&index));
    relation.partition_key_may_change = indexes.is_empty() || !is_in_key;
    for (index, column) in relation.columns.iter_mut().enumerate() {
        column.in_partition_key = indexes.contains(&index);
    }
}

/// The primary key that is sent.
///
/// It is empty if one of its columns is omitted.
fn primary_key(rules: &ColumnRules, relation: &Relation) -> Vec<(String, String)> {
    let columns = relation.primary_key.iter();
    let sent = columns.map(|(name, type_name)| match rules.action_of(&relation.table, name) {
        None => Some((name.clone(), type_name.clone())),
        Some(ColumnAction::Hash) => Some((name.clone(), hash_type().name)),
        Some(ColumnAction::Omit) => None,
    });
    sent.collect::<Option<_>>().unwrap_or_default()
}

fn hash_type() -> ColumnType {
    ColumnType {
        oid: TEXT_OID,
        name: "text".to_owned(),
        kind: ValueType::Text,
    }
}

#[cfg(test)]
mod tests;
