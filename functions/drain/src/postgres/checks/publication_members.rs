//! The tables that publications have, and the steps that add a table.

use crate::base::table_name::{TableName, quoted_if_needed};
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};

/// Missing requirements of a partitioned table, before it is published.
///
/// PostgreSQL refuses updates and deletes of its partitions without a replica identity. A new partition only
/// inherits the primary key. `bare_schema` and `bare_name` are a partition that has none of both today. Or it
/// has a generated column in its replica identity, and the publication $2 does not publish that column.
const OBSTACLES: &str = concat!(
    "with recursive tree(oid) as (
      select $1::oid
      union
      select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.oid),
    ",
    include_str!("../generated_identities.sql"),
    "
    select exists (
             select from pg_index i
             where i.indrelid = $1 and i.indisprimary and i.indisvalid and i.indimmediate) as has_key,
           b.schema as bare_schema, b.name as bare_name, b.is_generated as is_generated
    from (values (0)) one
    left join lateral (
      select n.nspname::text as schema, c.relname::text as name, g.oid is not null as is_generated
      from tree t
      join pg_class c on c.oid = t.oid and c.relkind = 'r' and c.relpersistence = 'p'
      join pg_namespace n on n.oid = c.relnamespace
      left join generated_identities g on g.oid = c.oid and not (g.is_stored and exists (
        select from pg_publication p where p.pubname = $2 and to_jsonb(p) ->> 'pubgencols' = 's'))
      where g.oid is not null or c.relreplident <> 'f' and not exists (
        select from pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indimmediate
          and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
      order by n.nspname, c.relname
      limit 1) b on true"
);

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
        .query_one(OBSTACLES, &[&oid, &publication])
        .await
        .map_err(|error| connector.failed("checking a partitioned table", error))?;
    let bare: Option<String> = row.get("bare_schema");
    let bare = bare.zip(row.get("bare_name")).map(TableName::from);
    let first = match (row.get("has_key"), bare) {
        // The partitions inherit the key.
        (false, _) => format!("give {table} a primary key, then "),
        (true, Some(partition)) if row.get("is_generated") => {
            format!("give {partition} a replica identity without generated columns, then ")
        }
        (true, Some(partition)) => format!("give {partition} a replica identity, then "),
        (true, None) => String::new(),
    };
    let publication = quoted_if_needed(publication);
    Ok(format!(
        "{first}run alter publication {publication} add table {table}"
    ))
}
