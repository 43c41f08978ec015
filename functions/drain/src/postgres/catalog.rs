//! The system catalog: the keys, columns and types of tables that the plugins do not send.

use super::connection::{Connector, Session};
use crate::catalog::{Catalog, CatalogColumn, CatalogTable};
use crate::ports::SlotError;
use crate::table_name::TableName;

/// What the plugins do not tell about tables.
///
/// # Errors
/// A query failed.
pub(super) async fn read(connector: &Connector, session: &Session) -> Result<Catalog, SlotError> {
    let client = &session.client;
    let failed = |error| connector.failed("reading the catalog", error);
    let mut catalog = Catalog::default();
    let domains = client
            .query(
                "with recursive d(oid, base, modifier) as (
                   select oid, typbasetype, typtypmod from pg_type where typtype = 'd'
                   union all
                   select d.oid, t.typbasetype, t.typtypmod from d join pg_type t on t.oid = d.base where t.typtype = 'd')
                 select format_type(d.oid, null), format_type(d.base, d.modifier)
                 from d join pg_type t on t.oid = d.base where t.typtype <> 'd'",
                &[],
            )
            .await
            .map_err(failed)?;
    for row in domains {
        catalog.insert_domain(row.get(0), row.get(1));
    }
    let tables = client
            .query(
                "select n.nspname::text, c.relname::text,
                        array(select a.attname::text
                              from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
                              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                              where i.indrelid = c.oid and k.place <= i.indnkeyatts
                                and i.indimmediate
                                and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
                              order by k.place),
                        array(select a.attname::text
                              from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
                              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                              where i.indrelid = c.oid and k.place <= i.indnkeyatts and i.indisprimary),
                        exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and not i.indimmediate),
                        c.relreplident = 'f',
                        a.names, a.types, a.toastable
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 cross join lateral (
                   select array_agg(attname::text order by attnum), array_agg(format_type(atttypid, atttypmod) order by attnum),
                          array_agg(attlen = -1 and attstorage <> 'p' order by attnum)
                   from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped) a(names, types, toastable)
                 where c.relkind in ('r', 'p') and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema')",
                &[],
            )
            .await
            .map_err(failed)?;
    for row in tables {
        // A table without columns has no lists.
        let names: Option<Vec<String>> = row.get(6);
        let types: Option<Vec<String>> = row.get(7);
        let toastable: Option<Vec<bool>> = row.get(8);
        let described = names.into_iter().flatten().zip(types.into_iter().flatten());
        let columns = described
            .zip(toastable.into_iter().flatten())
            .map(|((name, type_name), toastable)| CatalogColumn {
                name,
                type_name,
                toastable,
            })
            .collect();
        catalog.insert(
            TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            CatalogTable {
                key: row.get(2),
                primary_key: row.get(3),
                deferrable: row.get(4),
                identity_full: row.get(5),
                columns,
            },
        );
    }
    Ok(catalog)
}
