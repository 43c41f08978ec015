//! Names of columns in a flat row.

use std::borrow::Cow;

/// Begin of the names of all added fields (Debezium's `add.fields.prefix`).
const PREFIX: &str = "__";

/// Names of all added fields, without their prefix.
///
/// The list includes the fields that only some events have.
const ADDED_NAMES: [&str; 18] = [
    "deleted",
    "op",
    "table",
    "lsn",
    "schema",
    "db",
    "name",
    "ts_ms",
    "source_ts_ms",
    "position",
    "transaction_id",
    "transaction_total_order",
    "transaction_data_collection_order",
    "unchanged",
    "omitted",
    "texts",
    "message_prefix",
    "message_content",
];

/// The name of a column's field: another one where an added field has the column's name.
///
/// It then gets a third underscore. So does a column of that name, and so on: two columns never share a
/// field.
pub(super) fn column_name(name: &str) -> Cow<'_, str> {
    let is_added = name.starts_with(PREFIX) && ADDED_NAMES.contains(&name.trim_start_matches('_'));
    match is_added {
        true => Cow::Owned(format!("_{name}")),
        false => Cow::Borrowed(name),
    }
}
