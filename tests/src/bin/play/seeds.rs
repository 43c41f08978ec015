//! Table of random plays, which the commands of `play` share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use scenarios::random_play::{Counter, Log, PlayCounts, PlayResult, play_all};

/// Random run of one seed that is not started yet.
pub(crate) struct Play<F> {
    pub(crate) seed: u64,
    /// Command that repeats this play alone.
    pub(crate) command: String,
    pub(crate) future: F,
}

/// Table of plays: one line for each, and the totals.
pub(crate) struct PlayTable {
    columns: &'static [Counter],
    /// Counter whose total the summary line has.
    summary_counter: Option<Counter>,
    began: Instant,
    plays: usize,
    counts: PlayCounts,
    invocations: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    /// Commands that repeat the failed plays.
    failed: Vec<String>,
}

impl PlayTable {
    /// Table without plays.
    pub(crate) fn new(columns: &'static [Counter], summary_counter: Option<Counter>) -> Self {
        Self {
            columns,
            summary_counter,
            began: Instant::now(),
            plays: 0,
            counts: PlayCounts::default(),
            invocations: BTreeMap::new(),
            faults: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    /// Runs all plays, at most `parallel` at once, and prints the table.
    pub(crate) async fn run<F>(mut self, plays: impl Iterator<Item = Play<F>>, parallel: u64) -> ExitCode
    where
        F: Future<Output = PlayResult> + Send + 'static,
    {
        let headings = self.columns.iter().map(|counter| counter.heading().to_owned());
        println!("{:>6}{:>9}{}  settings", "seed", "seconds", cells(headings));
        let plays = plays.map(|play| ((play.seed, play.command), play.future));
        play_all(plays, parallel, |(seed, command), result| {
            self.add(seed, command, &result);
        })
        .await;
        self.print_summary();
        match self.failed.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn add(&mut self, seed: u64, command: String, result: &PlayResult) {
        let columns = self.columns.iter();
        let values = columns.map(|counter| counter.shown(result.counts.get(*counter)));
        let (seconds, settings) = (result.duration.as_secs_f64(), &result.settings);
        println!("{seed:6}{seconds:9.1}{}  {settings}", cells(values));
        let failures = result.failures();
        for failure in &failures {
            println!("       {failure:.600}");
        }
        if !failures.is_empty() {
            self.failed.push(command);
        }
        if !result.logs.is_empty() {
            match save_logs(seed, &result.logs) {
                Ok(folder) => println!("       logs: {}", folder.display()),
                Err(error) => println!("       the logs cannot be saved: {error}"),
            }
        }
        self.plays += 1;
        self.counts.add_all(&result.counts);
        add_all(&mut self.invocations, &result.invocations);
        add_all(&mut self.faults, &result.faults);
    }

    fn print_summary(&self) {
        for (title, kinds) in [("faults", &self.faults), ("invocations", &self.invocations)] {
            println!("\n{title}");
            for (kind, count) in kinds {
                println!("{count:10}  {kind}");
            }
        }
        println!("\nall {} plays", self.plays);
        for counter in self.columns {
            println!("{:10}  {}", self.counts.get(*counter), counter.meaning());
        }
        let summary_counter = self.summary_counter.map_or_else(String::new, |counter| {
            format!(", {} {}", self.counts.get(counter), counter.meaning())
        });
        println!(
            "{} of {} plays kept the promise{summary_counter}, in {:.0} s",
            self.plays - self.failed.len(),
            self.plays,
            self.began.elapsed().as_secs_f64()
        );
        for command in &self.failed {
            println!("failed: {command}");
        }
    }
}

/// Writes the logs of a play into files.
///
/// Returns their folder, which is below `target`.
fn save_logs(seed: u64, logs: &[Log]) -> std::io::Result<PathBuf> {
    let folder = Path::new("target/plays").join(scenarios::unique(&format!("seed-{seed}")));
    std::fs::create_dir_all(&folder)?;
    for log in logs {
        std::fs::write(folder.join(log.name), &log.text)?;
    }
    Ok(folder)
}

/// Cells of one line, each aligned to the right of its column.
fn cells(values: impl Iterator<Item = String>) -> String {
    values.map(|value| format!("{value:>10}")).collect()
}

fn add_all(sums: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (kind, count) in more {
        *sums.entry(kind.clone()).or_default() += count;
    }
}
