//! Which tables and columns are sent, and to which stream.

pub mod column_rules;
pub mod pattern;
pub mod projection;
pub mod sent_tables;
pub mod stream_pattern;
