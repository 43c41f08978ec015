//! Spillway's drain: carries the changes of a PostgreSQL logical replication slot into a Kinesis data stream.
//!
//! **The promise.** Every committed change reaches the stream at least once and is never silently skipped. Changes of one key
//! arrive in commit order. A change has the same [`position`] every time it is sent. Where continuity cannot be proved,
//! the drain stops and says what it knows ([`continuity`]).
//!
//! **The way.**
//! ```text
//! slot.peek(window) -> decode -> Change -> encode -> Event -> pack by lane -> PutRecords -> acknowledged
//!                                              checkpoint.store(position) -> slot.advance(position)
//! ```
//!
//! **The invariant**, over ends of commit records: `confirmed_flush <= checkpoint <= acknowledged <= peeked <= flush`. The slot
//! moves only after the checkpoint is stored, and that only after the stream acknowledged every change up to it.
//!
//! **The map.** Arrows run one way: `main -> handler -> drain -> pure words`. [`lsn`], [`position`], [`change`], [`catalog`],
//! [`decode`], [`encode`], [`pack`], [`backfill`], [`checkpoint`], [`continuity`], [`marker`], [`event`], [`pattern`], [`window`], [`budget`] and [`time`] are pure: they know no SDK, no
//! runtime, no environment and read no clock. [`slot`], [`server`], [`stream`], [`parameter`] and [`connect`] are the edges; they implement
//! the four traits of [`drain::parts`].

mod aws;
pub mod backfill;
pub mod budget;
pub mod catalog;
pub mod change;
pub mod checkpoint;
mod clock;
pub mod config;
pub mod connect;
pub mod continuity;
pub mod decode;
pub mod drain;
pub mod encode;
pub mod error;
pub mod event;
pub mod handler;
pub mod lsn;
pub mod marker;
pub mod pack;
pub mod parameter;
pub mod pattern;
pub mod position;
mod secret;
pub mod server;
mod setup;
pub mod slot;
pub mod stream;
pub mod time;
pub mod window;
