//! JSON and paths from a container runtime.
#![no_main]

use kata_pulse::collect::cri::parse::{details_of_spec, details_of_status, pod_cgroup};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = (details_of_spec(bytes), details_of_status(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(pod_cgroup(text).is_none_or(|path| path.starts_with('/')));
    }
});
