//! Names of columns in a flat row.

use std::borrow::Cow;

/// Prefix of the names of all added fields (Debezium's `add.fields.prefix`).
const PREFIX: &str = "__";

/// Names of all added fields, without their prefix.
///
/// The list includes fields that only some events have.
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

/// Name of a column's field; no added field has the same name.
///
/// A column with the name of an added field, such as `__op`, gets one more underscore: `___op`. A column
/// `___op` also gets one more, and so on. So two columns never have the same field.
pub(super) fn column_name(name: &str) -> Cow<'_, str> {
    let is_added = name.starts_with(PREFIX) && ADDED_NAMES.contains(&name.trim_start_matches('_'));
    match is_added {
        true => Cow::Owned(format!("_{name}")),
        false => Cow::Borrowed(name),
    }
}
