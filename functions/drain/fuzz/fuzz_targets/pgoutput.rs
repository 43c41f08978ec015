//! Rows of pgoutput.
#![no_main]

use drain_fuzz::{checks, decode::Plugin, mutate, tell_at_the_end};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(init: tell_at_the_end(), |input: &[u8]| {
    checks::rows(Plugin::Pgoutput, input);
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed)
});
