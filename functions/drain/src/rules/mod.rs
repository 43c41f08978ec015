//! Rules for the sent tables, columns and operations, and for their streams.

pub mod column_rules;
pub mod pattern;
pub mod projection;
pub mod sent_tables;
pub mod skipped_operations;
pub mod stream_pattern;
