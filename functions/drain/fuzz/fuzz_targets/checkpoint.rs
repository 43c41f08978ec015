//! Fuzz target: the text of a checkpoint.
#![no_main]

use drain_fuzz::{checks, report_allocations_at_exit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: report_allocations_at_exit(), |input: &[u8]| {
    checks::checkpoint(input);
});
