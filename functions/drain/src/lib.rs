//! Spillway's function: drains a PostgreSQL logical replication slot into a Kinesis data stream.
//!
//! **The promise.** Every committed change reaches the stream at least once and is never silently skipped.
//! Changes of one key arrive in commit order. A change has the same [`position`](base::position) every time
//! it is sent. If continuity cannot be proved, the drain stops. The error contains the evidence
//! ([`continuity`]).
//!
//! **The path of a change.**
//! ```text
//! slot.peek(window) -> decode -> Change -> encode -> Event -> pack by lane -> PutRecords -> acknowledged
//!                                              checkpoint.store(position) -> slot.advance(position)
//! ```
//!
//! **The invariant**: `confirmed_flush <= checkpoint <= acknowledged <= peeked <= flush`. A position covers
//! the transactions whose commit record ends at or before it. The slot moves only after the checkpoint is
//! stored. The checkpoint is stored only after the stream acknowledged every change up to it.
//!
//! **The order of modules.** A module imports only modules below it. `ARCHITECTURE.md` states the
//! order, and `scripts/module_order.py` checks it.

pub mod actions;
mod aws;
pub mod backfill;
pub mod base;
pub mod catalog;
pub mod change;
pub mod config;
pub mod continuity;
pub mod decode;
pub mod drain;
pub mod encode;
pub mod error;
pub mod handler;
pub mod invocation;
pub mod logging;
pub mod pack;
pub mod plugin;
pub mod ports;
pub mod postgres;
pub mod rules;
