//! The edges to PostgreSQL: sessions, the server's state, the catalog, the slot and the tables.

pub(crate) mod catalog;
pub(crate) mod checks;
pub(crate) mod connection;
pub(crate) mod provisioning;
mod publications;
pub(crate) mod retention;
mod rows;
pub(crate) mod server;
pub(crate) mod slot;
mod sql_error;
mod sql_state;
pub(crate) mod table_source;
pub(crate) mod tables;
