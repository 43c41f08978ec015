//! Reads the system catalog: the keys, columns and types that the plugins do not send.

use std::collections::BTreeSet;

use tokio_postgres::Row as PgRow;

use super::connection::{Connector, Session};
use crate::catalog::{Catalog, CatalogColumn, CatalogTable, CatalogType, TypeForm};
use crate::change::format_type::is_built_in;
use crate::ports::SlotError;
use crate::table_name::TableName;

/// The types that are not built in.
const TYPES: &str = include_str!("types.sql");

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
           a.type_oids as column_type_oids,
           a.modifiers as column_modifiers,
           a.types as column_types,
           a.toastable as column_toastable
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select array_agg(attname::text order by attnum),
             array_agg(atttypid order by attnum),
             array_agg(atttypmod order by attnum),
             array_agg(format_type(atttypid, atttypmod) order by attnum),
             array_agg(attlen = -1 and attstorage <> 'p' order by attnum)
      from pg_attribute
      where attrelid = c.oid and attnum > 0 and not attisdropped)
      a(names, type_oids, modifiers, types, toastable)
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
    let mut type_oids = BTreeSet::new();
    for row in client.query(TABLES, &[]).await.map_err(failed)? {
        let name = TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
        let table = catalog_table(&row);
        let columns = table.columns.iter();
        type_oids.extend(
            columns
                .map(|column| column.type_oid)
                .filter(|oid| !is_built_in(*oid)),
        );
        catalog.insert(name, table);
    }
    let type_oids: Vec<u32> = type_oids.into_iter().collect();
    for row in client.query(TYPES, &[&type_oids]).await.map_err(failed)? {
        catalog.insert_type(catalog_type(&row));
    }
    Ok(catalog)
}

fn catalog_type(row: &PgRow) -> CatalogType {
    let base: Option<u32> = row.get("base");
    let element: Option<u32> = row.get("element");
    CatalogType {
        oid: row.get("oid"),
        schema: row.get("schema"),
        name: row.get("name"),
        printed: row.get("printed"),
        extension: row.get("extension"),
        form: match (base, element) {
            (Some(base), _) => TypeForm::Domain {
                base,
                modifier: row.get("base_modifier"),
                base_name: row.get("base_name"),
            },
            (None, Some(element)) => TypeForm::Array {
                element,
                delimiter: row.get::<_, i8>("delimiter").cast_unsigned(),
            },
            (None, None) => TypeForm::Other,
        },
    }
}

fn catalog_table(row: &PgRow) -> CatalogTable {
    // The lists of a table without columns are null.
    let names: Option<Vec<String>> = row.get("column_names");
    let type_oids: Option<Vec<u32>> = row.get("column_type_oids");
    let modifiers: Option<Vec<i32>> = row.get("column_modifiers");
    let types: Option<Vec<String>> = row.get("column_types");
    let toastable: Option<Vec<bool>> = row.get("column_toastable");
    let columns = names
        .into_iter()
        .flatten()
        .zip(type_oids.into_iter().flatten())
        .zip(modifiers.into_iter().flatten())
        .zip(types.into_iter().flatten())
        .zip(toastable.into_iter().flatten());
    CatalogTable {
        key: row.get("key"),
        primary_key: row.get("primary_key"),
        deferrable: row.get("is_deferrable"),
        identity_full: row.get("is_full"),
        columns: columns
            .map(
                |((((name, type_oid), modifier), type_name), toastable)| CatalogColumn {
                    name,
                    type_oid,
                    modifier,
                    type_name,
                    toastable,
                },
            )
            .collect(),
    }
}
