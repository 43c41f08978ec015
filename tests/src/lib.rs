//! Real parts for scenarios, the demo and benchmarks: PostgreSQL, doubles of AWS that speak its protocol, a Lambda
//! Runtime API which drives the real binary, and a consumer that holds it to its promise.
//!
//! A part that cannot do its work panics with a sentence that says what was missing: a scenario has nobody else to
//! tell, and goes no further. Every server and every process listens on loopback, on a port that was free, and goes
//! away with the process that started it, even when that is killed (see [`watchdog`]).
//!
//! Most scenarios need only a [`fixture::Fixture`].

pub mod aggregate;
pub mod certificates;
pub mod cluster;
pub mod consumer;
mod endpoint;
pub mod event;
pub mod fake_kinesis;
pub mod fault_proxy;
pub mod fixture;
pub mod function;
pub mod hash_range;
pub mod kinesis;
pub mod oracle;
pub mod pgbench;
pub mod postgres;
pub mod programs;
pub mod proxy;
pub mod put_log;
mod put_records;
pub mod random_play;
pub mod rebuild;
pub mod runtime_api;
pub mod ssm;
pub mod third_party;
pub mod value;
pub mod wait;
pub mod watchdog;
pub mod zipf;

use std::sync::OnceLock;

/// Runs one scenario (or a whole program) on the process's only tokio runtime.
///
/// One for all, because servers shared by scenarios live on it longer than any of them.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4)
                .enable_all()
                .build()
                .expect("a tokio runtime starts")
        })
        .block_on(future)
}

/// Runs `future` to its end inside a `drop`, which cannot wait otherwise.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

/// Unique in this process and among processes that run beside it; letters, digits and underscores.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "{prefix}_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
