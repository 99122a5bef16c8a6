//! The page of kube-state-metrics for the node's pods: the families that the queries join.

use crate::exposition::Page;
use crate::truth::{Container, NODE, NODE_IP, Pod, World};

pub fn page(world: &World) -> String {
    let mut page = Page::default();
    for (resource, unit, value) in
        [("cpu", "core", world.cpu_allocatable), ("memory", "byte", world.memory_allocatable)]
    {
        let labels = format!("node=\"{NODE}\",resource=\"{resource}\",unit=\"{unit}\"");
        page.gauge("kube_node_status_allocatable", &labels, value);
    }
    for pod in &world.pods {
        pod_rows(&mut page, pod);
        for container in &pod.containers {
            resource_rows(&mut page, pod, container);
        }
    }
    page.print()
}

fn pod_rows(page: &mut Page, pod: &Pod) {
    let Pod { namespace, name, uid, owner_kind, workload, host_network, .. } = pod;
    let own = format!("namespace=\"{namespace}\",pod=\"{name}\",uid=\"{uid}\"");
    let owner = if *owner_kind == "ReplicaSet" { format!("{workload}-5d9c") } else { (*workload).to_owned() };
    let info = format!(
        "{own},node=\"{NODE}\",host_ip=\"{NODE_IP}\",host_network=\"{host_network}\",created_by_kind=\"{owner_kind}\",created_by_name=\"{owner}\""
    );
    page.gauge("kube_pod_info", &info, 1.0);
    let owned = format!("{own},owner_kind=\"{owner_kind}\",owner_name=\"{owner}\",owner_is_controller=\"true\"");
    page.gauge("kube_pod_owner", &owned, 1.0);
    if *owner_kind == "ReplicaSet" {
        let deployed = format!(
            "namespace=\"{namespace}\",replicaset=\"{owner}\",owner_kind=\"Deployment\",owner_name=\"{workload}\",owner_is_controller=\"true\""
        );
        page.gauge("kube_replicaset_owner", &deployed, 1.0);
    }
    for phase in ["Pending", "Running", "Succeeded", "Failed", "Unknown"] {
        let value = if phase == "Running" { 1.0 } else { 0.0 };
        page.gauge("kube_pod_status_phase", &format!("{own},phase=\"{phase}\""), value);
    }
    if pod.runtime.is_kata() {
        page.gauge("kube_pod_runtimeclass_name_info", &format!("{own},runtimeclass_name=\"kata\""), 1.0);
    }
}

fn resource_rows(page: &mut Page, pod: &Pod, container: &Container) {
    let Pod { namespace, name: pod, uid, .. } = pod;
    let own = format!(
        "namespace=\"{namespace}\",pod=\"{pod}\",uid=\"{uid}\",container=\"{}\",node=\"{NODE}\"",
        container.name
    );
    for (family, given) in [
        ("kube_pod_container_resource_requests", container.request),
        ("kube_pod_container_resource_limits", container.limit),
    ] {
        if let Some(given) = given {
            page.gauge(family, &format!("{own},resource=\"cpu\",unit=\"core\""), given.cpu);
            page.gauge(family, &format!("{own},resource=\"memory\",unit=\"byte\""), given.memory);
        }
    }
}
