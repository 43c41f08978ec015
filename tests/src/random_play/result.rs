//! Result of a play, and its counters.

use std::collections::BTreeMap;
use std::time::Duration;

/// Defines [`Counter`]: of each variant the heading of its column, and the meaning of its total.
macro_rules! counters {
    ($($name:ident: $heading:literal, $meaning:literal;)*) => {
        /// Counter of a play.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Counter {
            $(#[doc = $meaning] $name,)*
        }

        impl Counter {
            /// Heading of the counter's column in a table of plays.
            pub fn heading(self) -> &'static str {
                match self { $(Self::$name => $heading,)* }
            }

            /// Meaning of the sum over all plays (of the maximum, for bytes).
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

counters! {
    Invocations: "ticks", "invocations";
    Faults: "faults", "injected faults";
    Kills: "kills", "kills of the function";
    Failovers: "failover", "failovers";
    Crashes: "crash", "crashes of the server";
    StandbyFaults: "hung", "times that commits hung";
    Events: "events", "events of committed changes";
    Rows: "rows", "rows of PostgreSQL at the end, each compared";
    Reads: "reads", "events of rows that were read";
    Overtaken: "overtaken", "rows that were read and overtaken by a change";
    Skipped: "skipped", "changes that were read again and skipped";
    Replayed: "replayed", "changes that were read again and sent again";
    Retried: "retried", "records that were sent again within an invocation";
    Duplicates: "again", "events that arrived again";
    Stores: "stores", "stored checkpoints, each compared with the stream";
    Checks: "checks", "comparisons of slot and checkpoint";
    Requests: "requests", "PutRecords requests";
    Tried: "tried", "records of these requests";
    Put: "put", "records that the stream stored";
    Reshards: "reshards", "splits and merges of shards";
    Dropped: "dropped", "records that the KCL drops";
    LagBytes: "lag MB", "bytes of lag at most";
    PeakMemoryBytes: "MiB", "bytes resident at most";
    Lost: "lost", "changes lost";
    Differences: "differ", "differences";
}

impl Counter {
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
}

/// Values of the counters of one play, or of several.
#[derive(Debug, Clone, Default)]
pub struct PlayCounts(BTreeMap<Counter, u64>);

impl PlayCounts {
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
    pub counts: PlayCounts,
    /// Cases in which the function broke its promise.
    pub violations: Vec<String>,
    /// Conditions that this play did not reach. Without them its result proves nothing.
    pub shortfalls: Vec<String>,
    /// Logs of function and servers, if there is a violation.
    pub logs: Vec<Log>,
}

/// Log of one program of a play.
#[derive(Debug, Clone)]
pub struct Log {
    /// Program, as a file name.
    pub name: &'static str,
    /// All lines that it wrote.
    pub text: String,
}

impl PlayResult {
    /// Result of a play that could not be finished.
    pub(super) fn of_panic(panic: &str) -> Self {
        Self {
            violations: vec![format!("the play itself failed: {panic}")],
            ..Self::default()
        }
    }

    /// Adds a shortfall for each group of counters that are all 0.
    pub(super) fn add_shortfalls(&mut self, required: &[&[Counter]]) {
        for group in required {
            if group.iter().all(|counter| self.counts.get(*counter) == 0) {
                let missing = group.iter().map(|counter| format!("no {}", counter.meaning()));
                self.shortfalls.push(missing.collect::<Vec<String>>().join(", "));
            }
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
pub(super) struct PlayVerdict {
    pub(super) counts: PlayCounts,
    pub(super) violations: Vec<String>,
}
