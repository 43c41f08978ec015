//! The tables that events name.

use crate::base::table_name::TableName;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::publications::PUBLISHED;
use crate::postgres::rows::table_name;

/// The tables that events name: see the file for $1 and $2. The query follows [`PUBLISHED`].
const EVENT_TABLES: &str = concat!(
    "select s.schema as schema, s.name as name from (\n",
    include_str!("../sent_tables.sql"),
    ") s order by schema, name"
);

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
    let statement = format!("with recursive {PUBLISHED} {EVENT_TABLES}");
    let rows = session
        .client
        .query(&statement, &[&publications, &plugin.reads_publications()])
        .await
        .map_err(|error| connector.failed("listing the tables that events name", error))?;
    let table = |row: &tokio_postgres::Row| table_name(row);
    Ok(rows.iter().map(table).collect())
}
