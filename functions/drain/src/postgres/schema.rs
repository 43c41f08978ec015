//! The schema of a database: its relations, and what the publications contain of them.

use std::collections::BTreeMap;

use tokio_postgres::Row as PgRow;

use super::catalog;
use super::connection::{Connector, Session};
use crate::backfill::schema::{ColumnInfo, DatabaseSchema, PublicationInfo, RelationInfo};
use crate::backfill::table::{KeyOrder, SizeProbe};
use crate::pattern::TablePattern;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::table_name::TableName;

const DOING: &str = "describing the tables";

/// The relations of the database.
const RELATIONS: &str = include_str!("relations.sql");

/// The tables of the publications $1; with a schema $2 and a name $3, only that one.
///
/// The view has the columns and the row filter of a table from PostgreSQL 15 on.
const PUBLISHED_TABLES: &str = "
    select t.schemaname::text as schema,
           t.tablename::text as name,
           case when to_jsonb(t) ? 'attnames'
                then array(select jsonb_array_elements_text(to_jsonb(t) -> 'attnames')) end as columns,
           to_jsonb(t) ->> 'rowfilter' as filter
    from pg_publication_tables t
    where t.pubname = any($1)
      and ($2::text is null or (t.schemaname = $2::text and t.tablename = $3::text))";

/// The relations of the database, or one of them, and what is published.
///
/// # Errors
/// A query failed.
pub(crate) async fn describe(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    tables: &[TablePattern],
    only: Option<&TableName>,
) -> Result<DatabaseSchema, SlotError> {
    let relations = relations(connector, session, only).await?;
    let published = match plugin {
        Plugin::Pgoutput => Some(published_tables(connector, session, publications, only).await?),
        Plugin::Wal2json | Plugin::TestDecoding => None,
    };
    Ok(DatabaseSchema {
        relations,
        published,
        tables: tables.to_vec(),
        catalog: catalog::read(connector, session, None).await?,
        role: connector.user().to_owned(),
    })
}

async fn relations(
    connector: &Connector,
    session: &Session,
    only: Option<&TableName>,
) -> Result<Vec<RelationInfo>, SlotError> {
    let (schema, name) = only.map(|only| (&only.schema, &only.name)).unzip();
    let rows = session.client.query(RELATIONS, &[&schema, &name]).await;
    let rows = rows.map_err(|error| connector.failed(DOING, error))?;
    Ok(rows.iter().map(relation_info).collect())
}

fn relation_info(row: &PgRow) -> RelationInfo {
    let estimated_rows: Option<i64> = row.get("estimated_rows");
    RelationInfo {
        table: table_name(row),
        oid: row.get("oid"),
        kind: row.get::<_, String>("kind").chars().next().unwrap_or_default(),
        is_permanent: row.get("is_permanent"),
        roots: row.get("roots"),
        may_use_schema: row.get("may_use_schema"),
        hides_rows: row.get("hides_rows"),
        estimate: estimated_rows.and_then(|rows| u64::try_from(rows).ok()),
        key: row.get::<_, Option<Vec<String>>>("key_names").unwrap_or_default(),
        key_order: key_orders(row),
        is_identified: row.get("is_identified"),
        columns: column_infos(row),
    }
}

/// How the columns of the key are compared; empty without a key.
fn key_orders(row: &PgRow) -> Vec<KeyOrder> {
    let operators: Option<Vec<String>> = row.get("key_operators");
    let collations: Option<Vec<Option<String>>> = row.get("key_collations");
    let identities: Option<Vec<String>> = row.get("key_identities");
    operators
        .into_iter()
        .flatten()
        .zip(collations.into_iter().flatten())
        .zip(identities.into_iter().flatten())
        .map(|((operators, collation), identity)| {
            // The query joins the four operators of a column by this character.
            let mut operators = operators.split('\u{1}').map(str::to_owned);
            let mut next = || operators.next().unwrap_or_default();
            KeyOrder {
                less: next(),
                equal: next(),
                at_least: next(),
                greater: next(),
                collation,
                identity,
            }
        })
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
/// A table may be in several publications. Then it is published with the columns of each, and with each row
/// that one of their filters accepts. A publication without a column list or a filter publishes all columns
/// or all rows.
async fn published_tables(
    connector: &Connector,
    session: &Session,
    publications: &[String],
    only: Option<&TableName>,
) -> Result<BTreeMap<TableName, PublicationInfo>, SlotError> {
    let (schema, name) = only.map(|only| (&only.schema, &only.name)).unzip();
    let rows = session
        .client
        .query(PUBLISHED_TABLES, &[&publications, &schema, &name])
        .await
        .map_err(|error| connector.failed(DOING, error))?;
    let mut published: BTreeMap<TableName, PublicationInfo> = BTreeMap::new();
    for row in rows {
        let columns: Option<Vec<String>> = row.get("columns");
        let filters = row.get::<_, Option<String>>("filter").map(|filter| vec![filter]);
        published
            .entry(table_name(&row))
            .and_modify(|info| {
                info.columns = both(info.columns.take(), columns.clone());
                info.filters = both(info.filters.take(), filters.clone());
            })
            .or_insert(PublicationInfo { columns, filters });
    }
    Ok(published)
}

/// Both lists in one; `None`, which means all, when either is `None`.
fn both(first: Option<Vec<String>>, second: Option<Vec<String>>) -> Option<Vec<String>> {
    first.zip(second).map(|(first, second)| [first, second].concat())
}

fn table_name(row: &PgRow) -> TableName {
    TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"))
}
