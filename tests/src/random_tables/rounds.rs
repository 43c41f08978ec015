//! Rounds of many seeds, in batches.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio::task::JoinSet;

use super::batch::{self, BatchSettings};
use super::result::{Failure, RoundCounts};
use super::verdict;

/// Seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct RoundSettings {
    /// First seed.
    pub first: u64,
    /// Number of seeds.
    pub count: u64,
    /// Most rounds that share a database and its drains.
    pub batch: usize,
    /// Number of batches at a time.
    pub parallel: usize,
}

/// Server versions of the rounds; `None` is Debian's 15.
///
/// Debian's 15 has wal2json 2.5.
const VERSIONS: [Option<u32>; 5] = [None, Some(14), Some(16), Some(17), Some(18)];
/// Envelopes of the rounds.
const ENVELOPES: [&str; 3] = ["debezium", "wal2json", "dms"];

/// Runs the rounds. `report` gets the reports of failed rounds and the counts, after each batch.
///
/// # Panics
/// The test itself fails, for example a statement that must succeed.
pub async fn run(settings: RoundSettings, mut report: impl FnMut(&str, &RoundCounts)) -> RoundCounts {
    let mut waiting = batches(settings).into_iter();
    let (mut running, mut counts) = (JoinSet::new(), RoundCounts::default());
    loop {
        while running.len() < settings.parallel.max(1)
            && let Some(next) = waiting.next()
        {
            running.spawn(Box::pin(run_batch(next)));
        }
        let Some(done) = running.join_next().await else {
            return counts;
        };
        let (of_batch, text) = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        counts.add(&of_batch);
        report(&text, &counts);
    }
}

/// Batches of seeds with the same version and envelope. Versions and envelopes alternate.
fn batches(settings: RoundSettings) -> Vec<BatchSettings> {
    let mut groups: BTreeMap<(usize, usize), Vec<u64>> = BTreeMap::new();
    for seed in settings.first..settings.first + settings.count {
        let version = (seed % VERSIONS.len() as u64) as usize;
        let envelope = (seed / VERSIONS.len() as u64 % ENVELOPES.len() as u64) as usize;
        groups.entry((version, envelope)).or_default().push(seed);
    }
    let mut batches = Vec::new();
    for ((version, envelope), seeds) in groups {
        for (number, seeds) in seeds.chunks(settings.batch.max(1)).enumerate() {
            let batch = BatchSettings {
                version: VERSIONS[version],
                envelope: ENVELOPES[envelope],
                odd_role: (version + envelope) % 2 == 1,
                seeds: seeds.to_vec(),
            };
            batches.push((number, batch));
        }
    }
    batches.sort_by_key(|(number, _)| *number);
    batches.into_iter().map(|(_, batch)| batch).collect()
}

/// Counts of a batch, and the report of its failed rounds.
async fn run_batch(settings: BatchSettings) -> (RoundCounts, String) {
    let (mut counts, mut text) = (RoundCounts::default(), String::new());
    let failure = match run_together(&settings, &mut counts, &mut text).await {
        Ok(()) => return (counts, text),
        Err(failure) => failure,
    };
    if let [seed] = settings.seeds[..] {
        let _ = write!(
            text,
            "{}",
            describe(seed, &settings, &[], std::slice::from_ref(&failure))
        );
        count(&mut counts, seed, std::slice::from_ref(&failure));
        return (counts, text);
    }
    let before = counts.failed;
    for seed in &settings.seeds {
        let alone = BatchSettings {
            seeds: vec![*seed],
            ..settings.clone()
        };
        let (more, report) = Box::pin(run_batch(alone)).await;
        counts.add(&more);
        text.push_str(&report);
    }
    if counts.failed == before {
        let seeds = &settings.seeds;
        let _ = writeln!(
            text,
            "seeds {seeds:?} fail only together: {}\n{}",
            failure.kind, failure.detail
        );
        count(&mut counts, settings.seeds[0], &[failure.of("only together")]);
        counts.rounds -= 1;
    }
    (counts, text)
}

async fn run_together(
    settings: &BatchSettings,
    counts: &mut RoundCounts,
    text: &mut String,
) -> Result<(), Failure> {
    for round in batch::run(settings).await? {
        let failures = match &round.finished {
            Some(finished) => verdict::check_round(finished, counts),
            None => Vec::new(),
        };
        count(counts, round.seed, &failures);
        counts.statements.0 += round.script.lines.len() as u64;
        counts.statements.1 += round.script.refused;
        if !failures.is_empty() {
            text.push_str(&describe(round.seed, settings, &round.script.lines, &failures));
        }
    }
    Ok(())
}

fn count(counts: &mut RoundCounts, seed: u64, failures: &[Failure]) {
    counts.rounds += 1;
    counts.failed += u64::from(!failures.is_empty());
    let kinds: std::collections::BTreeSet<&String> = failures.iter().map(|failure| &failure.kind).collect();
    for kind in kinds {
        counts.kinds.entry(kind.clone()).or_insert((0, seed)).0 += 1;
    }
}

/// Report of a failed round.
fn describe(seed: u64, settings: &BatchSettings, lines: &[String], failures: &[Failure]) -> String {
    let version = settings
        .version
        .map_or_else(|| "15 of Debian".to_owned(), |version| version.to_string());
    let role = if settings.odd_role {
        ", role with odd settings"
    } else {
        ""
    };
    let mut text = format!(
        "seed {seed} fails (PostgreSQL {version}, envelope {}{role})\n",
        settings.envelope
    );
    for failure in failures {
        let _ = writeln!(text, "- {}\n  {}", failure.kind, failure.detail);
    }
    for line in lines {
        let _ = writeln!(text, "    {}", line.replace('\n', " "));
    }
    let _ = writeln!(text, "make tables SEED={seed} repeats it");
    text
}
