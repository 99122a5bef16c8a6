//! A record of the kernel's programs.
#![no_main]

use kata_pulse::discover::ebpf::KernelEvent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(event) = KernelEvent::parse(bytes) {
        let _ = (event.boot_ns(), event.origin());
    }
});
