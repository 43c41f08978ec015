//! The tables of the database, and which of them are sent.

use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::table_name;
use crate::rules::pattern::{TablePattern, matches_any};
use crate::rules::sent_tables::{SendState, TableState};

/// The tables of the database, and whether they are sent.
///
/// If $2 is true, the tables of the publications $1 and their partitions are sent. A partitioned table with a
/// published partition is sent, too. If $2 is false, all logged tables are sent.
const TABLE_STATES: &str = "
    with recursive published as materialized (
      select distinct p.schemaname, p.tablename
      from pg_publication_tables p
      where $2 and p.pubname = any($1)),
    below(oid) as (
      select c.oid
      from published p
      join pg_namespace n on n.nspname = p.schemaname
      join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
      union
      select i.inhrelid
      from below
      join pg_inherits i on i.inhparent = below.oid
      join pg_class c on c.oid = i.inhrelid and c.relispartition)
    select n.nspname::text as schema,
           c.relname::text as name,
           c.relispartition as is_partition,
           case when not $2 then c.relpersistence = 'p'
                else b.oid is not null or c.relkind = 'p' and exists (
                  select from pg_partition_tree(c.oid) t
                  join pg_class l on l.oid = t.relid
                  join pg_namespace ln on ln.oid = l.relnamespace
                  join published lp on lp.schemaname = ln.nspname and lp.tablename = l.relname) end as is_sent
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    left join below b on b.oid = c.oid
    where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384";

/// All tables of the database. `patterns` are those of `TABLES`.
///
/// # Errors
/// The query failed.
pub(crate) async fn table_states(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    patterns: &[TablePattern],
) -> Result<Vec<TableState>, SlotError> {
    let rows = session
        .client
        .query(TABLE_STATES, &[&publications, &plugin.reads_publications()])
        .await
        .map_err(|error| connector.failed("listing the tables", error))?;
    let states = rows.iter().map(|row| {
        let table = table_name(row);
        let sending = match row.get("is_sent") {
            false => SendState::Unpublished,
            true if matches_any(patterns, &table) => SendState::Sent,
            true => SendState::Excluded,
        };
        TableState {
            table,
            sending,
            is_partition: row.get("is_partition"),
        }
    });
    Ok(states.collect())
}
