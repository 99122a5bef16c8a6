//! A command line that any process may have given itself.
#![no_main]

use std::path::Path;

use kata_pulse::discover::hypervisor::classify;
use kata_pulse::discover::process::parse_arguments;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let arguments = parse_arguments(bytes);
    for name in ["/x/qemu-system-x86_64", "/x/containerd-shim-kata-v2", "/firecracker", "/x/virtiofsd", "/x/openvmm"] {
        let _ = classify(Path::new(name), &arguments);
    }
});
