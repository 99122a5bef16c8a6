//! The answer to `/agent-url`, on which the decision to ask a shim is based.
#![no_main]

use kata_pulse::collect::shim::safety::{is_address, vmm_of_address};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && vmm_of_address(text).is_some()
    {
        assert!(is_address(text), "{text:?}");
    }
});
