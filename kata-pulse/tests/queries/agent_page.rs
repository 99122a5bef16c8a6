//! Prints what the agent prints for the node's Kata pods, by interface.md and cadvisor.md 5.6.

use crate::exposition::{Page, Standard, cpu_and_memory, network, workload};
use crate::truth::{AGE_SECONDS, Pod, World};

/// What `--levels` and `--disable-metrics` leave.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    pub pods: bool,
    pub containers: bool,
    pub network: bool,
}

impl Shown {
    pub const ALL: Self = Self { pods: true, containers: true, network: true };
    /// `--levels container --disable-metrics network`.
    pub const FOR_KUBELETS_JOB: Self = Self { pods: false, containers: true, network: false };
    /// `--levels pod --disable-metrics network`.
    pub const PODS: Self = Self { pods: true, containers: false, network: false };

    pub fn flags(self) -> Vec<&'static str> {
        let mut flags = match (self.pods, self.containers) {
            (true, false) => vec!["--levels", "pod"],
            (false, true) => vec!["--levels", "container"],
            _ => Vec::new(),
        };
        if !self.network {
            flags.extend(["--disable-metrics", "network"]);
        }
        flags
    }
}

pub fn page(world: &World, shown: Shown, now: f64) -> String {
    let mut page = Page::default();
    page.gauge("kata_pulse_build_info", "ebpf=\"absent\",revision=\"\",version=\"0.1.0\"", 1.0);
    for pod in world.pods.iter().filter(|pod| pod.runtime.is_kata()) {
        pod_rows(&mut page, pod, shown, now);
        for container in pod.containers.iter().filter(|_| shown.containers) {
            if let Some(life) = container.life_at(now) {
                workload(&mut page, pod, container, life, now);
            }
        }
    }
    page.print()
}

fn pod_rows(page: &mut Page, pod: &Pod, shown: Shown, now: f64) {
    let id = format!("{}/kata-pulse", pod.cgroup());
    let of = Standard { container: "", id: &id, image: "", name: "", namespace: pod.namespace, pod: pod.name };
    if shown.pods {
        cpu_and_memory(page, &of, pod.guest.cpu * (now + AGE_SECONDS), pod.host_memory());
    }
    if shown.network {
        let bytes = pod.guest.network_bytes;
        network(page, &of.with(""), "eth0", [bytes, bytes, 0.0, 0.0, 0.0, 0.0], now + AGE_SECONDS);
    }
    let info = format!("namespace=\"{}\",pod=\"{}\",sandbox_id=\"{}\"", pod.namespace, pod.name, pod.sandbox_id);
    page.gauge("kata_sandbox_info", &info, 1.0);
}
