//! What a program said when asked for its version, and the cgroups of a process.
#![no_main]

use kata_pulse::config::CgroupNamespace;
use kata_pulse::discover::{cgroup, shim_version};
use kata_pulse::sandbox::SandboxId;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = shim_version::parse(bytes);
    let paths = cgroup::parse_cgroups(bytes, &CgroupNamespace::beginning_at("/a/b"));
    if let Ok(id) = SandboxId::parse("sid") {
        let named = cgroup::candidates(&paths, &id);
        assert!(named.iter().all(|path| path.starts_with('/')));
        let _ = cgroup::is_inside(&paths, &named);
    }
});
