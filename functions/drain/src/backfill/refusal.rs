//! The refusal to backfill a table.

use std::fmt;

/// The reason why a table or a pattern cannot be backfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRefusal {
    /// The table or the pattern.
    pub subject: String,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for TableRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}
