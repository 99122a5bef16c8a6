//! Where a pod's cgroups are, by driver and quality of service, as kubelet and the container runtimes name them.

use crate::{
    container::{CgroupDriver, QosClass},
    cri::CriFlavour,
    node::SandboxSpec,
};

impl SandboxSpec {
    /// The containerd namespace it lives in: without a pod, it was made by hand.
    pub(crate) fn namespace(&self) -> &'static str {
        if self.pod.is_some() { "k8s.io" } else { "default" }
    }

    /// The pod's cgroup as kubelet names it, or containerd's for a sandbox made by hand.
    pub fn cgroup_parent(&self) -> String {
        let Some(pod) = &self.pod else {
            return "/default".to_owned();
        };
        match self.cgroup_driver {
            CgroupDriver::Cgroupfs => format!("/kubepods{}/pod{}", self.qos.folder(), pod.uid),
            CgroupDriver::Systemd => {
                let uid = pod.uid.replace('-', "_");
                let (slice, infix) = self.qos.slice();
                format!("/kubepods.slice{slice}/kubepods{infix}-pod{uid}.slice")
            }
        }
    }

    /// `linux.cgroupsPath` in the OCI specification of the sandbox or of one of its containers.
    pub fn cgroups_path(&self, id: &str, flavour: CriFlavour) -> String {
        let parent = self.cgroup_parent();
        match parent.rsplit_once('/') {
            Some((_, slice)) if slice.ends_with(".slice") => format!("{slice}:{}:{id}", flavour.scope_prefix()),
            _ => self.container_cgroup(id, flavour),
        }
    }

    /// The cgroup that a container of an ordinary pod would have on the host: cAdvisor's label `id`.
    pub fn container_cgroup(&self, id: &str, flavour: CriFlavour) -> String {
        let parent = self.cgroup_parent();
        match (self.cgroup_driver, flavour) {
            (CgroupDriver::Systemd, _) => format!("{parent}/{}-{id}.scope", flavour.scope_prefix()),
            (CgroupDriver::Cgroupfs, CriFlavour::Containerd) => format!("{parent}/{id}"),
            (CgroupDriver::Cgroupfs, CriFlavour::CriO) => format!("{parent}/crio-{id}"),
        }
    }
}

impl CriFlavour {
    fn scope_prefix(self) -> &'static str {
        match self {
            Self::Containerd => "cri-containerd",
            Self::CriO => "crio",
        }
    }
}

impl QosClass {
    fn folder(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "/burstable",
            Self::BestEffort => "/besteffort",
        }
    }

    /// The slice in between, with its slash, and its part of the pod's name.
    fn slice(self) -> (&'static str, &'static str) {
        match self {
            Self::Guaranteed => ("", ""),
            Self::Burstable => ("/kubepods-burstable.slice", "-burstable"),
            Self::BestEffort => ("/kubepods-besteffort.slice", "-besteffort"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind, Runtime, Vmm};

    fn spec(cgroup_driver: CgroupDriver, qos: QosClass) -> SandboxSpec {
        SandboxSpec { cgroup_driver, qos, ..SandboxSpec::numbered(1, Kind::new(Runtime::Go, Vmm::Qemu)) }
    }

    #[test]
    fn systemd_names_slices_and_scopes() {
        let spec = spec(CgroupDriver::Systemd, QosClass::Burstable);
        let pod = "kubepods-burstable-pod00000000_0000_4000_8000_000000000001.slice";
        assert_eq!(spec.cgroup_parent(), format!("/kubepods.slice/kubepods-burstable.slice/{pod}"));
        assert_eq!(spec.cgroups_path("c", CriFlavour::Containerd), format!("{pod}:cri-containerd:c"));
        assert_eq!(spec.cgroups_path("c", CriFlavour::CriO), format!("{pod}:crio:c"));
        let full = format!("/kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-c.scope");
        assert_eq!(spec.container_cgroup("c", CriFlavour::Containerd), full);
    }

    #[test]
    fn cgroupfs_names_directories_without_a_class_for_guaranteed_pods() {
        let pod = "/kubepods/pod00000000-0000-4000-8000-000000000001";
        let spec = spec(CgroupDriver::Cgroupfs, QosClass::Guaranteed);
        assert_eq!(spec.cgroup_parent(), pod);
        assert_eq!(spec.cgroups_path("c", CriFlavour::Containerd), format!("{pod}/c"));
        assert_eq!(spec.container_cgroup("c", CriFlavour::CriO), format!("{pod}/crio-c"));
    }
}
