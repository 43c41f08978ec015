//! Every scenario: black box, against the real binary, a real PostgreSQL and doubles of AWS over HTTP.
//!
//! One file per promise. A scenario is an `async fn()` whose name is a sentence and whose panic is its report.

// The panic of a scenario is its report, and these are no #[test] functions that clippy would know.
#![allow(clippy::unwrap_used)]

mod acknowledged;
mod actions;
mod aggregation;
mod backfill;
mod backfill_altered;
mod backfill_bounds;
mod backfill_keys;
mod backfill_published;
mod backfill_refused;
mod backfill_repair;
mod backfill_visible;
mod backlog;
mod breaker;
mod cluster;
mod config_errors;
mod confirm;
mod consumer;
mod crash;
mod envelopes;
mod failover;
mod fake_kinesis;
mod filtered;
mod frozen;
mod gap;
mod harness;
mod hazards;
mod huge;
mod idle;
mod interleaved;
mod key_changes;
mod keyless;
mod limits;
mod marks;
mod omit;
mod order;
mod oversize;
mod pgbench;
mod plan;
mod poison;
mod producer;
mod random_kills;
mod refusal;
mod resumed;
mod second_drainer;
mod server_crash;
mod set_back;
mod standby;
mod startup;
mod storm;
mod third_party_consumers;
mod tls;
mod toast;
mod truncate;
mod types;
mod versions;

use std::collections::BTreeSet;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};

/// Longer than any scenario takes on a slow machine: one that hangs fails by name.
const LIMIT: Duration = Duration::from_secs(300);

/// The named functions of a module as trials, called `module::function`.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// The scenarios of this file.
        pub(crate) fn all() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::trial(concat!(module_path!(), "::", stringify!($name)), $name)),*]
        }
    };
}

/// A scenario as a trial of that name.
fn trial<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    scenario: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    let name = name.trim_start_matches("scenarios::").to_owned();
    Trial::test(name, move || {
        scenarios::block_on(async {
            // A task, which is not the one that waits: a fixture that is dropped waits for servers, and would
            // take the wake-ups of what the scenario has joined with it.
            let finished = tokio::spawn(tokio::time::timeout(LIMIT, Box::pin(scenario()))).await;
            let finished = finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            finished.map_err(|_| format!("not finished after {} s", LIMIT.as_secs()).into())
        })
    })
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each has its own database, slot and stream, and waits much, but they share the cores with three servers.
    arguments.test_threads = arguments.test_threads.or(Some(3));
    // Where it was, and why; a backtrace would lead through tokio and back here.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    libtest_mimic::run(&arguments, all()).exit();
}

/// What they are called.
fn names() -> BTreeSet<String> {
    all().iter().map(|trial| trial.name().to_owned()).collect()
}

fn all() -> Vec<Trial> {
    let all = [
        consumer::all(),
        harness::all(),
        hazards::all(),
        fake_kinesis::all(),
        cluster::all(),
        breaker::all(),
        acknowledged::all(),
        actions::all(),
        aggregation::all(),
        backfill::all(),
        backfill_altered::all(),
        backfill_bounds::all(),
        backfill_keys::all(),
        backfill_published::all(),
        backfill_refused::all(),
        backfill_repair::all(),
        backfill_visible::all(),
        config_errors::all(),
        confirm::all(),
        crash::all(),
        envelopes::all(),
        failover::all(),
        filtered::all(),
        frozen::all(),
        gap::all(),
        huge::all(),
        pgbench::all(),
        plan::all(),
        idle::all(),
        interleaved::all(),
        key_changes::all(),
        keyless::all(),
        omit::all(),
        order::all(),
        limits::all(),
        storm::all(),
        third_party_consumers::all(),
        oversize::all(),
        poison::all(),
        random_kills::all(),
        resumed::all(),
        second_drainer::all(),
        server_crash::all(),
        set_back::all(),
        standby::all(),
        startup::all(),
        tls::all(),
        toast::all(),
        truncate::all(),
        types::all(),
        versions::all(),
    ];
    all.into_iter().flatten().collect()
}
