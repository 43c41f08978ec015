//! The pure modules of the crate `drain`, built for a fuzzer.
//!
//! The edges and their dependencies stay out. So all code is instrumented, and a build takes seconds.

extern crate self as drain;

#[path = "../../src"]
mod pure {
    pub mod base;
    pub mod catalog;
    pub mod change;
    pub mod config;
    pub mod continuity;
    pub mod decode;
    pub mod encode;
    pub mod invocation;
    pub mod plugin;
    pub mod rules;
}

pub mod checks;
mod mutation;

pub use mutation::mutate;
pub use pure::{base, catalog, change, config, continuity, decode, encode, invocation, plugin, rules};

/// Registers a report for the fuzzer's end: the most bytes allocated for one byte of input.
pub fn report_allocations_at_exit() {
    extern "C" fn report() {
        for (work, peak, total) in checks::largest_factors().filter(|(_, _, total)| *total > 0.0) {
            eprintln!(
                "{work}: at most {peak:.1} bytes at one time and {total:.1} in all for one byte of input"
            );
        }
    }
    unsafe extern "C" {
        fn atexit(report: extern "C" fn()) -> i32;
    }
    // SAFETY: `atexit` belongs to the C library. This calls it once, before the process ends.
    unsafe { atexit(report) };
}
