//! Kata's state files.
#![no_main]

use kata_pulse::discover::state_files::{parse_go, parse_rust};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = (parse_go(bytes), parse_rust(bytes));
});
