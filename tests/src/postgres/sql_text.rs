//! Texts of SQL: session settings, options of wal2json, literals, identifiers, and statements about slots.

/// Session settings for the text form of values.
///
/// They equal those of the function, except `search_path` and `quote_all_identifiers`, which change names in
/// values.
pub const VALUE_SETTINGS: &str = "set datestyle = 'ISO, YMD'; set intervalstyle = 'iso_8601'; \
     set timezone = 'UTC'; set bytea_output = 'hex'; set extra_float_digits = 1; set lc_monetary = 'C'";

/// Options of wal2json for the members of an event.
///
/// `include-transaction` is missing: only some sessions need the begin and the end of a transaction.
pub const WAL2JSON_OPTIONS: &str = "'format-version', '2', 'include-xids', 'true', \
     'include-timestamp', 'true', 'include-lsn', 'true', 'include-types', 'true', \
     'include-typmod', 'true', 'include-domain-data-type', 'true', 'include-pk', 'true'";

/// Literal of a text.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quoted identifier of a name.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Statement that creates a logical slot.
pub fn create_slot_sql(slot: &str, plugin: &str) -> String {
    format!("select pg_create_logical_replication_slot('{slot}', '{plugin}')")
}

/// Statement that copies a logical slot with its position.
pub fn copy_slot_sql(slot: &str, copy: &str) -> String {
    format!("select pg_copy_logical_replication_slot('{slot}', '{copy}')")
}

/// Statement that drops a slot.
pub fn drop_slot_sql(slot: &str) -> String {
    format!("select pg_drop_replication_slot('{slot}')")
}

/// Statement that creates a logical slot that survives a failover.
///
/// PostgreSQL has such slots from version 17 on.
pub fn create_failover_slot_sql(slot: &str, plugin: &str) -> String {
    format!("select pg_create_logical_replication_slot('{slot}', '{plugin}', false, false, true)")
}
