//! Values that the rows of several queries contain.

use postgres_types::PgLsn;
use tokio_postgres::Row;

use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;

/// The LSN in a column that is never null.
pub(crate) fn lsn(row: &Row, column: &str) -> Lsn {
    Lsn(row.get::<_, PgLsn>(column).into())
}

/// The LSN in a column; `None` if it is null.
pub(crate) fn optional_lsn(row: &Row, column: &str) -> Option<Lsn> {
    row.get::<_, Option<PgLsn>>(column).map(|lsn| Lsn(lsn.into()))
}

/// The table that the columns `schema` and `name` of a row name.
pub(crate) fn table_name(row: &Row) -> TableName {
    TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"))
}

/// The table that these two columns name; `None` if they are null.
pub(crate) fn optional_table_name(row: &Row, schema: &str, name: &str) -> Option<TableName> {
    let schema: Option<String> = row.get(schema);
    let (schema, name) = schema.zip(row.get(name))?;
    Some(TableName { schema, name })
}
