//! Any bytes in place of what the kernel says of processes, cgroups and interfaces.
#![no_main]

use kata_pulse::collect::host::{cgroup, cgroup_files, network, nominal, parse};
use kata_pulse::sandbox::SandboxId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(stat) = parse::parse_stat(bytes) {
        let _ = (stat.is_dead(), parse::is_vcpu_name(stat.comm), parse::vhost_owner(stat.comm));
    }
    let _ = (parse::switches(bytes), parse::run_delay_ns(bytes), parse::open_files_limit(bytes));
    let _ = (cgroup_files::keyed(bytes, "oom_kill"), cgroup_files::pressure_us(bytes, "some"));
    for id in ["sid", "0"].iter().filter_map(|id| SandboxId::parse(id).ok()) {
        let places = cgroup::parse(bytes, &id);
        assert!(places.iter().all(|(_, path)| path.starts_with('/') && !path.split('/').any(|name| name == "..")));
    }
    for has_macvtap in [false, true] {
        assert!(network::parse(bytes, has_macvtap).is_none_or(|interfaces| interfaces.len() <= 32));
    }
    // The size of a guest's memory is bounded, whatever a command line says.
    assert!(nominal::parse(bytes).is_none_or(|bytes| bytes <= 1 << 56));
});
