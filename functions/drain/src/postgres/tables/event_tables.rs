//! The tables that events name.

use crate::base::table_name::TableName;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::table_name;

/// The tables that events name.
///
/// If $2 is true, they are the tables of the publications $1. `publish_via_partition_root` decides whether
/// these are partitioned tables or their partitions. If $2 is false, they are all permanent tables of users
/// that store rows. A partitioned table stores no rows, so its partitions are listed instead.
const EVENT_TABLES: &str = "
    select distinct p.schemaname::text as schema, p.tablename::text as name
    from pg_publication_tables p
    where $2 and p.pubname = any($1)
    union all
    select n.nspname::text, c.relname::text
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where not $2 and c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
    order by schema, name";

/// The tables whose changes the slot sends, named as in its rows.
///
/// # Errors
/// The query failed.
pub(crate) async fn event_tables(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
) -> Result<Vec<TableName>, SlotError> {
    let rows = session
        .client
        .query(EVENT_TABLES, &[&publications, &plugin.reads_publications()])
        .await
        .map_err(|error| connector.failed("listing the tables that events name", error))?;
    let table = |row: &tokio_postgres::Row| table_name(row);
    Ok(rows.iter().map(table).collect())
}
