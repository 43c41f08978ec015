//! Parts that scenarios, the demo and the benchmarks share.
//!
//! - [`postgres`]: real servers, clusters that fail over, and a TCP proxy.
//! - [`aws`]: emulators and a fake of the AWS services, and a proxy that injects faults.
//! - [`lambda`]: the real binary, driven over the Lambda Runtime API.
//! - [`consumer`]: a consumer that rebuilds tables from the stream, and the comparison with PostgreSQL.
//! - [`conformance`]: the comparison of events with those of Debezium Server and wal2json.
//! - [`fixture`]: all of these for one scenario. Most scenarios need only this.
//! - [`cpu_quota`]: a share of one core, as Lambda gives it.
//! - [`process_usage`]: CPU time and memory of processes, for the benchmarks.
//! - [`random_play`]: random workloads and faults, for the longer runs of `play`.
//! - [`random_tables`]: a property test of rows and keys, with tables, writes and DDL of a seed.
//!
//! A part that fails panics with a sentence about the cause: the panic is the scenario's report. Servers and
//! processes listen on loopback, on a free port. They end with the process that started them, even when it is
//! killed (see [`watchdog`]).

pub mod aws;
pub mod conformance;
pub mod consumer;
pub mod cpu_quota;
pub mod fixture;
pub mod lambda;
mod loopback_server;
pub mod postgres;
pub mod process_usage;
pub mod random_play;
pub mod random_tables;
pub mod variables;
pub mod wait;
pub mod watchdog;
pub mod zipf;

use std::num::NonZero;
use std::sync::OnceLock;

/// Runs a scenario, or a whole program, on the shared tokio runtime.
///
/// There is only one runtime, because connections that scenarios share last longer than any scenario.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            // A scenario that compares 100 MB of events takes a worker for many seconds. With four workers,
            // three such scenarios once stopped the clients of all others for 20 s. There are at most two
            // scenarios and a half for each core at once.
            let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(6 * cores)
                .enable_all()
                .build()
                .expect("a tokio runtime starts")
        })
        .block_on(future)
}

/// Runs `future` to its end inside a `drop`, which cannot await.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

/// Name that no other running process uses.
///
/// It consists of letters, digits and underscores.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "{prefix}_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A file or folder, by its path from the project's root.
pub fn project_path(path: &str) -> std::path::PathBuf {
    // The manifest is in the folder `tests`.
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("")
        .join(path)
}

/// A program of this workspace in the target folder: beside this program, or one above this test.
///
/// # Panics
/// It is not built.
pub fn built_program(name: &str) -> std::path::PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut candidates = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name));
    let found = candidates.find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no {name} beside {}: `cargo build --workspace --bins` builds it",
            program.display()
        )
    })
}
