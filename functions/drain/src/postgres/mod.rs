//! The edges to PostgreSQL: connections, the server's own state, the catalog, the slot and its tables.

pub(crate) mod catalog;
pub(crate) mod connection;
pub(crate) mod provisioning;
pub(crate) mod server;
pub(crate) mod slot;
mod sql_error;
pub(crate) mod tables;
mod tls;
