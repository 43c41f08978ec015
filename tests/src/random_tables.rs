//! Random tables: a property test of rows and keys.
//!
//! A seed draws tables, transactions and DDL. Triggers record each change as the server had it, in tables
//! that no slot sends. Then the function drains the log with each output plugin, and backfills the tables. A
//! round holds if
//! - two rows that differ in their key never have the same key,
//! - a key has all its columns, with their true values,
//! - a value is null only where the server had null, and each other value is the server's,
//! - a row of a backfill equals the event of the row that the log has,
//! - the plugins agree, except for what docs/configuration.md says that a plugin does not send.
//!
//! The seed decides everything. Rounds of the same server version and envelope share a database, three slots
//! and their drains: this is a batch. If a batch cannot be drained, each of its rounds runs again alone.

mod alignment;
mod batch;
mod column_types;
mod ddl;
mod event_checks;
mod rounds;
mod schema;
mod script;
mod shape;
mod values;
mod verdict;
mod writes;

pub use batch::{Failure, Tally};
pub use rounds::{RoundSettings, run};
