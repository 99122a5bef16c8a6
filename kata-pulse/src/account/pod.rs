//! The pod as a whole by the host's numbers, where the guest's cannot be had.

use super::cost::resident_bytes;
use crate::model::{HostReading, InterfaceStats, Stats, TrafficReading, TrafficStats};

/// What the sandbox's processes use, in cAdvisor's words. Time in the guest is user time to the host.
pub fn pod_stats(host: &HostReading) -> Stats {
    let mut stats = Stats::default();
    let cpu: Vec<_> = host.roles.iter().filter_map(|role| role.cpu).collect();
    if !cpu.is_empty() {
        stats.cpu.usage_seconds = Some(cpu.iter().map(|cpu| cpu.total()).sum());
        stats.cpu.user_seconds = Some(cpu.iter().map(|cpu| cpu.user + cpu.guest).sum());
        stats.cpu.system_seconds = Some(cpu.iter().map(|cpu| cpu.system).sum());
    }
    let resident = resident_bytes(host);
    stats.memory.usage_bytes = resident;
    // No page cache is among what processes hold.
    stats.memory.working_set_bytes = resident;
    stats.memory.rss_bytes = resident;
    stats.memory.swap_bytes = host.roles.iter().filter_map(|role| role.memory.swap_bytes).reduce(|one, two| one + two);
    let major = host.roles.iter().filter_map(|role| role.major_faults).reduce(|one, two| one + two);
    let minor = host.roles.iter().filter_map(|role| role.minor_faults).reduce(|one, two| one + two);
    stats.memory.major_page_faults = major;
    stats.memory.page_faults = major.zip(minor).map(|(major, minor)| major + minor);
    stats.processes.threads = host.roles.iter().filter_map(|role| role.threads).reduce(|one, two| one + two);
    if !host.network.is_hosts {
        let own = host.network.interfaces.iter().filter(|interface| !interface.is_tap);
        let interfaces = own.map(|interface| InterfaceStats {
            name: interface.name.as_str().into(),
            receive: traffic(interface.receive),
            transmit: traffic(interface.transmit),
        });
        stats.interfaces = interfaces.collect();
    }
    stats
}

fn traffic(of: TrafficReading) -> TrafficStats {
    TrafficStats { bytes: Some(of.bytes), packets: Some(of.packets), errors: Some(of.errors), dropped: Some(of.drops) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InterfaceReading, MemoryNow, NetworkReading, RoleReading};
    use crate::sandbox::{CpuTimes, HostRole};

    #[test]
    fn the_pod_is_all_its_processes_and_its_interface_once() {
        let role = |role, cpu| RoleReading {
            cpu: Some(cpu),
            memory: MemoryNow { rss_bytes: Some(10.0), held_bytes: Some(7.0), ..MemoryNow::default() },
            ..RoleReading::of(role)
        };
        let traffic = TrafficReading { bytes: 5.0, ..TrafficReading::default() };
        let interface = |name: &str, is_tap| InterfaceReading {
            name: name.to_owned(),
            is_tap,
            receive: traffic,
            transmit: traffic,
            qdisc_drops: None,
        };
        let interfaces = vec![interface("eth0", false), interface("tap0_kata", true)];
        let host = HostReading {
            roles: vec![
                role(HostRole::Vmm, CpuTimes { user: 1.0, system: 2.0, guest: 4.0 }),
                role(HostRole::Shim, CpuTimes { user: 0.5, system: 0.25, guest: 0.0 }),
            ],
            network: NetworkReading { is_hosts: false, interfaces },
            ..HostReading::default()
        };
        let stats = pod_stats(&host);
        assert_eq!(stats.cpu.usage_seconds, Some(7.75));
        assert_eq!((stats.cpu.user_seconds, stats.cpu.system_seconds), (Some(5.5), Some(2.25)));
        assert_eq!(stats.memory.working_set_bytes, Some(14.0));
        assert_eq!(stats.interfaces.len(), 1);
        assert_eq!(pod_stats(&HostReading::default()), Stats::default());
    }
}
