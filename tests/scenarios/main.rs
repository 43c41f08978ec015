//! All scenarios: black-box tests of the real binary, with a real PostgreSQL and emulators of AWS over HTTP.
//!
//! One folder per subject, and one file per promise. A scenario is an `async fn()` whose name is a sentence.
//! It fails by a panic, and the message is the report.
//!
//! To add a file, write its `mod` line here and a [`scenarios!`] list in the file. The compiler reports a
//! function that no list names, and [`main`] refuses to run while a file has no `mod` line. Scenario files do
//! not import each other: shared helpers are in [`support`].

// A panic is the report of a scenario, and clippy allows it only in #[test] functions.
#![allow(clippy::unwrap_used)]

mod backfill {
    mod altered;
    mod bounds;
    mod keys;
    mod promises;
    mod published;
    mod refused;
    mod repair;
    mod ticks;
    mod visible;
}
mod consumers {
    mod consumer;
    mod examples;
    mod flink_sql;
    mod third_party;
}
mod continuity {
    mod confirm;
    mod crash;
    mod failover;
    mod foreign_slots;
    mod frozen;
    mod gap;
    mod hazards;
    mod random_kills;
    mod resumed;
    mod second_drainer;
    mod server_crash;
    mod set_back;
    mod standby;
}
mod events {
    mod conformance;
    mod control_events;
    mod envelopes;
    mod flat_rows;
    mod interleaved;
    mod oversize;
    mod oversize_messages;
    mod oversize_values;
    mod pgbench;
}
mod operation {
    mod actions;
    mod alarms;
    mod config_errors;
    mod idle;
    mod invoke_script;
    mod language;
    mod lingering;
    mod log_lines;
    mod own_publication;
    mod plan;
    mod proxies;
    mod secrets;
    mod session_settings;
    mod stack;
    mod startup;
    mod teardown;
    mod template;
    mod tls;
    mod try_it;
    mod versions;
}
mod plays {
    mod breaker;
    mod consolidation;
    mod storm;
}
mod rules {
    mod column_rules;
    mod filtered;
    mod omit;
    mod partition_keys;
    mod privacy;
    mod publications;
    mod silent_tables;
    mod skipped_operations;
    mod table_patterns;
    mod table_streams;
}
mod sending {
    mod acknowledged;
    mod aggregation;
    mod huge;
    mod limits;
    mod many_databases;
    mod order;
    mod overlap;
    mod poison;
    mod request_checks;
    mod slow_lane;
    mod stream_arn;
}
mod tables {
    mod catalog_types;
    mod former_identities;
    mod generated_columns;
    mod keys;
    mod many_tables;
    mod not_tables;
    mod odd_objects;
    mod partition_roots;
    mod past_identities;
    mod random_tables;
    mod toast;
    mod truncate;
    mod types;
}
mod support;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

/// Limit for a scenario on a slow machine. A scenario that hangs fails, and the report names it.
const LIMIT: Duration = Duration::from_secs(300);
/// Scenarios whose times are printed in the end.
const SLOWEST: usize = 20;

/// Time and name of each scenario that ended.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// One list of scenarios in one file.
struct ScenarioList {
    /// Path of the module that has the list.
    module: &'static str,
    /// Its scenarios as trials.
    trials: fn() -> Vec<Trial>,
}

inventory::collect!(ScenarioList);

/// Registers functions of this file as scenarios, called `folder::file::function`.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        inventory::submit! {
            $crate::ScenarioList {
                module: module_path!(),
                trials: || vec![$($crate::trial(module_path!(), stringify!($name), $name)),*],
            }
        }
    };
}

/// Registers slow functions of this file.
///
/// They take about a minute, or need large libraries. `make examples` runs them, and `make test` does not.
#[macro_export]
macro_rules! long_scenarios {
    ($($name:ident),* $(,)?) => {
        inventory::submit! {
            $crate::ScenarioList {
                module: module_path!(),
                trials: || {
                    vec![$($crate::trial(module_path!(), stringify!($name), $name).with_ignored_flag(true)),*]
                },
            }
        }
    };
}

/// Registers functions of this file that take a server version.
///
/// Each of them is registered once for each version that is installed.
///
/// Such a scenario is called `folder::file::function_on_VERSION`. A list may begin with the first version
/// that it suits: `version_scenarios![since 15: name]`.
#[macro_export]
macro_rules! version_scenarios {
    (since $first:literal: $($name:ident),* $(,)?) => {
        inventory::submit! {
            $crate::ScenarioList {
                module: module_path!(),
                trials: || {
                    let mut trials = Vec::new();
                    for version in scenarios::postgres::programs::VERSIONS {
                        if version >= $first {
                            $(
                                let name = format!("{}_on_{version}", stringify!($name));
                                trials.push($crate::trial(module_path!(), &name, move || $name(version)));
                            )*
                        }
                    }
                    trials
                },
            }
        }
    };
    ($($name:ident),* $(,)?) => {
        $crate::version_scenarios![since 14: $($name),*];
    };
}

/// A scenario as a trial of that name.
fn trial<F: Future<Output = ()> + Send + 'static>(
    module: &str,
    name: &str,
    scenario: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    let name = format!("{}::{name}", module.trim_start_matches("scenarios::"));
    Trial::test(name.clone(), move || {
        let began = Instant::now();
        let outcome = scenarios::block_on(async {
            // The scenario has its own task. A fixture that is dropped blocks while its servers stop, and in
            // the same task it would take the wake-ups of futures that are joined with it.
            let finished = tokio::spawn(tokio::time::timeout(LIMIT, Box::pin(scenario()))).await;
            let finished = finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            finished.map_err(|_| format!("not finished after {} s", LIMIT.as_secs()).into())
        });
        let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((began.elapsed(), name));
        outcome
    })
}

fn main() {
    assert_every_file_is_registered();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(concurrent_scenarios()));
    // The message and its location are enough: a backtrace has only frames of tokio and of this file.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let conclusion = libtest_mimic::run(&arguments, all());
    print_slowest();
    conclusion.exit();
}

/// Scenarios that run at once.
///
/// Each scenario has its own database, slot and stream, so any number could run. A scenario waits about half
/// of its time. On two cores, three at once left a third of the processor time idle and took 851 s. Five at
/// once left a twentieth idle and took 744 s.
fn concurrent_scenarios() -> usize {
    2 * std::thread::available_parallelism().map_or(2, NonZero::get) + 1
}

/// Prints the slowest scenarios of a run: they decide how long `make test` takes.
fn print_slowest() {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable_by(|one, other| other.cmp(one));
    if times.len() > SLOWEST {
        println!("slowest scenarios, in seconds:");
        for (time, name) in &times[..SLOWEST] {
            println!("{:>6.1} {name}", time.as_secs_f64());
        }
    }
}

/// Compares the files of the folders with the registered lists.
///
/// # Panics
/// A file has no `mod` line, which the compiler does not report, or it has no list.
fn assert_every_file_is_registered() {
    let root = scenarios::project_path("tests/scenarios");
    let registered: BTreeSet<&str> = inventory::iter::<ScenarioList>
        .into_iter()
        .map(|list| list.module.trim_start_matches("scenarios::"))
        .collect();
    for (folder, module) in entries(&root) {
        if module == "support" || !folder.is_dir() {
            continue;
        }
        for (file, name) in entries(&folder) {
            assert!(
                registered.contains(format!("{module}::{name}").as_str()),
                "{}: main.rs has no `mod {name};` in `mod {module}`, or the file has no list of scenarios",
                file.display()
            );
        }
    }
}

/// The entries of a folder, each with its name as a module.
fn entries(folder: &Path) -> Vec<(PathBuf, String)> {
    let paths = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path());
    paths
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            Some((path, name))
        })
        .collect()
}

/// Names of all scenarios.
fn names() -> BTreeSet<String> {
    all().iter().map(|trial| trial.name().to_owned()).collect()
}

/// All scenarios in the order of their names.
fn all() -> Vec<Trial> {
    let lists = inventory::iter::<ScenarioList>.into_iter();
    let mut trials: Vec<Trial> = lists.flat_map(|list| (list.trials)()).collect();
    trials.sort_by(|one, other| one.name().cmp(other.name()));
    trials
}
