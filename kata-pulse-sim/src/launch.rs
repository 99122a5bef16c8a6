//! The processes of one sandbox, with the command lines of each runtime and VMM (kata.md 4.2, 4.5, 4.6).

use std::io;
use std::path::{Path, PathBuf};

use crate::kind::{Kind, Runtime, Vmm};
use crate::role::{Helper, ShimProcess, install};

/// Starts shim, VMM and virtiofsd of sandbox `id`. Programs are copies of `simulator` below `<root>/opt/kata`, where
/// kata-deploy puts them: the Go shim in `bin`, the other in `runtime-rs/bin`.
pub fn launch(root: &Path, simulator: &Path, id: &str, kind: Kind) -> io::Result<ShimProcess> {
    let kata = root.join("opt/kata");
    let shim_folder = match kind.runtime {
        Runtime::Go => kata.join("bin"),
        Runtime::Rs => kata.join("runtime-rs/bin"),
    };
    let shim = install(simulator, &shim_folder, "containerd-shim-kata-v2")?;
    let mut helpers = Vec::new();
    if let Some(arguments) = virtiofsd_arguments(id, kind) {
        let program = install(simulator, &kata.join("libexec"), "virtiofsd")?;
        helpers.push(Helper { role: "virtiofsd".to_owned(), program, arguments });
    }
    if let Some((name, arguments)) = vmm_arguments(id, kind) {
        let program = install(simulator, &kata.join("bin"), name)?;
        helpers.push(Helper { role: "vmm".to_owned(), program, arguments });
    }
    ShimProcess::start(&shim, id, &helpers)
}

/// `None`: no process of its own.
fn vmm_arguments(id: &str, kind: Kind) -> Option<(&'static str, Vec<String>)> {
    let go = kind.runtime == Runtime::Go;
    let prefix = &id[..id.len().min(32)];
    let (name, line) = match kind.vmm {
        Vmm::Qemu if go => (
            "qemu-system-x86_64",
            format!("-name sandbox-{id} -uuid 7d7ef7ee-0001 -pidfile /run/vc/vm/{id}/pid -no-user-config -nodefaults"),
        ),
        Vmm::Qemu => ("qemu-system-x86_64", format!("-name sandbox-{id} -nodefaults")),
        Vmm::CloudHypervisor if go => {
            ("cloud-hypervisor", format!("--api-socket /run/vc/vm/{id}/clh-api.sock --seccomp false"))
        }
        Vmm::CloudHypervisor => ("cloud-hypervisor", format!("--api-socket /run/kata/{id}/ch-api.sock")),
        Vmm::Firecracker if go => (
            "firecracker",
            format!("--id {prefix} --start-time-us 1 --start-time-cpu-us 1 --config-file /fcConfig.json"),
        ),
        Vmm::Firecracker => ("firecracker", format!("--id {id} --api-sock /run//fc.sock")),
        Vmm::OpenVmm => ("openvmm", format!("--ttrpc /run/kata/{id}/openvmm.sock")),
        Vmm::Dragonball | Vmm::Remote => return None,
    };
    Some((name, line.split(' ').map(str::to_owned).collect()))
}

/// `None`: this VMM shares no file system, or the shim itself does.
fn virtiofsd_arguments(id: &str, kind: Kind) -> Option<Vec<String>> {
    if matches!(kind.vmm, Vmm::Dragonball | Vmm::Firecracker | Vmm::Remote) {
        return None;
    }
    let shared = format!("/run/kata-containers/shared/sandboxes/{id}");
    let line = match kind.runtime {
        Runtime::Go => format!("--syslog --cache=auto --shared-dir={shared}/shared --fd=3 --thread-pool-size=1"),
        Runtime::Rs => {
            format!("--socket-path /run/kata/{id}/root/virtiofsd.sock --shared-dir {shared}/ro --cache auto")
        }
    };
    Some(line.split(' ').map(str::to_owned).collect())
}

/// The program that is running now.
pub fn simulator() -> io::Result<PathBuf> {
    std::env::current_exe()
}
