//! The relations of a database, and their published columns and rows.

use std::collections::{BTreeMap, BTreeSet};

use postgres_types::ToSql;
use tokio_postgres::Row as PgRow;

use crate::backfill::database_schema::{ColumnInfo, DatabaseSchema, PublicationInfo, RelationInfo};
use crate::backfill::table::{KeyOrder, SizeProbe};
use crate::base::table_name::{TableName, quoted_if_needed};
use crate::catalog::{Catalog, TableRequest};
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::catalog;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::publications::PUBLISHED;
use crate::postgres::rows::table_name;
use crate::rules::column_rules::ColumnRule;
use crate::rules::pattern::TablePattern;

const DOING: &str = "describing the tables";

/// All relations, without keys and columns.
const RELATION_LIST: &str = include_str!("relation_list.sql");

/// The relations of some names, with their keys and columns.
const RELATIONS: &str = concat!(
    "with listed as (\n",
    include_str!("relation_list.sql"),
    ")\n",
    include_str!("relations.sql")
);

/// The partitions below the relations $1, without keys and columns.
///
/// $1 are object ids.
const PARTITIONS: &str = concat!(
    "with recursive listed as (\n",
    include_str!("relation_list.sql"),
    "),
    below(oid) as (
      select inhrelid from pg_inherits where inhparent = any($1::oid[])
      union
      select i.inhrelid from below join pg_inherits i on i.inhparent = below.oid)
    select schema, name, oid, kind, is_permanent, roots, estimated_rows, lacks_columns
    from below join listed using (oid)"
);

/// The tables of the publications $1 with the given names.
///
/// $2 are schemas and $3 are names, in pairs. The query follows [`PUBLISHED`].
const PUBLISHED_TABLES: &str = "
    select t.schema, t.name, t.columns, t.filter, t.sends_rows
    from published t
    where t.oid in (
      select c.oid
      from unnest($2::text[], $3::text[]) w(schema, name)
      join pg_namespace n on n.nspname = w.schema
      join pg_class c on c.relnamespace = n.oid and c.relname = w.name)";

/// The names of the tables of the publications $1. The query follows [`PUBLISHED`].
const PUBLISHED_NAMES: &str = "select t.schema, t.name from published t";

/// The source of a schema: the session that reads it, and the configuration that it depends on.
pub(crate) struct SchemaSource<'a> {
    pub(crate) connector: &'a Connector,
    pub(crate) session: &'a Session,
    pub(crate) plugin: Plugin,
    pub(crate) publications: &'a [String],
    pub(crate) tables: &'a [TablePattern],
    pub(crate) column_rules: &'a [ColumnRule],
}

impl SchemaSource<'_> {
    /// All relations of the database and the names of published ones.
    ///
    /// The relations have no keys and columns.
    ///
    /// # Errors
    /// A query failed.
    pub(crate) async fn list(&self) -> Result<DatabaseSchema, SlotError> {
        let rows = self.rows(RELATION_LIST, &[]).await?;
        let published = match self.plugin.reads_publications() {
            true => {
                let sql = format!("with recursive {PUBLISHED} {PUBLISHED_NAMES}");
                let published = self.rows(&sql, &[&self.publications]).await?;
                let name = |row: &PgRow| (table_name(row), PublicationInfo::default());
                Some(published.iter().map(name).collect())
            }
            false => None,
        };
        Ok(DatabaseSchema {
            relations: rows.iter().map(listed_relation).collect(),
            published,
            tables: self.tables.to_vec(),
            column_rules: self.column_rules.to_vec(),
            catalog: Catalog::default(),
            role: quoted_if_needed(self.connector.user()),
        })
    }

    /// The relations of these names, with their published columns and rows.
    ///
    /// Partitions of them are added without keys and columns.
    ///
    /// # Errors
    /// A query failed.
    pub(crate) async fn describe(&self, names: &[TableName]) -> Result<DatabaseSchema, SlotError> {
        let (schemas, tables): (Vec<&str>, Vec<&str>) =
            names.iter().map(|table| (&*table.schema, &*table.name)).unzip();
        let rows = self.rows(RELATIONS, &[&schemas, &tables]).await?;
        tracing::debug!(relations = rows.len(), "relations were described");
        let published = match self.plugin.reads_publications() {
            true => {
                let arguments: [&(dyn ToSql + Sync); 3] = [&self.publications, &schemas, &tables];
                let sql = format!("with recursive {PUBLISHED} {PUBLISHED_TABLES}");
                Some(publication_infos(&self.rows(&sql, &arguments).await?))
            }
            false => None,
        };
        // The schema describes the present. So the catalog is read without a slot, and no fact counts as
        // newer than a row.
        let (mut catalog, horizon) = catalog::partial(self.connector, self.session, None).await?;
        let request = TableRequest::Named {
            names: names.to_vec(),
            oids: Vec::new(),
        };
        catalog::add_tables(self.connector, self.session, &mut catalog, horizon, &request).await?;
        let mut relations: Vec<RelationInfo> = rows.iter().map(relation_info).collect();
        self.add_partitions(&mut relations).await?;
        Ok(DatabaseSchema {
            relations,
            published,
            tables: self.tables.to_vec(),
            column_rules: self.column_rules.to_vec(),
            catalog,
            role: quoted_if_needed(self.connector.user()),
        })
    }

    /// Adds the partitions of these relations that are not among them.
    async fn add_partitions(&self, relations: &mut Vec<RelationInfo>) -> Result<(), SlotError> {
        let roots = relations.iter().filter(|info| info.kind == 'p');
        let roots: Vec<u32> = roots.map(|root| root.oid).collect();
        if roots.is_empty() {
            return Ok(());
        }
        let known: BTreeSet<u32> = relations.iter().map(|info| info.oid).collect();
        let partitions = self.rows(PARTITIONS, &[&roots]).await?;
        let partitions = partitions.iter().map(listed_relation);
        relations.extend(partitions.filter(|info| !known.contains(&info.oid)));
        Ok(())
    }

    async fn rows(&self, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<PgRow>, SlotError> {
        let rows = self.session.client.query(sql, arguments).await;
        rows.map_err(|error| self.connector.failed(DOING, error))
    }
}

/// A relation without its key and columns.
fn listed_relation(row: &PgRow) -> RelationInfo {
    let estimated_rows: Option<i64> = row.get("estimated_rows");
    RelationInfo {
        table: table_name(row),
        oid: row.get("oid"),
        kind: row.get::<_, String>("kind").chars().next().unwrap_or_default(),
        is_permanent: row.get("is_permanent"),
        roots: row.get("roots"),
        lacks_columns: row.get("lacks_columns"),
        estimate: estimated_rows.and_then(|rows| u64::try_from(rows).ok()),
        ..RelationInfo::default()
    }
}

fn relation_info(row: &PgRow) -> RelationInfo {
    RelationInfo {
        may_use_schema: row.get("may_use_schema"),
        hides_rows: row.get("hides_rows"),
        key: row.get::<_, Option<Vec<String>>>("key_names").unwrap_or_default(),
        key_order: key_orders(row),
        is_identified: row.get("is_identified"),
        columns: column_infos(row),
        ..listed_relation(row)
    }
}

/// Operators that compare the columns of the key; empty without a key.
fn key_orders(row: &PgRow) -> Vec<KeyOrder> {
    let operators: Option<Vec<String>> = row.get("key_operators");
    let collations: Option<Vec<Option<String>>> = row.get("key_collations");
    let nulls_first: Option<Vec<bool>> = row.get("key_nulls_first");
    let column_casts: Option<Vec<Option<String>>> = row.get("key_column_casts");
    let casts: Option<Vec<Option<String>>> = row.get("key_casts");
    let identities: Option<Vec<String>> = row.get("key_identities");
    operators
        .into_iter()
        .flatten()
        .zip(collations.into_iter().flatten())
        .zip(nulls_first.into_iter().flatten())
        .zip(column_casts.into_iter().flatten())
        .zip(casts.into_iter().flatten())
        .zip(identities.into_iter().flatten())
        .map(
            |(((((operators, collation), nulls_first), column_cast), cast), identity)| {
                // The query joins the four operators of a column by this character.
                let mut operators = operators.split('\u{1}').map(str::to_owned);
                let mut next = || operators.next().unwrap_or_default();
                KeyOrder {
                    less: next(),
                    equal: next(),
                    at_least: next(),
                    greater: next(),
                    collation,
                    nulls_first,
                    column_cast,
                    cast,
                    identity,
                }
            },
        )
        .collect()
}

/// The columns, in table order; empty for a relation without any.
fn column_infos(row: &PgRow) -> Vec<ColumnInfo> {
    let flags = |name: &str| row.get::<_, Option<Vec<bool>>>(name).unwrap_or_default();
    let names: Option<Vec<String>> = row.get("column_names");
    let size_probes: Option<Vec<i32>> = row.get("column_size_probes");
    names
        .into_iter()
        .flatten()
        .zip(flags("column_readable"))
        .zip(flags("column_generated"))
        .zip(flags("column_virtual"))
        .zip(size_probes.into_iter().flatten())
        .map(
            |((((name, may_read), is_generated), is_virtual), size_probe)| ColumnInfo {
                name,
                may_read,
                is_generated,
                is_virtual,
                size_probe: match size_probe {
                    0 => SizeProbe::No,
                    1 => SizeProbe::Text,
                    _ => SizeProbe::Other,
                },
            },
        )
        .collect()
}

/// The tables that the publications contain.
///
/// A table may be in several publications. It is then published with the columns of all of them, and with
/// each row that one of their filters accepts. A publication without a column list publishes all columns. One
/// without a filter publishes all rows, unless it publishes neither inserts nor updates.
fn publication_infos(rows: &[PgRow]) -> BTreeMap<TableName, PublicationInfo> {
    // Of each table, its publications, and whether one of them sends rows.
    let mut published: BTreeMap<TableName, (PublicationInfo, bool)> = BTreeMap::new();
    // Publications that send rows come first. If there is one, the filters of the others do not count.
    let (sending, others): (Vec<&PgRow>, Vec<&PgRow>) = rows.iter().partition(|row| row.get("sends_rows"));
    for row in sending.into_iter().chain(others) {
        let columns: Option<Vec<String>> = row.get("columns");
        let filters = row.get::<_, Option<String>>("filter").map(|filter| vec![filter]);
        let sends_rows: bool = row.get("sends_rows");
        published
            .entry(table_name(row))
            .and_modify(|(info, is_sent)| {
                info.columns = both(info.columns.take(), columns.clone());
                if sends_rows || !*is_sent {
                    info.filters = both(info.filters.take(), filters.clone());
                }
            })
            .or_insert((PublicationInfo { columns, filters }, sends_rows));
    }
    published
        .into_iter()
        .map(|(table, (info, _))| (table, info))
        .collect()
}

/// Both lists in one. `None` means all: the result is `None` if either list is `None`.
fn both(first: Option<Vec<String>>, second: Option<Vec<String>>) -> Option<Vec<String>> {
    first.zip(second).map(|(first, second)| [first, second].concat())
}
