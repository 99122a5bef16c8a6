//! The kernel's own counts: which process belongs to which sandbox goes in, readings come out.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::collect::kernel::{KernelOptions, KernelView, ProgramGroup, Slot};
use crate::config::{Config, EbpfMode, EbpfPrograms, MetricKind};
use crate::model::KernelReading;
use crate::sandbox::{HostRole, Pid, Process};
use crate::telemetry::Own;

/// May take as long as the kernel takes to look at the programs. `None`: nothing is to count in the kernel. What the kernel
/// refuses is shown and costs its own families only.
pub async fn start(config: &Config, own: &Own) -> Option<Arc<KernelView>> {
    let programs = config.ebpf_programs.iter().filter_map(|program| match program {
        EbpfPrograms::Runqueue => Some(ProgramGroup::Runqueue),
        EbpfPrograms::Kvm => Some(ProgramGroup::Kvm),
        EbpfPrograms::Block => Some(ProgramGroup::Block),
        EbpfPrograms::Oom => Some(ProgramGroup::Oom),
        EbpfPrograms::None => None,
    });
    // What nobody is shown need not be counted; OOM kills also tell how a sandbox ended.
    let is_shown = !config.disabled.contains(&MetricKind::Ebpf);
    let programs = programs.filter(|program| is_shown || *program == ProgramGroup::Oom);
    let (procfs, sysfs) = (config.host.procfs.clone(), config.host.sysfs.clone());
    let options = KernelOptions { programs: programs.collect(), procfs, sysfs, ..KernelOptions::default() };
    if config.ebpf == EbpfMode::Off || options.programs.is_empty() {
        return None;
    }
    let view = match tokio::task::spawn_blocking(move || KernelView::start(&options)).await {
        Ok(view) => view,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "programs that count in the kernel could not be started");
            return None;
        }
    };
    for program in view.programs() {
        own.ebpf_program(program.name, program.attached, &program.reason);
    }
    Some(Arc::new(view))
}

/// Blocks, while the kernel detaches one after the other: not on a task, and waited for by nobody.
pub fn detach_aside(view: Arc<KernelView>) {
    let detaching = std::thread::Builder::new().name("detach".to_owned()).spawn(move || drop(view));
    if let Err(error) = detaching {
        warn!(error = &error as &dyn std::error::Error, "programs that count in the kernel are detached by a task");
    }
}

/// Shows how often the programs ran, and what they could not count.
pub fn show(view: &KernelView, own: &Own, lost_before: &mut u64) {
    for program in view.run_stats() {
        if let (Some(runs), Some(seconds)) = (program.runs, program.run_seconds) {
            own.ebpf_program_totals(program.name, runs, Duration::from_secs_f64(seconds.max(0.0)));
        }
    }
    let counted = view.counted();
    counted.iter().for_each(|counted| own.ebpf_events(counted.group.as_str(), counted.accounted));
    let lost = counted.iter().map(|counted| counted.lost).sum::<u64>();
    own.limited("kernel_counts", lost.saturating_sub(std::mem::replace(lost_before, lost)));
}

/// One sandbox in the kernel's books.
#[derive(Debug)]
pub struct Watched {
    view: Arc<KernelView>,
    slot: Slot,
    processes: Vec<Process>,
    /// vCPU threads that are told, by VMM.
    vcpus: Vec<(Pid, u32)>,
}

impl Watched {
    pub fn new(view: &Arc<KernelView>) -> Self {
        Self { view: view.clone(), slot: view.open(), processes: Vec::new(), vcpus: Vec::new() }
    }

    /// One that is told again is the same, and one that has ended already has nothing more to be counted.
    pub fn process_started(&mut self, process: &Process) {
        let is_told = self.processes.contains(process);
        let role = process.role.into();
        if !is_told && self.view.watch(self.slot, process.pid, process.start_ticks, role).is_ok() {
            self.processes.push(*process);
        }
    }

    pub fn process_ended(&mut self, process: &Process) {
        self.processes.retain(|told| told != process);
        self.vcpus.retain(|(of, _)| *of != process.pid);
        self.view.forget_process(self.slot, process.pid);
    }

    /// The threads that run the guest are known only when they have run it.
    pub fn vcpus(&mut self, threads: &[(Pid, u32)]) {
        for &(of, tid) in threads {
            if !self.vcpus.contains(&(of, tid)) && self.view.watch_thread(of, Pid(tid), HostRole::Vcpu).is_ok() {
                self.vcpus.push((of, tid));
            }
        }
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The last reading.
    pub fn free(self) -> KernelReading {
        self.view.free(self.slot)
    }
}
