//! Checks of the configuration's rules against the database's tables.

pub(crate) mod column_rules;
pub(crate) mod partition_keys;
mod publication_members;
pub(crate) mod sent_columns;
pub(crate) mod unmatched_patterns;
pub(crate) mod unpublished_roots;
