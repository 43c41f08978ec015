//! Spillway's drain, as far as it is pure, under a fuzzer: its own modules, without the edges and without what those are built
//! on, so that all of it is instrumented and a build takes seconds.

extern crate self as drain;

#[path = "../../src"]
mod pure {
    pub mod catalog;
    pub mod change;
    pub mod checkpoint;
    pub mod config;
    pub mod decode;
    pub mod encode;
    pub mod event;
    pub mod lsn;
    pub mod marker;
    pub mod position;
    pub mod time;
}

pub mod checks;
mod mutation;

pub use mutation::mutate;
pub use pure::{catalog, change, checkpoint, config, decode, encode, event, lsn, marker, position, time};

/// Prints, when the fuzzer ends, how much was allocated at most for a byte of the input.
pub fn tell_at_the_end() {
    extern "C" fn tell() {
        for (what, peak, total) in checks::most().filter(|(_, _, total)| *total > 0.0) {
            eprintln!("{what}: at most {peak:.1} bytes at one time and {total:.1} in all for a byte");
        }
    }
    unsafe extern "C" {
        fn atexit(tell: extern "C" fn()) -> i32;
    }
    // SAFETY: the C library's function, called once and before anything ends.
    unsafe { atexit(tell) };
}
