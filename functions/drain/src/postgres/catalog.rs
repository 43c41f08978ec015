//! Reads the system catalog: the keys, columns and types that the plugins do not send.

use tokio_postgres::Row as PgRow;

use super::connection::{Connector, Session};
use crate::catalog::{Catalog, CatalogColumn, CatalogTable, TableRequest};
use crate::ports::SlotError;
use crate::table_name::TableName;

/// Each domain and its base type. A domain over domains has the type at the end of the chain.
const DOMAINS: &str = "
    with recursive d(oid, base, modifier) as (
      select oid, typbasetype, typtypmod from pg_type where typtype = 'd'
      union all
      select d.oid, t.typbasetype, t.typtypmod
      from d join pg_type t on t.oid = d.base
      where t.typtype = 'd')
    select format_type(d.oid, null) as domain, format_type(d.base, d.modifier) as base_type
    from d join pg_type t on t.oid = d.base
    where t.typtype <> 'd'";

/// The tables and materialized views of the names $1 and $2, schemas and names in pairs.
const NAMED: &str = "
    from unnest($1::text[], $2::text[]) w(schema, name)
    join pg_namespace n on n.nspname = w.schema
    join pg_class c on c.relnamespace = n.oid and c.relname = w.name
    where c.relkind in ('r', 'p', 'm')";

/// All tables.
const ALL: &str = "
    from pg_class c
    where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384";

/// The keys and columns of the relations that [`NAMED`] or [`ALL`] selects.
///
/// A table that is unlogged now may have been logged before, so every table has its keys and columns.
/// Object ids below 16384 are those of the tables that `initdb` creates.
const COLUMNS: &str = "
    select n.nspname::text as schema,
           c.relname::text as name,
           c.oid as oid,
           c.relkind = 'm' as is_view,
           c.oid < 16384 as is_system,
           array(select a.attname::text
                 from pg_index i
                 cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where i.indrelid = c.oid and k.place <= i.indnkeyatts and i.indimmediate
                   and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
                 order by k.place) as key,
           array(select a.attname::text
                 from pg_index i
                 cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where i.indrelid = c.oid and k.place <= i.indnkeyatts and i.indisprimary) as primary_key,
           exists (select from pg_index i
                   where i.indrelid = c.oid and i.indisprimary and not i.indimmediate) as is_deferrable,
           c.relreplident = 'f' as is_full,
           a.names as column_names,
           a.types as column_types,
           a.toastable as column_toastable
    from relations c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select array_agg(attname::text order by attnum),
             array_agg(format_type(atttypid, atttypmod) order by attnum),
             array_agg(attlen = -1 and attstorage <> 'p' order by attnum)
      from pg_attribute
      where attrelid = c.oid and attnum > 0 and not attisdropped) a(names, types, toastable)";

const DOING: &str = "reading the catalog";

/// A relation whose rows the log may have, and that is not a table of a user.
pub(super) struct UntrackedRelation {
    pub(super) name: TableName,
    pub(super) kind: UntrackedKind,
}

/// Why a relation is not a table of a user.
#[derive(Clone, Copy)]
pub(super) enum UntrackedKind {
    /// It is a materialized view with this object id.
    View(u32),
    /// It is a table of the server, such as `information_schema.sql_features`.
    System,
}

/// The types of the session's database. The catalog has no table yet.
///
/// # Errors
/// The query failed.
pub(super) async fn types(connector: &Connector, session: &Session) -> Result<Catalog, SlotError> {
    let rows = session.client.query(DOMAINS, &[]).await;
    let mut catalog = Catalog::partial();
    for row in rows.map_err(|error| connector.failed(DOING, error))? {
        catalog.insert_domain(row.get("domain"), row.get("base_type"));
    }
    Ok(catalog)
}

/// Adds tables to the catalog. Returns the relations of these names that are no tables of a user.
///
/// The names of these relations are missing in the catalog.
///
/// # Errors
/// The query failed.
pub(super) async fn add_tables(
    connector: &Connector,
    session: &Session,
    catalog: &mut Catalog,
    request: &TableRequest,
) -> Result<Vec<UntrackedRelation>, SlotError> {
    let rows = match request {
        TableRequest::Named(names) => {
            let (schemas, names): (Vec<&str>, Vec<&str>) =
                names.iter().map(|table| (&*table.schema, &*table.name)).unzip();
            session.client.query(&tables_of(NAMED), &[&schemas, &names]).await
        }
        TableRequest::All => session.client.query(&tables_of(ALL), &[]).await,
    };
    let rows = rows.map_err(|error| connector.failed(DOING, error))?;
    tracing::debug!(tables = rows.len(), "the catalog was read");
    if let TableRequest::Named(names) = request {
        names.iter().for_each(|name| catalog.insert_missing(name.clone()));
    }
    let mut untracked = Vec::new();
    for row in rows {
        let name = TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
        let kind = match (row.get("is_view"), row.get("is_system")) {
            (true, _) => UntrackedKind::View(row.get("oid")),
            (_, true) => UntrackedKind::System,
            _ => {
                catalog.insert(name, catalog_table(&row));
                continue;
            }
        };
        catalog.insert_missing(name.clone());
        untracked.push(UntrackedRelation { name, kind });
    }
    Ok(untracked)
}

/// The query of the tables that `selection` selects.
fn tables_of(selection: &str) -> String {
    format!("with relations as (select c.* {selection}) {COLUMNS}")
}

fn catalog_table(row: &PgRow) -> CatalogTable {
    // The lists of a table without columns are null.
    let names: Option<Vec<String>> = row.get("column_names");
    let types: Option<Vec<String>> = row.get("column_types");
    let toastable: Option<Vec<bool>> = row.get("column_toastable");
    let columns = names
        .into_iter()
        .flatten()
        .zip(types.into_iter().flatten())
        .zip(toastable.into_iter().flatten());
    CatalogTable {
        key: row.get("key"),
        primary_key: row.get("primary_key"),
        deferrable: row.get("is_deferrable"),
        identity_full: row.get("is_full"),
        columns: columns
            .map(|((name, type_name), toastable)| CatalogColumn {
                name,
                type_name,
                toastable,
            })
            .collect(),
    }
}
