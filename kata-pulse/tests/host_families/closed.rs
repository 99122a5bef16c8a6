//! Where a guest's numbers cannot be had, the pod as a whole is told by the host, for its whole life.

use kata_pulse_sim::Burn;
use kata_pulse_sim::judge::Findings;

use crate::ONE_AT_A_TIME;
use crate::host::Host;

const POD_CPU: &str = "container_cpu_usage_seconds_total";
const HOST_CPU: &str = "kata_sandbox_cpu_seconds_total";

/// runtime-rs with QEMU, whose shim must not be asked, and whose agent has no door.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_behind_closed_doors_is_told_by_its_host() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let host = Host::start(1, 60).await;
    let spec = host.pod(1, "rs-qemu", "closed");
    let (id, pod) = (spec.id.clone(), spec.pod.as_ref().unwrap().name.clone());
    host.node.create(spec).await.unwrap();
    host.node.burn_role(&id, "vmm", &Burn { vcpu_user: 0.4, threads: 2, ..Burn::default() }).unwrap();
    let of_pod = [("container", ""), ("pod", pod.as_str())];
    let by_host = [("pod_source", "host"), ("sandbox_id", id.as_str())];
    let page = host
        .settle(|page| page.sum(POD_CPU, &of_pod) > Some(1.0) && page.sum("kata_sandbox_info", &by_host).is_some())
        .await;

    let mut findings = Findings::default();
    findings.near("sandboxes told by their host", page.sum("kata_sandbox_info", &by_host), 1.0, 0.0);
    let truth = page.sum(HOST_CPU, &[("sandbox_id", &id)]).unwrap();
    findings.holds(truth > 1.0, format!("it burns: {truth}"));
    findings.near("CPU of the pod", page.sum(POD_CPU, &of_pod), truth, 1e-6 * truth);
    let working_set = page.sum("container_memory_working_set_bytes", &of_pod);
    findings.holds(working_set > Some(1e6), format!("memory of the pod: {working_set:?}"));
    let unsafe_shim = [("sandbox_id", id.as_str()), ("source", "shim"), ("state", "unsafe")];
    findings.near("shims that were not asked", page.sum("kata_pulse_sandbox_source", &unsafe_shim), 1.0, 0.0);
    host.end().await;
    findings.end();
}
