//! Lines of the log: their format, the summary of an invocation, and panics.

pub mod format;
pub mod panics;
pub mod summary;
