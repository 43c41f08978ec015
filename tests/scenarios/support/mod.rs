//! Helpers that several scenario files share.

pub(crate) mod backfill;
pub(crate) mod backlog;
pub(crate) mod cluster;
pub(crate) mod duplicates;
pub(crate) mod expected_errors;
pub(crate) mod gap;
pub(crate) mod keys;
pub(crate) mod kinesis_producer;
pub(crate) mod log;
pub(crate) mod positions;
pub(crate) mod project_files;
pub(crate) mod reports;
pub(crate) mod reshard;
pub(crate) mod small_function;
pub(crate) mod type_values;
pub(crate) mod versions;
