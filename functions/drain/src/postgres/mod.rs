//! The edges to PostgreSQL: sessions, the server's state, the catalog, the slot and the tables.

pub(crate) mod catalog;
pub(crate) mod chunk_reader;
pub(crate) mod column_rule_checks;
pub(crate) mod connection;
pub(crate) mod event_tables;
mod notices;
pub(crate) mod partition_key_checks;
mod peek_rows;
pub(crate) mod provisioning;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod slot;
mod slot_queries;
mod sql_error;
mod sql_state;
pub(crate) mod table_states;
mod tls;
pub(crate) mod unmatched_patterns;
mod view_names;
