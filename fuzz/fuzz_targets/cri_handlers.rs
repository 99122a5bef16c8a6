//! The runtime's configuration, out of which programs become ones that may be asked.
#![no_main]

use kata_pulse::collect::cri::handlers::parse_handlers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(handlers) = parse_handlers(bytes) {
        assert!(handlers.by_name.len() <= 256);
        assert!(handlers.kata_shims().iter().all(|shim| shim.is_absolute()));
    }
});
