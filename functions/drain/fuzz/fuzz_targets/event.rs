//! The text of an event.
#![no_main]

use drain_fuzz::{checks, tell_at_the_end};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: tell_at_the_end(), |input: &[u8]| checks::event(input));
