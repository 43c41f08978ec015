//! Reads the system catalog: the keys, columns and types that the plugins do not send.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Row as PgRow;
use tokio_postgres::types::ToSql;

use super::connection::{Connector, Session};
use crate::base::table_name::TableName;
use crate::catalog::{
    Catalog, CatalogColumn, CatalogTable, CatalogType, FormerIdentity, RecentWriters, TableRequest, TypeForm,
    precedes,
};
use crate::change::format_type::is_built_in;
use crate::ports::SlotError;
use crate::postgres::rows::table_name;

/// The types that are not built in.
const TYPES: &str = include_str!("types.sql");

/// The tables and materialized views with these names or OIDs.
///
/// $1 are schemas and $2 are names, in pairs. $3 are OIDs. The partitions of a partitioned table are
/// included, because their replica identities decide which columns its old rows have.
const NAMED: &str = "
    named(oid) as (
      select c.oid
      from unnest($1::text[], $2::text[]) w(schema, name)
      join pg_namespace n on n.nspname = w.schema
      join pg_class c on c.relnamespace = n.oid and c.relname = w.name
      union
      select described.oid from unnest($3::oid[]) described(oid)
      union
      select h.inhrelid
      from named
      join pg_class c on c.oid = named.oid and c.relkind = 'p'
      join pg_inherits h on h.inhparent = c.oid),
    relations as (
      select c.oid, c.relname, c.relnamespace, c.reltype, c.relkind, c.relreplident, c.xmin as row_xid
      from named join pg_class c using (oid)
      where c.relkind in ('r', 'p', 'm'))";

/// All tables of users, except temporary ones.
const ALL: &str = "
    relations as (
      select c.oid, c.relname, c.relnamespace, c.reltype, c.relkind, c.relreplident, c.xmin as row_xid
      from pg_class c
      where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384)";

/// The keys and columns of the relations that [`NAMED`] or [`ALL`] selects.
///
/// Unlogged tables are included, since they may have been logged before. The tables that `initdb` creates
/// have object ids below 16384.
const COLUMNS: &str = "
    , youngest_schemas as (
      select oid, xmin
      from pg_namespace
      where nspname::text !~ '^pg_'::text
      order by age(xmin) < 0, age(xmin)
      limit 32)
    select n.nspname::text as schema,
           c.relname::text as name,
           c.oid as oid,
           c.relkind = 'm' as is_view,
           c.oid < 16384 as is_system,
           array(select a.attname::text
                 from pg_index i
                 cross join unnest(i.indkey::int2[]) with ordinality k(attnum, position)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where i.indrelid = c.oid and k.position <= i.indnkeyatts and i.indimmediate
                   and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
                 order by k.position) as key,
           array(select a.attname::text
                 from pg_index i
                 cross join unnest(i.indkey::int2[]) with ordinality k(attnum, position)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where i.indrelid = c.oid and k.position <= i.indnkeyatts and i.indisprimary) as primary_key,
           exists (select from pg_index i
                   where i.indrelid = c.oid and i.indisprimary and not i.indimmediate) as is_deferrable,
           c.relreplident = 'f' as is_full,
           pg_snapshot_xmax(pg_current_snapshot())::text as next_xid,
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
           f.written as former_identity_written,
           f.created as former_identity_created,
           c.row_xid::text::int8 as identity_xid,
           -- A rename of the table rewrites this row. All other commands that rewrite it are rare.
           (select t.xmin::text::int8 from pg_type t where t.oid = c.reltype) as name_xid,
           -- A rename of the schema rewrites its row. So does a grant on it, which is more common.
           n.xmin::text::int8 as schema_xid,
           n.nspacl is not null as has_grants,
           -- Before a rename of the schema, another table may have had this name. The schema of that table
           -- was renamed, too, so its row is young.
           (select y.xmin::text::int8
            from youngest_schemas y
            join pg_class namesake on namesake.relnamespace = y.oid and namesake.relname = c.relname
            where y.oid <> c.relnamespace
            order by age(y.xmin) < 0, age(y.xmin)
            limit 1) as namesake_xid,
           -- The creation of the table writes the rows of its system columns. No other command does.
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
           -- The recursion costs time even for a table without partitions.
           case when c.relkind = 'p' then array(
             with recursive down(oid) as (
               select h.inhrelid from pg_inherits h where h.inhparent = c.oid
               union
               select h.inhrelid from down join pg_inherits h on h.inhparent = down.oid)
             select l.oid from down join pg_class l using (oid) where l.relkind = 'r')
           else '{}'::oid[] end as partitions,
           a.xids as column_xids,
           a.virtual as column_virtual,
           a.names as column_names,
           a.type_oids as column_type_oids,
           a.modifiers as column_modifiers,
           a.types as column_types,
           a.toastable as column_toastable,
           a.has_not_null as has_not_null
    from relations c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
      select array_agg(attname::text order by attnum),
             array_agg(atttypid order by attnum),
             array_agg(atttypmod order by attnum),
             array_agg(format_type(atttypid, atttypmod) order by attnum),
             -- The column's storage does not count: after `set storage plain`, older values stay out of line.
             array_agg(attlen = -1 and attgenerated <> 'v' order by attnum),
             array_agg(xmin::text::int8 order by attnum),
             array_agg(attgenerated = 'v' order by attnum),
             coalesce(bool_or(attnotnull), false)
      from pg_attribute
      where attrelid = c.oid and attnum > 0 and not attisdropped)
      a(names, type_oids, modifiers, types, toastable, xids, virtual, has_not_null)
    -- The indexes that may be former replica identities. A change of the identity writes the row of its index
    -- again. The row of the index's first column is as old as the index. After `reindex concurrently` it is
    -- younger, and the index's row in pg_class is younger still.
    cross join lateral (
      select coalesce(array_agg(i.xmin::text::int8 order by i.indexrelid), '{}'),
             coalesce(
               array_agg(case when ic.xmin = k.xmin then k.xmin::text::int8 end order by i.indexrelid), '{}')
      from pg_index i
      join pg_class ic on ic.oid = i.indexrelid
      join pg_attribute k on k.attrelid = i.indexrelid and k.attnum = 1
      where i.indrelid = c.oid and i.indisunique and not i.indisreplident and not i.indisprimary
        and i.indpred is null and i.indexprs is null and i.xmin <> k.xmin)
      f(written, created)";

/// The slot's horizon, and whether the server has virtual columns.
///
/// The horizon is the oldest transaction that the slot $1 can still send.
const HORIZON: &str = "
    select (select catalog_xmin::text::int8
            from pg_replication_slots
            where slot_name = $1) as oldest_xid,
           current_setting('server_version_num')::int4 >= 180000 as has_virtual_columns";

/// The transactions whose rows a slot can still send. Without a slot there are none.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct CatalogHorizon {
    has_slot: bool,
    /// The slot's `catalog_xmin`. The slot has passed the end of each earlier transaction.
    oldest: Option<u32>,
}

/// The smallest id of an ordinary transaction (`FirstNormalTransactionId`).
const FIRST_NORMAL: u32 = 3;

impl CatalogHorizon {
    /// Whether the writer of a visible catalog row may be recent.
    ///
    /// A recent transaction may be newer than rows of the slot. `next` was the next transaction's id when the
    /// catalog was read. The writer's id precedes `next`; otherwise the catalog row is old and frozen.
    fn is_recent(self, xid: u32, next: u32) -> bool {
        let is_frozen = xid < FIRST_NORMAL || !precedes(xid, next);
        self.has_slot && !is_frozen && self.oldest.is_none_or(|oldest| !precedes(xid, oldest))
    }
}

const DOING: &str = "reading the catalog";

/// A relation that is not a user's table.
///
/// The log may have rows of it.
pub(super) struct UntrackedRelation {
    pub(super) name: TableName,
    pub(super) kind: UntrackedKind,
}

/// Kind of a relation that is not a user's table.
#[derive(Clone, Copy)]
pub(super) enum UntrackedKind {
    /// It is a materialized view with this object id.
    View(u32),
    /// It is a table of the server, such as `information_schema.sql_features`.
    System,
}

/// A catalog without tables, of the session's database.
///
/// With a slot, the catalog describes the tables of the slot's rows. A fact may then be newer than a row.
/// Without a slot, the catalog describes the present, and no fact counts as newer than a row.
///
/// # Errors
/// The query failed.
pub(super) async fn partial(
    connector: &Connector,
    session: &Session,
    slot: Option<&str>,
) -> Result<(Catalog, CatalogHorizon), SlotError> {
    let (mut catalog, mut horizon) = (Catalog::partial(), CatalogHorizon::default());
    if let Some(slot) = slot {
        let row = session.client.query_one(HORIZON, &[&slot]).await;
        let row = row.map_err(|error| connector.failed(DOING, error))?;
        horizon.has_slot = true;
        horizon.oldest = row.get::<_, Option<i64>>("oldest_xid").map(low_half);
        catalog.has_virtual_columns = row.get("has_virtual_columns");
    }
    Ok((catalog, horizon))
}

/// Adds tables and their types to the catalog.
///
/// Returns the requested relations that are not users' tables. The catalog has their names as those of
/// missing tables.
///
/// # Errors
/// A query failed.
pub(super) async fn add_tables(
    connector: &Connector,
    session: &Session,
    catalog: &mut Catalog,
    horizon: CatalogHorizon,
    request: &TableRequest,
) -> Result<Vec<UntrackedRelation>, SlotError> {
    let failed = |error| connector.failed(DOING, error);
    let rows = match request {
        TableRequest::Named { names, oids } => {
            let (schemas, names): (Vec<&str>, Vec<&str>) =
                names.iter().map(|table| (&*table.schema, &*table.name)).unzip();
            let arguments: [&(dyn ToSql + Sync); 3] = [&schemas, &names, oids];
            session.client.query(&tables_of(NAMED), &arguments).await
        }
        TableRequest::All => session.client.query(&tables_of(ALL), &[]).await,
    };
    let rows = rows.map_err(failed)?;
    tracing::debug!(tables = rows.len(), "the catalog was read");
    if let TableRequest::Named { names, oids } = request {
        names.iter().for_each(|name| catalog.insert_missing(name.clone()));
        oids.iter().for_each(|oid| catalog.insert_read_oid(*oid));
    }
    let mut untracked = Vec::new();
    let (mut type_oids, mut is_altered) = (BTreeSet::new(), false);
    for row in rows {
        let name = table_name(&row);
        let kind = match (row.get("is_view"), row.get("is_system")) {
            (true, _) => UntrackedKind::View(row.get("oid")),
            (_, true) => UntrackedKind::System,
            _ => {
                let table = catalog_table(&row, horizon);
                let oids = table.columns.iter().map(|column| column.type_oid);
                type_oids.extend(oids.filter(|oid| !is_built_in(*oid)));
                is_altered |= !table.recent.is_empty();
                catalog.insert(name, table);
                continue;
            }
        };
        catalog.insert_missing(name.clone());
        untracked.push(UntrackedRelation { name, kind });
    }
    // A table may have been dropped, renamed or altered since. Its older rows may have types that no column
    // has now.
    is_altered |= match request {
        TableRequest::Named { names, .. } => names.iter().any(|name| catalog.table(name).is_none()),
        TableRequest::All => false,
    };
    let type_oids: Vec<u32> = type_oids.into_iter().collect();
    if !type_oids.is_empty() || is_altered && !catalog.has_types() {
        let types = session.client.query(TYPES, &[&type_oids]).await.map_err(failed)?;
        types
            .iter()
            .for_each(|row| catalog.insert_type(catalog_type(row)));
    }
    Ok(untracked)
}

/// The query of the tables that `selection` selects.
fn tables_of(selection: &str) -> String {
    format!("with recursive {selection} {COLUMNS}")
}

/// A transaction id of 32 bits, which the query returns as `bigint`.
fn low_half(xid: i64) -> u32 {
    xid as u32
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

fn catalog_table(row: &PgRow, horizon: CatalogHorizon) -> CatalogTable {
    // The lists of a table without columns are null.
    let names: Option<Vec<String>> = row.get("column_names");
    let type_oids: Option<Vec<u32>> = row.get("column_type_oids");
    let modifiers: Option<Vec<i32>> = row.get("column_modifiers");
    let types: Option<Vec<String>> = row.get("column_types");
    let toastable: Option<Vec<bool>> = row.get("column_toastable");
    let columns = names
        .iter()
        .flatten()
        .cloned()
        .zip(type_oids.into_iter().flatten())
        .zip(modifiers.into_iter().flatten())
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
        has_not_null: row.get("has_not_null"),
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

/// The recent transactions that wrote catalog rows of a table.
///
/// These transactions may be newer than rows of the log.
fn recent_changes(row: &PgRow, horizon: CatalogHorizon) -> RecentWriters {
    // A snapshot has ids of 64 bits. The rows of the catalog have only the lower 32 bits.
    let next: &str = row.get("next_xid");
    let next = next.parse::<u64>().map_or(0, |xid| xid as u32);
    let recent = |xids: Vec<i64>| -> Vec<u32> {
        let xids = xids.into_iter().map(low_half);
        xids.filter(|xid| horizon.is_recent(*xid, next)).collect()
    };
    let list = |name: &str| recent(row.get::<_, Vec<i64>>(name));
    let one = |name: &str| recent(row.get::<_, Option<i64>>(name).into_iter().collect());
    let names: Option<Vec<String>> = row.get("column_names");
    let xids: Option<Vec<i64>> = row.get("column_xids");
    let columns = names.into_iter().flatten().zip(xids.into_iter().flatten());
    let columns = columns.map(|(name, xid)| (name, low_half(xid)));
    let columns: HashMap<String, u32> = columns.filter(|(_, xid)| horizon.is_recent(*xid, next)).collect();
    // A key is as old as the newest of its index and its columns.
    let of_key = |index: &str, key: &str| {
        let key: Vec<String> = row.get(key);
        let columns = key.iter().filter_map(|name| columns.get(name).copied());
        list(index).into_iter().chain(columns).collect()
    };
    let created = one("created_xid");
    let is_schema_renamed = !row.get::<_, bool>("has_grants") || !one("namesake_xid").is_empty();
    let schema = if is_schema_renamed {
        one("schema_xid")
    } else {
        Vec::new()
    };
    RecentWriters {
        name: [created.clone(), one("name_xid"), schema].concat(),
        created: created.first().copied(),
        identity: one("identity_xid"),
        indexes: list("index_xids"),
        key: of_key("key_xids", "key"),
        former_identities: former_identities(row, |xid| horizon.is_recent(*xid, next)),
        primary_key: of_key("primary_xids", "primary_key"),
        dropped: list("dropped_xids"),
        columns,
    }
}

/// The indexes of a table that may be former replica identities.
fn former_identities(row: &PgRow, is_recent: impl Fn(&u32) -> bool) -> Vec<FormerIdentity> {
    let written: Vec<i64> = row.get("former_identity_written");
    let created: Vec<Option<i64>> = row.get("former_identity_created");
    let indexes = written.into_iter().zip(created);
    let indexes = indexes.filter_map(|(written, created)| {
        Some(FormerIdentity {
            written: Some(low_half(written)).filter(&is_recent)?,
            created: created.map(low_half).filter(&is_recent),
        })
    });
    indexes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_recent_if_the_slot_may_send_older_rows() {
        let horizon = CatalogHorizon {
            has_slot: true,
            oldest: Some(100),
        };
        let recent = [2, 99, 100, 199, 200, 3_000_000_000].map(|xid| horizon.is_recent(xid, 200));
        assert_eq!(recent, [false, false, true, true, false, false]);
        assert!(!CatalogHorizon::default().is_recent(150, 200));
    }
}
