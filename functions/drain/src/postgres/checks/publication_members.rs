//! The tables that publications have, and the steps that add a table.

use crate::base::table_name::{TableName, quoted_if_needed};
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};

/// The tables that the publications $1 have, each with its publication.
///
/// Partitions of these tables are not among them. `is_listed` is true for a table that is listed by its name.
/// PostgreSQL 14 has no table `pg_publication_namespace`, so its dependencies name the schemas.
pub(super) const MEMBERS: &str = "
    publications as materialized (
      select p.oid, p.pubname::text as name, p.puballtables as has_all, p.pubviaroot as is_via_root
      from pg_publication p where p.pubname = any($1)),
    members as materialized (
      select r.prrelid as oid, p.name as publication, p.is_via_root, true as is_listed
      from publications p join pg_publication_rel r on r.prpubid = p.oid
      union all
      select c.oid, p.name, p.is_via_root, false
      from publications p
      join pg_depend d on d.refclassid = 'pg_publication'::regclass and d.refobjid = p.oid
      join pg_depend s on s.classid = d.classid and s.objid = d.objid
        and s.refclassid = 'pg_namespace'::regclass
      join pg_class c on c.relnamespace = s.refobjid and c.relkind in ('r', 'p')
      where d.classid = to_regclass('pg_catalog.pg_publication_namespace')
      union all
      select c.oid, p.name, p.is_via_root, false
      from publications p join pg_class c on c.relkind in ('r', 'p')
      where p.has_all)";

/// Missing requirements of a partitioned table, before it is published.
///
/// PostgreSQL refuses updates and deletes of its partitions without a replica identity. A new partition only
/// inherits the primary key. `bare_schema` and `bare_name` are a partition that has none of both today.
const OBSTACLES: &str = "
    select exists (
             select from pg_index i
             where i.indrelid = $1 and i.indisprimary and i.indisvalid and i.indimmediate) as has_key,
           b.schema as bare_schema, b.name as bare_name
    from (values (0)) one
    left join lateral (
      select n.nspname::text as schema, c.relname::text as name
      from pg_partition_tree($1::oid::regclass) t
      join pg_class c on c.oid = t.relid and c.relkind = 'r' and c.relpersistence = 'p'
      join pg_namespace n on n.oid = c.relnamespace
      where c.relreplident <> 'f' and not exists (
        select from pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indimmediate
          and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
      order by n.nspname, c.relname
      limit 1) b on true";

/// The steps that add a partitioned table to a publication.
///
/// They begin with what the table lacks, so that PostgreSQL refuses no update of the application.
///
/// # Errors
/// The query failed.
pub(super) async fn steps_to_publish(
    connector: &Connector,
    session: &Session,
    oid: u32,
    table: &TableName,
    publication: &str,
) -> Result<String, SlotError> {
    let row = session
        .client
        .query_one(OBSTACLES, &[&oid])
        .await
        .map_err(|error| connector.failed("checking a partitioned table", error))?;
    let bare: Option<String> = row.get("bare_schema");
    let bare = bare.zip(row.get("bare_name")).map(TableName::from);
    let first = match (row.get("has_key"), bare) {
        // The partitions inherit the key.
        (false, _) => format!("give {table} a primary key, then "),
        (true, Some(partition)) => format!("give {partition} a replica identity, then "),
        (true, None) => String::new(),
    };
    let publication = quoted_if_needed(publication);
    Ok(format!(
        "{first}run alter publication {publication} add table {table}"
    ))
}
