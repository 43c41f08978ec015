//! Reads the system catalog: the keys, columns and types that the plugins do not send.

use tokio_postgres::Row as PgRow;

use super::connection::{Connector, Session};
use crate::catalog::{Catalog, CatalogColumn, CatalogTable};
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

/// The permanent tables, with their keys and columns.
const TABLES: &str = "
    select n.nspname::text as schema,
           c.relname::text as name,
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
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select array_agg(attname::text order by attnum),
             array_agg(format_type(atttypid, atttypmod) order by attnum),
             array_agg(attlen = -1 and attstorage <> 'p' order by attnum)
      from pg_attribute
      where attrelid = c.oid and attnum > 0 and not attisdropped) a(names, types, toastable)
    where c.relkind in ('r', 'p') and c.relpersistence = 'p'
      and n.nspname not in ('pg_catalog', 'information_schema')";

/// The catalog of the session's database.
///
/// # Errors
/// A query failed.
pub(super) async fn read(connector: &Connector, session: &Session) -> Result<Catalog, SlotError> {
    let client = &session.client;
    let failed = |error| connector.failed("reading the catalog", error);
    let mut catalog = Catalog::default();
    for row in client.query(DOMAINS, &[]).await.map_err(failed)? {
        catalog.insert_domain(row.get("domain"), row.get("base_type"));
    }
    for row in client.query(TABLES, &[]).await.map_err(failed)? {
        let name = TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
        catalog.insert(name, catalog_table(&row));
    }
    Ok(catalog)
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
