//! Values that the rows of several queries contain.

use tokio_postgres::Row;

use crate::base::table_name::TableName;

/// The table that the columns `schema` and `name` of a row name.
pub(crate) fn table_name(row: &Row) -> TableName {
    TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"))
}
