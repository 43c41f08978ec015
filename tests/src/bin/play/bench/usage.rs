//! Usage of a program, and the table of the medians.
//!
//! The program reads a backlog or a table.

use std::time::Duration;

use serde_json::{Value, json};

/// Resources that one program used in one round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Time from its start to its end.
    pub(super) took: Duration,
    /// Time from its start to the first record; zero without measurement.
    pub(super) first: Duration,
    /// CPU time of the program; zero if it was not measured.
    pub(super) own_cpu: Duration,
    /// CPU time of the server.
    pub(super) server_cpu: Duration,
    /// Largest resident memory in bytes; zero if it was not measured.
    pub(super) memory: u64,
    /// Records in the stream.
    pub(super) records: u64,
    /// Units of 25 KiB, by which Kinesis charges each record.
    pub(super) put_units: u64,
    /// Peeks or chunks.
    pub(super) reads: u64,
}

/// The rounds of one program.
pub(super) struct ProgramUsages {
    pub(super) name: String,
    pub(super) usages: Vec<Usage>,
}

impl ProgramUsages {
    pub(super) fn new(name: String) -> Self {
        ProgramUsages {
            name,
            usages: Vec::new(),
        }
    }

    /// The median of a value over all rounds.
    fn median(&self, value: impl Fn(&Usage) -> f64) -> f64 {
        let mut values: Vec<f64> = self.usages.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Prints the medians, as ratios to the first contestant and by item. Returns them with every round.
///
/// `items` is the number of changes or rows.
pub(super) fn print(title: &str, items: u64, contestants: &[ProgramUsages]) -> Value {
    println!("\n{title}");
    println!(
        "{:28} {:>8} {:>12} {:>6} {:>9} {:>7} {:>7} {:>8} {:>5} {:>10} {:>6}",
        "",
        "seconds",
        "spread",
        "ratio",
        "a second",
        "first s",
        "CPU µs",
        "server s",
        "MiB",
        "put units",
        "reads"
    );
    let seconds = |usage: &Usage| usage.took.as_secs_f64();
    let first = contestants.first().map_or(1.0, |first| first.median(seconds));
    let report = |contestant: &ProgramUsages| {
        let times: Vec<f64> = contestant.usages.iter().map(seconds).collect();
        let least = times.iter().copied().fold(f64::MAX, f64::min);
        let most = times.iter().copied().fold(0.0, f64::max);
        let median = contestant.median(seconds);
        let own_cpu = contestant.median(|usage| usage.own_cpu.as_secs_f64());
        let first_record = contestant.median(|usage| usage.first.as_secs_f64());
        let server_cpu = contestant.median(|usage| usage.server_cpu.as_secs_f64());
        let memory = contestant.median(|usage| usage.memory as f64) / f64::from(1 << 20);
        let put_units = contestant.median(|usage| usage.put_units as f64) / items as f64;
        println!(
            "{:28} {median:8.3} {:>12} {:6.2} {:9.0} {first_record:7.2} {:7.2} {server_cpu:8.3} {memory:5.0} \
             {put_units:10.4} {:6.0}",
            contestant.name,
            format!("{least:.3}-{most:.3}"),
            median / first,
            items as f64 / median,
            own_cpu * 1e6 / items as f64,
            contestant.median(|usage| usage.reads as f64),
        );
        json!({
            "name": contestant.name,
            "seconds": times,
            "median_seconds": median,
            "ratio": median / first,
            "items_per_second": items as f64 / median,
            "first_record_seconds": first_record,
            "cpu_seconds": own_cpu,
            "cpu_microseconds_per_item": own_cpu * 1e6 / items as f64,
            "server_cpu_seconds": server_cpu,
            "peak_memory_mib": memory,
            "records_per_item": contestant.median(|usage| usage.records as f64) / items as f64,
            "put_units_per_item": put_units,
        })
    };
    let contestants: Vec<Value> = contestants.iter().map(report).collect();
    json!({"title": title, "items": items, "contestants": contestants})
}
