//! What is sent: which tables, columns and operations, and to which stream.

pub mod column_rules;
pub mod pattern;
pub mod projection;
pub mod sent_tables;
pub mod skipped_operations;
pub mod stream_pattern;
