//! Random plays: a workload writes, the function drains, and faults interrupt both.
//!
//! Each play has its own slot, stream and checkpoint. Its seed decides the settings, the writes and the
//! faults. Timing decides which fault hits which write: a seed that failed draws the same faults again, but
//! does not repeat the run.
//!
//! [`Engine`] runs a play. A module of [`workloads`] holds the writers, the expected state and the verdict.

mod clock;
mod compact_consumer;
mod database;
mod engine;
mod environment;
mod faults;
mod kcl;
pub(crate) mod parameter_store;
mod result;
mod row_key;
mod settings;
pub mod workloads;
mod writer;

pub use engine::{Engine, play_all};
pub use result::{Counter, Log, PlayCounts, PlayResult};
