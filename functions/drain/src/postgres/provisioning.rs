//! Creates and drops the slot and its publications.

use std::collections::HashSet;

use tokio_postgres::Row as PgRow;

use super::connection::{Connector, Session};
use super::retention;
use super::sql_error::SlotContext;
use super::sql_state::is_lock_timeout;
use crate::base::table_name::quoted;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::rows::table_name;
use crate::rules::pattern::{self, TablePattern};

const MAY_REPLICATE: &str = concat!("select ", include_str!("may_replicate.sql"), " as may_replicate");

/// Checks that the role may use replication slots.
///
/// # Errors
/// [`SlotError::RoleLacksReplication`], or the query failed.
pub(crate) async fn check_replication_right(
    connector: &Connector,
    session: &Session,
) -> Result<(), SlotError> {
    let row = session
        .client
        .query_one(MAY_REPLICATE, &[])
        .await
        .map_err(|error| connector.failed("checking the role", error))?;
    match row.get("may_replicate") {
        true => Ok(()),
        false => Err(SlotError::RoleLacksReplication {
            user: connector.user().to_owned(),
            source: "the role has neither the attribute nor the membership".into(),
        }),
    }
}

/// Creates a publication of the role's tables that `patterns` match.
///
/// It lists only tables that the role owns. Without `patterns`, it lists all of them. Returns the number of
/// listed tables.
///
/// PostgreSQL refuses updates and deletes of a published table without a replica identity. So the publication
/// lists only tables that have one. `only` excludes the tables that inherit from a listed table. A
/// publication of a partitioned table includes its partitions. So a partition is listed only if its
/// partitioned table is not. If `patterns` match a partitioned table, the publication has
/// `publish_via_partition_root`. The changes then have the name of the partitioned table, which the pattern
/// matches.
///
/// # Errors
/// A query failed, for example because the role may not create objects in the database.
pub(crate) async fn create_publication(
    connector: &Connector,
    session: &Session,
    publication: &str,
    patterns: &[TablePattern],
) -> Result<usize, SlotError> {
    const DOING: &str = "creating the publication (the role must own the tables and may need create on the \
         database; otherwise let their owner run create publication)";
    let failed = |error| connector.failed(DOING, error);
    let rows = session
        .client
        .query(PUBLISHABLE_TABLES, &[])
        .await
        .map_err(failed)?;
    let mut chosen: Vec<&PgRow> = rows.iter().collect();
    chosen.retain(|row| pattern::matches_any(patterns, &table_name(row)));
    let oids: HashSet<u32> = chosen.iter().map(|row| row.get("oid")).collect();
    chosen.retain(|row| {
        let roots: Vec<u32> = row.get("roots");
        roots.iter().all(|root| !oids.contains(root))
    });
    let tables: Vec<String> = chosen
        .iter()
        .map(|row| format!("only {}", table_name(row).to_sql()))
        .collect();
    let is_root_named = !patterns.is_empty() && chosen.iter().any(|row| row.get("is_partitioned"));
    let mut statement = format!("create publication {}", quoted(publication));
    if !tables.is_empty() {
        statement += &format!(" for table {}", tables.join(", "));
    }
    if is_root_named {
        statement += " with (publish_via_partition_root = true)";
    }
    session.client.batch_execute(&statement).await.map_err(failed)?;
    Ok(tables.len())
}

/// Permanent tables of the role that have a replica identity.
///
/// `roots` are the partitioned tables above a partition, on all levels. The rows of a partitioned table are
/// logged with the replica identities of its partitions, so each partition needs one. A new partition
/// inherits only the primary key. So the partitioned table needs a primary key, even if all its partitions
/// have a replica identity today. Tables with a generated column in their replica identity are left out, if
/// PostgreSQL would refuse their updates: see the file.
const PUBLISHABLE_TABLES: &str = concat!(
    "with recursive ",
    include_str!("generated_identities.sql"),
    ",
    identified as materialized (
      select c.oid
      from pg_class c
      where c.relkind in ('r', 'p') and (c.relreplident = 'f' or exists (
        select from pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indimmediate
          and case c.relreplident
            when 'd' then i.indisprimary when 'i' then i.indisreplident else false end))
        and c.oid not in (select g.oid from generated_identities g)),
    parts(oid, root) as (
      select i.inhrelid, i.inhparent
      from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relispartition
      union
      select p.oid, i.inhparent
      from parts p
      join pg_class r on r.oid = p.root and r.relispartition
      join pg_inherits i on i.inhrelid = p.root),
    unsafe as materialized (
      select p.root
      from parts p join pg_class l on l.oid = p.oid
      where l.relkind = 'r' and l.relpersistence = 'p' and l.oid not in (select i.oid from identified i))
    select c.oid as oid, n.nspname::text as schema, c.relname::text as name,
           c.relkind = 'p' as is_partitioned,
           array(select a.relid::oid from pg_partition_ancestors(c.oid) a where a.relid <> c.oid) as roots
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence = 'p'
      and n.nspname not in ('pg_catalog', 'information_schema')
      and pg_has_role(current_user, c.relowner, 'usage')
      and case c.relkind
        when 'r' then c.oid in (select i.oid from identified i)
        else exists (
            select from pg_index i
            where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate)
          and c.oid not in (select g.oid from generated_identities g)
          and c.oid not in (select u.root from unsafe u) end
    order by pg_catalog.format('%I.%I', n.nspname, c.relname)"
);

/// Creates the slot.
///
/// From PostgreSQL 17 on, it is a failover slot: standbys keep a copy that survives their promotion.
///
/// The server waits until each open transaction that has written ends. It waits for each of them for at most
/// the session's `lock_timeout`.
///
/// # Errors
/// [`SlotError::CreationWaits`] names the oldest of these transactions. Other errors have the
/// server's refusal.
pub(crate) async fn create_slot(
    connector: &Connector,
    session: &Session,
    slot: &str,
    plugin: Plugin,
    server_version: i32,
) -> Result<(), SlotError> {
    let statement = match server_version {
        170_000.. => "select lsn from pg_create_logical_replication_slot($1, $2, failover => true)",
        _ => "select lsn from pg_create_logical_replication_slot($1, $2)",
    };
    let created = session
        .client
        .query_one(statement, &[&slot, &plugin.name()])
        .await;
    let Err(error) = created else {
        return Ok(());
    };
    if is_lock_timeout(&error)
        && let Some(oldest) = retention::oldest_transaction(connector, session).await?
    {
        return Err(SlotError::CreationWaits {
            slot: slot.to_owned(),
            pid: oldest.pid,
            source: Box::new(error),
        });
    }
    let context = SlotContext {
        connector,
        slot,
        plugin,
    };
    Err(context.explained(session, "creating the slot", error).await)
}

/// Drops the slot.
///
/// # Errors
/// The query failed, for example because another session reads the slot.
pub(crate) async fn drop_slot(connector: &Connector, session: &Session, slot: &str) -> Result<(), SlotError> {
    session
        .client
        .execute("select pg_drop_replication_slot($1)", &[&slot])
        .await
        .map(drop)
        .map_err(|error| connector.failed("dropping the slot", error))
}
