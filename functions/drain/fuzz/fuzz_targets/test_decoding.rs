//! Fuzz target: the rows of one peek, as test_decoding writes them.
#![no_main]

use drain_fuzz::{checks, mutate, plugin::Plugin, report_allocations_at_exit};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(init: report_allocations_at_exit(), |input: &[u8]| {
    checks::rows(Plugin::TestDecoding, input);
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed)
});
