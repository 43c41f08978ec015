//! Random tables: a property test of rows and keys.
//!
//! A round is the test of one seed, which generates tables, transactions and DDL. Triggers record each change
//! of the server in tables that no slot sends: the recording. Then the function drains the log
//! with each output plugin, and backfills the tables. A round passes if
//! - events of rows with different keys never have the same key,
//! - a key has all its columns, with their true values,
//! - a value is null only if the server's value is null, and each other value equals the server's,
//! - a row of a backfill equals the log's event of the same row,
//! - the plugins agree. Exceptions are the data that a plugin does not send: see docs/configuration.md.
//!
//! The seed determines everything, also the server version and the envelope. Rounds of the same version and
//! envelope are a batch. They share a database, and a slot for each plugin that the server has. If a batch
//! cannot be drained or backfilled, each of its rounds runs again alone.

mod alignment;
mod batch;
mod column_types;
mod ddl;
mod event_checks;
mod recorded_table;
mod result;
mod rounds;
mod schema;
mod script;
mod values;
mod verdict;
mod writes;

pub use result::{Failure, RoundCounts};
pub use rounds::{RoundSettings, run};
