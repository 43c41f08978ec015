//! Operations that are not sent: the variable `SKIPPED_OPERATIONS`.

use crate::change::Change;

/// Operations whose changes are not sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkippedOperations {
    /// Inserts.
    pub inserts: bool,
    /// Updates, also those that change a key.
    pub updates: bool,
    /// Deletes.
    pub deletes: bool,
    /// Truncates.
    pub truncates: bool,
}

impl SkippedOperations {
    /// Parses a list of Debezium's letters: `c`, `u`, `d` and `t`.
    ///
    /// `["none"]` and an empty list skip nothing. Returns `None` if the list has any other text.
    pub fn of_letters(letters: &[String]) -> Option<Self> {
        let mut skipped = SkippedOperations::default();
        if letters == ["none"] {
            return Some(skipped);
        }
        for letter in letters {
            match letter.as_str() {
                "c" => skipped.inserts = true,
                "u" => skipped.updates = true,
                "d" => skipped.deletes = true,
                "t" => skipped.truncates = true,
                _ => return None,
            }
        }
        Some(skipped)
    }

    /// Whether a change is not sent; false for each logical message.
    pub fn skips(self, change: &Change<'_>) -> bool {
        match change {
            Change::Insert { .. } => self.inserts,
            Change::Update { .. } => self.updates,
            Change::Delete { .. } => self.deletes,
            Change::Truncate { .. } => self.truncates,
            Change::Message(_) => false,
        }
    }
}
