//! What a sandbox costs beyond its workload. In: host readings with the workload's numbers beside them. Out: [`CostStats`].

use std::collections::HashMap;

use crate::model::{CostStats, GuestStats, HostReading, RoleReading};
use crate::sandbox::{ContainerId, HostRole};

/// More containers than any pod has; what a peer says beyond them is not remembered.
const MAX_CONTAINERS: usize = 1024;

/// When something was read, in seconds since boot.
pub type Moment = f64;

/// The containers' numbers by the runtime, all read together.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    pub at: Moment,
    /// CPU that each has used so far.
    pub cpu_seconds: Vec<(ContainerId, f64)>,
    /// Each container that runs is among them.
    pub is_whole: bool,
    /// Working set of those that run; `None`: one of them did not tell.
    pub memory_bytes: Option<f64>,
}

/// Per sandbox. Counters never fall.
#[derive(Debug, Default)]
pub struct CostBook {
    last: Option<(Moment, f64)>,
    last_memory: Option<(Moment, f64)>,
    /// The most that was read.
    most_memory: f64,
    containers: HashMap<ContainerId, f64>,
    /// When the workload's numbers were taken that were counted last.
    counted: Option<Moment>,
    stats: CostStats,
}

impl CostBook {
    pub fn declare(&mut self, memory_bytes: Option<f64>, cpu_cores: Option<f64>) {
        (self.stats.declared_memory_bytes, self.stats.declared_cpu_cores) = (memory_bytes, cpu_cores);
    }

    /// Takes a reading of the host, and what guest and workload said last.
    pub fn update(
        &mut self,
        at: Moment,
        host: &HostReading,
        workload: Option<&Workload>,
        guest: Option<&GuestStats>,
    ) -> CostStats {
        let cpu: Option<f64> = host.roles.iter().map(|role| role.cpu).map(|cpu| cpu.map(|cpu| cpu.total())).sum();
        if let (Some(cpu), Some(workload)) = (cpu, workload) {
            self.overhead_cpu(at, cpu, workload);
        }
        self.last = cpu.map(|cpu| (at, cpu)).or(self.last);
        let resident = resident_bytes(host);
        self.hold(at, resident);
        let containers = workload.and_then(|workload| workload.memory_bytes);
        self.stats.overhead_memory_bytes = resident.zip(containers).map(|(host, containers)| host - containers);
        self.stats.reclaimable_bytes = reclaimable(host, guest);
        self.stats.clone()
    }

    /// The containers' numbers are older than the host's: compared is what the host had at their time. A container that
    /// was restarted adds up; the counter rises when a difference is higher than all before.
    fn overhead_cpu(&mut self, at: Moment, cpu: f64, workload: &Workload) {
        // What a container used while nobody told would count as overhead for good.
        if self.counted == Some(workload.at) || workload.cpu_seconds.is_empty() || !workload.is_whole {
            return;
        }
        for (id, seconds) in &workload.cpu_seconds {
            if self.containers.len() < MAX_CONTAINERS || self.containers.contains_key(id) {
                let known = self.containers.entry(id.clone()).or_default();
                *known = known.max(*seconds);
            }
        }
        let host = match self.last {
            Some((before, had)) if before < at && workload.at > before => {
                had + (cpu - had) * ((workload.at - before) / (at - before)).min(1.0)
            }
            Some((_, had)) if workload.at <= at => had,
            _ => cpu,
        };
        self.counted = Some(workload.at);
        let overhead = host - self.containers.values().sum::<f64>();
        let before = self.stats.overhead_cpu_seconds.unwrap_or(0.0);
        self.stats.overhead_cpu_seconds = Some(before.max(overhead));
    }

    fn hold(&mut self, at: Moment, resident: Option<f64>) {
        if let Some((before, held)) = self.last_memory {
            *self.stats.memory_byte_seconds.get_or_insert(0.0) += held * (at - before).max(0.0);
        }
        if let Some(resident) = resident {
            self.most_memory = self.most_memory.max(resident);
            self.stats.memory_byte_seconds.get_or_insert(0.0);
        }
        // With no process there is nothing that holds any.
        let is_known = resident.is_some() || self.last_memory.is_some();
        self.last_memory = is_known.then(|| (at, resident.unwrap_or(0.0)));
    }

    /// The last words: until `at` it held what it held last, and half of what it held more at some moment that nobody
    /// saw; never looked at, its peak since it began.
    pub fn close(&mut self, at: Moment, began: Option<Moment>, peak_bytes: Option<f64>) -> CostStats {
        match &mut self.last_memory {
            Some((_, held)) if *held > 0.0 => {
                let unseen = peak_bytes.filter(|&peak| peak > self.most_memory);
                *held += unseen.map_or(0.0, |peak| (peak - *held) / 2.0);
            }
            Some(_) => {}
            None => self.last_memory = began.zip(peak_bytes),
        }
        self.hold(at, None);
        self.last_memory = None;
        self.stats.overhead_memory_bytes = None;
        self.stats.reclaimable_bytes = None;
        self.stats.clone()
    }
}

/// Memory that the sandbox's processes hold on the host: in proportion where that was read, else resident without the
/// file server, which maps the guest's memory a second time. Threads of the kernel's have none.
pub fn resident_bytes(host: &HostReading) -> Option<f64> {
    let holds = |role: &&RoleReading| role.role != HostRole::Vhost && role.memory.rss_bytes.is_some();
    let living = || host.roles.iter().filter(holds);
    let proportional: Option<f64> = living().map(|role| role.memory.held_bytes).sum();
    let others = || living().filter(|role| role.role != HostRole::Virtiofsd);
    living().next()?;
    proportional.or_else(|| others().map(|role| role.memory.rss_bytes).sum())
}

fn reclaimable(host: &HostReading, guest: Option<&GuestStats>) -> Option<f64> {
    let vmm = host.roles.iter().find(|role| role.role == HostRole::Vmm)?;
    let held = vmm.memory.rss_bytes?;
    let [total, free, ..] = guest?.memory_bytes;
    let used = (total? - free?).max(0.0);
    // Much less is there where the guest's memory is not mapped by its VMM: confidential guests, huge pages.
    (held >= used / 2.0).then_some((held - used).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MemoryNow;
    use crate::sandbox::CpuTimes;

    fn role(role: HostRole, cpu: f64, rss: f64, pss: Option<f64>) -> RoleReading {
        RoleReading {
            cpu: Some(CpuTimes { user: cpu, ..CpuTimes::default() }),
            memory: MemoryNow { rss_bytes: Some(rss), held_bytes: pss, ..MemoryNow::default() },
            ..RoleReading::of(role)
        }
    }

    fn host(cpu: f64) -> HostReading {
        HostReading { roles: vec![role(HostRole::Vmm, cpu, 1000.0, Some(800.0))], ..HostReading::default() }
    }

    fn workload(at: Moment, cpu: &[(&str, f64)]) -> Workload {
        let cpu_seconds = cpu.iter().map(|(id, cpu)| (ContainerId::parse(id).unwrap(), *cpu)).collect();
        Workload { at, cpu_seconds, is_whole: true, memory_bytes: Some(300.0) }
    }

    #[test]
    fn the_host_is_compared_at_the_time_of_the_containers() {
        let mut book = CostBook::default();
        book.update(0.0, &host(10.0), None, None);
        // Half way between the readings the host had 15, of which 14 were the container's.
        let stats = book.update(10.0, &host(20.0), Some(&workload(5.0, &[("c1", 14.0)])), None);
        assert_eq!(stats.overhead_cpu_seconds, Some(1.0));
        let stale = book.update(20.0, &host(30.0), Some(&workload(5.0, &[("c1", 14.0)])), None);
        assert_eq!(stale.overhead_cpu_seconds, Some(1.0), "old numbers say nothing new");
    }

    #[test]
    fn overhead_never_falls_and_a_restarted_container_adds_up() {
        let mut book = CostBook::default();
        let first = book.update(1.0, &host(10.0), Some(&workload(1.0, &[("c1", 4.0)])), None);
        assert_eq!(first.overhead_cpu_seconds, Some(6.0));
        let lie = book.update(2.0, &host(11.0), Some(&workload(2.0, &[("c1", 1000.0)])), None);
        assert_eq!(lie.overhead_cpu_seconds, Some(6.0));
        let mut book = CostBook::default();
        book.update(1.0, &host(10.0), Some(&workload(1.0, &[("c1", 4.0)])), None);
        let again = book.update(2.0, &host(12.0), Some(&workload(2.0, &[("c2", 1.0)])), None);
        assert_eq!(again.overhead_cpu_seconds, Some(7.0));
        let silent = Workload { is_whole: false, ..workload(3.0, &[("c2", 1.0)]) };
        assert_eq!(book.update(3.0, &host(92.0), Some(&silent), None).overhead_cpu_seconds, Some(7.0));
        let told = book.update(4.0, &host(93.0), Some(&workload(4.0, &[("c2", 1.0), ("c3", 80.0)])), None);
        assert_eq!(told.overhead_cpu_seconds, Some(8.0));
    }

    #[test]
    fn memory_is_held_from_reading_to_reading_and_to_the_end() {
        let mut book = CostBook::default();
        book.update(0.0, &host(0.0), None, None);
        assert_eq!(book.update(2.0, &host(0.0), None, None).memory_byte_seconds, Some(1600.0));
        assert_eq!(book.close(3.0, None, Some(700.0)).memory_byte_seconds, Some(2400.0));
        let mut grown = CostBook::default();
        grown.update(0.0, &host(0.0), None, None);
        assert_eq!(grown.close(2.0, None, Some(4800.0)).memory_byte_seconds, Some(5600.0), "a mean of 2800");
        let mut dead = CostBook::default();
        dead.update(0.0, &host(0.0), None, None);
        for at in [2.0, 17.0, 32.0] {
            let stats = dead.update(at, &HostReading::default(), None, None);
            assert_eq!(stats.memory_byte_seconds, Some(1600.0), "nobody holds anything");
        }
        assert_eq!(dead.close(40.0, None, Some(5000.0)).memory_byte_seconds, Some(1600.0));
        let mut unseen = CostBook::default();
        assert_eq!(unseen.close(3.0, Some(1.0), Some(500.0)).memory_byte_seconds, Some(1000.0));
        assert_eq!(CostBook::default().close(3.0, Some(1.0), None).memory_byte_seconds, None);
    }

    #[test]
    fn memory_shared_with_the_file_server_counts_once() {
        let roles = |pss| vec![role(HostRole::Vmm, 0.0, 1000.0, pss), role(HostRole::Virtiofsd, 0.0, 900.0, pss)];
        let vhost = RoleReading {
            memory: MemoryNow { rss_bytes: Some(0.0), ..MemoryNow::default() },
            ..RoleReading::of(HostRole::Vhost)
        };
        let reading = |pss| HostReading {
            roles: roles(pss).into_iter().chain([vhost.clone()]).collect(),
            ..HostReading::default()
        };
        assert_eq!(resident_bytes(&reading(Some(500.0))), Some(1000.0));
        assert_eq!(resident_bytes(&reading(None)), Some(1000.0));
        assert_eq!(resident_bytes(&HostReading::default()), None);
    }

    #[test]
    fn what_the_guest_freed_is_what_the_host_holds_beyond_its_use() {
        let mut guest = GuestStats::default();
        (guest.memory_bytes[0], guest.memory_bytes[1]) = (Some(2000.0), Some(1400.0));
        assert_eq!(reclaimable(&host(0.0), Some(&guest)), Some(400.0));
        guest.memory_bytes[1] = Some(0.0);
        assert_eq!(reclaimable(&host(0.0), Some(&guest)), Some(0.0));
        guest.memory_bytes[0] = Some(2001.0);
        assert_eq!(reclaimable(&host(0.0), Some(&guest)), None, "its memory is elsewhere");
        assert_eq!(reclaimable(&host(0.0), None), None);
    }
}
