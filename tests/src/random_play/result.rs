//! Result of a play, and its counters.

use std::collections::BTreeMap;
use std::time::Duration;

/// What one counter of a play counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Invocations, failed ones included.
    Invocations,
    /// Injected faults.
    Faults,
    /// Kills of the function.
    Kills,
    /// Failovers of the server.
    Failovers,
    /// Crashes of a server that restarted on its disk.
    Crashes,
    /// Faults of the network between standby and primary.
    StandbyFaults,
    /// Events that the committed transactions make.
    Events,
    /// Rows of the table at the end of the play.
    Rows,
    /// Events of rows that the backfill read.
    Reads,
    /// Rows that the backfill read and did not send, because a live change was sent first.
    Overtaken,
    /// Changes that the function read again and did not send again.
    Skipped,
    /// Changes that the function read again and sent again.
    Replayed,
    /// Records that an invocation sent again.
    Retried,
    /// Events whose position had arrived before.
    Duplicates,
    /// Stored checkpoints.
    Stores,
    /// Comparisons of the slot with the checkpoint.
    Checks,
    /// PutRecords requests.
    Requests,
    /// Records of these requests, once for each attempt.
    Tried,
    /// Records that the stream stored.
    Put,
    /// Splits and merges of shards.
    Reshards,
    /// Records of aggregates that the KCL drops, because one record belongs to another shard.
    Dropped,
    /// Largest lag of a report, in bytes.
    LagBytes,
    /// Largest resident memory of the function, in bytes.
    PeakMemoryBytes,
    /// Changes that never arrived.
    Lost,
    /// Rows and values that differ between consumer and PostgreSQL.
    Differences,
}

impl Counter {
    /// Heading of the counter's column in a table of plays.
    pub fn heading(self) -> &'static str {
        self.texts().0
    }

    /// Meaning of the sum over all plays (the maximum, for bytes).
    pub fn meaning(self) -> &'static str {
        self.texts().1
    }

    /// Value as its column shows it: the lag in MB, memory in MiB, everything else as a number.
    pub fn shown(self, value: u64) -> String {
        match self {
            Self::LagBytes => format!("{:.1}", value as f64 / 1e6),
            Self::PeakMemoryBytes => (value >> 20).to_string(),
            _ => value.to_string(),
        }
    }

    fn is_maximum(self) -> bool {
        matches!(self, Self::LagBytes | Self::PeakMemoryBytes)
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Invocations => ("ticks", "invocations"),
            Self::Faults => ("faults", "injected faults"),
            Self::Kills => ("kills", "kills of the function"),
            Self::Failovers => ("failover", "failovers"),
            Self::Crashes => ("crash", "crashes of the server"),
            Self::StandbyFaults => ("hung", "times that commits hung"),
            Self::Events => ("events", "events of committed changes"),
            Self::Rows => ("rows", "rows of PostgreSQL at the end, each compared"),
            Self::Reads => ("reads", "events of rows that were read"),
            Self::Overtaken => ("overtaken", "rows that were read and overtaken by a change"),
            Self::Skipped => ("skipped", "changes that were read again and skipped"),
            Self::Replayed => ("replayed", "changes that were read again and sent again"),
            Self::Retried => ("retried", "records that were sent again within an invocation"),
            Self::Duplicates => ("again", "events that arrived again"),
            Self::Stores => ("stores", "stored checkpoints, each compared with the stream"),
            Self::Checks => ("checks", "comparisons of slot and checkpoint"),
            Self::Requests => ("requests", "PutRecords requests"),
            Self::Tried => ("tried", "records of these requests"),
            Self::Put => ("put", "records that the stream stored"),
            Self::Reshards => ("reshards", "splits and merges of shards"),
            Self::Dropped => ("dropped", "records that the KCL drops"),
            Self::LagBytes => ("lag MB", "bytes of lag at most"),
            Self::PeakMemoryBytes => ("MiB", "bytes resident at most"),
            Self::Lost => ("lost", "changes lost"),
            Self::Differences => ("differ", "differences"),
        }
    }
}

/// Values of the counters of one play, or of several.
#[derive(Debug, Clone, Default)]
pub struct Counts(BTreeMap<Counter, u64>);

impl Counts {
    /// Value of this counter; 0 when nothing was counted.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(&counter).copied().unwrap_or(0)
    }

    /// Adds `value` to a sum; raises a maximum to it.
    pub(super) fn add(&mut self, counter: Counter, value: u64) {
        let known = self.0.entry(counter).or_default();
        *known = match counter.is_maximum() {
            true => value.max(*known),
            false => *known + value,
        };
    }

    /// Adds all counters of another play.
    pub fn add_all(&mut self, other: &Self) {
        for (counter, value) in &other.0 {
            self.add(*counter, *value);
        }
    }
}

/// Result of one play.
#[derive(Debug, Clone, Default)]
pub struct PlayResult {
    /// Drawn settings, in a few words.
    pub settings: String,
    /// Time from the first invocation to the verdict.
    pub duration: Duration,
    /// Invocations by their end: `stopped` of a report, `errorType`, `killed`, `exited` or `timed out`.
    pub invocations: BTreeMap<String, u64>,
    /// Injected faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Everything else that was counted.
    pub counts: Counts,
    /// Cases in which the function broke its promise.
    pub violations: Vec<String>,
    /// Conditions that this play did not meet; without them it proves nothing.
    pub shortfalls: Vec<&'static str>,
}

impl PlayResult {
    /// Result of a play that could not be finished.
    pub(super) fn of_panic(panic: &str) -> Self {
        Self {
            violations: vec![format!("the play itself failed: {panic}")],
            ..Self::default()
        }
    }

    /// Reasons for which the play fails: violations and shortfalls.
    pub fn failures(&self) -> Vec<String> {
        let shortfalls = self.shortfalls.iter();
        let shortfalls = shortfalls.map(|what| format!("the play proves nothing: {what}"));
        self.violations.iter().cloned().chain(shortfalls).collect()
    }
}

/// Findings of a workload's checks at the end of a play.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    pub(super) counts: Counts,
    pub(super) violations: Vec<String>,
}
