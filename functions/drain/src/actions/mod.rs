//! The actions, one file each, and the clients that they share.

pub mod app;
pub(crate) mod backfill;
mod backfill_status;
pub(crate) mod drain;
mod pending_backfill;
pub mod plan;
mod publications;
mod rule_problems;
mod setting_problems;
pub(crate) mod setup;
pub(crate) mod status;
mod table_streams;
mod tables_no_longer_sent;
pub(crate) mod teardown;
