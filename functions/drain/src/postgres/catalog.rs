//! Reads the system catalog: the keys, columns and types that the plugins do not send.

use std::collections::HashMap;

use tokio_postgres::Row as PgRow;

use super::connection::{Connector, Session};
use crate::catalog::{Catalog, CatalogColumn, CatalogTable, RecentChanges, precedes};
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
           c.oid as oid,
           c.relreplident::text as identity,
           c.relkind = 'p' as is_partitioned,
           array(select i.xmin::text::int8 from pg_index i where i.indrelid = c.oid) as index_xids,
           array(select i.xmin::text::int8
                 from pg_index i
                 where i.indrelid = c.oid and i.indimmediate
                   and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
           ) as key_xids,
           array(select i.xmin::text::int8
                 from pg_index i where i.indrelid = c.oid and i.indisprimary) as primary_xids,
           c.xmin::text::int8 as identity_xid,
           -- A rename, and nothing that is as common, rewrites the row type.
           (select t.xmin::text::int8 from pg_type t where t.oid = c.reltype) as name_xid,
           -- The system columns are written once.
           (select ctid_column.xmin::text::int8
            from pg_attribute ctid_column
            where ctid_column.attrelid = c.oid and ctid_column.attnum = -1) as created_xid,
           array(select a.xmin::text::int8
                 from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and a.attisdropped) as dropped_xids,
           case when c.relkind = 'p' then (
             with recursive down(oid) as (
               select c.oid
               union
               select h.inhrelid from down join pg_inherits h on h.inhparent = down.oid)
             select case when count(*) = count(a.attname) then array_agg(distinct a.attname::text) end
             from down
             join pg_partitioned_table p on p.partrelid = down.oid
             cross join unnest(p.partattrs::int2[]) k(attnum)
             left join pg_attribute a on a.attrelid = p.partrelid and a.attnum = k.attnum and k.attnum > 0
           ) end as partition_columns,
           array(
             with recursive down(oid) as (
               select h.inhrelid from pg_inherits h where h.inhparent = c.oid and c.relkind = 'p'
               union
               select h.inhrelid from down join pg_inherits h on h.inhparent = down.oid)
             select l.oid from down join pg_class l using (oid) where l.relkind = 'r') as partitions,
           a.xids as column_xids,
           a.virtual as column_virtual,
           a.names as column_names,
           a.types as column_types,
           a.toastable as column_toastable
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select array_agg(attname::text order by attnum),
             array_agg(format_type(atttypid, atttypmod) order by attnum),
             array_agg(attlen = -1 and attstorage <> 'p' order by attnum),
             array_agg(xmin::text::int8 order by attnum),
             array_agg(attgenerated = 'v' order by attnum)
      from pg_attribute
      where attrelid = c.oid and attnum > 0 and not attisdropped) a(names, types, toastable, xids, virtual)
    where c.relkind in ('r', 'p') and c.relpersistence = 'p'
      and n.nspname not in ('pg_catalog', 'information_schema')";

/// The oldest transaction that the slot $1 can still send, and the next one.
const HORIZON: &str = "
    select (select catalog_xmin::text::int8
            from pg_replication_slots
            where slot_name = $1) as oldest_xid,
           pg_snapshot_xmax(pg_current_snapshot())::text as next_xid,
           current_setting('server_version_num')::int4 >= 180000 as has_virtual_columns";

/// The transactions whose rows a slot can still send.
#[derive(Debug, Default)]
struct CatalogHorizon {
    /// The slot's `catalog_xmin`: earlier transactions had ended at a position that the slot has passed.
    oldest: Option<u32>,
    /// The next transaction's id; no row of the catalog is as new.
    next: u32,
}

/// The ids below are not those of transactions (`FirstNormalTransactionId`).
const FIRST_NORMAL: u32 = 3;

impl CatalogHorizon {
    /// Whether a transaction that wrote a visible row of the catalog may be newer than rows of the slot.
    fn is_recent(&self, xid: u32) -> bool {
        let is_frozen = xid < FIRST_NORMAL || !precedes(xid, self.next);
        !is_frozen && self.oldest.is_none_or(|oldest| !precedes(xid, oldest))
    }
}

/// The catalog of the session's database.
///
/// It is for the rows of a slot. Without a slot it describes the present, and its facts are as old as any
/// row.
///
/// # Errors
/// A query failed.
pub(super) async fn read(
    connector: &Connector,
    session: &Session,
    slot: Option<&str>,
) -> Result<Catalog, SlotError> {
    let client = &session.client;
    let failed = |error| connector.failed("reading the catalog", error);
    let mut catalog = Catalog::default();
    let mut horizon = CatalogHorizon::default();
    if let Some(slot) = slot {
        let row = client.query_one(HORIZON, &[&slot]).await.map_err(failed)?;
        horizon.oldest = row.get::<_, Option<i64>>("oldest_xid").map(low_half);
        // A snapshot has 64-bit ids, and the rows of the catalog have their lower half.
        let next: &str = row.get("next_xid");
        horizon.next = next.parse::<u64>().map_or(0, |xid| xid as u32);
        catalog.has_virtual_columns = row.get("has_virtual_columns");
    }
    for row in client.query(DOMAINS, &[]).await.map_err(failed)? {
        catalog.insert_domain(row.get("domain"), row.get("base_type"));
    }
    for row in client.query(TABLES, &[]).await.map_err(failed)? {
        let name = TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
        catalog.insert(name, catalog_table(&row, &horizon));
    }
    Ok(catalog)
}

/// The id of a transaction, which the server prints with 32 bits.
fn low_half(xid: i64) -> u32 {
    xid as u32
}

fn catalog_table(row: &PgRow, horizon: &CatalogHorizon) -> CatalogTable {
    // The lists of a table without columns are null.
    let names: Option<Vec<String>> = row.get("column_names");
    let types: Option<Vec<String>> = row.get("column_types");
    let toastable: Option<Vec<bool>> = row.get("column_toastable");
    let columns = names
        .iter()
        .flatten()
        .cloned()
        .zip(types.into_iter().flatten())
        .zip(toastable.into_iter().flatten());
    let virtual_columns: Option<Vec<bool>> = row.get("column_virtual");
    let virtual_columns = names
        .iter()
        .flatten()
        .zip(virtual_columns.into_iter().flatten())
        .filter(|(_, is_virtual)| *is_virtual)
        .map(|(name, _)| name.clone())
        .collect();
    CatalogTable {
        oid: row.get("oid"),
        identity: row.get::<_, &str>("identity").chars().next().unwrap_or_default(),
        virtual_columns,
        is_partitioned: row.get("is_partitioned"),
        partitions: row.get("partitions"),
        partition_columns: row.get("partition_columns"),
        recent: recent_changes(row, horizon),
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

/// The transactions that wrote a table's rows of the catalog, and may be newer than rows of the log.
fn recent_changes(row: &PgRow, horizon: &CatalogHorizon) -> RecentChanges {
    let recent = |xids: Vec<i64>| -> Vec<u32> {
        let xids = xids.into_iter().map(low_half);
        xids.filter(|xid| horizon.is_recent(*xid)).collect()
    };
    let list = |name: &str| recent(row.get::<_, Vec<i64>>(name));
    let one = |name: &str| recent(row.get::<_, Option<i64>>(name).into_iter().collect());
    let names: Option<Vec<String>> = row.get("column_names");
    let xids: Option<Vec<i64>> = row.get("column_xids");
    let columns = names.into_iter().flatten().zip(xids.into_iter().flatten());
    let columns = columns.map(|(name, xid)| (name, low_half(xid)));
    let columns: HashMap<String, u32> = columns.filter(|(_, xid)| horizon.is_recent(*xid)).collect();
    // A key is as old as the newest of its index and its columns.
    let of_key = |index: &str, key: &str| {
        let key: Vec<String> = row.get(key);
        let columns = key.iter().filter_map(|name| columns.get(name).copied());
        list(index).into_iter().chain(columns).collect()
    };
    let created = one("created_xid");
    RecentChanges {
        name: created.iter().copied().chain(one("name_xid")).collect(),
        created: created.first().copied(),
        identity: one("identity_xid"),
        indexes: list("index_xids"),
        key: of_key("key_xids", "key"),
        primary_key: of_key("primary_xids", "primary_key"),
        dropped: list("dropped_xids"),
        columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_recent_if_the_slot_may_send_older_rows() {
        let horizon = CatalogHorizon {
            oldest: Some(100),
            next: 200,
        };
        let recent = [2, 99, 100, 199, 200, 3_000_000_000].map(|xid| horizon.is_recent(xid));
        assert_eq!(recent, [false, false, true, true, false, false]);
    }
}
