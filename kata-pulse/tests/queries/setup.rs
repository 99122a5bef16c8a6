//! The ways to scrape a node that docs/prometheus.md describes, and one that it warns of. In: a node. Out: the jobs of a
//! Prometheus. All that decides about labels and drops comes from the page; what stands here is the surroundings:
//! kube-prometheus' own jobs and the targets that Kubernetes would have found.

use crate::agent_page::Shown;
use crate::docs;
use crate::facts::View;
use crate::node::SimulatedNode;
use crate::pace::Pace;
use crate::table;
use crate::truth::{CLUSTER, INSTANCE, NODE, NODE_IP};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Into the kubelet's job, by PodMonitor and the chart's list of drop rules.
    KubeletsJobByOperator,
    /// The same by plain configuration.
    KubeletsJob,
    /// A job of our own by PodMonitor, network and all.
    OwnJobByOperator,
    /// The same by plain configuration, without the guest's network.
    OwnJob,
    /// Into the kubelet's job with the agent's default flags and no drop rule: what must not be done.
    Careless,
    /// No agent, no drop rule: the kubelet alone.
    Without,
    /// The kubelet's page comes from the runtime and has Kata's containers; the agent tells of pods alone.
    FromCri,
    /// The same with the agent telling of containers too: what must not be done.
    FromCriTwice,
}

impl Setup {
    pub const ALL: [Self; 8] = [
        Self::KubeletsJobByOperator,
        Self::KubeletsJob,
        Self::OwnJobByOperator,
        Self::OwnJob,
        Self::Careless,
        Self::Without,
        Self::FromCri,
        Self::FromCriTwice,
    ];

    /// Kubelet, kube-state-metrics and, but for one, the agent.
    pub fn targets(self) -> usize {
        if self == Self::Without { 2 } else { 3 }
    }

    /// The checks of the page that must find something here.
    pub fn warnings(self) -> &'static [&'static str] {
        match self {
            Self::KubeletsJobByOperator | Self::KubeletsJob | Self::OwnJob | Self::FromCri => &[],
            Self::OwnJobByOperator => &["check-network-twice"],
            Self::Careless => &["check-network-twice", "check-mirrored", "check-vm-as-pause"],
            Self::Without => &["check-network-twice", "check-mirrored", "check-vm-as-pause", "check-missing"],
            Self::FromCriTwice => &["check-container-twice"],
        }
    }

    /// What a query sees here; `asks_for_job`: it reads the kubelet's job alone.
    pub fn view(self, asks_for_job: bool) -> View {
        match self {
            Self::OwnJob | Self::OwnJobByOperator => View { kata_containers: !asks_for_job, agents_pods: true },
            Self::FromCri => View { kata_containers: true, agents_pods: true },
            _ => View { kata_containers: true, agents_pods: false },
        }
    }

    pub async fn jobs(self, node: &mut SimulatedNode, pace: &Pace) -> String {
        let agent = match self.job_of_page() {
            Some(job) => discovered(&job, &node.agent(self.shown()).await),
            None => String::new(),
        };
        let kubelet = match self {
            Self::FromCri | Self::FromCriTwice => &node.kubelet_from_cri,
            _ => &node.kubelet,
        };
        let kubelet = job("kubelet.yml", kubelet) + &docs::indent(&self.drops(), 4);
        pace.of_config(&[kubelet, agent, job("kube-state-metrics.yml", &node.kube_state)].concat())
    }

    fn job_of_page(self) -> Option<String> {
        match self {
            Self::KubeletsJobByOperator | Self::Careless => Some(job_of_pod_monitor("podmonitor-kubelet")),
            Self::KubeletsJob => Some(docs::block("scrape-kubelet")),
            Self::OwnJobByOperator | Self::FromCri | Self::FromCriTwice => Some(job_of_pod_monitor("podmonitor-own")),
            Self::OwnJob => Some(docs::block("scrape-own")),
            Self::Without => None,
        }
    }

    /// What the flags leave that the page names for this set-up.
    fn shown(self) -> Shown {
        match self {
            Self::KubeletsJobByOperator | Self::KubeletsJob | Self::FromCriTwice => Shown::FOR_KUBELETS_JOB,
            Self::FromCri => Shown::PODS,
            _ => Shown::ALL,
        }
    }

    fn drops(self) -> String {
        match self {
            Self::Careless | Self::Without => String::new(),
            Self::KubeletsJobByOperator | Self::OwnJobByOperator => {
                docs::from_operator(&docs::below(&docs::block("kubelet-drop-chart"), "cAdvisorMetricRelabelings:"))
            }
            _ => docs::below(&docs::block("kubelet-drop"), "metric_relabel_configs:"),
        }
    }
}

/// The surroundings: a file of testdata with the addresses and names of the node.
fn job(file: &str, address: &str) -> String {
    let text = std::fs::read_to_string(table::folder().join("jobs").join(file)).unwrap();
    let text = text.replace("$ADDRESS", &format!("'{address}'")).replace("$INSTANCE", &format!("'{INSTANCE}'"));
    text.replace("$NODE_IP", NODE_IP).replace("$NODE", NODE).replace("$CLUSTER", CLUSTER)
}

/// A job of the page with what Kubernetes would find in place of the discovery, and the cluster label of all jobs.
fn discovered(job_of_page: &str, address: &str) -> String {
    let target = docs::indent(&job("discovered-pod.yml", address), 2);
    let found = job_of_page.replace("  kubernetes_sd_configs: [{role: pod}]\n", &target);
    assert_ne!(found, job_of_page, "the job has no discovery of pods");
    let cluster = format!("\n  relabel_configs:\n    - {{target_label: cluster, replacement: {CLUSTER}}}\n");
    found.replacen("\n  relabel_configs:\n", &cluster, 1)
}

/// A PodMonitor as the operator reads it: its own target labels first, then the rules of the page.
fn job_of_pod_monitor(name: &str) -> String {
    let monitor = docs::block(name);
    let mut own = job("pod-monitor.yml", "");
    if monitor.contains("jobLabel: app.kubernetes.io/name") {
        own = own.replace("replacement: monitoring/kata-pulse", "replacement: kata-pulse");
    }
    let endpoint = docs::from_operator(&docs::below(&docs::below(&monitor, "podMetricsEndpoints:"), "- port: metrics"));
    let (before, after) = endpoint.split_once("relabel_configs:\n").unwrap();
    let head = "- job_name: podMonitor/monitoring/kata-pulse/0\n";
    own.replace(head, &format!("{head}{}", docs::indent(before, 2))) + &docs::indent(after, 2)
}
