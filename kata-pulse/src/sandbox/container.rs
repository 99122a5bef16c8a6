//! A workload container of a pod, as the container runtime tells of it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::SandboxId;

/// Running workload containers by sandbox.
pub type Containers = BTreeMap<SandboxId, Vec<Arc<Container>>>;

/// Runtimes use 64 hex digits; `ctr` any word of a file name's length.
const MAX_LENGTH: usize = 255;

/// An id of a container, safe inside a filter expression and in a label. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// `None`: no runtime gives such an id.
    pub fn parse(raw: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (!raw.is_empty() && raw.len() <= MAX_LENGTH && raw.bytes().all(plain)).then(|| Self(raw.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerId({})", self.0)
    }
}

impl Borrow<str> for ContainerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A running container. A restart makes another one, with another id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: ContainerId,
    /// The name in the pod's specification.
    pub name: String,
    /// As cAdvisor would show it; never empty.
    pub image: String,
    /// cAdvisor's `name` label: the id, or CRI-O's long form.
    pub label_name: String,
    /// The cgroup that the container would have on the host if it were no Kata container.
    pub cgroup: String,
    /// Restarts of the container before this one.
    pub attempt: u32,
    pub created_unix_ns: Option<i64>,
    pub started_unix_ns: Option<i64>,
    pub limits: Limits,
}

/// What the pod's specification allows the container; `None` where the runtime does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_period_us: Option<i64>,
    /// Not positive: no quota.
    pub cpu_quota_us: Option<i64>,
    pub cpu_shares: Option<i64>,
    /// Not positive: no limit.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together; not positive: no limit.
    pub memory_swap_bytes: Option<i64>,
    /// Soft limit of open files; `u64::MAX`: none.
    pub open_files: Option<u64>,
}

impl Limits {
    pub fn has_cpu_quota(&self) -> bool {
        self.cpu_quota_us.is_some_and(|quota| quota > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_say_something_in_a_filter_are_refused() {
        for id in ["", "a\"b", "a,b", "a b", "id==x", "../x", &"a".repeat(256)] {
            assert!(ContainerId::parse(id).is_none(), "{id:?}");
        }
        assert_eq!(ContainerId::parse("my_c.1-x").unwrap().as_str(), "my_c.1-x");
    }
}
