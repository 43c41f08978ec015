//! Values of rows that several queries have.

use tokio_postgres::Row;

use crate::base::table_name::TableName;

/// The table that the columns `schema` and `name` of a row state.
pub(crate) fn table_name(row: &Row) -> TableName {
    TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"))
}
