//! The world as things that can be summed. In: a [`World`], a moment, what of it the set-up under test can show.
//! Out: [`Thing`]s with labels and measures; rates are per second.

use std::collections::BTreeMap;

use crate::truth::{CLUSTER, Container, INSTANCE, Interface, NODE, Pod, World};

pub type Labels = BTreeMap<&'static str, String>;

#[derive(Debug, Clone)]
pub struct Thing {
    pub labels: Labels,
    pub measures: BTreeMap<&'static str, f64>,
    pub host_network: bool,
    pub kata: bool,
}

/// What a query can see of the world.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Kata's containers are where the query looks.
    pub kata_containers: bool,
    /// The agent's own rows of pods are there too.
    pub agents_pods: bool,
}

/// Measures that do not grow.
pub fn is_gauge(measure: &str) -> bool {
    !matches!(measure, "cpu" | "throttled" | "periods" | "cpu_and_pod_row" | "guest_cpu" | "reads" | "writes")
        && !measure.ends_with("_bytes")
        && !measure.starts_with("rx_")
        && !measure.starts_with("tx_")
}

pub fn things(world: &World, view: View, now: f64) -> Vec<Thing> {
    let mut things = vec![Thing {
        labels: BTreeMap::from([("cluster", CLUSTER.into()), ("node", NODE.into())]),
        measures: BTreeMap::from([
            ("cpu_allocatable", world.cpu_allocatable),
            ("memory_allocatable", world.memory_allocatable),
        ]),
        host_network: false,
        kata: false,
    }];
    for pod in &world.pods {
        things.push(pod_row(pod));
        things.push(pod_of(pod));
        if view.agents_pods && pod.runtime.is_kata() {
            let measures = BTreeMap::from([("cpu_and_pod_row", pod.guest.cpu)]);
            things.push(Thing { measures, ..pod_row(pod) });
        }
        things.extend(pod.interfaces.iter().map(|interface| interface_of(pod, interface)));
        things.extend(pod.containers.iter().map(|container| container_of(pod, container, view, now)));
    }
    things
}

fn labels_of(pod: &Pod) -> Labels {
    BTreeMap::from([
        ("cluster", CLUSTER.to_owned()),
        ("node", NODE.to_owned()),
        ("instance", INSTANCE.to_owned()),
        ("namespace", pod.namespace.to_owned()),
        ("pod", pod.name.to_owned()),
        ("workload", pod.workload.to_owned()),
        ("workload_type", pod.workload_type()),
    ])
}

fn pod_row(pod: &Pod) -> Thing {
    let measures = BTreeMap::from([("cpu_and_pod_row", pod.host_cpu())]);
    Thing { labels: labels_of(pod), measures, host_network: pod.host_network, kata: pod.runtime.is_kata() }
}

fn pod_of(pod: &Pod) -> Thing {
    let measures = BTreeMap::from([
        ("one_pod", 1.0),
        ("guest_cpu", pod.guest.cpu),
        ("guest_network_bytes", pod.guest.network_bytes),
    ]);
    Thing { measures, ..pod_row(pod) }
}

fn interface_of(pod: &Pod, of: &Interface) -> Thing {
    let mut labels = labels_of(pod);
    labels.insert("interface", of.name.to_owned());
    let measures = BTreeMap::from([
        ("one", 1.0),
        ("rx_bytes", of.rx_bytes),
        ("tx_bytes", of.tx_bytes),
        ("rx_packets", of.rx_packets),
        ("tx_packets", of.tx_packets),
        ("rx_dropped", of.rx_dropped),
        ("tx_dropped", of.tx_dropped),
    ]);
    Thing { labels, measures, host_network: pod.host_network, kata: pod.runtime.is_kata() }
}

fn container_of(pod: &Pod, container: &Container, view: View, now: f64) -> Thing {
    let mut labels = labels_of(pod);
    labels.insert("container", container.name.to_owned());
    labels.insert("image", container.image());
    let mut measures = BTreeMap::new();
    for (given, cpu, memory) in
        [(container.request, "cpu_request", "memory_request"), (container.limit, "cpu_limit", "memory_limit")]
    {
        measures.extend(given.iter().flat_map(|given| [(cpu, given.cpu), (memory, given.memory)]));
    }
    if let Some(life) = container.life_at(now).filter(|_| view.kata_containers || !pod.runtime.is_kata()) {
        labels.insert("name", life.id.clone());
        labels.insert("id", pod.container_path(&life.id));
        measures.extend(used(container));
    }
    Thing { labels, measures, host_network: pod.host_network, kata: pod.runtime.is_kata() }
}

fn used(container: &Container) -> BTreeMap<&'static str, f64> {
    let mut used = BTreeMap::from([
        ("cpu", container.cpu),
        ("cpu_and_pod_row", container.cpu),
        ("working_set", container.working_set),
    ]);
    used.extend(container.rss.map(|bytes| ("rss", bytes)));
    used.extend(container.cache.map(|bytes| ("cache", bytes)));
    used.extend(container.swap.map(|bytes| ("swap", bytes)));
    if let Some(throttle) = container.throttle {
        used.insert("throttled", throttle.throttled);
        used.insert("periods", throttle.periods);
        if throttle.throttled / throttle.periods > 0.25 {
            used.insert("throttled_high", 1.0);
        }
    }
    if let Some(io) = container.io {
        used.extend([
            ("reads", io.reads),
            ("writes", io.writes),
            ("read_bytes", io.read_bytes),
            ("written_bytes", io.written_bytes),
        ]);
    }
    used
}
