//! The kubelet's `/metrics/cadvisor` of the node, by cadvisor.md 2: containerd, cgroupfs, cgroup v2. Kata pods are there as the
//! kubelet sees them: a pod cgroup, the VM under the name of the pause container, its network twice, no container.

use crate::exposition::{Page, Standard, cpu_and_memory, memory_by_use, network, workload};
use crate::truth::{AGE_SECONDS, Interface, PAUSE_IMAGE, Pod, Runtime, World};

/// The page at `now` seconds of the test.
pub fn page(world: &World, now: f64) -> String {
    let mut page = Page::default();
    node_rows(&mut page, world, now);
    for pod in &world.pods {
        pod_row(&mut page, pod, now);
        if pod.runtime.is_kata() {
            sandbox_rows_of_kata(&mut page, pod, now);
        } else {
            sandbox_rows_of_runc(&mut page, pod, now);
            for container in &pod.containers {
                if let Some(life) = container.life_at(now) {
                    workload(&mut page, pod, container, life, now);
                }
            }
        }
    }
    page.print()
}

/// The page with the gate PodAndContainerStatsFromCRI, by cadvisor.md 6.3: containers of all runtimes with the bare id and
/// no name, CPU in whole seconds, of a sandbox the network alone, nothing of the pod's cgroup.
pub fn page_from_cri(world: &World, now: f64) -> String {
    let mut page = Page::default();
    for pod in &world.pods {
        let of = format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
        let sandbox = format!("{of},container=\"\",image=\"\",id=\"{}\"", pod.sandbox_id);
        for interface in &pod.interfaces {
            network(&mut page, &sandbox, interface.name, rates(interface), now + AGE_SECONDS);
        }
        for container in &pod.containers {
            let Some(life) = container.life_at(now) else { continue };
            let image = container.image();
            let labels = format!("{of},container=\"{}\",image=\"{image}\",id=\"{}\"", container.name, life.id);
            let seconds = (container.cpu * (now - life.from)).floor();
            page.counter("container_cpu_usage_seconds_total", &labels, seconds);
            page.gauge("container_memory_working_set_bytes", &labels, container.working_set);
            memory_by_use(&mut page, &labels, container);
        }
    }
    page.print()
}

fn node_rows(page: &mut Page, world: &World, now: f64) {
    let age = now + AGE_SECONDS;
    let all: f64 = world.pods.iter().map(Pod::host_cpu).sum();
    let memory: f64 = world.pods.iter().map(Pod::host_memory).sum();
    for (id, part) in [("/", 1.2), ("/kubepods", 1.0), ("/kubepods/burstable", 1.0)] {
        let of = Standard { container: "", id, image: "", name: "", namespace: "", pod: "" };
        cpu_and_memory(page, &of, all * part * age, memory * part);
        if id == "/" {
            network(page, &of.with(""), "eth0", [90_000.0, 80_000.0, 90.0, 80.0, 0.0, 0.0], age);
        }
    }
    page.gauge("machine_cpu_cores", "machine_id=\"m\"", world.cpu_allocatable.ceil());
}

/// The cgroup of the pod: what it costs the host.
fn pod_row(page: &mut Page, pod: &Pod, now: f64) {
    let id = pod.cgroup();
    let of = Standard { container: "", id: &id, image: "", name: "", namespace: pod.namespace, pod: pod.name };
    cpu_and_memory(page, &of, pod.host_cpu() * (now + AGE_SECONDS), pod.host_memory());
    page.gauge("container_memory_rss", &of.with(""), pod.host_memory() * 0.1);
    page.gauge("container_memory_cache", &of.with(""), pod.host_memory() * 0.9);
    page.gauge("container_memory_swap", &of.with(""), 0.0);
}

fn sandbox_rows_of_runc(page: &mut Page, pod: &Pod, now: f64) {
    let id = pod.container_path(&pod.sandbox_id);
    let of = sandbox(pod, &id);
    cpu_and_memory(page, &of, pod.extra_cpu * (now + AGE_SECONDS), pod.extra_memory);
    for interface in &pod.interfaces {
        network(page, &of.with(""), interface.name, rates(interface), now + AGE_SECONDS);
    }
}

/// The VM in the pause container's place; with the Go shim a second row for what lies in the overhead cgroup, which
/// has the same container id and therefore, as far as cAdvisor's code tells, the same interfaces.
fn sandbox_rows_of_kata(page: &mut Page, pod: &Pod, now: f64) {
    let inside = match pod.runtime {
        Runtime::KataGo | Runtime::KataGoOldGuest => pod.container_path(&format!("kata_{}", pod.sandbox_id)),
        Runtime::KataRust | Runtime::Runc => pod.container_path(&pod.sandbox_id),
    };
    let outside = format!("/kata_overhead/{}", pod.sandbox_id);
    vm_rows(page, pod, &inside, 0.95, now);
    if pod.runtime != Runtime::KataRust {
        vm_rows(page, pod, &outside, 0.05, now);
    }
}

fn vm_rows(page: &mut Page, pod: &Pod, id: &str, part: f64, now: f64) {
    let (of, age) = (sandbox(pod, id), now + AGE_SECONDS);
    cpu_and_memory(page, &of, pod.host_cpu() * part * age, pod.host_memory() * part);
    page.gauge("container_memory_rss", &of.with(""), pod.host_memory() * part * 0.1);
    page.gauge("container_memory_cache", &of.with(""), pod.host_memory() * part * 0.9);
    page.gauge("container_memory_swap", &of.with(""), 0.0);
    page.counter("container_fs_writes_bytes_total", &of.with("device=\"/dev/sda\""), 100.0 * age);
    for interface in &pod.interfaces {
        network(page, &of.with(""), interface.name, rates(interface), age);
        network(page, &of.with(""), "tap0_kata", mirrored(interface), age);
    }
}

fn sandbox<'a>(pod: &'a Pod, id: &'a str) -> Standard<'a> {
    let name = &pod.sandbox_id;
    Standard { container: "", id, image: PAUSE_IMAGE, name, namespace: pod.namespace, pod: pod.name }
}

/// In the order of [`network`].
fn rates(of: &Interface) -> [f64; 6] {
    [of.rx_bytes, of.tx_bytes, of.rx_packets, of.tx_packets, of.rx_dropped, of.tx_dropped]
}

/// What a pod receives, its tap transmits.
fn mirrored(of: &Interface) -> [f64; 6] {
    [of.tx_bytes, of.rx_bytes, of.tx_packets, of.rx_packets, of.tx_dropped, of.rx_dropped]
}
