//! Results of rounds: failures and counts.

use std::collections::BTreeMap;

/// Failure of a round.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Kind of the failure; rounds are counted by it.
    pub kind: String,
    /// The event, and the recorded change.
    pub detail: String,
}

impl Failure {
    /// The same failure, with this context before its kind.
    pub(super) fn of(mut self, context: &str) -> Self {
        self.kind = format!("{context}: {}", self.kind);
        self
    }
}

/// Counts of rounds.
#[derive(Debug, Default, Clone)]
pub struct RoundCounts {
    /// Number of rounds.
    pub rounds: u64,
    /// Number of rounds with a failure.
    pub failed: u64,
    /// Number of statements, and of those that the server refused.
    pub statements: (u64, u64),
    /// Number of comparisons of a change with its event.
    ///
    /// Each plugin is compared.
    pub changes: u64,
    /// Number of events.
    pub events: u64,
    /// Number of rows that backfills read.
    pub reads: u64,
    /// Number of backfilled rows compared with an event of the log.
    pub compared: u64,
    /// Number of rounds by kind of failure, with the first seed.
    pub kinds: BTreeMap<String, (u64, u64)>,
}

impl RoundCounts {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.failed += other.failed;
        self.statements.0 += other.statements.0;
        self.statements.1 += other.statements.1;
        self.changes += other.changes;
        self.events += other.events;
        self.reads += other.reads;
        self.compared += other.compared;
        for (kind, (count, seed)) in &other.kinds {
            let known = self.kinds.entry(kind.clone()).or_insert((0, *seed));
            *known = (known.0 + count, known.1.min(*seed));
        }
    }
}
