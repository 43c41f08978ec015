//! Workloads of random plays.

pub mod backfill;
pub mod changes;
pub mod storm;
