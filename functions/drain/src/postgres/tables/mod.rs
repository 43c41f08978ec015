//! Tables of the database: their columns and keys, and whether they are sent.

pub(crate) mod event_tables;
pub(crate) mod schema;
pub(crate) mod table_states;
