//! The actions, one file each, and what they share.

pub mod app;
pub(crate) mod backfill;
pub(crate) mod drain;
mod pending_backfill;
pub mod plan;
mod problems;
pub(crate) mod setup;
pub(crate) mod status;
pub(crate) mod teardown;
