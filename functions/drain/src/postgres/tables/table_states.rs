//! The tables of the database, and which of them are sent.

use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::publications::PUBLISHED;
use crate::postgres::rows::table_name;
use crate::rules::pattern::{TablePattern, matches_any};
use crate::rules::sent_tables::{SendState, TableState};

/// The tables of the database, and whether they are sent.
///
/// If $2 is true, the tables of the publications $1 and their partitions are sent. A partitioned table with a
/// published partition is sent, too. If $2 is false, all logged tables are sent. The query follows
/// [`PUBLISHED`].
const TABLE_STATES: &str = "
    sent as materialized (select distinct p.oid from published_oids p where $2),
    sent_parts as materialized (
      select s.oid from sent s
      union
      select b.oid from sent s join below b on b.root = s.oid
      union
      select b.root from sent s join below b on b.oid = s.oid)
    select n.nspname::text as schema,
           c.relname::text as name,
           c.relispartition as is_partition,
           -- The partitions of an unlogged partitioned table may be logged.
           c.relpersistence = 'p' or c.relkind = 'p' as is_logged,
           case when $2 then p.oid is not null else c.relpersistence = 'p' end as is_sent
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    left join sent_parts p on p.oid = c.oid
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
    let statement = format!("with recursive {PUBLISHED}, {TABLE_STATES}");
    let rows = session
        .client
        .query(&statement, &[&publications, &plugin.reads_publications()])
        .await
        .map_err(|error| connector.failed("listing the tables", error))?;
    let states = rows.iter().map(|row| {
        let table = table_name(row);
        let sending = match row.get("is_sent") {
            _ if !row.get::<_, bool>("is_logged") => SendState::Unlogged,
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
