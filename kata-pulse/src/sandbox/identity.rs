//! Who a sandbox is in Kubernetes' words.

/// What the container runtime told about a sandbox. A sandbox that never had a pod has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub pod_name: String,
    pub namespace: String,
    pub uid: String,
    /// Empty where the runtime does not tell (CRI-O's list).
    pub runtime_handler: String,
    /// The pod's cgroup as the kubelet sent it, e.g. `/kubepods/burstable/pod<uid>` or the expanded slice path.
    pub cgroup_parent: Option<String>,
    pub overhead: Overhead,
    /// The runtime still calls the sandbox ready.
    pub ready: bool,
    pub created_unix_ns: Option<i64>,
}

/// What the RuntimeClass declares as a pod's overhead; `None` where it declares nothing, or nobody tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    pub memory_bytes: Option<i64>,
    pub cpu_millicores: Option<i64>,
}
